"""Q/DQ ONNX made fit for TensorRT, checked in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeseg.registry import target_by_name


@pytest.fixture
def target():
    return target_by_name("engine")


def quantized(path: Path, *, kind=np.uint8, integer_bias: bool = True) -> onnx.ModelProto:
    """One convolution with asymmetric activations, int8 weights per channel, and an int32 bias, as ORT writes it."""
    rng = np.random.default_rng(0)
    weight, scales = rng.integers(-127, 128, (8, 3, 3, 3), dtype=np.int8), rng.uniform(0.001, 0.01, 8).astype(np.float32)
    info = np.iinfo(kind)
    zero = np.array(info.min + 40, kind)
    constants = {
        "s_in": np.float32(1 / 255), "z_in": np.array(info.min, kind), "s_out": np.float32(0.02), "z_out": zero,
        "w": weight, "s_w": scales, "z_w": np.zeros(8, np.int8),
        "b": rng.integers(-900, 900, 8, dtype=np.int32), "s_b": scales / 255, "z_b": np.zeros(8, np.int32),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["images", "s_in", "z_in"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s_in", "z_in"], ["x"]),
        helper.make_node("DequantizeLinear", ["w", "s_w", "z_w"], ["wf"], axis=0),
        helper.make_node("DequantizeLinear", ["b", "s_b", "z_b"], ["bf"], axis=0),
        helper.make_node("Conv", ["x", "wf", "bf"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("QuantizeLinear", ["c", "s_out", "z_out"], ["qc"]),
        helper.make_node("DequantizeLinear", ["qc", "s_out", "z_out"], ["d"]),
        # Neither changes anything: one keeps the pair before it, as the way to a convolution, the other does not.
        helper.make_node("MaxPool", ["d"], ["p"], kernel_shape=[1, 1]),
        helper.make_node("QuantizeLinear", ["p", "s_out", "z_out"], ["qp"]),
        helper.make_node("DequantizeLinear", ["qp", "s_out", "z_out"], ["proto"]),
    ]
    entry = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 16, 16])
    out = helper.make_tensor_value_info("proto", TensorProto.FLOAT, [1, 8, 16, 16])
    initializers = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, "g", [entry], [out], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))
    return model


def computed(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """What the pairs say, operator by operator: fused integer kernels saturate on some CPUs with weights like these."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": x})[0]


@pytest.mark.parametrize("kind", [np.uint8, np.int8])
def test_qdq_is_made_symmetric(target, tmp_path, kind):
    model = quantized(tmp_path / "a.onnx", kind=kind)
    notes = target.load("qdq").fit(model)
    onnx.checker.check_model(model, full_check=True)
    assert notes == [
        "1 activations that no convolution reads stay float, where TensorRT fuses them",
        "2 activations rounded symmetrically, as TensorRT does: one-sided ranges lose up to one bit",
        "1 biases written as float",
    ]
    held = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            zero = held[node.input[2]]
            assert zero.dtype == np.int8 and not zero.any()
        if node.op_type == "DequantizeLinear":
            assert node.input[0] not in held, "TensorRT 8 takes no int8 initializers"
        if node.op_type == "Conv":
            assert held[node.input[2]].dtype == np.float32
    x = np.random.default_rng(1).random((1, 3, 16, 16), np.float32)
    before, after = computed(onnx.load(str(tmp_path / "a.onnx")), x), computed(model, x)
    # The range -0.8..4.3 in steps of 0.02 becomes -4.3..4.3 in steps of 0.034: what was clipped below is there now.
    assert np.abs(before - after.clip(-0.8, 4.3)).max() < 0.05 and before.max() > 1 and after.min() < -0.8
    # What fits already is not touched again.
    again = model.SerializeToString()
    assert target.load("qdq").fit(model) == [] and model.SerializeToString() == again


