"""Networks trained through rounding, in the files: their learned ranges, and outputs as training computed them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch

from edgeseg import resources
from edgeseg.data.dataset import load_dataset
from edgeseg.data.shapes import make_shapes, shapes_image
from edgeseg.export.calibrate import choose_calibration
from edgeseg.export.options import ExportOptions
from edgeseg.network.checkpoint import load_checkpoint, save_checkpoint
from edgeseg.network.definition import ACTIVATIONS
from edgeseg.network.flow import network_flow
from edgeseg.network.model import Network
from edgeseg.quantize.carried import load, probe_image
from edgeseg.quantize.learned import learned_ranges
from edgeseg.quantize.recipe import Recipe, load_recipe
from edgeseg.registry import target_by_name
from edgeseg.running.open import open_model
from edgeseg.training.qat import QuantizedNetwork, prepare

SIZE = 96
DEMO = resources.PACKAGE / "demo" / "demo-seg.pt"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("learned"), train=4, val=1, size=SIZE, seed=5)


def trained(act: str, data: Path, folder: Path) -> tuple[QuantizedNetwork, Path]:
    """A network as training leaves it: weights and ranges moved away from what calibration chose."""
    torch.manual_seed(3)
    demo = load_checkpoint(DEMO)
    network = Network(replace(demo.definition, act=act), demo.names)
    network.load_state_dict(demo.state_dict())
    made = prepare(network.eval(), load_recipe("int8"), load_dataset(data).images("train"), SIZE)
    with torch.no_grad():
        made.factor.mul_(torch.empty_like(made.factor).uniform_(0.8, 1.3))
        for weight in made.weight:
            weight.mul_(1 + 0.02 * torch.randn_like(weight))
    return made, save_checkpoint(folder / f"{act}.pt", made.to_network())


def exported(
    kind: str, checkpoint: Path, data: Path, folder: Path, convert, decided
) -> tuple[Any, dict[str, tuple[float, float]], Recipe]:
    """The INT8 artifact's path, and the range that each tensor should have, by the names of the format."""
    said: list[str] = []
    given = choose_calibration(ExportOptions(int8=True, data=str(data)), said.append, checkpoint=checkpoint)
    recipe = Recipe.from_dict(given.recipe)
    job = {"source": checkpoint, "imgsz": (SIZE, SIZE)}
    plain = convert(kind, **job)
    made = convert(kind, precision="int8", recipe=given.recipe, **job)  # no images: there is nothing to calibrate
    target, picture = target_by_name(kind), probe_image((SIZE, SIZE))
    if kind == "onnx":
        seen = target.load("quantize").values(onnx.load(str(plain)), picture)
    else:
        flatbuffer, content = target.load("flatbuffer"), plain.read_bytes()
        graph = flatbuffer.read(content).subgraphs[0]
        held = flatbuffer.values(content, picture.astype(np.float32)[None] / 255)
        seen = {target.load("graph").tensor_name(graph, i): v for i, v in held.items()}
    (carried,) = load(decided(target, checkpoint, folder, recipe=given.recipe, imgsz=(SIZE, SIZE)))
    own = learned_ranges(network_flow(load_checkpoint(checkpoint), (SIZE, SIZE)), recipe.learned)
    return made, {name: own[ours] for name, ours in carried.by_values(seen).items() if ours in own}, recipe


def grids(kind: str, path: Path) -> dict[str, tuple[float, int]]:
    """Scale and zero point (as int8 has it) of each activation in a file."""
    found = {}
    if kind == "onnx":
        graph = onnx.load(str(path)).graph
        held = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer}
        for n in graph.node:
            if n.op_type == "QuantizeLinear" and n.input[0] not in held:
                name = n.input[0].removesuffix("/float")
                found[name] = (float(held[n.input[1]]), int(held[n.input[2]]) - 128)
        return found
    target = target_by_name(kind)
    graph = target.load("flatbuffer").read(path.read_bytes()).subgraphs[0]
    for i, t in enumerate(graph.tensors):
        q = t.quantization
        if q is not None and q.scale is not None and len(q.scale) == 1:
            found[target.load("graph").tensor_name(graph, i)] = (float(q.scale[0]), int(q.zeroPoint[0]))
    return found


CASES = [pytest.param(k, a, marks=pytest.mark.slow) for k in ("onnx", "tflite") for a in ACTIVATIONS]
CASES[0] = ("onnx", ACTIVATIONS[0])  # quick enough for every day


