import ast
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgeseg.errors import EdgesegError
from edgeseg.manifest import Manifest, Output, Tensor
from edgeseg.vision.preprocess import Letterbox, as_bgr, input_size, letterbox, prepare, resized


def manifest(dtype="float32", layout="nchw", scale=None, zero=None, **more) -> Manifest:
    shape = (1, 3, 64, 96) if layout == "nchw" else (1, 64, 96, 3)
    outputs = (Output("prediction", (1, 37, 126)),)
    return Manifest(
        "test", ("a",), (64, 96), Tensor("images", shape, dtype, layout, scale, zero), outputs, "decoded", **more
    )


def noise(seed: int, h: int, w: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), np.uint8)


KINDS = [
    ("float32", None, None),
    ("float16", None, None),
    ("int8", 1 / 255, -128),
    ("uint8", 1 / 255, 0),
    ("int8", 0.00784, 0),
    ("uint8", 0.0051, 11),
    ("int8", 0.003, -100),
]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(KINDS), st.sampled_from(["nchw", "nhwc"]), st.integers(0, 99), st.integers(1, 130), st.integers(1, 130)
)
def test_tensor_is_the_letterboxed_image_in_the_manifests_terms(kind, layout, seed, h, w):
    dtype, scale, zero = kind
    image = noise(seed, h, w)
    found, box = prepare(image, manifest(dtype, layout, scale, zero))
    canvas, expected_box = letterbox(image, (64, 96))
    real = canvas[..., ::-1].astype(np.float32) / np.float32(255)
    if scale is None:
        expected = real.astype(dtype)
    else:
        limits = np.iinfo(dtype)
        expected = np.clip(np.rint(real.astype(np.float64) / scale) + zero, limits.min, limits.max).astype(dtype)
    expected = expected[None] if layout == "nhwc" else expected.transpose(2, 0, 1)[None]
    assert box == expected_box and found.dtype == dtype and found.flags.c_contiguous
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_bgr_networks_get_bgr(layout):
    image = noise(1, 64, 96)
    found, _ = prepare(image, manifest("uint8", layout, 1 / 255, 0, colour="bgr"))
    np.testing.assert_array_equal(found[0] if layout == "nhwc" else found[0].transpose(1, 2, 0), image)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_a_buffer_is_filled_again(kind, layout):
    m = manifest(kind[0], layout, *kind[1:])
    buffer, _ = prepare(noise(1, 40, 70), m)
    again, _ = prepare(noise(2, 70, 40), m, out=buffer)
    assert again is buffer
    np.testing.assert_array_equal(again, prepare(noise(2, 70, 40), m)[0])
    other, _ = prepare(noise(2, 70, 40), m, out=np.empty((1, 2), kind[0]))
    np.testing.assert_array_equal(other, again)


def test_the_image_itself_is_not_changed():
    image = noise(3, 64, 96)
    before = image.copy()
    prepare(image, manifest("int8", "nhwc", 1 / 255, -128))
    np.testing.assert_array_equal(image, before)


def test_gray_and_alpha_become_colour():
    gray = noise(0, 9, 11)[..., 0]
    spread = np.repeat(gray[..., None], 3, axis=2)
    np.testing.assert_array_equal(as_bgr(gray), spread)
    np.testing.assert_array_equal(as_bgr(gray[..., None]), spread)
    image = noise(0, 9, 11)
    np.testing.assert_array_equal(as_bgr(np.dstack((image, gray))), image)
    assert prepare(gray, manifest())[0].shape == (1, 3, 64, 96)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 5000, 3), (5000, 1, 3), (1, 1)])
def test_extreme_sizes(shape):
    tensor, _ = prepare(np.full(shape, 255, np.uint8), manifest())
    assert tensor.max() == 1.0


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((4, 4, 3), np.float32), "uint8"),
        (np.zeros((4, 4, 3), np.uint16), "uint8"),
        ([[1]], "uint8"),
        (np.zeros((0, 4, 3), np.uint8), "empty"),
        (np.zeros((4, 4, 2), np.uint8), "must be"),
        (np.zeros((4, 4, 4, 3), np.uint8), "must be"),
        (np.zeros(4, np.uint8), "must be"),
    ],
)
def test_what_is_no_image_is_said_so(image, words):
    with pytest.raises(EdgesegError, match=words):
        prepare(image, manifest())


