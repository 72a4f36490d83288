"""Where a run starts: whatever way the weights come in, the run is the same; nothing untrained passes as trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from edgeseg import Model
from edgeseg.data.augment import AugmentOptions
from edgeseg.data.shapes import SHAPE_NAMES, make_shapes
from edgeseg.network.checkpoint import load_training_state, save_checkpoint
from edgeseg.network.definition import Definition
from edgeseg.network.model import Network
from edgeseg.training import TrainOptions, train
from edgeseg.training.transfer import fresh_tensors, load_into, start_network

TINY = "variant: tiny\ndepth: 0.33\nwidth: 0.0625\nmax_channels: 128\nnc: 4\n"
DEFINITION = Definition("tiny", depth=0.33, width=0.0625, max_channels=128, nc=4)


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainOptions:
    monkeypatch.setenv("EDGESEG_HOME", str(tmp_path / "home"))
    data = make_shapes(tmp_path / "shapes", train=6, val=2, size=64, seed=3)
    (tmp_path / "tiny.yaml").write_text(TINY)
    return TrainOptions(
        data=str(data), model=str(tmp_path / "tiny.yaml"), epochs=1, imgsz=64, batch=2, nominal_batch=4, workers=0,
        device="cpu", warmup_epochs=1, project=str(tmp_path / "runs"), plots=False, tensorboard=False, close_mosaic=0,
        augment=AugmentOptions(mixup=0.2),
    )  # fmt: skip


def trained(seed: int = 5) -> Network:
    """A network whose normalisation has statistics and gains of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(DEFINITION, SHAPE_NAMES)
        for m in network.modules():
            if isinstance(m, nn.BatchNorm2d):
                nn.init.uniform_(m.weight, 0.5, 1.5)
                nn.init.uniform_(m.bias, -0.3, 0.3)
                assert m.running_mean is not None and m.running_var is not None
                nn.init.uniform_(m.running_mean, -0.2, 0.2)
                nn.init.uniform_(m.running_var, 0.5, 1.5)
    network.info = {"origin": "foreign", "imgsz": 64}
    return network.eval()


def weights_of(options: TrainOptions, model: Model) -> dict[str, torch.Tensor]:
    flat = {k: v for k, v in options.to_flat().items() if k not in ("model", "data")}
    result = model.train(options.data, **flat)
    state: dict[str, torch.Tensor] = load_training_state(result.last)["trainer"]["weights"]
    return state


@pytest.mark.parametrize("kind", ["trained", "fused", "folded"])
def test_loading_weights_into_a_definition_trains_as_the_checkpoint_does(
    options: TrainOptions, tmp_path: Path, kind: str
) -> None:
    network = trained()
    if kind != "trained":
        network = network.fuse() if kind == "fused" else network.fuse().unfuse()
    file = save_checkpoint(tmp_path / "start.pt", network)
    direct = weights_of(options, Model(file))
    loaded = weights_of(options, Model(options.model).load(file))
    assert direct.keys() == loaded.keys() and all(torch.equal(direct[k], loaded[k]) for k in direct)


def test_unfusing_keeps_the_outputs() -> None:
    network, x = trained(), torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(network.view("raw")(x), network.fuse().unfuse().view("raw")(x)):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_a_run_says_that_statistics_were_lost(options: TrainOptions, tmp_path: Path) -> None:
    file = save_checkpoint(tmp_path / "folded.pt", trained().fuse().unfuse())
    result = train(replace(options, model=options.model, pretrained=str(file)))
    assert any("folded" in w for w in result.warnings)
    assert not any("folded" in w for w in train(options).warnings), "a fresh network has lost nothing"


def test_what_is_still_untrained_is_known() -> None:
    fresh, source = Network(DEFINITION, SHAPE_NAMES), trained()
    fresh.info = {"origin": "fresh"}
    everything = fresh_tensors(fresh)
    assert set(everything) == set(fresh.state_dict())
    source.info["fresh"] = ["head.proto.enter.bn.weight"]
    load_into(fresh, source)
    assert fresh_tensors(fresh) == ("head.proto.enter.bn.weight",) and fresh.info["imgsz"] == 64
    load_into(fresh, trained(6))
    assert fresh_tensors(fresh) == ()


def test_a_fresh_part_of_a_checkpoint_is_not_measured(options: TrainOptions, tmp_path: Path) -> None:
    network = trained().fuse().unfuse()
    network.info["fresh"] = [k for k in network.state_dict() if k.startswith("head.proto.")]
    file = save_checkpoint(tmp_path / "partly.pt", network)
    start = start_network(replace(options, model=str(file)), SHAPE_NAMES)
    assert start.folded and not any(n.startswith("head.proto.") for n in start.folded)
