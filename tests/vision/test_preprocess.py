from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseg.errors import EdgesegError
from edgeseg.manifest import Manifest, Output, Tensor
from edgeseg.vision.letterbox import letterbox
from edgeseg.vision.preprocess import as_bgr, input_size, prepare


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
