"""COCO JSON files of instances: read with whatever tools write into them, and their outlines."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg.data.placing import extent
from edgeseg.errors import EdgesegError
from edgeseg.store import read_bounded
from edgeseg.vision import rle
from edgeseg.vision.outline import fill, join, mask_outline

MOST_BYTES = 4 << 30  # the largest public set has 1.2 GB
BEYOND = 1e18  # no length or area in pixels is; infinite and undefined numbers and those that no float holds are not below
MOST_COORDINATE = 1 << 20  # of a polygon, in pixels: drawing one takes as much memory as it is long
MAX_PIXELS = 1 << 26
"""Run lengths for a picture larger than this are decoded only where a picture of that size is known to be there."""


@dataclass(frozen=True)
class CocoFile:
    """A COCO JSON file of instances: ``images`` by id, ``categories`` (id -> name), ``annotations`` by image id.

    Ids that are text become numbers, in the annotations too. Images that the file lists twice are one; ``merged`` holds
    their file names. ``source`` is False where there is no such file, because another format was read.
    """

    path: Path
    images: Mapping[int, Mapping[str, Any]]
    categories: Mapping[int, str]
    annotations: Mapping[int, Sequence[Mapping[str, Any]]]
    merged: tuple[str, ...] = ()
    root_categories: tuple[int, ...] = ()
    source: bool = True


class _Ids:
    """Ids as whole numbers: those that are numbers as they are, other texts numbered from 2^40 on."""

    def __init__(self) -> None:
        self._texts: dict[str, int] = {}

    def __call__(self, value: Any) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 53:
            return value
        if isinstance(value, float) and value.is_integer() and abs(value) < 1 << 53:
            return int(value)
        if isinstance(value, str) and len(value) < 1000:
            text = value.strip()
            if text.isdecimal() and len(text) < 16:
                return int(text)
            return self._texts.setdefault(text, (1 << 40) + len(self._texts))
        raise ValueError(f"{short(value)} is no id")


def short(value: Any) -> str:
    """A value from a file for a message: bounded and printable, whatever it is."""
    if isinstance(value, str):
        return repr(value[:40])[1:-1]
    plain = value is None or isinstance(value, float) or (isinstance(value, int) and abs(value) < 1 << 64)
    return repr(value) if plain else type(value).__name__


def number_of(value: Any) -> float | None:
    """A length or an area in pixels from a file, None where it is none."""
    return float(value) if isinstance(value, int | float) and abs(value) < BEYOND else None


def box_of(value: Any) -> list[float] | None:
    """x, y, width, height in pixels from a file, None where they are none."""
    numbers = [number_of(v) for v in value] if isinstance(value, list) and len(value) == 4 else []
    return None if not numbers or None in numbers else [n for n in numbers if n is not None]


def read_json(path: Path, hint: str) -> Any:
    """The content of a JSON file, with or without a byte order mark.

    Raises:
        EdgesegError: no such file, or no JSON.
    """
    try:
        with open(path, "rb") as f:
            start = f.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
        if not start.startswith((b"{", b"[")):
            raise EdgesegError("no valid JSON (it begins with no { or [)", path=path, hint=hint)
        return json.loads(read_bounded(path, MOST_BYTES).decode("utf-8-sig"))
    except FileNotFoundError as e:
        raise EdgesegError("no such file", path=path, hint="Check the path") from e
    except json.JSONDecodeError as e:
        raise EdgesegError(f"no valid JSON ({e.msg})", path=path, line=e.lineno, hint=hint) from e
    except RecursionError as e:
        raise EdgesegError("no valid JSON (nested too deeply)", path=path, hint=hint) from e
    except (OSError, ValueError) as e:
        raise EdgesegError(f"cannot be read ({e})", path=path, hint=hint) from e


def read_coco(path: str | os.PathLike[str]) -> CocoFile:
    """Read a COCO JSON file of instances.

    Raises:
        EdgesegError: no such file, no JSON, or not COCO's structure (says which part).
    """
    path = Path(path)
    hint = "It must be COCO instances: an object with images, annotations and categories"
    raw = read_json(path, hint)
    part = "the file"
    try:
        if not isinstance(raw, dict):
            raise TypeError("a list, not an object (Label Studio's own JSON is one: export as COCO there)")
        for part in ("images", "annotations", "categories"):
            if not isinstance(raw[part], list):
                raise TypeError("no list")
        part, kinds, ids = "categories", _Ids(), _Ids()
        categories = {kinds(c["id"]): str(c["name"]) for c in raw["categories"]}
        above = {str(c.get("supercategory")) for c in raw["categories"] if c.get("supercategory") != c["name"]}
        roots = tuple(kinds(c["id"]) for c in raw["categories"] if c.get("supercategory") == "none" and c["name"] in above)
        part = "images"
        images: dict[int, Mapping[str, Any]] = {}
        same: dict[int, int] = {}
        names: dict[int, str] = {}
        by_name: dict[str, int] = {}
        merged = []
        for i in raw["images"]:
            key, name = ids(i["id"]), str(i["file_name"])
            first = by_name.setdefault(name.replace("\\", "/"), key)
            if key in same and names[key] != name:
                raise ValueError(f"{names[key]} and {name} have the same id {short(i['id'])}")
            names[key] = name
            if first in images:
                if any(images[first].get(k) != i.get(k) for k in ("height", "width")):
                    raise ValueError(f"{name} is listed twice, with two sizes")
                merged.append(name)
            same[key] = first
            images.setdefault(first, {**i, "file_name": name})
        part = "annotations"
        annotations: dict[int, list[Mapping[str, Any]]] = {}
        for a in raw["annotations"]:
            category, image = kinds(a["category_id"]), ids(a["image_id"])
            if category not in categories:
                raise ValueError(f"annotation {short(a.get('id'))} has the unknown category {short(a['category_id'])}")
            image = same.get(image, image)
            if (category, image) != (a["category_id"], a["image_id"]):
                a = {**a, "category_id": category, "image_id": image}
            _check_claim(a, images.get(image, {}))
            annotations.setdefault(image, []).append(a)
        _check_pixels(raw["annotations"])
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        what = f"{e} is missing" if isinstance(e, KeyError) else str(e)
        raise EdgesegError(f"no COCO annotations: {part}: {what}", path=path, hint=hint) from e
    return CocoFile(path, images, categories, annotations, tuple(merged), roots)


def _check_pixels(annotations: Sequence[Mapping[str, Any]]) -> None:
    """Shares of the width and height in place of pixels would all be one dot in the corner, and nobody would know."""

    def reach(a: Mapping[str, Any]) -> float:
        box = box_of(a.get("bbox"))
        return max(*extent([a]), *(box if box is not None else (0.0,)))

    pixels = any(isinstance(a.get("segmentation"), Mapping) or reach(a) > 1 for a in annotations)
    if not pixels and any(reach(a) > 0 for a in annotations):
        raise ValueError("no coordinate is above 1: multiply x by the width and y by the height, COCO counts pixels")


def _check_claim(a: Mapping[str, Any], image: Mapping[str, Any]) -> None:
    """Run lengths say of how many pixels they are; nobody is to take that much memory because of it."""
    segmentation = a.get("segmentation")
    if isinstance(segmentation, Mapping):
        size = rle_size(segmentation)
        if size is not None and size[0] * size[1] > MAX_PIXELS and list(size) != [image.get("height"), image.get("width")]:
            raise ValueError(
                f"annotation {short(a.get('id'))} has run lengths for {size[0]}x{size[1]} pixels, not its image's"
            )


def rle_size(segmentation: Mapping[str, Any]) -> tuple[int, int] | None:
    """(height, width) of run lengths; None where they say none or an impossible one."""
    size = segmentation.get("size")
    if not isinstance(size, list | tuple) or len(size) != 2 or not all(isinstance(v, int) and 0 < v < 1 << 24 for v in size):
        return None
    return size[0], size[1]


def is_segmentation(value: Any) -> bool:
    """Whether it is polygons with coordinates that a picture can have, or run lengths that add up to what they claim."""
    try:
        if isinstance(value, Mapping):
            size, counts = rle_size(value) or (0, 0), value["counts"]
            lengths = rle.from_text(counts) if isinstance(counts, (str, bytes)) else np.asarray(counts)
            good, most = lengths.ndim == 1 and lengths.dtype.kind in "iu", size[0] * size[1]
            return good and bool(((lengths >= 0) & (lengths <= most)).all()) and int(lengths.sum()) == most
        parts = [np.asarray(part) for part in value]
    except (KeyError, TypeError, ValueError, OverflowError):
        return False
    good = all(p.ndim == 1 and len(p) % 2 == 0 and p.dtype.kind in "iuf" for p in parts)
    return good and all(bool((np.abs(p) < MOST_COORDINATE).all()) for p in parts)


def outline_of(annotation: Mapping[str, Any], height: int, width: int) -> np.ndarray | None:
    """The outline of one COCO annotation as one ring, (k, 2) float64 in pixels, or None when it covers nothing.

    Polygons of several parts are joined by bridges of no width (overlapping parts are united first); holes of run-length
    masks stay holes.

    Raises:
        ValueError: ``segmentation`` is neither polygons nor run lengths of (height, width).
    """
    value = annotation.get("segmentation")
    if isinstance(value, Mapping):
        if rle_size(value) != (height, width):
            raise ValueError(f"its run lengths are not of {height}x{width} pixels")
        try:
            return mask_outline(rle.decode(dict(value)), tolerance=0.5)
        except (KeyError, TypeError, OverflowError) as e:
            raise ValueError("its run lengths cannot be read") from e
    if not isinstance(value, list):
        raise ValueError("it has no segmentation")
    rings = []
    for part in value:
        try:
            flat = np.asarray(part, np.float64)
        except (TypeError, ValueError, OverflowError):
            flat = np.zeros((0, 0))
        if flat.ndim != 1 or len(flat) % 2 or not np.isfinite(flat).all():
            raise ValueError("a polygon is not a list of x, y, x, y, ...")
        ring = np.clip(flat.reshape(-1, 2), 0, (width, height))
        if len(ring) >= 3 and (np.ptp(ring, axis=0) > 0).all():
            rings.append(ring)
    if not rings:
        return None
    if len(rings) > 1 and _overlap(rings, height, width):
        return mask_outline(fill(rings, (height, width)), tolerance=0.5)
    return join(rings)


def _overlap(rings: Sequence[np.ndarray], height: int, width: int) -> bool:
    boxes = [(*r.min(0), *r.max(0)) for r in rings]
    for k, (x1, y1, x2, y2) in enumerate(boxes):
        for j, (u1, v1, u2, v2) in enumerate(boxes[:k]):
            if x1 < u2 and u1 < x2 and y1 < v2 and v1 < y2:
                both = fill([rings[k]], (height, width)) & fill([rings[j]], (height, width))
                if both.any():
                    return True
    return False
