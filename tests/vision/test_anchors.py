import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseg.vision import anchors


@given(st.integers(1, 30), st.integers(1, 30))
def test_centres_are_row_major(h, w):
    found = anchors.centres(np.arange(h * w), w)
    expected = [(x + 0.5, y + 0.5) for y in range(h) for x in range(w)]
    np.testing.assert_array_equal(found, np.array(expected, np.float32))


@settings(max_examples=50)
@given(st.integers(0, 10_000), st.integers(0, 20))
def test_distances_are_expectations(seed, n):
    logits = np.random.default_rng(seed).normal(0, 5, (n, 4, 16)).astype(np.float32)
    found = anchors.distances(logits)
    assert found.shape == (n, 4) and found.dtype == np.float32
    for row, value in zip(logits.reshape(-1, 16).astype(np.float64), found.ravel()):
        e = np.exp(row - row.max())
        assert abs(sum(i * p for i, p in enumerate(e / e.sum())) - value) < 1e-4
    assert n == 0 or (found.min() >= 0 and found.max() <= 15)


def test_large_logits_do_not_overflow():
    logits = np.zeros((1, 4, 16), np.float32)
    logits[..., 7] = 3e38
    np.testing.assert_array_equal(anchors.distances(logits), [[7, 7, 7, 7]])


def test_boxes_from_distances():
    found = anchors.boxes(np.array([[1.5, 2.5]], np.float32), np.array([[1, 2, 3, 4]], np.float32), 8)
    np.testing.assert_array_equal(found, [[4, 4, 36, 52]])


def test_boxes_from_centres():
    np.testing.assert_array_equal(anchors.from_xywh(np.array([[10, 20, 4, 6]], np.float32)), [[8, 17, 12, 23]])
