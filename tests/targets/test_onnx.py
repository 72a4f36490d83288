from __future__ import annotations

import ast

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgeseg.errors import EdgesegError
from edgeseg.export.options import ExportOptions, check_options
from edgeseg.registry import target_by_name
from edgeseg.running.open import open_model

RAW = [f"{role}_{stride}" for stride in (8, 16, 32) for role in ("box", "score", "coeff")] + ["proto"]


def test_raw_head_is_the_network(convert, opened, difference):
    artifact = opened(convert("onnx"))
    assert [o.name for o in artifact.manifest.outputs] == RAW
    assert [o.role for o in artifact.manifest.outputs] == [n.split("_")[0] for n in RAW]
    assert artifact.manifest.outputs[1].shape == (1, 3, 8, 12) and artifact.manifest.outputs[1].stride == 8
    assert artifact.manifest.input.shape == (1, 3, 64, 96)
    assert difference(artifact) < 1e-5


def test_decoded_head_is_the_network(convert, opened, difference):
    artifact = opened(convert("onnx", head="decoded", batch=2))
    assert [(o.name, o.shape) for o in artifact.manifest.outputs] == [
        ("prediction", (2, 39, 126)),
        ("proto", (2, 32, 16, 24)),
    ]
    assert artifact.manifest.batch == 2 and difference(artifact) < 1e-5


@pytest.mark.parametrize("head", [pytest.param("raw", marks=pytest.mark.slow), "decoded"])
def test_dynamic_takes_any_size_and_batch(convert, opened, difference, head):
    artifact = opened(convert("onnx", head=head, options={"dynamic": True}))
    assert artifact.manifest.dynamic and artifact.runtime.input.shape == (-1, 3, -1, -1)
    for size, batch in (((64, 96), 1), ((128, 32), 3)):
        assert difference(artifact, size, batch) < 1e-5


@pytest.mark.parametrize("head", [pytest.param("raw", marks=pytest.mark.slow), "decoded"])
def test_half_keeps_float_at_the_border_and_halves_the_file(convert, opened, difference, head):
    full, half = convert("onnx", head=head), convert("onnx", head=head, precision="fp16")
    artifact = opened(half)
    assert artifact.manifest.input.dtype == "float32" and artifact.manifest.precision == "fp16"
    assert half.stat().st_size < 0.6 * full.stat().st_size
    assert 1e-7 < difference(artifact) < 5e-3


def test_half_decodes_boxes_in_float(convert):
    model = onnx.load(str(convert("onnx", head="decoded", precision="fp16")))
    inferred = onnx.shape_inference.infer_shapes(model)
    types = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
    softmax = [n for n in model.graph.node if n.op_type == "Softmax"]
    assert softmax and all(types[n.output[0]] == TensorProto.FLOAT for n in softmax)


def test_ecosystem_finds_its_keys(convert):
    metadata = open_model(convert("onnx")).runtime.metadata
    keys = "description author date version license stride task batch imgsz names args channels edgeseg edgefirst labels"
    assert set(metadata) == set(keys.split())
    assert metadata["stride"] == "32" and metadata["task"] == "segment" and ast.literal_eval(metadata["imgsz"]) == [64, 96]
    assert ast.literal_eval(metadata["names"]) == {0: "cat", 1: "dog", 2: 'o"dd, näme'}


def test_simplify_and_opset(convert, opened, difference):
    simple, plain = convert("onnx"), convert("onnx", options={"simplify": False, "opset": 13})
    nodes = {p: len(onnx.load(str(p)).graph.node) for p in (simple, plain)}
    assert nodes[simple] <= nodes[plain]
    versions = [
        next(o.version for o in onnx.load(str(p)).opset_import if o.domain in ("", "ai.onnx")) for p in (simple, plain)
    ]
    assert versions == [17, 13] and difference(opened(plain)) < 1e-5


@pytest.mark.parametrize("opset", [7, 10, 21, 25])
@pytest.mark.parametrize("format", ["onnx", "engine"])
def test_opset_out_of_range_is_refused_before_any_work(opset, format):
    with pytest.raises(EdgesegError, match=f"takes opset from 11 to 20, not {opset}"):
        check_options(target_by_name(format), ExportOptions.of(opset=opset))
    assert check_options(target_by_name(format), ExportOptions.of(opset=11, simplify=False)) == "fp32"


def test_int8_needs_scales_by_channel():
    for name in ("onnx", "engine"):
        with pytest.raises(EdgesegError, match="takes opset from 13 to 20 with int8, not 12"):
            check_options(target_by_name(name), ExportOptions.of(int8=True, opset=12))


@pytest.mark.parametrize("opset", [11, 12])
def test_the_lowest_opsets(convert, opened, difference, opset):
    path = convert("onnx", head="decoded", options={"opset": opset, "dynamic": True})
    assert difference(opened(path)) < 1e-5
    assert next(o.version for o in onnx.load(str(path)).opset_import if o.domain in ("", "ai.onnx")) == opset


def test_threads(convert):
    assert open_model(convert("onnx"), threads=1).runtime.run(np.zeros((1, 3, 64, 96), np.float32))[0].shape == (
        1,
        64,
        8,
        12,
    )


def test_runtime_refuses_several_inputs(tmp_path):
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3, 8, 8]) for n in "ab"]
    out = helper.make_tensor_value_info("c", TensorProto.FLOAT, [1, 3, 8, 8])
    graph = helper.make_graph([helper.make_node("Add", ["a", "b"], ["c"])], "g", inputs, [out])
    file = tmp_path / "two.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(file))
    with pytest.raises(EdgesegError, match="2 inputs"):
        open_model(file)


def test_no_onnx_at_all(tmp_path):
    file = tmp_path / "no.onnx"
    file.write_bytes(b"not a model")
    with pytest.raises(EdgesegError, match="cannot load") as caught:
        open_model(file)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("opset", range(11, 21))
@pytest.mark.parametrize("head", ["raw", "decoded"])
def test_every_opset(convert, opened, difference, opset, head):
    assert difference(opened(convert("onnx", head=head, options={"opset": opset, "dynamic": True}))) < 1e-5
