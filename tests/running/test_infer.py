from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.errors import EdgesegError
from edgeseg.manifest import Tensor
from edgeseg.running.infer import infer_manifest
from edgeseg.running.open import open_model
from edgeseg.running.runtime import Local
from edgeseg.vision.postprocess import postprocess
from edgeseg.vision.preprocess import Letterbox, prepare

TARGET = SimpleNamespace(name="some")
FILE = Path("foreign.bin")


def inferred(runtime, **more):
    return infer_manifest(FILE, TARGET, Local(runtime), **more)


class Foreign:
    """A runtime over made-up tensors. Values follow ``highs``: output i runs from ``lows[i]`` to ``highs[i]``."""

    def __init__(self, input, outputs, metadata=None, lows=-9.0, highs=600.0, real=None):
        self.input, self.outputs, self.metadata = input, tuple(outputs), metadata or {}
        self.lows, self.highs, self.real, self.runs = lows, highs, real, []

    def run(self, x):
        self.runs.append(x)
        return [np.linspace(self.lows, self.highs, int(np.prod(s))).reshape(s).astype(o.dtype) for s, o in self.shapes()]

    def shapes(self):
        return zip(self.real or [o.shape for o in self.outputs], self.outputs)


def raw_outputs(hw=(64, 96), nc=5, layout="nchw", order=("box", "score", "coeff"), dtype="float32"):
    """The ten tensors, named so that their roles cannot be read from the name."""
    channels = {"box": 64, "score": nc, "coeff": 32}
    shapes = [(channels[r], hw[0] // s, hw[1] // s) for s in (8, 16, 32) for r in order] + [(32, hw[0] // 4, hw[1] // 4)]
    quant = {} if dtype == "float32" else {"scale": 0.1, "zero_point": 3}
    return [
        Tensor(f"t{i}", (1, c, h, w) if layout == "nchw" else (1, h, w, c), dtype, **quant)
        for i, (c, h, w) in enumerate(shapes)
    ]


def decoded_outputs(hw=(64, 96), nc=5, last=False, proto_last=False):
    n = sum(hw[0] // s * (hw[1] // s) for s in (8, 16, 32))
    c, h, w = 32, hw[0] // 4, hw[1] // 4
    prediction = Tensor("p", (1, n, 36 + nc) if last else (1, 36 + nc, n))
    return [prediction, Tensor("q", (1, h, w, c) if proto_last else (1, c, h, w))]


IMAGE = Tensor("x", (1, 3, 64, 96))


@given(
    st.sampled_from([(64, 96), (32, 32), (160, 64), (128, 128), (256, 256)]),
    st.integers(1, 100).filter(lambda n: n not in (32, 64)),
    st.sampled_from(["nchw", "nhwc"]),
    st.permutations(["box", "score", "coeff"]),
    st.permutations(range(10)),
)
def test_raw_roles_come_from_shapes_in_any_order(hw, nc, layout, order, shuffled):
    outputs = raw_outputs(hw, nc, layout, order)
    wanted = [f"{r}{s}" for s in (8, 16, 32) for r in order] + ["proto4"]
    given_ = [outputs[i] for i in shuffled]
    shape = (1, 3, *hw) if layout == "nchw" else (1, *hw, 3)
    manifest = inferred(Foreign(Tensor("x", shape), given_))
    assert [f"{o.role}{o.stride or 4}" for o in manifest.outputs] == [wanted[i] for i in shuffled]
    assert [o.name for o in manifest.outputs] == [o.name for o in given_]
    assert (manifest.head, manifest.nc, manifest.imgsz, manifest.input.layout) == ("raw", nc, hw, layout)
    assert {o.layout for o in manifest.outputs} == {layout}


@pytest.mark.parametrize("nc", [32, 64])
def test_classes_like_another_role_are_told_by_name_or_by_order(nc):
    plain = raw_outputs(nc=nc)
    manifest = inferred(Foreign(IMAGE, plain))
    assert [o.role for o in manifest.outputs[:3]] == ["box", "score", "coeff"] and manifest.nc == nc
    assert any("channels alone do not tell" in n for n in manifest.notes)
    other = raw_outputs(nc=nc, order=("coeff", "score", "box"))
    names = [f"{r}_{s}" for s in (8, 16, 32) for r in ("coeff", "score", "box")] + ["proto"]
    manifest = inferred(Foreign(IMAGE, [replace(o, name=n) for o, n in zip(other, names)]))
    assert [o.role for o in manifest.outputs[:3]] == ["coeff", "score", "box"]
    assert not any("channels alone" in n for n in manifest.notes)


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("proto_last", [True, False])
@pytest.mark.parametrize("turned", [True, False])
def test_decoded_layouts(last, proto_last, turned):
    outputs = decoded_outputs(last=last, proto_last=proto_last)
    manifest = inferred(Foreign(IMAGE, outputs[::-1] if turned else outputs))
    by_role = {o.role: o for o in manifest.outputs}
    assert by_role["prediction"].layout == ("nhwc" if last else "nchw")
    assert by_role["proto"].layout == ("nhwc" if proto_last else "nchw")
    assert [o.name for o in manifest.outputs] == (["q", "p"] if turned else ["p", "q"])
    assert manifest.head == "decoded" and manifest.nc == 5


@pytest.mark.parametrize(("highs", "normalized"), [(1.2, True), (90.0, False)])
def test_box_units_come_from_one_run_on_grey(highs, normalized):
    runtime = Foreign(IMAGE, decoded_outputs(), lows=0.0, highs=highs)
    # Centres are the first two rows of 41: give the whole tensor the range that its first rows shall have.
    runtime.run = lambda x: [np.full(o.shape, highs, np.float32) for o in runtime.outputs]
    manifest = inferred(runtime)
    assert manifest.normalized_boxes is normalized
    assert any(("0..1" if normalized else "input pixels") in n for n in manifest.notes)


@pytest.mark.parametrize(("scale", "normalized"), [(1 / 255, True), (2.5, False)])
def test_box_units_of_integers_are_dequantized(scale, normalized):
    outputs = [replace(o, dtype="int8", scale=scale, zero_point=-128) for o in decoded_outputs(proto_last=True)]
    entry = Tensor("x", (1, 64, 96, 3), "int8", scale=1 / 255, zero_point=-128)
    runtime = Foreign(entry, outputs, lows=127, highs=127)
    manifest = inferred(runtime)
    assert manifest.normalized_boxes is normalized and manifest.precision == "int8"
    assert runtime.runs[0].dtype == np.int8 and np.unique(runtime.runs[0]).tolist() == [-14]
    assert manifest.outputs[0].scale == scale and manifest.outputs[0].zero_point == -128


@pytest.mark.parametrize(("dtype", "zero_point"), [("uint8", 0), ("int8", -128)])
def test_integer_input_without_parameters_is_bytes(dtype, zero_point):
    manifest = inferred(Foreign(replace(IMAGE, dtype=dtype), raw_outputs()))
    assert manifest.input.scale == 1 / 255 and manifest.input.zero_point == zero_point
    assert any("0..255 taken as 0..1" in n for n in manifest.notes)


def test_free_sizes_are_run_at_imgsz():
    outputs = [replace(o, shape=(-1, o.shape[1], -1, -1)) for o in raw_outputs()]
    real = [o.shape for o in raw_outputs()]
    runtime = Foreign(replace(IMAGE, shape=(-1, 3, -1, -1)), outputs, {"imgsz": "[64, 96]"}, real=real)
    manifest = inferred(runtime)
    assert manifest.dynamic and manifest.imgsz == (64, 96) and manifest.batch == 1
    assert manifest.input.shape == (-1, 3, -1, -1) and runtime.runs[0].shape == (1, 3, 64, 96)
    assert [o.shape for o in manifest.outputs] == [o.shape for o in outputs] and len(runtime.runs) == 1


@pytest.mark.parametrize(
    ("metadata", "names", "expected", "note"),
    [
        ({"names": "{0: 'a', 1: \"it's\"}"}, None, ("a", "it's"), "from its metadata"),
        ({"names": '{"1": "b", "0": "a"}'}, None, ("a", "b"), "from its metadata"),
        ({"names": {1: "b", 0: "a"}}, None, ("a", "b"), "from its metadata"),
        ({"names": ["a", "b"]}, None, ("a", "b"), "from its metadata"),
        ({"names": "['a', 'b']"}, ("c", "d"), ("c", "d"), ""),
        ({}, None, ("class0", "class1"), "names no classes"),
        ({"names": "rubbish("}, None, ("class0", "class1"), "names no classes"),
        ({"names": "{'x': 'a', 'y': 'b'}"}, None, ("class0", "class1"), "names no classes"),
        ({"names": "{0: 'a'}"}, None, ("class0", "class1"), "names 1 classes, its tensors have 2"),
    ],
)
def test_class_names(metadata, names, expected, note):
    manifest = inferred(Foreign(IMAGE, raw_outputs(nc=2), metadata), names=names)
    assert manifest.names == expected and any(note in n for n in manifest.notes)


def refused(runtime, what, names=None):
    with pytest.raises(EdgesegError, match=what) as caught:
        inferred(runtime, names=names)
    assert "foreign.bin" in str(caught.value) and "\n" not in str(caught.value) and caught.value.hint


def test_what_is_refused_is_called_by_its_name():
    prediction, proto = decoded_outputs()
    refused(
        Foreign(Tensor("x", (1, 3, 224, 224)), [Tensor("logits", (1, 1000))]), "a classification network of 1000 classes"
    )
    refused(Foreign(IMAGE, [replace(prediction, shape=(1, 56, 126))]), "what should be scores reaches 600")
    refused(Foreign(IMAGE, [replace(prediction, shape=(1, 4, 126))]), "boxes without classes")
    refused(Foreign(IMAGE, [Tensor("o", (1, 300, 7))]), "for oriented boxes")
    refused(Foreign(IMAGE, [Tensor("o", (1, 21, 64, 96))]), "one map")
    refused(Foreign(IMAGE, [o for o in raw_outputs()[:-1] if o.shape[1] == 5]), "a detection network before decoding")
    refused(Foreign(IMAGE, [replace(prediction, shape=(1, 36, 126)), proto]), "do not belong together")
    refused(Foreign(IMAGE, raw_outputs()[:-1]), "before decoding")
    refused(Foreign(IMAGE, [*raw_outputs()[:-1], Tensor("t9", (1, 3, 7, 24))]), "no head that edgeseg knows")
    uneven = raw_outputs()
    refused(Foreign(IMAGE, [replace(uneven[0], shape=(1, 48, 8, 12)), *uneven[1:]]), "no head")
    refused(Foreign(IMAGE, [uneven[0], replace(uneven[1], shape=(1, 9, 8, 12)), *uneven[2:]]), "no head")
    refused(Foreign(IMAGE, raw_outputs(), {"task": "detect"}), "task=detect, its outputs are those of a network to segment")
    refused(Foreign(IMAGE, raw_outputs(), {"task": "pose"}), "a network for poses")


def test_other_inputs_are_refused():
    refused(Foreign(Tensor("tokens", (1, 128)), raw_outputs()), r"tokens \(1, 128\) is no image")
    refused(Foreign(Tensor("x", (1, 5, 64, 96)), raw_outputs()), "no image of 1, 3 or 4 channels")
    refused(Foreign(replace(IMAGE, dtype="int64"), raw_outputs()), "int64")
    refused(Foreign(IMAGE, raw_outputs(), lows=0.0), "probabilities where logits")
    refused(Foreign(IMAGE, raw_outputs(nc=5), lows=-1.0), "5 classes, but 2 names", names=("a", "b"))


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_grey_and_four_channels(channels, layout):
    shape = (1, channels, 64, 96) if layout == "nchw" else (1, 64, 96, channels)
    runtime = Foreign(Tensor("x", shape), raw_outputs(layout=layout))
    manifest = inferred(runtime)
    assert (manifest.channels, manifest.input.layout, runtime.runs[0].shape) == (channels, layout, shape)
    assert any(("grey" if channels == 1 else "an opaque alpha") in n for n in manifest.notes)
    image = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    tensor, _ = prepare(image, manifest)
    assert tensor.shape == shape
    planes = tensor[0] if layout == "nchw" else np.moveaxis(tensor[0], -1, 0)
    if channels == 4:
        assert (planes[3] == 1).all() and np.allclose(planes[:3], image[..., ::-1].transpose(2, 0, 1) / 255)
    else:
        assert np.abs(planes[0] * 255 - image @ np.array([0.114, 0.587, 0.299])).max() < 0.51


@pytest.mark.parametrize(
    ("said", "colour", "top"), [("bgr", "bgr", 1), ("0..255", "rgb", 255), ("bgr,255", "bgr", 255), (None, "rgb", 1)]
)
def test_what_the_input_holds_can_be_said_and_is_noted(said, colour, top):
    runtime = Foreign(IMAGE, raw_outputs())
    manifest = inferred(runtime, input=said)
    assert (manifest.colour, manifest.input_max) == (colour, top) and float(runtime.runs[0].max()) == pytest.approx(
        top * 114 / 255
    )
    assert any(f"{colour.upper()} in 0..{top}" in n and ("as said" in n) == bool(said) for n in manifest.notes)
    image = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    wanted = (image[..., ::-1] if colour == "rgb" else image).transpose(2, 0, 1).astype(np.float64)
    assert np.allclose(prepare(image, manifest)[0][0], wanted * top / 255, atol=1e-4)


def test_other_words_for_the_input():
    with pytest.raises(EdgesegError, match="input='yuv' is not understood"):
        inferred(Foreign(IMAGE, raw_outputs()), input="yuv")


@pytest.mark.parametrize("strides", [(4, 8, 16, 32), (8, 16, 32, 64)])
@pytest.mark.parametrize("coeffs", [32, 16])
@pytest.mark.parametrize("box", [64, 4])
def test_p2_and_p6_heads_other_coefficients_and_plain_distances(strides, coeffs, box):
    hw, part = (64, 128), 2 if strides[0] == 4 else 4
    shapes = [(c, hw[0] // s, hw[1] // s) for s in strides for c in (box, 7, coeffs)] + [
        (coeffs, hw[0] // part, hw[1] // part)
    ]
    outputs = [Tensor(f"t{i}", (1, *s)) for i, s in enumerate(shapes)]
    runtime = Foreign(Tensor("x", (1, 3, *hw)), outputs, lows=-9.0, highs=-8.0)
    manifest = inferred(runtime)
    assert [o.stride for o in manifest.outputs[::3]][:-1] == list(strides) and manifest.nc == 7
    assert (manifest.reg_max, manifest.stride) == (box // 4, strides[-1]) and manifest.outputs[-1].channels == coeffs
    found = runtime.run(None)
    found[1][0, 3, 2, 5], found[0][0, :, 2, 5] = 4.0, np.array([1.0, 0.5, 2.0, 1.5]).repeat(box // 4) if box == 4 else 0.0
    assert detections(manifest, found).classes.tolist() == [3]
    if box == 4:
        s = strides[0]
        np.testing.assert_allclose(detections(manifest, found).boxes[0], [4.5 * s, 2 * s, 7.5 * s, 4 * s], atol=1e-4)


def detections(manifest, outputs):
    return postprocess(outputs, manifest, Letterbox.fit(manifest.imgsz, manifest.imgsz), conf=0.5)


def a_decoded_head(layout, nc=300, logits=False, corners=False, hw=(128, 128)):
    """Values as a real head has them on a grey image: centres on the grid, sizes, low scores."""
    rng = np.random.default_rng(1)
    n = sum(hw[0] // s * (hw[1] // s) for s in (8, 16, 32))
    centres, sizes = rng.uniform(2, hw[0] - 2, (2, n)), rng.uniform(3, 60, (2, n))
    box = np.concatenate((centres - sizes / 2, centres + sizes / 2) if corners else (centres, sizes))
    score = rng.uniform(-9, -3, (nc, n)) if logits else rng.uniform(0, 0.05, (nc, n))
    whole = np.concatenate((box, score, rng.normal(0, 0.3, (32, n)))).astype(np.float32)[None]
    proto = rng.normal(0, 1, (1, 32, hw[0] // 4, hw[1] // 4)).astype(np.float32)
    if layout == "nhwc":
        whole, proto = np.moveaxis(whole, 1, -1).copy(), np.moveaxis(proto, 1, -1).copy()
    return whole, proto


class Fixed:
    """A runtime that gives these arrays."""

    def __init__(self, arrays, layout="nchw", hw=(128, 128), metadata=None, names="pqrstuvwxyz"):
        self.input = Tensor("x", (1, 3, *hw) if layout == "nchw" else (1, *hw, 3))
        self.outputs = tuple(Tensor(n, a.shape) for n, a in zip(names, arrays))
        self.arrays, self.metadata = arrays, metadata or {}

    def run(self, x):
        return self.arrays


@pytest.mark.parametrize("inside", ["nchw", "nhwc"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_a_square_head_is_read_along_the_axis_that_its_values_show(layout, inside):
    # 4 + 300 + 32 channels and as many anchors: the shape says nothing.
    arrays = a_decoded_head(layout)
    assert arrays[0].shape == (1, 336, 336)
    manifest = inferred(Fixed(arrays, inside))
    assert manifest.outputs[0].layout == layout and manifest.nc == 300
    assert any("shapes leave a choice" in n for n in manifest.notes)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_logits_and_corners_are_decoded_as_what_they_are(layout):
    plain = inferred(Fixed(a_decoded_head(layout, 5), layout))
    arrays = a_decoded_head(layout, 5, logits=True, corners=True)
    manifest = inferred(Fixed(arrays, layout))
    assert (plain.score_logits, plain.boxes) == (False, "xywh") and (manifest.score_logits, manifest.boxes) == (True, "xyxy")
    assert any("logits" in n for n in manifest.notes) and any("x1, y1, x2, y2" in n for n in manifest.notes)
    whole = arrays[0][0] if layout == "nchw" else arrays[0][0].T
    whole[4 + 2, 17], whole[:4, 17] = 2.0, (10, 20, 50, 90)
    found = detections(manifest, arrays)
    assert found.classes.tolist() == [2] and found.scores[0] == pytest.approx(1 / (1 + np.exp(-2.0)))
    np.testing.assert_allclose(found.boxes[0], (10, 20, 50, 90), atol=1e-4)


def test_outputs_apart_by_role():
    whole, proto = a_decoded_head("nchw", 5)
    arrays = [whole[:, 9:], proto, whole[:, 4:9], whole[:, :4]]
    manifest = inferred(Fixed(arrays))
    assert [o.role for o in manifest.outputs] == ["coeff", "proto", "score", "box"] and manifest.head == "decoded"
    whole[0, 4 + 1, 40] = 0.9
    one, other = (
        detections(manifest, arrays),
        detections(inferred(Fixed([whole, proto])), [whole, proto]),
    )
    assert len(one) == 1 and np.array_equal(one.boxes, other.boxes) and one.classes.tolist() == [1]
    assert np.array_equal(one.masks, other.masks)


@pytest.mark.parametrize("top", [1.0, 128.0])
def test_detections_after_nms_are_taken_as_they_are(top):
    rows = np.zeros((1, 300, 38), np.float32)
    rows[0, :3, :6] = [[10, 20, 50, 90, 0.9, 2], [11, 20, 50, 90, 0.8, 2], [60, 60, 90, 90, 0.6, 0]]
    rows[0, :3, :4] *= 1 / 128 if top == 1 else 1
    rows[0, :3, 6:] = np.random.default_rng(0).normal(0, 1, (3, 32))
    proto = np.random.default_rng(1).normal(0, 1, (1, 32, 32, 32)).astype(np.float32)
    manifest = inferred(Fixed([rows, proto], metadata={"names": "{0: 'a', 1: 'b', 2: 'c'}"}))
    assert (manifest.head, manifest.nc, manifest.normalized_boxes) == ("nms", 3, top == 1)
    found = detections(manifest, [rows, proto])
    assert found.classes.tolist() == [2, 2, 0], "two that overlap stay: the model has suppressed already"
    np.testing.assert_allclose(found.boxes[0], (10, 20, 50, 90), atol=1e-4)
    assert found.masks.any(axis=(1, 2)).all()
    few = postprocess([rows, proto], manifest, Letterbox.fit((128, 128), (128, 128)), conf=0.5, max_det=1, classes=(0,))
    assert few.classes.tolist() == [0]


def onnx_file(folder, outputs, metadata=None):
    """An ONNX file that gives zeros of the given shapes, whatever it sees."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    nodes, values, constants = [], [], []
    for name, shape in outputs.items():
        constants.append(numpy_helper.from_array(np.array(shape, np.int64), f"{name}_shape"))
        nodes += [
            helper.make_node("ReduceMin", ["images"], [f"{name}_min"], keepdims=0),
            helper.make_node("Expand", [f"{name}_min", f"{name}_shape"], [name]),
        ]
        values.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    entry = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 64, 96])
    graph = helper.make_graph(nodes, "g", [entry], values, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.helper.set_model_props(model, metadata or {})
    file = folder / "foreign.onnx"
    onnx.save(model, str(file))
    return file


def test_onnx_of_another_tool_opens(tmp_path):
    pytest.importorskip("onnxruntime")
    keys = {"names": "{0: 'cat', 1: 'dog'}", "stride": "32", "imgsz": "[64, 96]", "task": "segment", "author": "someone"}
    artifact = open_model(onnx_file(tmp_path, {"output0": [1, 38, 126], "output1": [1, 32, 16, 24]}, keys))
    manifest = artifact.manifest
    assert manifest.names == ("cat", "dog") and manifest.imgsz == (64, 96) and manifest.author == "someone"
    assert manifest.format == "onnx" and manifest.head == "decoded" and manifest.notes


def test_onnx_of_another_network_is_refused_in_one_line(tmp_path):
    pytest.importorskip("onnxruntime")
    file = onnx_file(tmp_path, {"logits": [1, 1000]})
    with pytest.raises(EdgesegError, match="a classification network") as caught:
        open_model(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value) and "edgeseg export" in caught.value.hint


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("bins", [16, 1])
@given(shuffled=st.permutations(range(6)))
def test_the_raw_head_of_a_detector(layout, bins, shuffled):
    maps = []
    for s in (8, 16, 32):
        for name, c in (("a", 4 * bins), ("b", 5)):
            h, w = 64 // s, 96 // s
            maps.append(Tensor(f"{name}{s}", (1, c, h, w) if layout == "nchw" else (1, h, w, c)))
    entry = IMAGE if layout == "nchw" else Tensor("x", (1, 64, 96, 3))
    manifest = inferred(Foreign(entry, [maps[i] for i in shuffled]))
    wanted = [f"{r}{s}" for s in (8, 16, 32) for r in ("box", "score")]
    assert [f"{o.role}{o.stride}" for o in manifest.outputs] == [wanted[i] for i in shuffled]
    assert (manifest.task, manifest.head, manifest.nc, manifest.reg_max) == ("detect", "raw", 5, bins)


@pytest.mark.parametrize("last", [False, True])
def test_the_decoded_head_of_a_detector(last):
    array = np.zeros((1, 9, 126), np.float32)
    array[0, :4] = 40.0
    array[0, 7, 100] = 0.75
    array = array.transpose(0, 2, 1).copy() if last else array
    manifest = inferred(Fixed([array], hw=(64, 96)))
    assert (manifest.task, manifest.head, manifest.nc) == ("detect", "decoded", 5)
    found = detections(manifest, [array])
    assert found.classes.tolist() == [3] and found.tiles is None
    np.testing.assert_allclose(found.boxes[0], [20, 20, 60, 60])


def test_a_detector_after_nms():
    rows = np.zeros((1, 300, 6), np.float32)
    rows[0, 0] = (8, 8, 40, 32, 0.9, 2)
    manifest = inferred(Fixed([rows]))
    found = detections(manifest, [rows])
    assert (manifest.task, manifest.head) == ("detect", "nms") and found.classes.tolist() == [2] and found.tiles is None
