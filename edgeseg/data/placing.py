"""Which file an image entry of an annotation tool means, and in which frame its coordinates are."""

from __future__ import annotations

import re
import struct
import urllib.parse
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from edgeseg.data.images import png_size, read_image
from edgeseg.errors import EdgesegError

_PREFIX = re.compile(r"^[0-9a-f]+-(?=.)")
"""What Label Studio puts before the name of an uploaded file."""


def find(name: str, folder: Path, path: Path) -> Path | None:
    """The file below ``folder`` that ``name`` means, relative to it; None when there is none.

    Names of other machines count: with backslashes, a URL, or leading folders that are not here (they are left out one
    after the other), and Label Studio's prefix before the file's own name.

    Raises:
        EdgesegError: the name leads out of the folder.
    """
    text = name.replace("\\", "/")
    if "://" in text or text.startswith("/data/"):
        url = urllib.parse.urlsplit(text)
        text = urllib.parse.unquote(urllib.parse.parse_qs(url.query).get("d", [url.path])[0])
    parts = [p for p in PurePosixPath(text).parts if p != "/"]
    if ".." in parts or not parts:
        raise EdgesegError(f"the file name {name!r} leads out of the image folder", path=path, hint="Correct file_name")
    for last in dict.fromkeys((parts[-1], _PREFIX.sub("", parts[-1]))):
        for k in range(len(parts)):
            relative = Path(*parts[k:-1], last)
            try:
                if (folder / relative).is_file():
                    return relative
            except (OSError, ValueError):  # longer than the file system allows, or with a zero byte
                return None
    return None


def image_size(file: Path) -> tuple[int, int, bool]:
    """(height, width) in pixels as ``read_image`` gives them, and whether EXIF turns the picture by 90 degrees.

    Only the head of a JPEG or PNG is read where that is enough.

    Raises:
        EdgesegError: not an image.
    """
    with file.open("rb") as stream:
        head = stream.read(1 << 16)
    stored = _jpeg_size(head) if head.startswith(b"\xff\xd8") else png_size(head)
    if stored is not None and b"Exif" not in head and b"eXIf" not in head:
        return (*stored, False)
    shape = read_image(file).shape
    return shape[0], shape[1], stored is not None and stored[0] != stored[1] and stored == (shape[1], shape[0])


def _jpeg_size(head: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(head) and head[at] == 0xFF:
        code = head[at + 1]
        if code == 0xFF:
            at += 1
        elif 0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", head, at + 5)
            return (height, width) if height and width else None
        else:
            at += 2 + struct.unpack_from(">H", head, at + 2)[0]
    return None


def claimed(image: Mapping[str, Any]) -> tuple[int, int] | None:
    """The (height, width) that an image entry states, None where it states none.

    Raises:
        ValueError: they are no sizes.
    """
    found = [image.get("height"), image.get("width")]
    if found in ([None, None], [0, 0]):
        return None
    if not all(isinstance(v, int | float) and 0 < v < 1 << 24 and v == int(v) for v in found):
        raise ValueError("its height and width are no sizes")
    return int(found[0]), int(found[1])  # type: ignore[arg-type]


def extent(annotations: Iterable[Mapping[str, Any]]) -> tuple[float, float]:
    """The largest (x, y) of all polygons, 0 without any."""
    x = y = 0.0
    for a in annotations:
        rings = a.get("segmentation")
        for ring in rings if isinstance(rings, list) else ():
            try:
                points = np.asarray(ring, np.float64)
            except (TypeError, ValueError, OverflowError):
                continue
            if points.ndim == 1 and len(points) and len(points) % 2 == 0:
                x, y = max(x, float(points[0::2].max())), max(y, float(points[1::2].max()))
    return x, y


def scaled(said: tuple[int, int], real: tuple[int, int]) -> bool:
    """Whether a picture of one size is one of the other, reduced or enlarged; sides are rounded to whole pixels."""
    (h, w), (rh, rw) = said, real
    return abs(w - rw * h / rh) <= 1 or abs(h - rh * w / rw) <= 1


def fits(reach: tuple[float, float], size: tuple[int, int]) -> bool:
    """Whether (x, y) lies in a picture of (height, width), a pixel of rounding allowed."""
    return reach[0] <= size[1] + 1 and reach[1] <= size[0] + 1
