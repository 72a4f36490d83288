"""Full-integer TF Lite: every operator integer, and near the float network."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from edgeseg.data.dataset import load_dataset
from edgeseg.data.shapes import make_shapes
from edgeseg.errors import EdgesegError
from edgeseg.evaluate.fidelity import FidelityMeter
from edgeseg.export.api import export
from edgeseg.export.job import Job
from edgeseg.export.options import ExportOptions
from edgeseg.network.checkpoint import save_checkpoint
from edgeseg.network.definition import Definition
from edgeseg.network.flow import network_flow
from edgeseg.network.model import Network
from edgeseg.quantize.calibration import choose, iterate
from edgeseg.quantize.carried import load
from edgeseg.quantize.recipe import load_recipe
from edgeseg.registry import target_by_name
from edgeseg.resources import demo_checkpoint
from edgeseg.running.open import open_model
from edgeseg.running.pipeline import Pipeline
from edgeseg.vision.decode import decode

SIZE = (64, 64)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> tuple[Path, ...]:
    return choose(load_dataset(make_shapes(tmp_path_factory.mktemp("shapes"), train=8, val=2, size=64, seed=1)), 8).images


@pytest.fixture(scope="module")
def int8(convert, images):
    recipe = load_recipe("int8").to_dict()
    return convert("tflite", imgsz=SIZE, precision="int8", recipe=recipe, calibration=images)


def tensors(path: Path):
    flatbuffer = target_by_name("tflite").load("flatbuffer")
    model = flatbuffer.read(path.read_bytes())
    return flatbuffer, model, model.subgraphs[0]


def test_every_operator_is_integer(int8) -> None:
    from ai_edge_litert.schema_py_generated import TensorType

    flatbuffer, _, graph = tensors(int8)
    found = flatbuffer.operators(int8.read_bytes())
    assert not {"TRANSPOSE", "QUANTIZE", "DEQUANTIZE"} & set(found)
    integer = {TensorType.INT8, TensorType.INT32}
    assert {graph.tensors[i].type for op in graph.operators for i in (*op.inputs, *op.outputs) if i >= 0} <= integer


def test_weights_have_a_scale_for_each_channel(int8) -> None:
    graph_part = target_by_name("tflite").load("graph")
    _, model, graph = tensors(int8)
    for kind, op in zip(graph_part.operator_names(model), graph.operators):
        if kind == "CONV_2D":
            weight = graph.tensors[op.inputs[1]]
            assert len(weight.quantization.scale) == weight.shape[0]


def test_input_and_outputs_are_int8_with_the_agreed_scales(int8, opened) -> None:
    manifest = opened(int8).manifest
    assert (manifest.input.dtype, manifest.input.zero_point) == ("int8", -128)
    assert manifest.input.scale == pytest.approx(1 / 255)
    assert {o.dtype for o in manifest.outputs} == {"int8"}
    for o in manifest.outputs:
        if o.role == "score":
            # -8..5, moved by less than a step so that zero is exact.
            assert o.scale == pytest.approx(13 / 255) and o.scale * (-128 - o.zero_point) == pytest.approx(-8, abs=0.06)
    assert manifest.recipe == "int8"


def test_it_is_near_the_float_network(int8, convert, opened, images) -> None:
    exact, rough = opened(convert("tflite", imgsz=SIZE)), opened(int8)
    signal, noise = {}, {}
    for image in iterate(images, SIZE):
        a = exact.runtime.run(image[None].astype(np.float32) / 255)
        b = rough.runtime.run((image[None].astype(np.int16) - 128).astype(np.int8))
        for o, x, y in zip(rough.manifest.outputs, a, b):
            if o.role != "score":
                z = (y.astype(np.float32) - o.zero_point) * o.scale
                signal[o.role] = signal.get(o.role, 0) + float((x * x).sum())
                noise[o.role] = noise.get(o.role, 0) + float(((z - x) ** 2).sum())
    for role in signal:
        assert 10 * np.log10(signal[role] / noise[role]) > 10, role


@pytest.fixture(scope="module")
def requantize(convert, decided, tmp_path_factory, tiny):
    """Quantize the float file again, without tracing the network again; returns the path of a bare flatbuffer."""

    def run(name: str = "int8", calibration: tuple[Path, ...] = (), head: str = "raw") -> Path:
        source, folder = convert("tflite", imgsz=SIZE, head=head), tmp_path_factory.mktemp("again")
        job = Job("tflite", source, "network", folder / "x.tflite", folder, "int8", head, SIZE)
        job = replace(job, recipe=load_recipe(name).to_dict(), calibration=calibration)
        target, kept = target_by_name("tflite"), {"imgsz": SIZE, "recipe": job.recipe, "calibration": calibration}
        job = replace(job, given=decided(target, tiny, folder, **kept))
        content = target_by_name("tflite").load("quantize").quantize(source.read_bytes(), job)
        job.output.write_bytes(target_by_name("tflite").load("flatbuffer").restore_names(content))
        return job.output

    return run


@pytest.mark.parametrize("name", ["w8a16", "int8-accurate", "w8a32", "mixed"])
def test_other_recipes_convert_and_run(requantize, images, name: str) -> None:
    runtime = target_by_name("tflite").load("runtime").Runtime(requantize(name, images[:2]), threads=1)
    assert runtime.input.dtype == ("float32" if name == "w8a32" else "int8")
    outputs = runtime.run(np.zeros((1, *SIZE, 3), runtime.input.dtype))
    assert len(outputs) == 10 and all(np.isfinite(o).all() for o in outputs)
    assert runtime.precision() == "int8"


def test_one_tensor_for_boxes_scores_and_coefficients_is_refused(requantize, images) -> None:
    with pytest.raises(EdgesegError, match="share one scale") as caught:
        requantize(head="decoded", calibration=images)
    assert "head=raw" in caught.value.hint


def test_a_decoded_head_is_the_raw_one_with_a_scale_for_each_role(int8, convert, opened, images) -> None:
    recipe = load_recipe("int8").to_dict()
    job = {"imgsz": SIZE, "precision": "int8", "recipe": recipe, "calibration": images}
    raw, decoded = opened(int8), opened(convert("tflite", head="decoded", **job))
    assert [(o.role, o.dtype) for o in decoded.manifest.outputs] == [(r, "int8") for r in ("box", "score", "coeff", "proto")]
    steps = {o.role: o.scale for o in decoded.manifest.outputs}
    assert steps["box"] == pytest.approx(1 / 255) and steps["score"] == 1 / 256 and len(set(steps.values())) == 4
    for image in iterate(images, SIZE):
        x = (image[None].astype(np.int16) - 128).astype(np.int8)
        a, b = (decode(o.runtime.run(x), o.manifest, conf=0.0) for o in (raw, decoded))
        assert len(a) == len(b) == 64 + 16 + 4
        inside = np.minimum(b.boxes[:, 2:] - b.boxes[:, :2], 254 / 255 * SIZE[0]).min(1) > 0
        whole = [anchors_of(c.boxes)[inside] for c in (a, b)]
        np.testing.assert_allclose(np.clip(whole[0], 0, SIZE[0]), whole[1], atol=0.51 * SIZE[0] / 255)
        np.testing.assert_allclose(a.scores, b.scores, atol=0.51 / 256)
        # XNNPACK moves integers between scales with eight bits behind the point: a quarter of a step at 127 steps.
        np.testing.assert_allclose(a.coeffs, b.coeffs, atol=0.76 * steps["coeff"])
        assert np.array_equal(a.proto.values, b.proto.values)


@pytest.mark.slow
def test_a_decoded_head_finds_what_the_raw_one_finds(tmp_path) -> None:
    data = make_shapes(tmp_path / "shapes", train=40, val=24, size=160, seed=9)
    found = []
    for head in ("raw", "decoded"):
        options = ExportOptions(imgsz=160, head=head, int8=True, data=str(data))
        (result,) = export(demo_checkpoint(), ["tflite"], options, out=tmp_path)
        assert result.error is None and result.gate is not None and result.gate["passed"]
        with open_model(result.path) as opened:
            pipeline = Pipeline(opened.runtime, opened.manifest)
            found.append([pipeline(cv2.imread(str(i))) for i in load_dataset(data).images("val")])
    meter = FidelityMeter(0.25)
    for raw, decoded in zip(*found):
        meter.add(raw, decoded)
    agreed = meter.result()
    assert agreed.reference > 60 and agreed.agreement >= 0.98 and agreed.mask_iou >= 0.98 and abs(agreed.score_shift) < 0.003


def anchors_of(boxes: np.ndarray) -> np.ndarray:
    """Corners -> centre and size."""
    return np.concatenate(((boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]), 1)


def test_no_images_is_an_error(requantize) -> None:
    with pytest.raises(EdgesegError, match="calibration set is empty"):
        requantize()


def test_weights_have_the_decided_steps(convert, decided, images, tmp_path) -> None:
    """Of every kind of convolution: a step along another axis is no error where two axes are of one length."""
    torch.manual_seed(2)
    network = Network(Definition("tiny", 3, "silu", 0.33, 0.25, 64, "yolo11"), ("cat", "dog", 'o"dd, näme'))
    source = save_checkpoint(tmp_path / "eleven.pt", network.train(False))
    wanted = {"imgsz": SIZE, "recipe": load_recipe("int8").to_dict(), "calibration": images}
    path = convert("tflite", source=source, precision="int8", **wanted)
    (carried,) = load(decided(target_by_name("tflite"), source, tmp_path, **wanted))
    graph_part = target_by_name("tflite").load("graph")
    _, model, graph = tensors(path)
    # Axis of the output channels, and the order of axes that makes the weight that of a ``Node``.
    weighted = {"CONV_2D": (0, (0, 3, 1, 2)), "DEPTHWISE_CONV_2D": (3, (3, 0, 1, 2)), "TRANSPOSE_CONV": (0, (3, 0, 1, 2))}
    flow, seen = network_flow(network, SIZE), Counter()
    left = [carried.convolutions[n.output].weight(n.weight) for n in flow.nodes if n.weight is not None]
    for kind, op in zip(graph_part.operator_names(model), graph.operators):
        if kind in weighted:
            weight, (axis, order) = graph.tensors[op.inputs[1]], weighted[kind]
            scale = np.asarray(weight.quantization.scale)
            assert weight.quantization.quantizedDimension == axis and len(scale) == weight.shape[axis]
            integers = np.asarray(model.buffers[weight.buffer].data).view(np.int8).reshape(weight.shape)
            real = (integers * scale.reshape([-1 if i == axis else 1 for i in range(4)])).transpose(order)
            near = min((i for i, w in enumerate(left) if w.shape == real.shape), key=lambda i: np.abs(left[i] - real).max())
            np.testing.assert_allclose(real, left.pop(near), atol=1e-3 * np.abs(real).max())
            seen[kind] += 1
    assert not left and seen["DEPTHWISE_CONV_2D"] == 7 and seen["TRANSPOSE_CONV"] == 1
    with open_model(path) as opened:
        assert Counter(o.role for o in opened.manifest.outputs) == {"box": 3, "score": 3, "coeff": 3, "proto": 1}
