from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.artifact import open_artifact
from edgeseg.errors import EdgesegError
from edgeseg.infer import infer_manifest
from edgeseg.manifest import Tensor

TARGET = SimpleNamespace(name="some")
FILE = Path("foreign.bin")


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
    manifest = infer_manifest(FILE, TARGET, Foreign(Tensor("x", shape), given_))
    assert [f"{o.role}{o.stride or 4}" for o in manifest.outputs] == [wanted[i] for i in shuffled]
    assert [o.name for o in manifest.outputs] == [o.name for o in given_]
    assert (manifest.head, manifest.nc, manifest.imgsz, manifest.input.layout) == ("raw", nc, hw, layout)
    assert {o.layout for o in manifest.outputs} == {layout}


@pytest.mark.parametrize("nc", [32, 64])
def test_classes_like_another_role_are_told_by_name_or_by_order(nc):
    plain = raw_outputs(nc=nc)
    manifest = infer_manifest(FILE, TARGET, Foreign(IMAGE, plain))
    assert [o.role for o in manifest.outputs[:3]] == ["box", "score", "coeff"] and manifest.nc == nc
    assert any("channels alone do not tell" in n for n in manifest.notes)
    other = raw_outputs(nc=nc, order=("coeff", "score", "box"))
    names = [f"{r}_{s}" for s in (8, 16, 32) for r in ("coeff", "score", "box")] + ["proto"]
    manifest = infer_manifest(FILE, TARGET, Foreign(IMAGE, [replace(o, name=n) for o, n in zip(other, names)]))
    assert [o.role for o in manifest.outputs[:3]] == ["coeff", "score", "box"]
    assert not any("channels alone" in n for n in manifest.notes)


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("proto_last", [True, False])
@pytest.mark.parametrize("turned", [True, False])
def test_decoded_layouts(last, proto_last, turned):
    outputs = decoded_outputs(last=last, proto_last=proto_last)
    manifest = infer_manifest(FILE, TARGET, Foreign(IMAGE, outputs[::-1] if turned else outputs))
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
    manifest = infer_manifest(FILE, TARGET, runtime)
    assert manifest.normalized_boxes is normalized
    assert any(("0..1" if normalized else "input pixels") in n for n in manifest.notes)


@pytest.mark.parametrize(("scale", "normalized"), [(1 / 255, True), (2.5, False)])
def test_box_units_of_integers_are_dequantized(scale, normalized):
    outputs = [replace(o, dtype="int8", scale=scale, zero_point=-128) for o in decoded_outputs(proto_last=True)]
    entry = Tensor("x", (1, 64, 96, 3), "int8", scale=1 / 255, zero_point=-128)
    runtime = Foreign(entry, outputs, lows=127, highs=127)
    manifest = infer_manifest(FILE, TARGET, runtime)
    assert manifest.normalized_boxes is normalized and manifest.precision == "int8"
    assert runtime.runs[0].dtype == np.int8 and np.unique(runtime.runs[0]).tolist() == [-14]
    assert manifest.outputs[0].scale == scale and manifest.outputs[0].zero_point == -128


@pytest.mark.parametrize(("dtype", "zero_point"), [("uint8", 0), ("int8", -128)])
def test_integer_input_without_parameters_is_bytes(dtype, zero_point):
    manifest = infer_manifest(FILE, TARGET, Foreign(replace(IMAGE, dtype=dtype), raw_outputs()))
    assert manifest.input.scale == 1 / 255 and manifest.input.zero_point == zero_point
    assert any("0..255 taken as 0..1" in n for n in manifest.notes)


def test_free_sizes_are_run_at_imgsz():
    outputs = [replace(o, shape=(-1, o.shape[1], -1, -1)) for o in raw_outputs()]
    real = [o.shape for o in raw_outputs()]
    runtime = Foreign(replace(IMAGE, shape=(-1, 3, -1, -1)), outputs, {"imgsz": "[64, 96]"}, real=real)
    manifest = infer_manifest(FILE, TARGET, runtime)
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
    manifest = infer_manifest(FILE, TARGET, Foreign(IMAGE, raw_outputs(nc=2), metadata), names=names)
    assert manifest.names == expected and any(note in n for n in manifest.notes)


def refused(runtime, what, names=None):
    with pytest.raises(EdgesegError, match=what) as caught:
        infer_manifest(FILE, TARGET, runtime, names=names)
    assert "foreign.bin" in str(caught.value) and "\n" not in str(caught.value) and caught.value.hint


def test_other_networks_are_refused():
    prediction, proto = decoded_outputs()
    classifier = Foreign(Tensor("x", (1, 3, 224, 224)), [Tensor("logits", (1, 1000))])
    refused(classifier, r"logits \(1, 1000\).*expected a YOLOv8-seg network")
    refused(Foreign(IMAGE, [replace(prediction, shape=(1, 9, 126))]), "a detection network")
    refused(Foreign(IMAGE, [Tensor("o", (1, 300, 38)), proto]), "without NMS")
    refused(Foreign(IMAGE, [prediction, replace(proto, shape=(1, 16, 16, 24))]), "expected a YOLOv8-seg")
    refused(Foreign(IMAGE, [replace(prediction, shape=(1, 36, 126)), proto]), "expected a YOLOv8-seg")
    refused(Foreign(IMAGE, raw_outputs()[:-1]), "expected a YOLOv8-seg")
    refused(Foreign(IMAGE, [*raw_outputs()[:-1], Tensor("t9", (1, 3, 16, 24))]), "expected a YOLOv8-seg")
    uneven = raw_outputs()
    refused(Foreign(IMAGE, [replace(uneven[0], shape=(1, 48, 8, 12)), *uneven[1:]]), "expected a YOLOv8-seg")
    refused(Foreign(IMAGE, [uneven[0], replace(uneven[1], shape=(1, 9, 8, 12)), *uneven[2:]]), "expected a YOLOv8-seg")


def test_other_inputs_and_tasks_are_refused():
    refused(Foreign(Tensor("tokens", (1, 128)), raw_outputs()), r"tokens \(1, 128\) is no image")
    refused(Foreign(Tensor("x", (1, 1, 64, 96)), raw_outputs()), "no image of 3 channels")
    refused(Foreign(replace(IMAGE, dtype="int64"), raw_outputs()), "int64")
    refused(Foreign(IMAGE, raw_outputs(), {"task": "detect"}), "task is 'detect'")
    refused(Foreign(IMAGE, raw_outputs(), lows=0.0), "probabilities where logits")
    refused(Foreign(IMAGE, raw_outputs(nc=5)), "5 classes, but 2 names", names=("a", "b"))


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
    artifact = open_artifact(onnx_file(tmp_path, {"output0": [1, 38, 126], "output1": [1, 32, 16, 24]}, keys))
    manifest = artifact.manifest
    assert manifest.names == ("cat", "dog") and manifest.imgsz == (64, 96) and manifest.author == "someone"
    assert manifest.format == "onnx" and manifest.head == "decoded" and manifest.notes


def test_onnx_of_another_network_is_refused_in_one_line(tmp_path):
    pytest.importorskip("onnxruntime")
    file = onnx_file(tmp_path, {"logits": [1, 1000]})
    with pytest.raises(EdgesegError, match="logits") as caught:
        open_artifact(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value) and "edgeseg export" in caught.value.hint
