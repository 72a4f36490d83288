"""What is taken for what: found objects against true ones, by class, with the background as one more class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgeseg.evaluate.fidelity import box_iou

CONF = 0.25
IOU = 0.45


@dataclass(frozen=True, eq=False)
class Confusion:
    """Counts (n + 1, n + 1) int64 of n classes: rows are what was found, columns what is there.

    The last row counts objects that nothing found, the last column detections where nothing is; the corner of both is 0.
    ``conf`` is the lowest score and ``iou`` the least box IoU that counted, 0..1. ``mistakes`` counts, for each image, what
    is not found, found where nothing is, or found as something else.
    """

    matrix: np.ndarray
    names: tuple[str, ...]
    conf: float = CONF
    iou: float = IOU
    mistakes: Mapping[Any, int] = field(default_factory=dict)

    def normalized(self) -> np.ndarray:
        """(n + 1, n + 1) float64: shares 0..1 of each column, of what is there of a class; 0 where there is nothing."""
        total = self.matrix.sum(0, keepdims=True)
        return self.matrix / np.maximum(total, 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain values: ``names`` and the whole ``matrix``, ``conf`` and ``iou``."""
        return {"names": list(self.names), "matrix": self.matrix.tolist(), "conf": self.conf, "iou": self.iou}


def confusion(
    annotations: Iterable[Mapping[str, Any]],
    found: Iterable[Mapping[str, Any]],
    names: tuple[str, ...],
    *,
    conf: float = CONF,
    iou: float = IOU,
) -> Confusion:
    """Count what was taken for what.

    In each image, the highest score first, a detection takes the object with which its box overlaps most among those that
    are still free, whatever the class of both, if their IoU is at least ``iou``. Where one box stands for several classes,
    only its best counts. A detection without an object that lies in a crowd of its class, with a share of at least ``iou``
    of its area, is neither right nor wrong; crowds are no objects.

    Args:
        annotations: what is there, as COCO annotations: ``image_id``, ``category_id`` (index of the class + 1), ``bbox``
            (x, y, width, height in pixels), ``iscrowd``.
        found: detections as COCO results: ``image_id``, ``category_id``, ``bbox``, ``score``.
        names: of the classes.
        conf: lowest score that counts, 0..1.
        iou: least IoU of the boxes, 0..1.
    """
    matrix, mistakes, wrong = np.zeros((len(names) + 1, len(names) + 1), np.int64), {}, 0
    there, seen = _by_image(annotations), _by_image(f for f in found if f["score"] >= conf)
    for image in dict.fromkeys([*there, *seen]):
        _count(matrix, there.get(image, []), _best_only(seen.get(image, [])), iou)
        before, wrong = wrong, int(matrix.sum() - matrix.trace())
        mistakes[image] = wrong - before
    return Confusion(matrix, tuple(names), conf, iou, mistakes)


def _count(matrix: np.ndarray, there: list[Mapping[str, Any]], found: list[Mapping[str, Any]], iou: float) -> None:
    """Add one image; ``found`` by falling score."""
    nothing = len(matrix) - 1
    objects, crowds = [a for a in there if not a["iscrowd"]], [a for a in there if a["iscrowd"]]
    free = np.ones(len(objects), bool)
    for d, overlap in zip(found, box_iou(_corners(found), _corners(objects))):
        overlap = np.where(free, overlap, -1.0)
        best = int(np.argmax(overlap)) if len(objects) else -1
        if best >= 0 and overlap[best] >= iou:
            free[best] = False
            matrix[d["category_id"] - 1, objects[best]["category_id"] - 1] += 1
        elif not _in_a_crowd(d, crowds, iou):
            matrix[d["category_id"] - 1, nothing] += 1
    for i in np.flatnonzero(free).tolist():
        matrix[nothing, objects[i]["category_id"] - 1] += 1


def _by_image(rows: Iterable[Mapping[str, Any]]) -> dict[Any, list[Mapping[str, Any]]]:
    grouped: dict[Any, list[Mapping[str, Any]]] = {}
    for row in rows:
        grouped.setdefault(row["image_id"], []).append(row)
    return grouped


def _best_only(found: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """By falling score, one a box."""
    best: dict[tuple[float, ...], Mapping[str, Any]] = {}
    for row in sorted(found, key=lambda f: -f["score"]):
        best.setdefault(tuple(row["bbox"]), row)
    return list(best.values())


def _corners(rows: list[Mapping[str, Any]]) -> np.ndarray:
    """(n, 4) float64 xyxy."""
    boxes = np.array([r["bbox"] for r in rows], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def _in_a_crowd(d: Mapping[str, Any], crowds: list[Mapping[str, Any]], share: float) -> bool:
    mine = [c for c in crowds if c["category_id"] == d["category_id"]]
    if not mine:
        return False
    (x1, y1, x2, y2), boxes = _corners([d])[0], _corners(mine)
    across = np.minimum(boxes[:, 2], x2) - np.maximum(boxes[:, 0], x1)
    down = np.minimum(boxes[:, 3], y2) - np.maximum(boxes[:, 1], y1)
    area = (x2 - x1) * (y2 - y1)
    return bool((np.clip(across, 0, None) * np.clip(down, 0, None) >= share * area).any())
