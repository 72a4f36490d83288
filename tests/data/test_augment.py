"""Augmentation: outlines follow the pixels, clipping is exact, the seed decides everything."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseg.data.augment import (
    NO_AUGMENTATION,
    AugmentOptions,
    Sample,
    augment,
    clipped,
    copy_paste,
    flip,
    jitter_hsv,
    letterbox_matrix,
    mixup,
    place,
)
from edgeseg.data.polygons import area, bounds, clip, rasterize
from edgeseg.vision.outline import fill

W, H = 40, 30
points = st.tuples(st.floats(-40, 80, width=32), st.floats(-40, 70, width=32))


def slow_bounds(ring: np.ndarray) -> tuple[float, float, float, float] | None:
    """Bounds of a polygon inside 0..W, 0..H: what remains of each edge, and the corners that are inside."""
    found = []
    for (x0, y0), (x1, y1) in zip(ring.tolist(), np.roll(ring, -1, 0).tolist()):
        low, high = 0.0, 1.0
        for p, d, top in ((x0, x1 - x0, W), (y0, y1 - y0, H)):
            if d == 0:
                if not 0 <= p <= top:
                    low, high = 1.0, 0.0
                continue
            a, b = sorted((-p / d, (top - p) / d))
            low, high = max(low, a), min(high, b)
        if low < high:
            found += [(x0 + t * (x1 - x0), y0 + t * (y1 - y0)) for t in (low, high)]
    for cx, cy in ((0, 0), (W, 0), (0, H), (W, H)):
        crossings = 0
        for (x0, y0), (x1, y1) in zip(ring.tolist(), np.roll(ring, -1, 0).tolist()):
            if (y0 <= cy) != (y1 <= cy) and cx < x0 + (cy - y0) / (y1 - y0) * (x1 - x0):
                crossings += 1
        if crossings % 2:
            found.append((cx, cy))
    if not found:
        return None
    xs, ys = zip(*found)
    return min(xs), min(ys), max(xs), max(ys)


@given(seed=st.integers(0, 100_000), corners=st.integers(3, 14))
@settings(max_examples=150, deadline=None)
def test_clipping_a_simple_polygon_is_exact(seed: int, corners: int) -> None:
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radii = rng.uniform(3, 45, corners)
    ring = np.stack((np.cos(angles) * radii, np.sin(angles) * radii), 1) + rng.uniform((-15, -15), (W + 15, H + 15))
    cut = clip([ring], W, H)
    want = fill([ring + 100], (H + 200, W + 200))[100 : 100 + H, 100 : 100 + W]
    got = np.zeros((H, W), bool)
    for part in cut:
        got ^= fill([part], (H, W))
    assert (got != want).sum() <= 1  # one pixel whose centre lies on an edge may go either way
    limits = slow_bounds(ring)
    if cut and limits is not None:
        assert bounds(cut) == pytest.approx(limits, abs=1e-6)
    elif limits is not None:
        assert want.sum() == 0


@given(st.lists(points, min_size=3, max_size=9))
@settings(max_examples=150, deadline=None)
def test_clipping_any_polygon_keeps_its_pixels(ring: list[tuple[float, float]]) -> None:
    outline = np.array(ring, np.float64) + 0.137
    got = np.zeros((H, W), bool)
    for part in clip([outline], W, H):
        assert part.min() >= 0 and part[:, 0].max() <= W and part[:, 1].max() <= H
        got ^= fill([part], (H, W))
    want = fill([outline + 100], (H + 200, W + 200))[100 : 100 + H, 100 : 100 + W]
    assert (got != want).sum() <= 2


def test_an_object_around_a_corner_outside_leaves_two_pieces_and_a_tight_box() -> None:
    bent = np.array([[4, 8], [-5, 8], [-5, -5], [9, -5], [9, 3], [6, 3], [6, -2], [-2, -2], [-2, 5], [4, 5]], float)
    cut = clip([bent], W, H)
    assert len(cut) == 2
    assert area(cut) == pytest.approx(4 * 3 + 3 * 3)
    assert bounds(cut) == (0, 0, 9, 8)
    left = clip(
        [bent + np.array((0, 20))], W, H
    )  # now it only leaves on the left: the box must not reach further up than the pieces
    assert bounds(left)[3] == 28 and area(left) == pytest.approx(4 * 3 + 9 * 3 + 3 * 5)


def test_rasterize_is_fill_in_a_patch() -> None:
    ring = np.array([[3.2, 4.1], [20.7, 6.3], [11.0, 22.9]])
    patch, (x, y) = rasterize([ring], (H, W))
    whole = np.zeros((H, W), bool)
    whole[y : y + patch.shape[0], x : x + patch.shape[1]] = patch
    assert (whole == fill([ring], (H, W))).all()


def shapes(seed: int, size: tuple[int, int] = (120, 160)) -> Sample:
    """A blue picture with one bright red convex object, so that its pixels can be told from everything else."""
    rng = np.random.default_rng(seed)
    image = np.zeros((*size, 3), np.uint8)
    image[..., 0] = 90
    angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
    ring = np.stack((np.cos(angles) * 35, np.sin(angles) * 35), 1) + np.array(size)[::-1] / 2
    image[fill([ring], size)] = (0, 0, 255)
    return Sample(image, np.array([seed % 3], np.int64), [[ring]])


def agreement(sample: Sample) -> float:
    """How far outlines and red pixels agree: the smaller of precision and (dropped slivers allow for that) recall + 0.1."""
    drawn = np.zeros(sample.image.shape[:2], bool)
    for rings in sample.outlines:
        patch, (x, y) = rasterize(rings, drawn.shape)
        drawn[y : y + patch.shape[0], x : x + patch.shape[1]] |= patch
    red = sample.image[..., 2] > 127
    both = (drawn & red).sum()
    return min(both / max(drawn.sum(), 1), both / max(red.sum(), 1) + 0.1)


GEOMETRY = {
    "nothing": NO_AUGMENTATION,
    "affine": AugmentOptions(mosaic=0, hsv_h=0, hsv_s=0, hsv_v=0, degrees=60, shear=15, scale=0.4, flipud=0.5),
    "mosaic": AugmentOptions(mosaic=1, hsv_h=0, hsv_s=0, hsv_v=0, degrees=20, scale=0.3),
    "copy-paste": AugmentOptions(mosaic=1, copy_paste=1, hsv_h=0, hsv_s=0, hsv_v=0),
}


@pytest.mark.parametrize("name", GEOMETRY)
@pytest.mark.parametrize("seed", range(4))
def test_outlines_follow_the_pixels(name: str, seed: int) -> None:
    sample = augment(np.random.default_rng(seed), seed, 8, shapes, 160, GEOMETRY[name])
    assert sample.image.shape == (160, 160, 3) and sample.image.dtype == np.uint8
    if len(sample.outlines):
        assert agreement(sample) > 0.96
    boxes = sample.boxes()
    assert len(boxes) == len(sample.classes) == len(sample.outlines)
    assert (boxes[:, 2:] - boxes[:, :2] >= 2).all() and boxes.min(initial=0) >= 0 and boxes.max(initial=0) <= 160


def test_the_same_generator_gives_the_same_picture() -> None:
    o = AugmentOptions(mosaic=0.5, mixup=0.5, copy_paste=0.5, degrees=10, shear=3, flipud=0.5)
    for seed in range(6):
        a, b = (augment(np.random.default_rng((7, seed)), 1, 8, shapes, 96, o) for _ in range(2))
        assert (a.image == b.image).all() and (a.boxes() == b.boxes()).all() and (a.classes == b.classes).all()


def test_objects_of_which_little_is_left_are_dropped() -> None:
    image = np.zeros((100, 100, 3), np.uint8)

    def square(x: float) -> list[np.ndarray]:
        return [np.array([[x, 10], [x + 40, 10], [x + 40, 50], [x, 50]], float)]

    outlines = [square(x) for x in (30, -35, -37, -50, 99)]
    got = clipped(image, np.arange(5), outlines, [1600.0] * 5)
    assert got.classes.tolist() == [0, 1]
    assert got.boxes().tolist() == [[30, 10, 70, 50], [0, 10, 5, 50]]


def test_letterbox_keeps_the_picture_where_the_shared_one_puts_it() -> None:
    sample = shapes(3)
    got = place([(sample, letterbox_matrix((120, 160), 160))], 160)
    assert (got.image[20:140] == sample.image).all()
    assert (got.image[:20] == 114).all() and (got.image[140:] == 114).all()
    assert got.outlines[0][0] == pytest.approx(sample.outlines[0][0] + (0, 20))


def test_flip_twice_is_nothing() -> None:
    sample = shapes(5)
    for horizontal in (True, False):
        once = flip(sample, horizontal=horizontal)
        assert agreement(once) > 0.96
        twice = flip(once, horizontal=horizontal)
        assert (twice.image == sample.image).all() and twice.outlines[0][0] == pytest.approx(sample.outlines[0][0])


def test_mixup_blends_and_keeps_all_objects() -> None:
    a, b = shapes(0), shapes(1)
    mixed = mixup(np.random.default_rng(0), a, b)
    assert len(mixed.outlines) == 2 and mixed.classes.tolist() == [0, 1]
    low, high = np.minimum(a.image, b.image), np.maximum(a.image, b.image)
    assert (mixed.image >= low).all() and (mixed.image <= high).all()


def test_copy_paste_does_not_cover_what_is_there() -> None:
    a = shapes(0)
    same = copy_paste(np.random.default_rng(0), a, shapes(1), 1.0)  # both in the middle: nothing is pasted
    assert len(same.outlines) == 1 and (same.image == a.image).all()
    ring = np.array([[2, 2], [30, 2], [30, 20], [2, 20]], float)
    source = Sample(np.full_like(a.image, 200), np.array([2]), [[ring]])
    pasted = copy_paste(np.random.default_rng(0), a, source, 1.0)
    assert pasted.classes.tolist() == [0, 2] and (pasted.image[2:20, 2:30] == 200).all()
    assert (pasted.image[:2] == a.image[:2]).all() and (a.image[2:20, 2:30] != 200).any()


def test_hsv_without_gain_is_nearly_the_identity_and_grey_stays_grey() -> None:
    image = cv2.resize(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8), (64, 64))
    rng = np.random.default_rng(1)
    assert jitter_hsv(rng, image, NO_AUGMENTATION) is image
    grey = np.full((8, 8, 3), 120, np.uint8)
    got = jitter_hsv(rng, grey, AugmentOptions())
    assert (got[..., 0] == got[..., 1]).all() and (got[..., 1] == got[..., 2]).all()


def test_index_map_puts_small_objects_on_top() -> None:
    def square(x: float, side: float) -> list[np.ndarray]:
        return [np.array([[x, x], [x + side, x], [x + side, x + side], [x, x + side]], float)]

    sample = Sample(np.zeros((64, 64, 3), np.uint8), np.array([0, 1]), [square(16, 16), square(0, 64)])
    got = sample.index_map()
    assert got.shape == (16, 16) and got.dtype == np.int16
    assert (got[4:8, 4:8] == 1).all() and (got == 2).sum() == 256 - 16
