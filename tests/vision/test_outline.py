"""Outlines: traced, joined and filled exactly."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from edgeseg.vision.outline import fill, join, mask_outline, ring_area, simplify, trace

MASKS = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12))


def slow_fill(ring: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Even-odd rule for every pixel centre, edge by edge, with a ray to the left."""
    out = np.zeros(shape, bool)
    for y in range(shape[0]):
        for x in range(shape[1]):
            px, py, inside = x + 0.5, y + 0.5, False
            for (ax, ay), (bx, by) in zip(ring.tolist(), np.roll(ring, -1, axis=0).tolist()):
                if (ay <= py) != (by <= py) and ax + (py - ay) / (by - ay) * (bx - ax) <= px:
                    inside = not inside
            out[y, x] = inside
    return out


@given(MASKS)
def test_tracing_keeps_the_area(mask: np.ndarray) -> None:
    assert sum(ring_area(r) for r in trace(mask)) == mask.sum()


@given(MASKS)
def test_one_ring_fills_to_the_mask_with_its_holes(mask: np.ndarray) -> None:
    ring = mask_outline(mask)
    if not mask.any():
        assert ring is None
        return
    np.testing.assert_array_equal(fill([ring], mask.shape), mask)
    assert abs(ring_area(ring) - mask.sum()) < 1e-9


@given(arrays(np.float64, st.tuples(st.integers(3, 9), st.just(2)), elements=st.integers(-40, 200).map(lambda v: v / 16)))
def test_fill_is_the_even_odd_rule(ring: np.ndarray) -> None:
    np.testing.assert_array_equal(fill([ring], (9, 11)), slow_fill(ring, (9, 11)))


def test_parts_that_touch_at_a_corner_are_two_rings() -> None:
    rings = trace(np.eye(2))
    assert len(rings) == 2 and all(len(r) == 4 and ring_area(r) == 1 for r in rings)


def test_a_ring_with_a_hole() -> None:
    mask = np.ones((5, 5), bool)
    mask[1:4, 1:4] = False
    outer, hole = sorted(trace(mask), key=lambda r: -ring_area(r))
    assert (ring_area(outer), ring_area(hole)) == (25, -9)
    assert len(mask_outline(mask)) == 10  # 4 + 4 corners and both ends of the bridge again


def test_bridges_join_the_nearest_points() -> None:
    square = np.array([(0, 0), (4, 0), (4, 4), (0, 4)], float)
    near, far = (square + np.array([dx, 0]) for dx in (6, 20))
    ring = join([square, far, near])
    assert ring_area(ring) == 48
    length = np.hypot(*(np.roll(ring, -1, axis=0) - ring).T).sum()
    assert length == 3 * 16 + 2 * 2 + 2 * 10  # three squares, and each gap twice


def test_simplify_stays_within_tolerance() -> None:
    angles = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    ring = np.stack([np.cos(angles), np.sin(angles)], -1) * 50 + 60
    thin = simplify(ring, 0.75)
    assert len(thin) < 60
    assert np.abs(np.hypot(*(thin - 60).T) - 50).max() < 0.01  # points are points of the ring
    assert ring_area(ring) - ring_area(thin) < 0.75 * 2 * np.pi * 50
    assert len(simplify(ring, 0)) == 200


def test_tiny_specks_are_left_out_but_never_everything() -> None:
    mask = np.zeros((20, 20), bool)
    mask[2:10, 2:10] = mask[15, 15] = True
    assert ring_area(mask_outline(mask, smallest=4)) == 64
    speck = np.zeros((5, 5), bool)
    speck[2, 2] = True
    assert ring_area(mask_outline(speck, smallest=4)) == 1
