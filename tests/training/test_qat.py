"""Training through rounding: the same rounding as the quantizer's, gradients everywhere, a checkpoint that exports."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from edgeseg.data.augment import NO_AUGMENTATION
from edgeseg.data.dataset import load_dataset
from edgeseg.data.shapes import make_shapes
from edgeseg.errors import EdgesegError
from edgeseg.network.checkpoint import load_checkpoint, save_checkpoint
from edgeseg.network.definition import ACTIVATIONS, Definition
from edgeseg.network.flow import network_flow
from edgeseg.network.model import Network
from edgeseg.quantize.decide import decide
from edgeseg.quantize.learned import fingerprint, learned_of
from edgeseg.quantize.recipe import load_recipe
from edgeseg.quantize.simulate import QParams, Simulator, round_to
from edgeseg.training import TrainOptions, train
from edgeseg.training.qat import fake_quantize, prepare

NAMES = ("circle", "square", "triangle", "star")


def tiny(act: str = "silu", family: str = "yolov8", task: str = "segment") -> Network:
    torch.manual_seed(0)
    network = Network(Definition("tiny", 4, act, 0.33, 0.0625, 128, family, task), NAMES)
    network.train()(torch.rand(8, 3, 64, 64))
    return network.eval()


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGESEG_HOME", str(tmp_path / "home"))
    return make_shapes(tmp_path / "shapes", train=6, val=2, size=64, seed=3)


@given(st.floats(-9, -0.01), st.floats(0.01, 9), st.sampled_from([8, 16]))
def test_rounding_is_the_quantizers(low: float, high: float, bits: int) -> None:
    # A zero point between two integers may go either way too (float32 here, float64 there), and takes the whole grid along.
    assume(abs((-low * 255 / (high - low)) % 1 - 0.5) > 1e-3)
    x = torch.linspace(-10, 10, 999)
    want = round_to(x, QParams.from_range(low, high, bits))
    got = fake_quantize(x, torch.tensor(low), torch.tensor(high), bits)
    step = max(high - low, 2e-3) / 255
    assert (got - want).abs().max() <= step * 1.01  # a value between two steps may go either way
    assert ((got - want).abs() > step * 0.01).float().mean() < 0.02


def test_gradients_reach_values_and_ranges() -> None:
    x = torch.tensor([-3.0, -0.4, 0.3, 5.0], requires_grad=True)
    low, high = torch.tensor(-1.0, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    fake_quantize(x, low, high).sum().backward()
    assert x.grad.tolist() == pytest.approx([0, 1, 1, 0], abs=1e-5)
    assert low.grad.item() == pytest.approx(1, abs=0.05) and high.grad.item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_the_flow_is_the_network(act: str) -> None:
    network, x = tiny(act), torch.rand(2, 3, 64, 64)
    flow = network_flow(network, (64, 64))
    for a, b in zip(Simulator(flow).run(x), network.view("raw")(x)):
        assert torch.allclose(a, b, atol=1e-4)
    assert set(flow.stages.values()) == {"backbone", "neck", "box", "score", "coeff", "proto"}


@pytest.mark.parametrize(
    ("act", "family", "task"),
    [*((act, "yolov8", "segment") for act in ACTIVATIONS), ("silu", "yolo11", "detect"), ("silu", "yolo26", "segment")],
)
def test_it_rounds_as_the_simulation_of_the_export_does(data: Path, act: str, family: str, task: str) -> None:
    network, recipe = tiny(act, family, task), load_recipe("int8")
    quantized = prepare(network, recipe, load_dataset(data).images("train"), 64)
    assert torch.is_grad_enabled()
    x = torch.rand(2, 3, 64, 64)
    out = quantized(x)
    got = list(out.flat())
    exported = quantized.to_network()
    flow = network_flow(exported, (64, 64))
    learned = learned_of(exported.info["qat"])
    assert bool(learned["others"]) == (family != "yolov8")
    decisions = decide(flow, replace(recipe, learned=learned), [], (64, 64))  # it needs no images
    assert not decisions.biases and set(decisions.bits) == set(decisions.ranges) | flow.clipped
    bits = {n.output: 8 for n in flow.nodes if n.weight is not None}
    for a, b in zip(Simulator(flow, decisions.params(flow), bits).run(x), got):
        spread = max(b.abs().mean().item(), 1e-3)
        assert (a - b).abs().mean().item() < 0.03 * spread
    sum(t.sum() for t in got).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in quantized.parameters())


def test_a_run_leaves_a_checkpoint_that_exports(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = save_checkpoint(tmp_path / "start.pt", tiny())
    options = TrainOptions(
        data=str(data), model=str(start), qat=True, epochs=2, imgsz=64, batch=3, nominal_batch=3, workers=0,
        device="cpu", project=str(tmp_path / "runs"), plots=False, tensorboard=False, warmup_epochs=0,
        augment=NO_AUGMENTATION, close_mosaic=0,
    )  # fmt: skip
    result = train(options)
    best = load_checkpoint(result.best)
    assert best.fused and best.names == NAMES
    qat = best.info["qat"]
    assert qat["imgsz"] == [64, 64] and qat["recipe"]["name"] == "int8"
    assert len(qat["ranges"]) == len(qat["keys"]) == sum(m.ndim == 4 for m in best.state_dict().values())
    assert isinstance(result.metrics["val/box"], float)

    def refuse(*args: object, **kwargs: object) -> None:
        raise EdgesegError("calibrated again")

    monkeypatch.setattr("edgeseg.quantize.calibration.choose", refuse)
    again = load_checkpoint(train(replace(options, model=str(result.best), epochs=1)).best).info["qat"]
    assert again["recipe"] == qat["recipe"] and again["ranges"] != qat["ranges"]  # it learned on from where it was
    assert np.allclose(again["ranges"], qat["ranges"], rtol=0.05, atol=0.05)


def test_one_size_only() -> None:
    with pytest.raises(EdgesegError, match="exclude each other"):
        TrainOptions(data="x", qat=True, multi_scale=0.5)


def test_learned_ranges_are_found_again_in_other_backends(tmp_path: Path) -> None:
    """By the weights alone: an ONNX file names and orders its operators in its own way."""
    onnx = pytest.importorskip("onnx")

    network = tiny()
    keys = [fingerprint(n.weight) for n in network_flow(network, (64, 64)).nodes if n.weight is not None]
    file = tmp_path / "net.onnx"
    torch.onnx.export(network.fuse().view("raw"), (torch.zeros(1, 3, 64, 64),), str(file), dynamo=False, opset_version=17)
    stored = [onnx.numpy_helper.to_array(i) for i in onnx.load(file).graph.initializer]
    assert sorted(keys) == sorted(fingerprint(w) for w in stored if np.ndim(w) == 4)
    assert len(set(keys)) == len(keys)
