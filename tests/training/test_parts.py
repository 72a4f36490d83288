"""Weight average, schedule, optimizer, automatic batch size, transfer."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.errors import EdgesegError
from edgeseg.network.definition import Definition
from edgeseg.network.model import Network
from edgeseg.training.autobatch import from_peaks
from edgeseg.training.distributed import pick_device
from edgeseg.training.loop import rescale
from edgeseg.training.optimize import Rates, Schedule, WeightAverage, apply_rates, choose_optimizer, freeze, make_optimizer
from edgeseg.training.targets import Targets
from edgeseg.training.transfer import carry_over


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    return Network(Definition(variant="tiny", depth=0.33, width=0.0625, max_channels=128, nc=2), ("a", "b"))


def test_the_average_is_the_textbook_one(network: Network) -> None:
    average = WeightAverage(network, decay=0.9, tau=3.0)
    key = "backbone.stem.conv.weight"
    want = network.state_dict()[key].clone()
    for step in range(1, 5):
        with torch.no_grad():
            network.state_dict()[key].add_(1.0)
        average.update(network)
        keep = 0.9 * (1 - math.exp(-step / 3.0))
        want = keep * want + (1 - keep) * network.state_dict()[key]
        assert torch.allclose(average.network.state_dict()[key], want, atol=1e-6)
    other = WeightAverage(network)
    other.load_state_dict(average.state_dict())
    assert other.updates == 4 and torch.equal(other.network.state_dict()[key], average.network.state_dict()[key])


@given(
    st.sampled_from(["linear", "cosine"]),
    st.integers(1, 300),
    st.floats(1e-4, 1.0),
    st.floats(0.0, 1.0),
    st.integers(0, 100),
)
def test_the_schedule_falls_from_peak_to_final(kind: str, epochs: int, lr: float, final: float, warmup: int) -> None:
    s = Schedule(lr, final, epochs, kind, warmup=warmup)
    factors = [s.factor(e) for e in range(epochs + 1)]
    assert factors[0] == pytest.approx(1) and factors[-1] == pytest.approx(final)
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(factors))
    assert s.rates(warmup, 0) == Rates(lr, lr, 0.937)
    if warmup:
        assert s.rates(0, 0) == Rates(0.0, 0.1, 0.8)
        assert s.accumulate(0, 8) == 1
    assert s.accumulate(warmup, 8) == 8


def test_parameters_go_into_three_groups(network: Network) -> None:
    optimizer = make_optimizer(network, "sgd", Schedule(0.1, 0.01, 10), 0.0005)
    kernels, norms, biases = (g["params"] for g in optimizer.param_groups)
    assert all(p.ndim == 4 for p in kernels) and all(p.ndim == 1 for p in [*norms, *biases])
    assert len(kernels) + len(norms) + len(biases) == sum(p.requires_grad for p in network.parameters())
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.0005, 0, 0]
    apply_rates(optimizer, Rates(0.01, 0.05, 0.85))
    assert [g["lr"] for g in optimizer.param_groups] == [0.01, 0.01, 0.05]
    assert optimizer.param_groups[0]["momentum"] == 0.85
    adam = make_optimizer(network, "adamw", Schedule(0.1, 0.01, 10), 0.0)
    apply_rates(adam, Rates(0.01, 0.05, 0.85))
    assert adam.param_groups[1]["betas"] == (0.85, 0.999)


def test_short_runs_take_adamw() -> None:
    assert choose_optimizer("auto", None, 100, 80) == ("adamw", 0.000119)
    assert choose_optimizer("auto", None, 20_000, 80) == ("sgd", 0.01)
    assert choose_optimizer("sgd", 0.3, 5, 80) == ("sgd", 0.3)


def test_freezing_an_unknown_part_is_an_error(network: Network) -> None:
    with pytest.raises(EdgesegError, match="freeze=backbon"):
        freeze(network, ("backbon",))


def test_layers_are_frozen_by_the_numbers_of_their_family() -> None:
    def frozen(family: str, parts: tuple[str, ...]) -> set[str]:
        fresh = Network(Definition("n", nc=2, family=family))
        freeze(fresh, parts)
        return {n.rsplit(".", 1)[0] for n, p in fresh.named_parameters() if not p.requires_grad and n != "head.bins"}

    assert frozen("yolov8", ("0",)) == {"backbone.stem.conv", "backbone.stem.bn"} == frozen("yolo11", ("0",))
    first = tuple(map(str, range(11)))
    assert (
        {n.split(".")[0] for n in frozen("yolov8", first)}
        == {"backbone"}
        == {n.split(".")[0] for n in frozen("yolo11", first)}
    )
    assert any(n.startswith("backbone.attend") for n in frozen("yolo11", ("10",))) and not frozen("yolov8", ("10",))
    assert any(n.startswith("head.proto") for n in frozen("yolov8", ("22",)))
    assert any(n.startswith("neck.out5") for n in frozen("yolo26", ("22",)))
    with pytest.raises(EdgesegError, match="freeze=23"):
        frozen("yolov8", ("23",))


def test_the_batch_that_fits() -> None:
    assert from_peaks([(1, 100), (2, 200), (4, 400)], 3000) == 24  # 30 fit
    assert from_peaks([(1, 100), (2, 200)], 650) == 4
    assert from_peaks([(1, 100)], 150) == 1
    assert from_peaks([(512, 5), (1024, 6)], 1e12) == 1024


def test_rescaling_moves_boxes_and_maps_along() -> None:
    maps = torch.zeros(1, 16, 16, dtype=torch.int16)
    maps[0, 4:8, 8:16] = 1
    targets = Targets(torch.zeros(1).long(), torch.zeros(1).long(), torch.tensor([[32.0, 16, 64, 32]]), maps)
    images, new = rescale(torch.rand(1, 3, 64, 64), targets, 0.5)
    assert images.shape[-1] == 96 and new.boxes.tolist() == [[48, 24, 96, 48]]
    assert new.masks.shape == (1, 24, 24) and new.masks[0, 6:12, 12:].all() and new.masks.sum() == 6 * 12
    assert rescale(images, new, 0.01) == (images, new)


def test_another_variant_gives_what_fits(network: Network) -> None:
    wider = Network(Definition(variant="w", depth=0.33, width=0.125, max_channels=128, nc=2), ("a", "b"))
    transfer = carry_over(network, wider)
    assert 0 < transfer.taken < transfer.all
    twin = Network(network.definition, ("b", "c"))
    assert carry_over(network, twin).fresh == tuple(f"head.score.{i}.out.{k}" for i in range(3) for k in ("weight", "bias"))
    assert torch.equal(twin.head.score[0].out.weight[0], network.head.score[0].out.weight[1])


def test_devices() -> None:
    assert pick_device("cpu").type == "cpu"
    for name in ("cuda:99", "toaster"):
        with pytest.raises(EdgesegError, match=f"device={name}"):
            pick_device(name)
