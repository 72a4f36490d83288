"""Masks against a float64 oracle that visits every pixel."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseg.vision.masks import Prototype, Tiles, Unbuilt, masks, pixels_inside
from edgeseg.vision.preprocess import Letterbox

# float32 sums of 32 products of values near 1 are known to about 1e-6 of their size; further off, the sign must agree.
UNSURE = 2e-5


def slow_logits(grid, coeff, letterbox):
    """(H, W) float64: the bilinear logit at the centre of every source pixel; ``grid`` (k, h, w) dequantized."""
    (_, h, w), (sx, sy), (left, top) = grid.shape, letterbox.scale, letterbox.pad
    logits = np.tensordot(coeff.astype(np.float64), grid.astype(np.float64), 1)
    out = np.zeros(letterbox.source)
    for y in range(letterbox.source[0]):
        v = min(max(((y + 0.5) * sy + top) * h / letterbox.size[0] - 0.5, 0), h - 1)
        j, g = math.floor(v), v - math.floor(v)
        for x in range(letterbox.source[1]):
            u = min(max(((x + 0.5) * sx + left) * w / letterbox.size[1] - 0.5, 0), w - 1)
            i, f = math.floor(u), u - math.floor(u)
            down, right = min(j + 1, h - 1), min(i + 1, w - 1)
            upper = (1 - f) * logits[j, i] + f * logits[j, right]
            lower = (1 - f) * logits[down, i] + f * logits[down, right]
            out[y, x] = (1 - g) * upper + g * lower
    return out


def inside(box, shape):
    x1, y1, x2, y2 = (float(v) for v in box)
    xs, ys = np.arange(shape[1]) + 0.5, np.arange(shape[0]) + 0.5
    return ((xs >= x1) & (xs < x2))[None, :] & ((ys >= y1) & (ys < y2))[:, None]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    source=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    size=st.sampled_from([(32, 32), (32, 64), (64, 32)]),
    layout=st.sampled_from(["nchw", "nhwc"]),
    dtype=st.sampled_from(["float32", "float16", "int8", "uint8", "int16"]),
    whole=st.booleans(),
)
def test_masks_equal_the_oracle(heads, seed, source, size, layout, dtype, whole):
    rng = np.random.default_rng(seed)
    letterbox = Letterbox.fit(source, size)
    values, spec = heads.output("proto", rng.normal(0, 1, (1, 32, size[0] // 4, size[1] // 4)), "proto", layout, dtype)
    proto = Prototype(values[0], layout, spec.scale, spec.zero_point)
    n, (h, w) = 3, source
    coeffs = rng.normal(0, 1, (n, 32)).astype(np.float32)
    corners = np.sort(rng.uniform(0, 1, (n, 2, 2)), axis=1).reshape(n, 4) * (w, h, w, h)
    boxes = (np.tile((0, 0, w, h), (n, 1)) if whole else corners).astype(np.float32)
    found = masks(proto, coeffs, boxes, letterbox).full()
    assert found.shape == (n, h, w) and found.dtype == bool
    grid = heads.real(values, spec)[0]
    for mask, coeff, box in zip(found, coeffs, boxes):
        logits = slow_logits(grid, coeff, letterbox)
        clear = np.abs(logits) > UNSURE * np.abs(grid).max() * np.abs(coeff).sum()
        expected = (logits > 0) & inside(box, source)
        np.testing.assert_array_equal(mask[clear], expected[clear])


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from(["float32", "float16", "int8", "int16"]))
def test_the_order_of_the_sums_cannot_be_seen(heads, seed, dtype):
    """Coefficients and prototypes as a graph dequantizes them: many logits are 0 but for rounding."""
    rng = np.random.default_rng(seed)
    letterbox = Letterbox.fit((90, 70), (64, 64))
    values, spec = heads.output("proto", np.float32(0.021) * rng.integers(-3, 4, (1, 32, 16, 16)), "proto", "nchw", dtype)
    coeffs = np.float32(0.0173) * rng.integers(-3, 4, (5, 32)).astype(np.float32)
    boxes = np.tile(np.array((0, 0, 70, 90), np.float32), (5, 1))
    quantized = spec.scale, spec.zero_point
    expected = masks(Prototype(values[0], "nchw", *quantized), coeffs, boxes, letterbox).full()
    order = rng.permutation(32)
    other = masks(Prototype(values[0, order], "nchw", *quantized), coeffs[:, order], boxes, letterbox).full()
    np.testing.assert_array_equal(other, expected)
    last = np.ascontiguousarray(np.moveaxis(values[0], 0, -1))
    np.testing.assert_array_equal(masks(Prototype(last, "nhwc", *quantized), coeffs, boxes, letterbox).full(), expected)


def test_one_cell_grid(heads):
    letterbox = Letterbox.fit((5, 7), (4, 4))
    proto = Prototype(np.ones((32, 1, 1), np.float32))
    found = masks(proto, np.ones((2, 32), np.float32) * [[1], [-1]], np.array([[0, 0, 7, 5]] * 2, np.float32), letterbox)
    assert found.full()[0].all() and not found.full()[1].any()


@pytest.mark.parametrize("source", [(1, 1), (1, 5000), (5000, 1)])
def test_extreme_images(source):
    letterbox = Letterbox.fit(source, (64, 64))
    proto = Prototype(np.ones((32, 16, 16), np.float32))
    box = np.array([[0, 0, source[1], source[0]]], np.float32)
    assert masks(proto, np.ones((1, 32), np.float32), box, letterbox).full().all()


def test_no_detections():
    found = masks(Prototype(np.zeros((32, 8, 8))), np.zeros((0, 32)), np.zeros((0, 4)), Letterbox.fit((20, 30), (32, 32)))
    assert found.full().shape == (0, 20, 30)


def test_a_box_between_two_pixel_centres_is_empty():
    boxes = np.array([[3.6, 2, 4.4, 9], [3.5, 2.5, 4.6, 3.5]], np.float32)
    np.testing.assert_array_equal(pixels_inside(boxes, (20, 30)), [[4, 2, 4, 9], [3, 2, 5, 3]])
    proto = Prototype(np.ones((32, 8, 8), np.float32))
    found = masks(proto, np.ones((2, 32), np.float32), boxes, Letterbox.fit((20, 30), (32, 32)))
    assert found.full().sum(axis=(1, 2)).tolist() == [0, 2]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    source=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    other=st.tuples(st.integers(1, 120), st.integers(1, 120)),
    layout=st.sampled_from(["nchw", "nhwc"]),
    dtype=st.sampled_from(["float32", "float16", "int8"]),
    size=st.sampled_from([(32, 32), (32, 64), (64, 32), (4, 4)]),
)
def test_masks_are_the_same_whenever_they_are_asked_for(heads, seed, source, other, layout, dtype, size):
    """At once, or after the runtime has used its buffer again; all, some of them, or at another size."""
    rng = np.random.default_rng(seed)
    letterbox = Letterbox.fit(source, size)
    values, spec = heads.output("proto", rng.normal(0, 1, (1, 8, size[0] // 4, size[1] // 4)), "proto", layout, dtype)
    proto = Prototype(values[0], layout, spec.scale, spec.zero_point)
    coeffs = rng.normal(0, 1, (4, 8)).astype(np.float32)
    h, w = source
    boxes = (np.sort(rng.uniform(0, 1, (4, 2, 2)), axis=1).reshape(4, 4) * (w, h, w, h)).astype(np.float32)
    at_once, later, part, resized = (masks(proto, coeffs, boxes, letterbox) for _ in range(4))
    expected = at_once.full()
    values[:] = 99
    assert len(later) == 4 and isinstance(later.held, Unbuilt)
    np.testing.assert_array_equal(resized.sampled(other).full(), at_once.sampled(other).full())
    ys, xs = (np.array([int((i + 0.5) * of / n) for i in range(n)]) for n, of in zip(other, source))
    np.testing.assert_array_equal(at_once.sampled(other).full(), expected[:, ys][:, :, xs])
    index = np.array([3, 1])
    np.testing.assert_array_equal(part.take(index).full(), expected[index])
    np.testing.assert_array_equal(later.full(), expected)
    assert isinstance(part.held, Unbuilt) and not isinstance(later.held, Unbuilt) and later.seconds > 0


def test_only_what_the_boxes_need_is_kept():
    proto = Prototype(np.ones((32, 160, 160), np.float32))
    letterbox = Letterbox.fit((1440, 1920), (640, 640))
    kept = masks(
        proto, np.ones((2, 32), np.float32), np.array([[90, 90, 110, 110], [30, 120, 99, 140]], np.float32), letterbox
    )
    assert kept.held.proto.values.nbytes < proto.values.nbytes / 300 and kept.full()[0, 90:110, 90:110].all()


@given(st.integers(0, 1000), st.integers(1, 20), st.integers(1, 20))
def test_tiles_of_full_masks(seed, h, w):
    full = np.random.default_rng(seed).random((4, h, w)) > 0.9
    full[0] = False
    tiles = Tiles.of(full)
    assert len(tiles) == 4 and tiles.shape == (h, w)
    np.testing.assert_array_equal(tiles.full(), full)
    np.testing.assert_array_equal(tiles.take(np.array([2, 0])).full(), full[[2, 0]])