def test_what_only_a_silu_reads_stays_float(target, tmp_path):
    import onnxruntime as ort

    model = quantized(tmp_path / "a.onnx")
    del model.graph.node[6:]
    pair = [n for n in model.graph.node if n.output[0] in ("qc", "q")]
    assert len(pair) == 2
    model.graph.node.extend(
        [
            helper.make_node("DequantizeLinear", ["qc", "s_out", "z_out"], ["d"]),
            helper.make_node("Sigmoid", ["d"], ["s"]),
            helper.make_node("Mul", ["d", "s"], ["proto"]),
        ]
    )
    notes = target.load("qdq").fit(model)
    assert notes[0].startswith("1 activations that no convolution reads") and notes[1].startswith("1 activations rounded")
    onnx.checker.check_model(model, full_check=True)
    assert [list(n.input) for n in model.graph.node if n.op_type in ("Sigmoid", "Mul")] == [["c"], ["c", "s"]]
    ort.InferenceSession(model.SerializeToString())


def test_an_output_keeps_its_name_where_others_read_what_it_held(target, tmp_path):
    import onnxruntime as ort

    model = quantized(tmp_path / "a.onnx")
    del model.graph.node[6:]
    second = ["qc", "s_out", "z_out"]
    for name in ("d", "proto"):
        model.graph.node.append(helper.make_node("DequantizeLinear", second, [name]))
    model.graph.node.extend([helper.make_node("Sigmoid", ["d"], ["s"]), helper.make_node("Tanh", ["proto"], ["t"])])
    for name in ("s", "t"):
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8, 16, 16]))
    assert target.load("qdq").fit(model)[0].startswith("1 activations that no convolution reads")
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    proto, s, t = session.run(["proto", "s", "t"], {"images": np.random.default_rng(1).random((1, 3, 16, 16), np.float32)})
    assert proto.std() > 0.1
    np.testing.assert_allclose(s, 1 / (1 + np.exp(-proto)), atol=1e-5)
    np.testing.assert_allclose(t, np.tanh(proto), atol=1e-5)


def test_weights_come_back_as_the_very_same_integers(target, tmp_path):
    model = quantized(tmp_path / "a.onnx")
    was = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    target.load("qdq").fit(model)
    held = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    real, scale = held["w/float"], held["s_w"].reshape(-1, 1, 1, 1)
    assert np.array_equal(np.rint(real / scale).astype(np.int8), was["w"])


def test_eight_bit_weights_of_float_convolutions_become_floats(target, tmp_path):
    import onnxruntime as ort

    model = quantized(tmp_path / "a.onnx")
    scales = numpy_helper.from_array(np.array([0.01, 0.02], np.float32).reshape(2, 1, 1, 1), "s2")
    integers = np.random.default_rng(0).integers(-127, 127, (2, 8, 1, 1)).astype(np.int8)
    model.graph.initializer.extend([scales, numpy_helper.from_array(integers, "w2")])
    (proto,) = model.graph.output
    model.graph.node.extend(
        [
            helper.make_node("Cast", ["w2"], ["w2/cast"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["w2/cast", "s2"], ["w2f"]),
            helper.make_node("Conv", [proto.name, "w2f"], ["coeff"]),
        ]
    )
    model.graph.output.append(helper.make_tensor_value_info("coeff", TensorProto.FLOAT, [1, 2, 16, 16]))
    notes = target.load("qdq").fit(model)
    assert notes[-1] == "8-bit weights of 1 convolutions with float activations written as float"
    onnx.checker.check_model(model, full_check=True)
    assert not [n for n in model.graph.node if n.op_type in ("Cast", "Mul")]
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).random((1, 3, 16, 16), np.float32)
    first, second = session.run([proto.name, "coeff"], {"images": x})
    real = (integers * np.array([0.01, 0.02], np.float32).reshape(2, 1, 1, 1))[:, :, 0, 0]
    np.testing.assert_allclose(second, np.einsum("oc,bchw->bohw", real, first), rtol=1e-4, atol=1e-4)