def test_sizes():
    fixed = manifest()
    assert input_size(fixed) == (64, 96) == input_size(fixed, (64, 96))
    with pytest.raises(EdgesegError, match="takes 64x96"):
        input_size(fixed, 64)
    dynamic = replace(fixed, dynamic=True)
    assert input_size(dynamic, 320) == (320, 320)
    assert prepare(noise(0, 10, 10), dynamic, (32, 64))[0].shape == (1, 3, 32, 64)
    for bad in (100, (64, 65), 0):
        with pytest.raises(EdgesegError, match="multiple"):
            input_size(dynamic, bad)


def test_an_input_that_cannot_be_filled():
    with pytest.raises(EdgesegError, match="int8"):
        prepare(noise(0, 5, 5), manifest("int8"))
    with pytest.raises(EdgesegError, match="int16"):
        prepare(noise(0, 5, 5), manifest("int16", "nchw", 0.1, 0))


sides = st.tuples(st.integers(1, 3000), st.integers(1, 3000))
inputs = st.tuples(st.integers(1, 40), st.integers(1, 40)).map(lambda s: (32 * s[0], 32 * s[1]))


@given(sides, inputs)
@example((1, 1), (640, 640))
@example((1, 5000), (640, 640))
@example((5000, 1), (320, 640))
def test_the_image_lies_inside_the_input_and_touches_two_sides(source, size):
    box = Letterbox.fit(source, size)
    (h, w), (left, top) = box.resized, box.pad
    assert 1 <= h <= size[0] and 1 <= w <= size[1]
    assert h == size[0] or w == size[1]
    assert 0 <= left <= size[1] - w and 0 <= top <= size[0] - h
    # Centred: both paddings differ by one pixel at most, and the odd one is on the right or below.
    assert size[1] - w - left - left in (0, 1)
    assert size[0] - h - top - top in (0, 1)


@given(sides, inputs, st.lists(st.tuples(*[st.floats(0, 1, width=32)] * 4), max_size=5))
@example((1, 5000), (640, 640), [(0.0, 0.0, 1.0, 1.0)])
def test_boxes_survive_the_way_there_and_back(source, size, unit):
    box = Letterbox.fit(source, size)
    h, w = source
    boxes = np.array(unit, np.float32).reshape(-1, 4) * np.array((w, h, w, h), np.float32)
    there = box.to_input(boxes)
    back = box.to_source(there)
    # float32 has 24 bits: an input coordinate below 1280 is known to 1e-4, times source pixels per input pixel.
    tolerance = 2e-4 * max(1.0, 1 / min(box.scale)) + 1e-6 * max(source)
    np.testing.assert_allclose(back, boxes, atol=tolerance)
    assert back.dtype == there.dtype == np.float32


def test_to_source_clips():
    box = Letterbox.fit((50, 100), (64, 64))
    np.testing.assert_array_equal(box.to_source(np.array([[-9, -9, 99, 99]])), [[0, 0, 100, 50]])


@given(sides, inputs)
def test_corners_of_the_image_are_corners_of_its_place(source, size):
    box = Letterbox.fit(source, size)
    (h, w), (left, top) = box.resized, box.pad
    found = box.to_input(np.array([0, 0, source[1], source[0]]))
    np.testing.assert_allclose(found, [left, top, left + w, top + h], atol=1e-3)


def test_known_geometry():
    box = Letterbox.fit((426, 640), (640, 640))
    assert (box.ratio, box.pad, box.resized) == (1.0, (0, 107), (426, 640))
    box = Letterbox.fit((427, 640), (640, 640))
    assert box.pad == (0, 106)
    box = Letterbox.fit((1080, 1920), (640, 640))
    assert box.ratio == pytest.approx(1 / 3) and box.pad == (0, 140) and box.resized == (360, 640)


@settings(max_examples=30)
@given(st.tuples(st.integers(1, 90), st.integers(1, 90)), st.integers(0, 255), st.integers(0, 2**31))
def test_padding_and_content(source, pad, seed):
    image = np.random.default_rng(seed).integers(0, 256, (*source, 3), np.uint8)
    out, box = letterbox(image, (64, 96), pad)
    (h, w), (left, top) = box.resized, box.pad
    assert out.shape == (64, 96, 3) and out.dtype == np.uint8
    inside = np.zeros((64, 96), bool)
    inside[top : top + h, left : left + w] = True
    assert (out[~inside] == pad).all()
    if box.resized == source:
        np.testing.assert_array_equal(out[top : top + h, left : left + w], image)


