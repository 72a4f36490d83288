from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgeseg.data.shapes import shapes_image
from edgeseg.errors import EdgesegError
from edgeseg.network.checkpoint import load_checkpoint
from edgeseg.network.flow import network_flow
from edgeseg.quantize.carried import value_print
from edgeseg.quantize.constraints import Constraints, constrain
from edgeseg.quantize.decide import decide
from edgeseg.quantize.learned import fingerprint
from edgeseg.quantize.recipe import load_recipe
from edgeseg.quantize.simulate import Simulator
from edgeseg.registry import target_by_name

RAW = [f"{role}_{stride}" for stride in (8, 16, 32) for role in ("box", "score", "coeff")] + ["proto"]
ROLES = [name.partition("_")[0] for name in RAW]


def part(name):
    return target_by_name("onnx").load(name)


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> tuple[Path, ...]:
    folder = tmp_path_factory.mktemp("calibration")
    paths = []
    for seed in range(3):
        paths.append(folder / f"{seed}.png")
        cv2.imwrite(str(paths[-1]), shapes_image(seed, 96)[0])
    return tuple(paths)


@pytest.fixture(scope="session")
def int8(convert, images):
    """``int8(recipe, ...)``: the tiny network with Q/DQ pairs."""

    def run(recipe="int8", name="onnx", **job):
        changes = {"correction": {"method": "none"}} if recipe == "int8" else {}
        values = {**load_recipe(recipe).to_dict(), **changes}
        info = {"hash": "00", "images": len(images), "source": "shapes"}
        return convert(name, precision="int8", recipe=values, calibration=images, calibration_info=info, **job)

    return run


@pytest.fixture(scope="session")
def noise(tiny, images):
    """``noise(artifact)``: root mean square of the error on a calibration image, as a share of the output's; the worst."""

    def measure(opened, size=None, batch=None):
        height, width = size or opened.manifest.imgsz
        image = cv2.resize(cv2.imread(str(images[0])), (width, height))[..., ::-1].transpose(2, 0, 1)[None] / np.float32(255)
        x = np.repeat(np.ascontiguousarray(image, np.float32), batch or opened.manifest.batch, 0)
        with torch.no_grad():
            wanted = load_checkpoint(tiny).fuse().view(opened.manifest.head)(torch.from_numpy(x))
        found = zip(opened.runtime.run(x), wanted, strict=True)
        return max(float(np.sqrt(((a - b.numpy()) ** 2).mean() / (b.numpy() ** 2).mean())) for a, b in found)

    return measure


def constants(model):
    return {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}


