"""Reading pictures: every kind that people have, and every kind that is broken."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.data.images import decode_image, find_images, read_ahead, read_image, tiff_pages, to_uint8
from edgeseg.errors import EdgesegError

RNG = np.random.default_rng(0)
# Smooth, so that lossy formats stay close to it.
PICTURE = np.stack([np.add.outer(np.arange(48) * 2, np.arange(64) * k) % 256 for k in (1, 2, 1)], -1).astype(np.uint8)


def _jpeg(image: np.ndarray = PICTURE, progressive: bool = False) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive)]
    return cv2.imencode(".jpg", image, options)[1].tobytes()


def _png(image: np.ndarray = PICTURE) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


def _exif(jpeg: bytes, orientation: int) -> bytes:
    """Insert an EXIF block with this orientation after the start marker."""
    tiff = b"MM\x00*\x00\x00\x00\x08" + struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)
    body = b"Exif\x00\x00" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".ppm", ".webp"])
def test_lossless_formats_come_back_exactly(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"bild ä{suffix}"  # a name that is not ASCII
    options = [cv2.IMWRITE_WEBP_QUALITY, 101] if suffix == ".webp" else []
    cv2.imencode(suffix, PICTURE, options)[1].tofile(file)
    image = read_image(file)
    assert image.dtype == np.uint8 and image.flags.c_contiguous
    np.testing.assert_array_equal(image, PICTURE)


def test_grey_becomes_three_equal_channels() -> None:
    grey = PICTURE[..., 0]
    np.testing.assert_array_equal(decode_image(_png(grey)), np.repeat(grey[..., None], 3, -1))


def test_alpha_is_dropped_not_blended() -> None:
    alpha = RNG.integers(0, 256, PICTURE.shape[:2], dtype=np.uint8)
    np.testing.assert_array_equal(decode_image(_png(np.dstack([PICTURE, alpha]))), PICTURE)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_is_scaled_to_the_full_range(suffix: str) -> None:
    wide = PICTURE.astype(np.uint16) * 257
    np.testing.assert_array_equal(decode_image(cv2.imencode(suffix, wide)[1]), PICTURE)


def test_16_bit_scaling_rounds_to_the_nearest() -> None:
    values = np.arange(65536, dtype=np.uint16)
    np.testing.assert_array_equal(to_uint8(values), np.rint(values / 257).astype(np.uint8))


def test_float_and_other_depths() -> None:
    np.testing.assert_array_equal(to_uint8(np.array([-1.0, 0.0, 0.5, 1.0, 7.0, np.nan])), [0, 0, 128, 255, 255, 0])
    np.testing.assert_array_equal(to_uint8(np.array([-3, 0, 255, 300], np.int16)), [0, 0, 255, 255])


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda x: x),
        (3, lambda x: x[::-1, ::-1]),
        (6, lambda x: np.rot90(x, -1)),
        (8, lambda x: np.rot90(x)),
        (2, lambda x: x[:, ::-1]),
    ],
)
def test_exif_orientation_is_applied(orientation: int, turn: object) -> None:
    plain = decode_image(_jpeg())
    np.testing.assert_array_equal(decode_image(_exif(_jpeg(), orientation)), turn(plain))  # type: ignore[operator]


def test_cmyk_jpeg() -> None:
    image_module = pytest.importorskip("PIL.Image")
    buffer = io.BytesIO()
    red = image_module.new("RGB", (32, 16), (200, 30, 40))
    red.convert("CMYK").save(buffer, "JPEG", quality=98)
    image = decode_image(buffer.getvalue())
    assert image.shape == (16, 32, 3)
    assert np.abs(image.astype(int) - (40, 30, 200)).max() <= 6


def test_one_pixel() -> None:
    assert decode_image(_png(PICTURE[:1, :1])).shape == (1, 1, 3)


def test_missing_empty_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(EdgesegError, match=r"a\.jpg: no such image"):
        read_image(tmp_path / "a.jpg")
    for name, content, what in (("b.jpg", b"", "is empty"), ("c.png", b"hello world" * 9, "not a readable image")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(EdgesegError, match=what) as caught:
            read_image(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value) and caught.value.hint
    with pytest.raises(EdgesegError, match="this is no file"):
        read_image(tmp_path)


@pytest.mark.parametrize("progressive", [False, True])
def test_every_truncated_jpeg_is_refused(progressive: bool) -> None:
    whole = _jpeg(progressive=progressive)
    assert decode_image(whole).shape == PICTURE.shape
    for share in np.linspace(0.02, 0.999, 40):
        with pytest.raises(EdgesegError):
            decode_image(whole[: int(len(whole) * share)])


def test_a_thumbnail_does_not_stand_for_the_end_of_a_jpeg() -> None:
    body = b"Exif\x00\x00" + _jpeg(PICTURE[:8, :8])
    with_thumbnail = _jpeg()[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + _jpeg()[2:]
    assert decode_image(with_thumbnail).shape == PICTURE.shape
    with pytest.raises(EdgesegError, match="cut off"):
        decode_image(with_thumbnail[:-40])


def test_bytes_after_the_end_do_no_harm() -> None:
    for whole in (_jpeg(), _jpeg(progressive=True), _png()):
        assert decode_image(whole + b"\x00trailing" * 5).shape == PICTURE.shape


def test_truncated_png_is_refused() -> None:
    whole = _png()
    for cut in (9, 30, len(whole) // 2, len(whole) - 13):
        with pytest.raises(EdgesegError):
            decode_image(whole[:cut])


def test_find_images(tmp_path: Path) -> None:
    for name in ("b.JPG", "a/x.png", "a/.hidden.png", ".git/y.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert [p.relative_to(tmp_path).as_posix() for p in find_images(tmp_path)] == ["a/x.png", "b.JPG"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(EdgesegError, match="no images"):
        find_images(tmp_path / "empty")
    with pytest.raises(EdgesegError, match="no such folder"):
        find_images(tmp_path / "nowhere")
    with pytest.raises(EdgesegError, match="not a folder"):
        find_images(tmp_path / "notes.txt")


@pytest.mark.parametrize("alone", [0, 1, 2, 9])
def test_reading_ahead_keeps_the_order_and_says_what_is_broken(tmp_path: Path, alone: int) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for i, path in enumerate(paths):
        cv2.imwrite(str(path), np.full((4, 4, 3), i, np.uint8))
    paths[2].write_bytes(b"")
    found = list(read_ahead(paths, alone))
    assert [p for p, _ in found] == paths and isinstance(found[2][1], EdgesegError)
    assert [int(image[0, 0, 0]) for i, (_, image) in enumerate(found) if i != 2] == [0, 1, 3]
    assert list(read_ahead([], alone)) == []


def encoded(image: np.ndarray) -> bytes:
    good, data = cv2.imencode(".tiff", image)
    assert good
    return data.tobytes()


def test_several_pages_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "stack.tif"
    cv2.imwritemulti(str(file), [np.full((8, 9, 3), 60 * i, np.uint8) for i in range(3)])
    assert tiff_pages(file.read_bytes()) == 3
    with pytest.raises(EdgesegError, match="a TIFF of 3 pages"):
        read_image(file)
    assert tiff_pages(encoded(np.zeros((4, 4), np.uint8))) == 1 and tiff_pages(b"\x89PNG....") == 0


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
    assert 0 <= tiff_pages(head + rest) <= 1000


def test_a_ring_of_pages_ends() -> None:
    assert tiff_pages(b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 0) + struct.pack("<I", 8)) == 1