@settings(max_examples=150, deadline=None)
@given(st.integers(2, 34), st.tuples(st.integers(1, 40), st.integers(1, 40)), st.booleans(), st.integers(0, 2**31))
@example(2, (320, 320), False, 0)
@example(3, (96, 640), True, 1)
@example(4, (180, 320), True, 2)
@example(6, (80, 320), False, 3)
def test_whole_multiples_are_what_the_exact_resize_gives(times, size, inside, seed):
    """Whichever way is taken: also from a part of a larger picture, and where every rounding occurs."""
    (h, w), rng = size, np.random.default_rng(seed)
    image = rng.integers(0, 256, (h * times + 2, w * times + 3, 3), np.uint8)
    image = image[1:-1, 1:-2] if inside else np.ascontiguousarray(image[1:-1, 1:-2])
    expected = cv2.resize(np.ascontiguousarray(image), (w, h), interpolation=cv2.INTER_LINEAR_EXACT)
    np.testing.assert_array_equal(resized(image, h, w), expected)


def test_the_exact_resize_is_the_exact_value_rounded_half_up():
    image = np.random.default_rng(0).integers(0, 256, (96, 144, 3), np.uint8)
    for times in (2, 3, 4, 6):
        low, high = (times - 1) // 2, times // 2
        four = sum(image[y::times, x::times].astype(int) for y in (low, high) for x in (low, high))
        np.testing.assert_array_equal(resized(image, 96 // times, 144 // times), (four + 2) // 4)


def test_one_pixel_and_one_row():
    out, _ = letterbox(np.full((1, 1, 3), 7, np.uint8), (32, 32))
    assert (out == 7).all()
    out, box = letterbox(np.full((1, 5000, 3), 7, np.uint8), (32, 32))
    assert box.resized == (1, 32) and (out == 7).all(axis=2).sum() == 32


def test_nothing_fits_nowhere():
    with pytest.raises(EdgesegError):
        letterbox(np.zeros((0, 5, 3), np.uint8), (32, 32))


EXACT = {"INTER_LINEAR_EXACT", "INTER_NEAREST", "INTER_NEAREST_EXACT", "INTER_AREA"}


def _free_resizes(source: str) -> list[int]:
    """Lines that resize by OpenCV without naming one of ``EXACT``."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not ast.unparse(node.func).endswith("cv2.resize"):
            continue
        how = [ast.unparse(k.value).removeprefix("cv2.") for k in node.keywords if k.arg == "interpolation"]
        if not how or how[0] not in EXACT:
            found.append(node.lineno)
    return found


def test_nothing_resizes_with_the_librarys_own_rounding():
    """Plain INTER_LINEAR differs between CPUs, and on arm64 OpenCV 5.0 reads past the picture: opencv#29794."""
    root = Path(__file__).resolve().parents[2]
    files = [p for folder in ("edgeseg", "targets", "scripts") for p in (root / folder).rglob("*.py")]
    texts = {p.relative_to(root).as_posix(): p.read_text(encoding="utf-8") for p in files}
    assert {name: lines for name, text in texts.items() if (lines := _free_resizes(text))} == {}
    called = {name for name, text in texts.items() if re.search(r"from cv2 import|import cv2 as", text)}
    assert not called, "call it cv2.resize, so that this test sees it"
    training = {"edgeseg/data/augment.py"}  # says itself why it may
    assert {name for name, text in texts.items() if re.search(r"cv2\.INTER_(LINEAR|CUBIC|LANCZOS4)\b", text)} == training


@pytest.mark.parametrize("call", ["a, (4, 4)", "a,\n (4, 4),\n interpolation=cv2.INTER_LINEAR", "a, b, None, 0, 0, 1"])
def test_that_test_sees_what_it_looks_for(call):
    assert _free_resizes(f"import cv2\nx = cv2.resize({call})\n") == [2]
    assert _free_resizes("x = cv2.resize(a, b, interpolation=cv2.INTER_AREA)") == []
