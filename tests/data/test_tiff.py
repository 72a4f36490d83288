"""TIFF: several pages and numbers without a white are refused, everything else is read right."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.data.images import decode_image, read_image
from edgeseg.data.tiff import pages
from edgeseg.errors import EdgesegError


def encoded(image: np.ndarray) -> bytes:
    good, data = cv2.imencode(".tiff", image)
    assert good
    return data.tobytes()


def test_several_pages_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "stack.tif"
    cv2.imwritemulti(str(file), [np.full((8, 9, 3), 60 * i, np.uint8) for i in range(3)])
    assert pages(file.read_bytes()) == 3
    with pytest.raises(EdgesegError, match="a TIFF of 3 pages"):
        read_image(file)
    assert pages(encoded(np.zeros((4, 4), np.uint8))) == 1 and pages(b"\x89PNG....") == 0


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float_from_0_to_1(shape: tuple[int, ...], dtype: type) -> None:
    image = np.linspace(0, 1, int(np.prod(shape))).reshape(shape).astype(dtype)
    found = decode_image(encoded(image))
    wanted = np.rint(image * 255).astype(np.uint8)
    assert found.shape == (5, 6, 3) and found.dtype == np.uint8
    assert np.array_equal(found, wanted if wanted.ndim == 3 else np.repeat(wanted[..., None], 3, 2))


def test_undefined_values_are_black() -> None:
    image = np.full((4, 4, 3), 0.5, np.float32)
    image[0] = np.nan
    found = decode_image(encoded(image))
    assert not found[0].any() and (found[1:] == 128).all()


@pytest.mark.parametrize("image", [np.full((4, 4, 3), 300.0, np.float32), np.full((4, 4, 3), -5, np.int16)])
def test_numbers_without_a_white_are_refused(image: np.ndarray) -> None:
    with pytest.raises(EdgesegError, match="which of them is white"):
        decode_image(encoded(image), path="heights.tif")


@given(st.binary(max_size=64), st.sampled_from([b"II*\0", b"MM\0*", b"II+\0"]))
def test_any_bytes_are_counted(rest: bytes, head: bytes) -> None:
    assert 0 <= pages(head + rest) <= 1000


def test_a_ring_of_pages_ends() -> None:
    assert pages(b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 0) + struct.pack("<I", 8)) == 1