@pytest.mark.parametrize(("kind", "act"), CASES)
def test_learned_ranges_are_in_the_file(kind: str, act: str, data, convert, decided, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("EDGESEG_HOME", str(tmp_path / "home"))
    network, checkpoint = trained(act, data, tmp_path)
    path, wanted, recipe = exported(kind, checkpoint, data, tmp_path, convert, decided)
    own = learned_ranges(network_flow(network.to_network(), (SIZE, SIZE)), recipe.learned)
    assert set(wanted.values()) == set(own.values())  # every learned range has found its tensor
    seen, compared = grids(kind, path), 0
    for name, (low, high) in wanted.items():
        if name in seen:
            scale, zero = seen[name]
            assert scale == pytest.approx((high - low) / 255, rel=1e-4)
            assert zero == pytest.approx(-128 - low / scale, abs=0.51)
            compared += 1
    assert compared > 75  # 75 convolutions

    # What training computed is what the file computes: a step's rounding goes another way here and there.
    image = cv2.cvtColor(shapes_image(1, SIZE)[0], cv2.COLOR_BGR2RGB).astype(np.float32) / 255
    with torch.no_grad():
        out = network(torch.from_numpy(image.transpose(2, 0, 1)[None].copy()))
    want = [t.numpy() for triple in out.maps for t in triple] + [out.proto.numpy()]
    artifact = open_model(path)
    first = artifact.manifest.input
    x = image.transpose(2, 0, 1)[None] if kind == "onnx" else np.rint(image[None] * 255 - 128).astype(np.int8)
    assert first.dtype == str(x.dtype)
    got = artifact.runtime.run(np.ascontiguousarray(x))
    for o, a, b in zip(artifact.manifest.outputs, got, want):
        a = np.asarray(a, np.float32)
        a = (a - o.zero_point) * o.scale if o.scale else a
        a = a.transpose(0, 3, 1, 2) if o.layout == "nhwc" else a
        a = a.clip(b.min(), b.max())  # a file whose outputs stay float does not clip them
        assert np.abs(a - b).mean() < 0.25 * np.abs(b - b.mean()).mean() + 1e-3, o.name


def test_another_recipe_takes_no_learned_ranges(data, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("EDGESEG_HOME", str(tmp_path / "home"))
    _, checkpoint = trained("silu", data, tmp_path)
    said: list[str] = []
    asked = ExportOptions(int8=True, data=str(data), recipe="w8a16")
    assert "learned" not in choose_calibration(asked, said.append, checkpoint=checkpoint).recipe
    assert any("learned ranges are not used" in s for s in said)
    named = ExportOptions(int8=True, data=str(data), recipe="int8")
    assert choose_calibration(named, said.append, checkpoint=checkpoint).recipe["learned"]["ranges"]


@pytest.mark.slow
def test_core_ml_has_what_training_learned(data, tmp_path, decided) -> None:
    """In the saved program: the learned ranges of what enters convolutions, and biases that nobody corrected again."""
    from edgeseg.export.api import export

    _, checkpoint = trained("silu", data, tmp_path)
    options = ExportOptions(int8=True, data=str(data), imgsz=SIZE)
    (result,) = export(checkpoint, ["coreml"], options, out=tmp_path, gate=False)
    assert result.ok, result.error
    target = target_by_name("coreml")
    program = target.load("program").read_program(result.path)
    held = target.load("evaluate").Evaluator(program).constants
    made = {o.name: op for op in program.operations for o in op.outputs}

    def value(op: Any, key: str) -> np.ndarray:
        bound = op.arguments[key][0]
        return np.asarray(held[bound.name] if hasattr(bound, "name") else bound)

    recipe = Recipe.from_dict(choose_calibration(options, lambda text: None, checkpoint=checkpoint).recipe)
    float_network = network_flow(load_checkpoint(checkpoint), (SIZE, SIZE))
    own = {**learned_ranges(float_network, recipe.learned), float_network.input: (0.0, 1.0)}
    by_bias = {n.bias.astype(np.float16).tobytes(): n for n in float_network.nodes if n.weight is not None}
    checked = 0
    for op in program.operations:
        if op.type not in ("conv", "conv_transpose"):
            continue
        node = by_bias[value(op, "bias").astype(np.float16).tobytes()]  # untouched
        low, high = own[node.inputs[0]]
        entry = made[op.arguments["x"][0].name]
        assert entry.type == "dequantize"
        assert float(value(entry, "scale")) == pytest.approx((high - min(low, 0)) / 255, rel=2e-3)
        checked += 1
    assert checked == 76  # 75 convolutions and a transposed one
