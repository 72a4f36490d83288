"""A picture and what several models found in it, as plain values that ``assets/viewer.js`` draws."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edgeseg.data.images import read_image, reduced
from edgeseg.errors import EdgesegError
from edgeseg.evaluate.fidelity import match
from edgeseg.evaluate.metrics import Told
from edgeseg.vision.detections import TOLERANCE, Detections
from edgeseg.vision.masks import Tiles
from edgeseg.vision.outline import simplify, trace
from edgeseg.vision.rle import decode

LONGEST = 1024
"""Pixels of a stored picture's longer side, and of the grid on which outlines of larger ones are traced."""
QUALITY = 82


def picture(
    image: str | os.PathLike[str] | np.ndarray,
    found: Sequence[Detections | None],
    *,
    name: str | None = None,
    longest: int = LONGEST,
) -> dict[str, Any]:
    """One picture as the viewer wants it: stored once, as JPEG, with what was found as numbers.

    Args:
        image: a file, or uint8 BGR (H, W, 3).
        found: what each model found in it, the reference first; None of a model that is not shown with this picture.
        name: what to call it (default: the file's name).
        longest: pixels of the longer side from which on it is stored smaller.

    Returns:
        ``name``, ``width`` and ``height`` (pixels of the image, in which all coordinates are), ``src`` (a data URL) and
        ``found``: for each model None, or a list of ``class``, ``score``, ``box`` [x1, y1, x2, y2], ``rings`` [[x, y, x, y,
        ...], ...] (empty without masks; filled by the even-odd rule) and ``pair`` (index in the reference's list, or -1).

    Raises:
        EdgesegError: the image cannot be read, or is not of the detections' size.
    """
    path = None if isinstance(image, np.ndarray) else Path(image)
    pixels = image if isinstance(image, np.ndarray) else read_image(image)
    height, width = pixels.shape[:2]
    for one in found:
        if one is not None and one.shape != (height, width):
            size = "x".join(map(str, one.shape[::-1]))
            raise EdgesegError(f"the image is {width}x{height} pixels, the detections are of one of {size}", path=path)
    small = reduced(pixels, longest)
    done, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not done:
        raise EdgesegError("the image cannot be written as JPEG", path=path)
    grid = None if small is pixels else (small.shape[0], small.shape[1])
    return {
        "name": name if name is not None else "" if path is None else path.name,
        "width": width,
        "height": height,
        "src": "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii"),
        "found": [None if d is None else _plain(d, p, grid) for d, p in zip(found, _partners(found))],
    }


def restored(told: Told, names: tuple[str, ...]) -> Detections:
    """Detections as they were before they were kept as run lengths; ``names`` are those of their classes."""
    tiles = None
    if told.runs is not None:
        each = [Tiles.of(decode(run)[None].astype(bool)) for run in told.runs]
        corners = np.concatenate([t.corners for t in each]) if each else np.zeros((0, 2), np.intp)
        tiles = Tiles(told.shape, corners, tuple(t.tiles[0].copy() for t in each))
    return Detections(told.boxes, told.scores, told.classes, tiles, names, told.shape)


def _partners(found: Sequence[Detections | None]) -> list[dict[int, int]]:
    """For each model: its index -> that of its partner in the reference's list, as ``match`` pairs them."""
    first = found[0] if found else None
    partners: list[dict[int, int]] = []
    for m, one in enumerate(found):
        if one is None or first is None:
            partners.append({})
        elif m:
            partners.append({j: i for i, j, _ in match(first, one)})
        else:
            partners.append({i: i for i in range(len(one))})
    return partners


def _plain(found: Detections, partners: dict[int, int], grid: tuple[int, int] | None) -> list[dict[str, Any]]:
    outlines = [[]] * len(found) if found.tiles is None else _outlines(found.tiles, grid)
    rows = zip(found.classes.tolist(), found.scores.tolist(), found.boxes.tolist(), outlines)
    return [
        {
            "class": cls,
            "score": round(score, 4),
            "box": [round(v, 1) for v in box],
            "rings": [_short(ring) for ring in rings],
            "pair": partners.get(i, -1),
        }
        for i, (cls, score, box, rings) in enumerate(rows)
    ]


def _outlines(tiles: Tiles, grid: tuple[int, int] | None) -> list[list[np.ndarray]]:
    """As ``Detections.polygons``, but parts and holes are rings of their own: to join hundreds of them takes seconds."""
    sampled = tiles if grid is None else tiles.sampled(grid)
    scale = np.divide(tiles.shape, sampled.shape)[::-1]
    pairs = zip(sampled.tiles, sampled.corners)
    return [[(simplify(ring, TOLERANCE) + corner) * scale for ring in trace(tile)] for tile, corner in pairs]


def _short(ring: np.ndarray) -> list[float]:
    """x, y, x, y ... to a tenth of a pixel; whole numbers as such, which are shorter as text."""
    values = np.round(ring.astype(np.float64).ravel(), 1).tolist()
    return [int(v) if v.is_integer() else v for v in values]
