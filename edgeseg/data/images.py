"""Reading pictures: one function, one result, whatever the file holds."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from edgeseg.errors import EdgesegError, attempted
from edgeseg.store import read_bounded

_LEAST = 8
_SUBFILE = 254  # the tag NewSubfileType; bit 0: a smaller copy of another page, bit 2: a mask of another page


def tiff_pages(data: bytes, most: int = 1000) -> int:
    """Pages of a TIFF (or BigTIFF) file that are pictures of their own, at most ``most``; 0 for other files."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    found = 0
    if order is None or len(data) < _LEAST:
        return found
    try:
        (magic,) = struct.unpack_from(f"{order}H", data, 2)
        if magic not in (42, 43):
            return 0
        big = magic == 43
        word, count, entry = (f"{order}Q", f"{order}Q", 20) if big else (f"{order}I", f"{order}H", 12)
        (at,) = struct.unpack_from(word, data, 8 if big else 4)
        seen: set[int] = set()
        while at and at not in seen and len(seen) < most:
            seen.add(at)
            (tags,) = struct.unpack_from(count, data, at)
            start = at + struct.calcsize(count)
            found += _is_picture(data, order, start, min(tags, 4096), entry)
            (at,) = struct.unpack_from(word, data, start + tags * entry)
    except (struct.error, OverflowError):
        return found
    return found


def _is_picture(data: bytes, order: str, start: int, tags: int, entry: int) -> bool:
    for i in range(tags):
        (tag,) = struct.unpack_from(f"{order}H", data, start + i * entry)
        if tag == _SUBFILE:
            (kind,) = struct.unpack_from(f"{order}I", data, start + i * entry + entry - (4 if entry == 12 else 8))
            return not kind & 0b101
    return True


SUFFIXES = (".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif")
"""Suffixes (lower case) of the files that count as images in folders."""

MOST_BYTES = 1 << 29
"""A file of more is not read."""

MOST_PIXELS = 1 << 27
"""An image of more (134 million) is refused before it is decoded: three bytes each would be 400 MB."""

# In entropy-coded JPEG data FF00 is a stuffed byte and FFD0..FFD7 are restart markers: any other FFxx ends the data.
_JPEG_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")


def find_images(folder: str | os.PathLike[str]) -> list[Path]:
    """All images below a folder, sorted by path; hidden files and folders are left out, folders that links repeat come once.

    Raises:
        EdgesegError: no such folder, or no image in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "this is a file, not a folder" if folder.exists() else "no such folder"
        raise EdgesegError(what, path=folder, hint="Check the path in the dataset's YAML file")
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        here = os.stat(root)
        if (here.st_dev, here.st_ino) in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        found += [Path(root, n) for n in names if n.lower().endswith(SUFFIXES) and not n.startswith(".")]
    if not found:
        raise EdgesegError("no images in this folder", path=folder, hint=f"Images end in {' '.join(SUFFIXES)}")
    return sorted(found)


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an image file as uint8 BGR, shape (height, width, 3), values 0..255.

    The EXIF orientation is applied, grey becomes three equal channels, an alpha channel is dropped (not blended), 16-bit
    values are divided by 257 and rounded, float values are taken as 0..1 (undefined ones as 0).

    Raises:
        EdgesegError: no such file, an empty file, one that is cut off, no image, several pages, or numbers in another range.
    """
    return decode_image(image_bytes(path), path=path)


def image_bytes(path: str | os.PathLike[str]) -> bytes:
    """The content of an image file.

    Raises:
        EdgesegError: no such file, or one that is larger than any picture.
    """
    try:
        return read_bounded(Path(path), MOST_BYTES, "Give a file that holds one picture")
    except OSError as e:
        reason = "no such image" if isinstance(e, FileNotFoundError) else f"cannot be read ({e.strerror or e})"
        raise EdgesegError(reason, path=path, hint="Check the path") from e


def read_ahead(paths: Sequence[Path], alone: int = 0) -> Iterator[tuple[Path, np.ndarray | EdgesegError]]:
    """Each path with its image (see ``read_image``), or with why it cannot be read.

    The next image is read in another thread meanwhile, but for the first ``alone`` ones: whoever is timed has them for
    himself.
    """

    from concurrent.futures import Future, ThreadPoolExecutor  # it loads logging: not before the first frame

    for path in paths[:alone]:
        yield path, attempted(read_image, path)
    with ThreadPoolExecutor(1) as pool:
        coming: Future[np.ndarray | EdgesegError] | None = None
        for i, path in enumerate(paths[alone:], alone + 1):
            image = attempted(read_image, path) if coming is None else coming.result()
            coming = pool.submit(attempted, read_image, paths[i]) if i < len(paths) else None
            yield path, image