def optimized(path, folder):
    """Operators that ONNX Runtime really runs."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(n.op_type for n in onnx.load(str(folder / "optimized.onnx")).graph.node)


def test_file_says_what_it_is(int8, opened, noise):
    artifact = opened(int8())
    manifest = artifact.manifest
    assert manifest.precision == "int8" and manifest.recipe == "int8" and manifest.calibration["images"] == 3
    assert [o.name for o in manifest.outputs] == RAW
    assert {o.dtype for o in manifest.outputs} == {manifest.input.dtype} == {"float32"}
    assert 1e-4 < noise(artifact) < 0.1


def test_weights_are_int8_one_scale_a_channel_without_zero_points(int8):
    model = onnx.load(str(int8()))
    known = constants(model)
    made = {o: n for n in model.graph.node for o in n.output}
    for node in model.graph.node:
        if node.op_type != "Conv":
            continue
        weight, bias = made[node.input[1]], made[node.input[2]]
        values, scale, zero = (known[i] for i in weight.input)
        assert weight.op_type == "DequantizeLinear" and values.dtype == np.int8 and values.min() >= -127
        assert scale.shape == (values.shape[0],) and not zero.any() and zero.shape == scale.shape
        given = made[node.input[0]]
        assert given.op_type == "DequantizeLinear" and known[given.input[2]].dtype == np.uint8
        assert known[bias.input[0]].dtype == np.int32
        np.testing.assert_allclose(known[bias.input[1]], scale * known[given.input[1]], rtol=1e-6)


def test_no_two_neighbouring_weights_overflow_16_bits(int8, images):
    """Where a CPU has no VNNI, ONNX Runtime and OpenVINO add the products of two input channels in 16 bits."""
    path = int8()
    model = onnx.load(str(path))
    known, made = constants(model), {o: n for n in model.graph.node for o in n.output}
    convolutions = [n for n in model.graph.node if n.op_type == "Conv"]
    for node in convolutions:
        values = known[made[node.input[1]].input[0]].astype(int).transpose(0, 2, 3, 1)
        values = np.pad(values, ((0, 0), (0, 0), (0, 0), (0, values.shape[3] % 2)))
        pairs = values.reshape(-1, 2)
        assert np.maximum(pairs, 0).sum(1).max() <= 128 and np.minimum(pairs, 0).sum(1).min() >= -128
    full = [n for n in convolutions if np.abs(known[made[n.input[1]].input[0]].astype(int)).max() > 100]
    assert full, "only where it is needed is the range given up"


@pytest.mark.parametrize("level", ["ORT_ENABLE_ALL", "ORT_ENABLE_BASIC"])
def test_bright_and_dark_images_give_what_the_pairs_say(int8, level):
    """Integers at both ends of their range, where sums of two products are largest, in the kernels of this very CPU."""
    x = np.zeros((1, 3, 64, 96), np.float32)
    x[..., :48] = 1.0

    def run(setting: str) -> list[np.ndarray]:
        options = ort.SessionOptions()
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, setting)
        options.log_severity_level = 3
        return ort.InferenceSession(str(int8()), options, providers=["CPUExecutionProvider"]).run(None, {"images": x})

    for a, b in zip(run(level), run("ORT_DISABLE_ALL"), strict=True):
        # Values on the edge of a step round either way and go on from there; an overflow in the first layer makes 3 of it.
        assert np.sqrt(((a - b) ** 2).mean() / (b**2).mean()) < 0.05


def test_scales_are_scalars_since_runtimes_fuse_no_others(int8):
    known = constants(onnx.load(str(int8())))
    for node in onnx.load(str(int8())).graph.node:
        if node.op_type == "QuantizeLinear":
            assert known[node.input[1]].shape == known[node.input[2]].shape == ()


def test_runtime_runs_all_but_the_last_convolutions_in_integers(int8, tmp_path):
    model = onnx.load(str(int8()))
    before, after = Counter(n.op_type for n in model.graph.node), optimized(int8(), tmp_path)
    assert after["QLinearConv"] == before["Conv"] - 9 and after["Conv"] + after["FusedConv"] <= 10
    assert after["QLinearSigmoid"] + 2 >= before["Sigmoid"] - 1
    assert after["QLinearMul"] >= before["Mul"] - 2 and after["QLinearConcat"] == before["Concat"]


def test_flow_is_the_network(convert):
    path = convert("onnx")
    flow = part("flow").read_flow(onnx.load(str(path)), (64, 96), RAW, ROLES)
    x = np.random.default_rng(0).random((1, 3, 64, 96), np.float32)
    wanted = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"images": x})
    for a, b in zip(Simulator(flow).run(torch.from_numpy(x)), wanted, strict=True):
        assert np.abs(a.numpy() - b).max() <= 1e-4 * np.abs(b).max()
    assert set(flow.stages.values()) == {"backbone", "neck", "box", "score", "coeff", "proto"}


def test_both_readers_give_the_same_flow(convert, tiny):
    """From PyTorch, and from the ONNX file of the same network: operators, weights, stages and what is computed."""
    ours = network_flow(load_checkpoint(tiny), (64, 96))
    theirs = part("flow").read(convert("onnx"), (64, 96))
    seen = [{}, {}]
    x = torch.rand(1, 3, 64, 96)
    for flow, found in zip((ours, theirs), seen):
        Simulator(flow).run(x, lambda name, y, found=found: found.__setitem__(name, value_print(y.numpy())))
    rows = [
        sorted((f.producer[k].kind, f.stages[k], p) for k, p in s.items() if k != f.input)
        for f, s in zip((ours, theirs), seen)
    ]
    assert len(rows[0]) == len(rows[1]) == len(ours.nodes)
    for a, b in zip(*rows, strict=True):
        assert a[:2] == b[:2] and a[2] == pytest.approx(b[2], rel=1e-3, abs=1e-4)
    keys = [sorted(fingerprint(n.weight) for n in f.nodes if n.weight is not None) for f in (ours, theirs)]
    assert keys[0] == keys[1] and ours.roles == theirs.roles == tuple(ROLES)


def test_integers_are_what_the_simulation_says(int8, convert, images, tiny):
    """The Q/DQ file computes, to the float rounding, what the shared simulation of the same decisions computes."""
    recipe = replace(load_recipe("int8"), correction=replace(load_recipe("int8").correction, method="none"))
    limits = Constraints.from_table(target_by_name("onnx").quantize)
    network = network_flow(load_checkpoint(tiny), (64, 96))
    decisions = decide(network, recipe, images, (64, 96), constraints=limits)
    flow = constrain(network, limits)
    rounded = {
        n.output: (quantize_weight(n, decisions.weight_scales[n.output]), n.bias)
        for n in flow.nodes
        if n.output in decisions.weight_scales
    }
    shown = [cv2.resize(shapes_image(seed, 96)[0], (96, 64))[..., ::-1].transpose(2, 0, 1) for seed in range(12)]
    x = np.stack(shown).astype(np.float32) / 255
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(int8()), options, providers=["CPUExecutionProvider"])
    real = [
        np.concatenate(y) for y in zip(*(session.run(None, {"images": x[i : i + 1]}) for i in range(len(x))), strict=True)
    ]
    wanted = Simulator(flow.with_weights(rounded), decisions.params(flow)).run(torch.from_numpy(x))
    floats = Simulator(flow).run(torch.from_numpy(x))
    for a, b, c in zip(real, wanted, floats, strict=True):
        # A value that rounds the other way spreads through all layers behind it: noise of one size over a dozen pictures,
        # not the same noise.
        found, simulated = float(((torch.from_numpy(a) - c) ** 2).mean()), float(((b - c) ** 2).mean())
        assert 0.8 * simulated < found < 1.25 * simulated


def quantize_weight(node, scale):
    from edgeseg.quantize.simulate import fake_quantize_weight

    return fake_quantize_weight(node.weight, node.kind, 8, scale)


def test_decoded_head_stays_float_after_the_convolutions(int8, opened, noise):
    artifact = opened(int8(head="decoded"))
    model = onnx.load(str(artifact.path))
    assert [o.name for o in model.graph.output] == ["prediction", "proto"]
    quantized = {n.input[0] for n in model.graph.node if n.op_type == "QuantizeLinear"}
    made = {o: n for n in model.graph.node for o in n.output}
    assert len(quantized) > 50 and not {made[q].op_type for q in quantized if q in made} & {"Softmax", "Reshape", "Div"}
    assert noise(artifact) < 0.1


def test_dynamic_int8_takes_any_size(int8, opened, noise):
    artifact = opened(int8(options={"dynamic": True}))
    assert artifact.manifest.dynamic and noise(artifact, (128, 32), 2) < 0.2


def test_recipe_lines_that_cannot_be_followed_are_said(int8, capsys):
    path = int8("w8a16")
    said = capsys.readouterr().out
    assert "@note 16-bit activations" in said and "stay float" in said
    model = onnx.load(str(path))
    assert not [n for n in model.graph.node if n.op_type == "QuantizeLinear"]
    weights = [n for n in model.graph.node if n.op_type == "Cast"]
    assert len(weights) == sum(n.op_type == "Conv" for n in model.graph.node)


def test_weights_that_multiply_floats_are_constants_once_the_file_is_loaded(int8, opened, tmp_path):
    path, options = int8("w8a32"), ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    loaded = onnx.load(str(tmp_path / "loaded.onnx"))
    kinds = Counter(n.op_type for n in loaded.graph.node)
    assert not kinds["DequantizeLinear"] and not kinds["Cast"]
    held = {i.name for i in loaded.graph.initializer}
    assert all(n.input[1] in held for n in loaded.graph.node if n.op_type == "Conv")
    assert path.stat().st_size < 0.45 * tmp_path.joinpath("loaded.onnx").stat().st_size
    assert opened(path).runtime.precision == "int8"


def test_weights_only_needs_no_images(convert):
    path = convert("onnx", precision="int8", recipe=load_recipe("w8a32").to_dict())
    types = Counter(i.data_type for i in onnx.load(str(path)).graph.initializer)
    assert types[TensorProto.INT8] and not types[TensorProto.UINT8]


def test_no_images(convert):
    with pytest.raises(EdgesegError, match="calibration set is empty"):
        convert("onnx", precision="int8", recipe=load_recipe("int8").to_dict())


def small(node, *initializers, shape=(1, 4, 8, 8)):
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node], "g", [value("x", 1, shape)], [value("y", 1, None)], [numpy_helper.from_array(a, n) for n, a in initializers]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("node", "initializers"),
    [
        (helper.make_node("Softmax", ["x"], ["y"]), ()),
        (helper.make_node("Concat", ["x", "x"], ["y"], axis=2), ()),
        (helper.make_node("Mul", ["x", "k"], ["y"]), [("k", np.ones(1, np.float32))]),
        (helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], ceil_mode=1), ()),
        (
            helper.make_node("Resize", ["x", "", "k"], ["y"], mode="linear"),
            [("k", np.array([1, 1, 2, 2], np.float32))],
        ),
        (helper.make_node("Split", ["x"], ["y"], axis=3), ()),
        (helper.make_node("Conv", ["x", "k"], ["y"], group=4), [("k", np.ones((4, 1, 1, 1), np.float32))]),
        (helper.make_node("ConvTranspose", ["x", "k"], ["y"]), [("k", np.ones((4, 2, 3, 3), np.float32))]),
        (
            helper.make_node("Slice", ["x", "b", "e", "a"], ["y"]),
            [("b", np.array([0])), ("e", np.array([2])), ("a", np.array([2]))],
        ),
    ],
)
def test_what_the_quantizer_does_not_know(node, initializers):
    with pytest.raises(EdgesegError, match="does not know"):
        part("flow").read_flow(small(node, *initializers), (8, 8), ["y"], ["box"])


def test_split_and_slices_from_the_end():
    node = helper.make_node("Slice", ["x", "b", "e", "a"], ["y"])
    model = small(node, ("b", np.array([-2])), ("e", np.array([2**31])), ("a", np.array([1])), shape=(1, 3, 8, 8))
    (found,) = part("flow").read_flow(model, (8, 8), ["y"], ["box"]).nodes
    assert (found.kind, found.attrs["begin"], found.attrs["count"]) == ("slice", 1, 2)


def test_missing_output():
    with pytest.raises(EdgesegError, match="no tensor nothing"):
        part("flow").read_flow(small(helper.make_node("Sigmoid", ["x"], ["y"])), (8, 8), ["nothing"], ["box"])
