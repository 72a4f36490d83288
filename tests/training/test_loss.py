"""Assignment and loss against the same thing in plain loops."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseg.network.head import RawOutput
from edgeseg.training.assign import assign, box_ciou
from edgeseg.training.loss import LossGains, branch_loss, network_loss, semantic_loss
from edgeseg.training.targets import Prediction, Targets, flatten

_spec = importlib.util.spec_from_file_location("slow_loss", Path(__file__).with_name("slow_loss.py"))
slow = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(slow)

STRIDES, SIDE, NC, REG = (8, 16, 32), 64, 3, 16
NO_GAINS = LossGains(1.0, 1.0, 1.0, 1.0)


def make_targets(rng: torch.Generator, batch: int, counts: list[int], side: int = SIDE) -> Targets:
    """Random ground truth: ``counts[i]`` instances in image i."""
    image = torch.tensor([i for i, n in enumerate(counts) for _ in range(n)], dtype=torch.int64)
    low = torch.rand(len(image), 2, generator=rng) * side * 0.7
    size = 6 + torch.rand(len(image), 2, generator=rng) * side * 0.6
    boxes = torch.cat((low, (low + size).clamp_max(side)), 1)
    masks = torch.zeros(batch, side // 4, side // 4, dtype=torch.int16)
    for i, n in enumerate(counts):
        masks[i] = torch.randint(0, n + 1, masks.shape[1:], generator=rng)
    return Targets(image, torch.randint(0, NC, (len(image),), generator=rng), boxes, masks)


def make_prediction(rng: torch.Generator, batch: int, side: int = SIDE) -> tuple[Prediction, list[torch.Tensor]]:
    """Random network output that needs a gradient."""
    leaves, maps = [], []
    for s in STRIDES:
        m = [torch.randn(batch, c, side // s, side // s, generator=rng).requires_grad_() for c in (4 * REG, NC, 32)]
        leaves += m
        maps.append(tuple(m))
    proto = (torch.randn(batch, 32, side // 4, side // 4, generator=rng) * 0.3).requires_grad_()
    return flatten(maps, proto, STRIDES), [*leaves, proto]


def slow_parts(p: Prediction, t: Targets) -> tuple[float, ...]:
    """The parts by the plain-loop version."""
    args = (p.box, p.score, p.coeff, p.proto, p.anchors, p.strides[:, 0], t.image, t.classes, t.boxes, t.masks, t.ordinals)
    return slow.loss(*(a.detach().double().tolist() if a.is_floating_point() else a.tolist() for a in args))


@given(seed=st.integers(0, 10_000), counts=st.lists(st.integers(0, 5), min_size=1, max_size=3))
@settings(max_examples=12, deadline=None)
def test_assignment_is_the_plain_one(seed: int, counts: list[int]) -> None:
    rng = torch.Generator().manual_seed(seed)
    targets = make_targets(rng, len(counts), counts)
    prediction, _ = make_prediction(rng, len(counts))
    anchors = prediction.anchors
    near = anchors[None].repeat(len(counts), 1, 1) + torch.rand(len(counts), len(anchors), 2, generator=rng) * 8 - 4
    boxes = torch.cat((near - 10, near + 10), -1)
    scores = prediction.score.detach().sigmoid()
    got = assign(scores, boxes, anchors, targets)
    want = slow.assign(
        scores.double().tolist(), boxes.double().tolist(), anchors.double().tolist(),
        targets.image.tolist(), targets.classes.tolist(), targets.boxes.double().tolist(),
    )  # fmt: skip
    places = list(zip(got.image.tolist(), got.anchor.tolist()))
    assert places == sorted(want)
    assert got.target.tolist() == [want[p][0] for p in places]
    assert got.score.tolist() == pytest.approx([want[p][1] for p in places], rel=1e-3, abs=1e-5)


@given(seed=st.integers(0, 10_000), counts=st.lists(st.integers(0, 4), min_size=1, max_size=2))
@settings(max_examples=8, deadline=None)
def test_loss_is_the_plain_one(seed: int, counts: list[int]) -> None:
    rng = torch.Generator().manual_seed(seed)
    targets = make_targets(rng, len(counts), counts)
    prediction, leaves = make_prediction(rng, len(counts))
    result = branch_loss(prediction, targets, NO_GAINS)
    assert result.parts.tolist() == pytest.approx(slow_parts(prediction, targets), rel=2e-3, abs=1e-4)
    assert result.total.item() == pytest.approx(result.parts.sum().item() * len(counts), rel=1e-5)
    result.total.backward()
    assert all(leaf.grad is not None and leaf.grad.isfinite().all() for leaf in leaves)


def test_gains_weigh_the_parts() -> None:
    rng = torch.Generator().manual_seed(1)
    targets, (prediction, _) = make_targets(rng, 1, [3]), make_prediction(rng, 1)
    plain = branch_loss(prediction, targets, NO_GAINS).parts
    assert torch.allclose(branch_loss(prediction, targets).parts, plain * torch.tensor([7.5, 7.5, 0.5, 1.5]))


def test_images_without_instances_give_finite_gradients_everywhere() -> None:
    prediction, leaves = make_prediction(torch.Generator().manual_seed(0), 2)
    targets = make_targets(torch.Generator().manual_seed(0), 2, [0, 0])
    result = branch_loss(prediction, targets)
    result.total.backward()
    assert result.parts[0] == result.parts[1] == result.parts[3] == 0
    assert all(leaf.grad is not None and leaf.grad.isfinite().all() for leaf in leaves)


def test_shares_of_two_processes_add_up_to_the_whole() -> None:
    rng = torch.Generator().manual_seed(5)
    prediction, _ = make_prediction(rng, 2)
    targets = make_targets(rng, 2, [3, 1])
    whole = branch_loss(prediction, targets).total.item()
    halves = []
    for i in range(2):
        mine = targets.image == i
        part = Targets(targets.image[mine] * 0, targets.classes[mine], targets.boxes[mine], targets.masks[i : i + 1])
        p = Prediction(*(t[i : i + 1] for t in (prediction.box, prediction.score, prediction.coeff, prediction.proto)),
                       prediction.anchors, prediction.strides)  # fmt: skip
        halves.append((p, part))
    sums: list[torch.Tensor] = []
    for p, t in halves:
        branch_loss(p, t, total=lambda s: sums.append(s) or s)
    both = sums[0] + sums[1]
    got = sum(branch_loss(p, t, total=lambda _: both).total.item() for p, t in halves)
    assert got == pytest.approx(whole, rel=1e-5)


def test_two_identical_instances_share_no_anchor() -> None:
    rng = torch.Generator().manual_seed(2)
    prediction, _ = make_prediction(rng, 1)
    box = torch.tensor([[8.0, 8.0, 40.0, 40.0]]).repeat(2, 1)
    targets = Targets(
        torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64), box, torch.zeros(1, 16, 16).short()
    )
    got = assign(
        prediction.score.detach().sigmoid(), box[:1].repeat(1, len(prediction.anchors), 1), prediction.anchors, targets
    )
    assert len(got) == 10 and got.target.unique().tolist() == [0]


box_strategy = st.tuples(*[st.floats(0, 50)] * 2, *[st.floats(1, 50)] * 2).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


@given(a=box_strategy, b=box_strategy)
def test_ciou(a: tuple[float, ...], b: tuple[float, ...]) -> None:
    got = box_ciou(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)).item()
    assert got == pytest.approx(slow.ciou(a, b), abs=1e-5)
    assert -2 < got <= 1 + 1e-6


def slow_semantic(logits: torch.Tensor, t: Targets) -> float:
    """Binary cross-entropy and Dice, cell by cell."""
    batch, nc, h, w = logits.shape
    step = t.masks.shape[1] // h
    entropy = dice = 0.0
    for b in range(batch):
        mine = t.classes[t.image == b].tolist()
        for c in range(nc):
            shared = mass = area = 0.0
            for y in range(h):
                for x in range(w):
                    ordinal = int(t.masks[b, y * step, x * step])
                    truth = float(ordinal > 0 and mine[ordinal - 1] == c)
                    p = 1 / (1 + math.exp(-float(logits[b, c, y, x])))
                    entropy -= math.log(p if truth else 1 - p)
                    shared, mass, area = shared + p * truth, mass + p, area + truth
            dice += 1 - (2 * shared + 1) / (mass + area + 1)
    return (entropy / (batch * nc * h * w) + dice / (batch * nc)) / 2


@given(seed=st.integers(0, 10_000), counts=st.lists(st.integers(0, 4), min_size=1, max_size=3))
@settings(max_examples=10, deadline=None)
def test_the_semantic_loss_is_the_plain_one(seed: int, counts: list[int]) -> None:
    rng = torch.Generator().manual_seed(seed)
    targets = make_targets(rng, len(counts), counts)
    logits = torch.randn(len(counts), NC, SIDE // 8, SIDE // 8, generator=rng)
    assert semantic_loss(logits, targets).item() == pytest.approx(slow_semantic(logits, targets), rel=1e-4)


def test_plain_distances_are_learned_by_their_difference() -> None:
    rng = torch.Generator().manual_seed(4)
    box = torch.tensor([[8.0, 12.0, 44.0, 52.0]])
    targets = Targets(torch.zeros(1).long(), torch.zeros(1).long(), box, torch.zeros(1, 16, 16).short())
    maps = []
    for s in STRIDES:
        y, x = torch.meshgrid(torch.arange(SIDE // s) + 0.5, torch.arange(SIDE // s) + 0.5, indexing="ij")
        true = torch.stack((x - 8 / s, y - 12 / s, 44 / s - x, 52 / s - y))[None]
        maps.append(((true + 0.25).requires_grad_(), torch.randn(1, NC, SIDE // s, SIDE // s, generator=rng)))
    prediction = flatten(maps, None, STRIDES)
    assert prediction.reg_max == 1 and prediction.coeff is None and prediction.proto is None
    inside = prediction.boxes()[0, (prediction.strides[:, 0] == 8)]
    torch.testing.assert_close(inside[0], torch.tensor([6.0, 10.0, 46.0, 54.0]))
    result = branch_loss(prediction, targets, NO_GAINS)
    assert result.parts[1] == 0 and 0 < result.parts[3] <= 0.25 + 1e-6
    result.total.backward()
    assert all(m[0].grad is not None for m in maps)


def test_the_second_copy_counts_more_and_more() -> None:
    rng = torch.Generator().manual_seed(8)
    targets = make_targets(rng, 2, [3, 1])
    first, second = (_maps(rng) for _ in range(2))
    proto, semantic = torch.randn(2, 32, 16, 16, generator=rng), torch.randn(2, NC, 8, 8, generator=rng)
    strides = STRIDES
    many = branch_loss(flatten(first, proto, strides), targets)
    one = branch_loss(flatten(second, proto, strides), targets, positives=1)
    for done, share in ((0.0, 0.2), (0.5, 0.55), (1.0, 0.9)):
        got = network_loss(RawOutput(first, proto, second), targets, strides, done=done)
        assert got.total.item() == pytest.approx((many.total * (1 - share) + one.total * share).item(), rel=1e-5)
    both = network_loss(RawOutput(first, proto, second, semantic), targets, strides, done=1.0)
    more = semantic_loss(semantic, targets) * 7.5
    assert both.total.item() == pytest.approx((got.total + 2 * more).item(), rel=1e-5)
    assert both.parts.sum().item() * 2 == pytest.approx(both.total.item(), rel=1e-5)
    assert network_loss(RawOutput(first, proto), targets, strides).total.item() == pytest.approx(many.total.item())


def _maps(rng: torch.Generator) -> list[tuple[torch.Tensor, ...]]:
    return [tuple(torch.randn(2, c, SIDE // s, SIDE // s, generator=rng) for c in (4, NC, 32)) for s in STRIDES]
