import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseg.vision.nms import nms


def slow(boxes, scores, classes, iou, max_det, agnostic=False):
    """Greedy suppression, pair by pair."""
    kept: list[int] = []
    zero = np.float32(0)
    for i in sorted(range(len(scores)), key=lambda i: -scores[i]):
        b = boxes[i]
        for j in kept:
            if not agnostic and classes[i] != classes[j]:
                continue
            a = boxes[j]
            inter = max(zero, min(a[2], b[2]) - max(a[0], b[0])) * max(zero, min(a[3], b[3]) - max(a[1], b[1]))
            area_a = max(zero, a[2] - a[0]) * max(zero, a[3] - a[1])
            area_b = max(zero, b[2] - b[0]) * max(zero, b[3] - b[1])
            if inter > np.float32(iou) * (area_a + area_b - inter):
                break
        else:
            kept.append(i)
    return kept[:max_det]


def crowd(seed, n, nc, levels):
    """Boxes in clusters, so that chains of overlap occur; scores on a coarse scale, so that equal ones occur."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(0, 100, (max(1, n // 8), 2))[rng.integers(0, max(1, n // 8), n)] + rng.normal(0, 4, (n, 2))
    half = rng.uniform(-1, 20, (n, 2))  # a few are inside out: no area
    boxes = np.concatenate((centre - half, centre + half), axis=1).astype(np.float32)
    scores = (rng.integers(0, levels, n) / levels).astype(np.float32)
    return boxes, scores, rng.integers(0, nc, n).astype(np.int32)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(0, 90),
    st.sampled_from([1, 3, 80]),
    st.sampled_from([4, 1000]),
    st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    st.sampled_from([1, 7, 300]),
)
def test_equals_pair_by_pair(seed, n, nc, levels, iou, max_det):
    boxes, scores, classes = crowd(seed, n, nc, levels)
    for agnostic in (False, True):
        kept = nms(boxes, scores, classes, iou, max_det, agnostic)
        assert kept.tolist() == slow(boxes, scores, classes, iou, max_det, agnostic)


@pytest.mark.parametrize("seed", range(2))
def test_across_blocks(seed):
    boxes, scores, classes = crowd(seed, 700, 2, 200)
    for max_det in (300, 5000):
        assert nms(boxes, scores, classes, 0.5, max_det).tolist() == slow(boxes, scores, classes, 0.5, max_det)


def test_a_long_chain():
    """Each box is suppressed by the one before it only: the worst case for repeated rounds."""
    x = np.arange(300, dtype=np.float32)
    boxes = np.stack((x, 0 * x, x + 3, 0 * x + 1), axis=1)
    scores = np.linspace(1, 0.1, 300, dtype=np.float32)
    kept = nms(boxes, scores, np.zeros(300, np.int32), 0.4, 300)
    assert kept.tolist() == list(range(0, 300, 2))


def test_two_classes_do_not_touch_each_other():
    boxes = np.array([[0, 0, 9, 9]] * 3, np.float32)
    kept = nms(boxes, np.array([0.5, 0.9, 0.8], np.float32), np.array([0, 1, 1]), 0.5, 300)
    assert kept.tolist() == [1, 0]
    assert nms(boxes, np.array([0.5, 0.9, 0.8], np.float32), np.array([0, 1, 1]), 0.5, 300, agnostic=True).tolist() == [1]
