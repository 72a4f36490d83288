"""Fidelity: which detections are still there, and how much their scores sank."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.errors import EdgesegError
from edgeseg.evaluate.fidelity import FidelityMeter, box_iou, fidelity, mask_iou, match
from edgeseg.vision.detections import Detections
from edgeseg.vision.masks import Tiles

SHAPE = (40, 60)
Found = tuple[tuple[int, int, int, int], int, float]


def detections(*found: Found, masks: bool = True, shape: tuple[int, int] = SHAPE) -> Detections:
    rows = sorted(found, key=lambda f: -f[2])
    full = np.zeros((len(rows), *shape), bool)
    for mask, ((x1, y1, x2, y2), _, _) in zip(full, rows):
        mask[y1:y2, x1:x2] = True
    return Detections(
        np.array([f[0] for f in rows], np.float32).reshape(-1, 4),
        np.array([f[2] for f in rows], np.float32),
        np.array([f[1] for f in rows], np.int32),
        full if masks else None,
        ("a", "b"),
        shape,
    )


A, B = (0, 0, 20, 20), (30, 10, 50, 40)


def test_the_same_is_perfect() -> None:
    d = detections((A, 0, 0.9), (B, 1, 0.5), (A, 1, 0.1))
    f = fidelity([d], [d])
    assert (f.matched, f.box_iou, f.mask_iou, f.score_shift, f.score_shift_std) == (1, 1, 1, 0, 0)
    assert (f.reference, f.other, f.pairs, f.extra, f.missing, f.images) == (2, 2, 2, 0, 0, 1)  # 0.1 does not count


def test_sinking_scores_show() -> None:
    reference = detections((A, 0, 0.9), (B, 1, 0.3))
    other = detections((A, 0, 0.75), (B, 1, 0.2))  # B falls below the threshold
    f = fidelity([reference], [other])
    assert f.matched == 0.5 and f.missing == 1 and f.extra == 0
    assert f.score_shift == pytest.approx(-0.15) and f.score_shift_std == 0


def test_figures_of_two_images() -> None:
    half = (0, 0, 20, 12)
    f = fidelity(
        [detections((A, 0, 0.8)), detections((B, 1, 0.6), (A, 0, 0.5))],
        [detections((half, 0, 0.7)), detections((B, 1, 0.9), (A, 1, 0.5), (A, 1, 0.4))],  # A has another class
    )
    assert f.matched == pytest.approx(2 / 3) and f.extra == 2
    assert f.box_iou == pytest.approx((0.6 + 1) / 2) == f.mask_iou
    assert f.score_shift == pytest.approx(0.1) and f.score_shift_std == pytest.approx(0.2)


def test_nothing_to_measure() -> None:
    f = fidelity([detections()], [detections((A, 0, 0.9))])
    assert math.isnan(f.matched) and math.isnan(f.box_iou) and f.extra == 1
    assert json.loads(json.dumps(f.to_dict(), allow_nan=False))["matched"] is None
    f = fidelity([detections((A, 0, 0.9), masks=False)], [detections((A, 0, 0.9), masks=False)])
    assert f.matched == 1 and math.isnan(f.mask_iou)


def test_agreement_counts_what_is_lost_and_what_is_invented() -> None:
    found, lost, more = detections((A, 0, 0.9), (B, 1, 0.5)), detections((A, 0, 0.9)), detections((A, 0, 0.9), (B, 0, 0.5))
    assert fidelity([found], [found]).agreement == 1
    assert fidelity([found], [lost]).agreement == fidelity([lost], [found]).agreement == pytest.approx(2 / 3)
    assert fidelity([found], [more]).agreement == 0.5 and fidelity([found], [more]).matched == 0.5
    assert math.isnan(fidelity([detections()], [detections()]).agreement)


def test_the_interval_holds_the_figure_and_narrows_with_more_images() -> None:
    found, lost = detections((A, 0, 0.9), (B, 1, 0.5)), detections((A, 0, 0.9))
    few = fidelity([found] * 10, [found] * 7 + [lost] * 3)
    many = fidelity([found] * 100, [found] * 70 + [lost] * 30)
    widths = [f.agreement_range[1] - f.agreement_range[0] for f in (few, many)]
    assert all(f.agreement_range[0] < f.agreement < f.agreement_range[1] for f in (few, many))
    assert widths[1] < 0.5 * widths[0]
    assert json.loads(json.dumps(few.to_dict(), allow_nan=False))["agreement_range"] == list(few.agreement_range)
    assert math.isnan(fidelity([found], [found]).agreement_range[0])
    # As by hand: the same draws, image by image.
    counts = np.array([(2, 2, 2)] * 7 + [(1, 2, 1)] * 3)
    drawn = np.random.default_rng(0).multinomial(10, [0.1] * 10, 1000)
    by_hand = [
        2 * sum(n * c[0] for n, c in zip(d, counts)) / sum(n * (c[1] + c[2]) for n, c in zip(d, counts)) for d in drawn
    ]
    assert few.agreement_range == pytest.approx(tuple(np.percentile(by_hand, (2.5, 97.5))))


def test_different_images_are_an_error() -> None:
    with pytest.raises(EdgesegError, match="different images"):
        FidelityMeter().add(detections(), detections(shape=(10, 10)))
    with pytest.raises(EdgesegError, match="different number of images"):
        fidelity([detections()], [])


@st.composite
def scene(draw: st.DrawFn) -> Detections:
    found: list[Found] = []
    for _ in range(draw(st.integers(0, 6))):
        x, y = draw(st.integers(0, 8)), draw(st.integers(0, 8))
        box = (x, y, x + draw(st.integers(6, 20)), y + draw(st.integers(6, 20)))
        found.append((box, draw(st.integers(0, 1)), draw(st.integers(1, 20)) / 20))
    return detections(*found)


@given(scene(), scene())
def test_matching_against_plain_loops(a: Detections, b: Detections) -> None:
    overlap = box_iou(a.boxes, b.boxes)
    free_a, free_b, expected = set(range(len(a))), set(range(len(b))), []
    while True:
        best = (-1.0, -1, -1)
        for i in sorted(free_a):
            for j in sorted(free_b):
                if a.classes[i] == b.classes[j] and overlap[i, j] >= 0.5 and overlap[i, j] > best[0]:
                    best = (overlap[i, j], i, j)
        if best[1] < 0:
            break
        expected.append(best[0])
        free_a.remove(best[1])
        free_b.remove(best[2])
    pairs = match(a, b)
    assert [p[2] for p in pairs] == pytest.approx(expected)
    assert len({p[0] for p in pairs}) == len(pairs) == len({p[1] for p in pairs})
    assert all(a.classes[i] == b.classes[j] for i, j, _ in pairs)


@given(scene(), scene())
def test_ious_against_full_masks(a: Detections, b: Detections) -> None:
    boxes = box_iou(a.boxes, b.boxes)
    assert a.tiles is not None and b.tiles is not None and a.masks is not None and b.masks is not None
    for i in range(len(a)):
        for j in range(len(b)):
            union = (a.masks[i] | b.masks[j]).sum()
            expected = (a.masks[i] & b.masks[j]).sum() / union
            assert mask_iou(a.tiles, i, b.tiles, j) == pytest.approx(expected) == boxes[i, j]


def test_empty_masks_agree() -> None:
    empty = Tiles.of(np.zeros((1, 5, 5), bool))
    full = Tiles.of(np.ones((1, 5, 5), bool))
    assert mask_iou(empty, 0, empty, 0) == 1 and mask_iou(empty, 0, full, 0) == 0
    np.testing.assert_array_equal(box_iou(np.zeros((1, 4)), np.zeros((1, 4))), [[0]])