def decode_image(data: np.ndarray | bytes, *, path: str | os.PathLike[str] = "image") -> np.ndarray:
    """The same for the bytes of an image file; ``path`` is only what error messages call it.

    Raises:
        EdgesegError: as ``read_image``.
    """
    raw = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data
    if raw.size == 0:
        raise EdgesegError("the image file is empty", path=path, hint="Copy it again, or remove it")
    content = data if isinstance(data, bytes) else raw.tobytes()
    _check_complete(content, path)
    size = _claimed(content)
    if size is not None and size[0] * size[1] > MOST_PIXELS:
        raise EdgesegError(f"an image of {size[1]}x{size[0]} pixels is too large", path=path, hint="Cut it into tiles")
    number = tiff_pages(content)
    if number > 1:
        raise EdgesegError(f"a TIFF of {number} pages, not one image", path=path, hint="Save each page as a file of its own")
    try:
        image = cv2.imdecode(raw, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
        if image is None and number:  # grey float values are not spread over colours
            image = cv2.imdecode(raw, cv2.IMREAD_ANYDEPTH)
    except cv2.error as e:
        if "CV_IO_MAX_IMAGE" in str(e):
            what = f"an image of more than {MOST_PIXELS / 1e6:.0f} million pixels is too large"
            raise EdgesegError(what, path=path, hint="Cut it into tiles") from e
        raise EdgesegError(f"not a readable image ({e.err or e})", path=path, hint="Save it again as JPEG or PNG") from e
    if image is None or image.size == 0:
        raise EdgesegError("not a readable image", path=path, hint="Save it again as JPEG or PNG, or remove it")
    _check_range(image, path)
    image = to_uint8(image)
    return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if image.ndim == 2 else image


def _claimed(content: bytes) -> tuple[int, int] | None:
    """(height, width) that the head of a PNG or BMP states; a few bytes of either may claim gigabytes."""
    if content.startswith(b"BM") and len(content) >= 26:
        width, height = struct.unpack_from("<ii", content, 18)
        return abs(height), abs(width)
    return png_size(content)


def png_size(head: bytes) -> tuple[int, int] | None:
    """(height, width) that the head of a PNG states, None where it is no PNG."""
    if not head.startswith(b"\x89PNG\r\n\x1a\n") or len(head) < 24:
        return None
    width, height = struct.unpack_from(">II", head, 16)
    return height, width


def _check_range(image: np.ndarray, path: str | os.PathLike[str]) -> None:
    """Refuse values that nobody can know the white of: heights, temperatures, counts in a TIFF."""
    if image.dtype in (np.uint8, np.uint16):
        return
    low, high = float(np.nanmin(image)), float(np.nanmax(image))
    if image.dtype.kind != "f" or not -0.001 <= low <= high <= 1.001:
        what = f"its values are {image.dtype} from {low:g} to {high:g}: which of them is white is not known"
        raise EdgesegError(what, path=path, hint="Save it as 8 or 16 bit, or as float from 0 to 1")


def reduced(image: np.ndarray, longest: int) -> np.ndarray:
    """The image with its longer side at ``longest`` pixels, means of areas; itself where it is no larger."""
    scale = longest / max(image.shape[:2])
    if scale >= 1:
        return image
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def to_uint8(image: np.ndarray) -> np.ndarray:
    """An image of any depth as contiguous uint8: 16-bit values by 1/257, float values as 0..1, rounded and clipped."""
    if image.dtype == np.uint16:
        # (x + 128) // 257 is x / 257 rounded to the nearest, exactly, over 0..65535.
        image = ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    elif image.dtype.kind == "f":
        image = np.rint(np.clip(np.nan_to_num(image), 0.0, 1.0) * 255.0).astype(np.uint8)
    elif image.dtype != np.uint8:
        image = np.clip(image, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(image)


def _check_complete(data: bytes, path: str | os.PathLike[str]) -> None:
    """Refuse a JPEG or PNG that was cut off: decoders fill the missing part with grey and say nothing."""
    cut = (data.startswith(b"\xff\xd8") and not _jpeg_ends(data)) or (
        data.startswith(b"\x89PNG\r\n\x1a\n") and not _png_ends(data)
    )
    if cut:
        raise EdgesegError("the image is cut off (its end is missing)", path=path, hint="Copy or download it again")


def _jpeg_ends(data: bytes) -> bool:
    """Whether the picture itself ends with an EOI marker; that of an embedded thumbnail does not count."""
    if data.endswith(b"\xff\xd9"):
        return True
    at = 2
    while True:
        found = _JPEG_MARKER.search(data, at)
        if found is None:
            return False
        at = found.end()
        code = found.group(1)[0]
        if code == 0xD9:
            return True
        if code in (0x01, 0xD8):
            continue
        if at + 2 > len(data):
            return False
        at += struct.unpack_from(">H", data, at)[0]


def _png_ends(data: bytes) -> bool:
    """Whether the chunks of a PNG lead up to IEND."""
    at = 8
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"IEND":
            return True
        at += 12 + length
    return False
