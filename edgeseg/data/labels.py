"""YOLO labels: one text file an image, one object a line, ``class x1 y1 x2 y2 ...`` with coordinates in 0..1.

The class names of a dataset belong to them: a list, or a mapping from 0, 1, 2, ... to names.
Where boxes will do, a line may be ``class x y width height`` (centre and size) too.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg.errors import EdgesegError, brief
from edgeseg.store import read_bounded


def class_names(raw: Mapping[str, Any], file: Path) -> tuple[str, ...]:
    """The class names in the content ``raw`` of a dataset's YAML file.

    Raises:
        EdgesegError: there are none, they are no text or not numbered from 0, or ``nc`` contradicts them.
    """
    names = raw.get("names")
    if not names:
        raise EdgesegError("the dataset has no class names", path=file, hint="Add for example: names: [cat, dog]")
    if isinstance(names, dict):
        try:
            by_index = {int(k): v for k, v in names.items()}
        except (TypeError, ValueError):
            by_index = {}
        if sorted(by_index) != list(range(len(names))):
            what = f"the keys of names are not 0 to {len(names) - 1}"
            raise EdgesegError(what, path=file, hint="Number the classes from 0, without gaps")
        names = [by_index[i] for i in range(len(by_index))]
    if not isinstance(names, list):
        raise EdgesegError("names is neither a list nor a mapping", path=file, hint="Write for example: names: [cat, dog]")
    wrong = next((i for i, n in enumerate(names) if not isinstance(n, str) or not n.strip()), None)
    if wrong is not None:
        raise EdgesegError(f"the name of class {wrong} is no text", path=file, hint="Write for example: names: [cat, dog]")
    nc = raw.get("nc")
    if nc is not None and nc != len(names):
        what = f"nc is {brief(nc)}, but names has {len(names)} classes"
        raise EdgesegError(what, path=file, hint="Remove nc, or correct names")
    return tuple(str(n) for n in names)


MOST_BYTES = 1 << 26
"""A label file of more is not read."""

TOLERANCE = 0.01
"""How far outside 0..1 a coordinate may lie (annotation tools round); it is clipped."""


@dataclass(frozen=True, eq=False)
class Label:
    """One object: its class index and its outline, (k, 2) float32 x, y in 0..1 of the image's width and height, k >= 3.

    Several parts or holes of one object are one ring, joined by bridges of no width (see ``edgeseg.vision.outline``).
    """

    cls: int
    polygon: np.ndarray

    def pixels(self, shape: tuple[int, int]) -> np.ndarray:
        """The outline in pixels of an image of ``shape`` (height, width): (k, 2) float64, pixel edges at whole numbers."""
        return self.polygon.astype(np.float64) * (shape[1], shape[0])

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The box around the outline: x1, y1, x2, y2 in 0..1."""
        (x1, y1), (x2, y2) = self.polygon.min(0), self.polygon.max(0)
        return float(x1), float(y1), float(x2), float(y2)


@dataclass(frozen=True, eq=False)
class LabelFile:
    """The labels of one image; ``repeated`` rows (said before) and ``flat`` ones (no area) are left out."""

    labels: tuple[Label, ...] = ()
    repeated: int = 0
    flat: int = 0


def read_label_file(path: str | os.PathLike[str], nc: int, boxes: bool = False) -> LabelFile:
    """Read the labels of one image. No file, or an empty one, means background: no objects.

    A row that repeats another, or whose points lie on one line, is no object that could be found: it would count as missed,
    or hide the one that was found. Both are left out and counted.

    Args:
        nc: number of classes of the dataset. boxes: take boxes too; their outline is the rectangle.

    Raises:
        EdgesegError: with file and line: a class out of range, a box in place of a polygon, too few or an odd number of
            coordinates, something that is no number, NaN, a coordinate outside 0..1.
    """
    path = Path(path)
    try:
        text = read_bounded(path, MOST_BYTES).decode("utf-8-sig")
    except FileNotFoundError:
        return LabelFile()
    except (OSError, UnicodeDecodeError) as e:
        raise EdgesegError(f"the label file cannot be read ({e})", path=path, hint="It must be plain text") from e
    found: dict[tuple[int, bytes], Label] = {}
    repeated = flat = 0
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        label = _parse(words, nc, path, number, boxes)
        key = (label.cls, label.polygon.tobytes())
        if key in found:
            repeated += 1
        elif _is_flat(label.polygon):
            flat += 1
        else:
            found[key] = label
    return LabelFile(tuple(found.values()), repeated, flat)


def _is_flat(polygon: np.ndarray) -> bool:
    """Whether all points lie on one line, to the six digits that label files have."""
    points = polygon.astype(np.float64) - polygon[0]
    far = points[np.argmax((points**2).sum(axis=1))]
    return bool(np.abs(points[:, 0] * far[1] - points[:, 1] * far[0]).max() <= 1e-12)


def write_labels(path: str | os.PathLike[str], labels: Iterable[Label]) -> None:
    """Write the labels of one image, coordinates with six digits (1e-6 of a side is far below a pixel)."""
    lines = (f"{x.cls} " + " ".join(f"{v:.6f}" for v in x.polygon.ravel().tolist()) + "\n" for x in labels)
    Path(path).write_text("".join(lines), encoding="utf-8")


def _parse(words: list[str], nc: int, path: Path, number: int, boxes: bool) -> Label:
    def bad(what: str, hint: str = "") -> EdgesegError:
        return EdgesegError(what, path=path, line=number, hint=hint or "A line is: class x1 y1 x2 y2 x3 y3 ...")

    def inside(polygon: np.ndarray) -> Label:
        low, high = float(polygon.min()), float(polygon.max())
        if low < -TOLERANCE or high > 1 + TOLERANCE:
            raise bad(
                f"coordinate {low if low < -TOLERANCE else high:g} is outside 0..1",
                "Divide x by the image's width and y by its height",
            )
        return Label(cls, np.clip(polygon, 0.0, 1.0))

    values = []
    for word in words:
        try:
            values.append(float(word))
        except ValueError:
            raise bad(f"{word!r} is not a number") from None
    bad_value = next((w for w, v in zip(words, values) if not math.isfinite(v)), None)
    if bad_value is not None:
        raise bad(f"{bad_value} is no coordinate")
    cls = int(values[0])
    if cls != values[0]:
        raise bad(f"class {words[0]} is not a whole number")
    if not 0 <= cls < nc:
        raise bad(f"class {cls} is out of range", f"The dataset has {nc} classes: 0 to {nc - 1}")
    if len(values) == 5 and boxes:
        x, y, width, height = values[1:]
        if width < 0 or height < 0:
            raise bad(f"a box of {width:g} x {height:g}", "A line is: class x y width height")
        left, top, right, bottom = x - width / 2, y - height / 2, x + width / 2, y + height / 2
        return inside(np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float32))
    if len(values) == 5:
        raise bad(
            "5 numbers are a box (class x y width height), not a polygon",
            "Segmentation needs outlines: class and at least 3 points. A detector (yolov8n.yaml) learns from boxes",
        )
    if len(values) % 2 == 0:
        raise bad(f"an odd number of coordinates ({len(values) - 1}): the last point has no y")
    if len(values) < 7:
        raise bad(f"{(len(values) - 1) // 2} points are no polygon", "An outline has at least 3 points")
    return inside(np.array(values[1:], np.float32).reshape(-1, 2))
