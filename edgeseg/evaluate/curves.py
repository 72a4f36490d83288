"""Precision, recall and F1 of each class by confidence, at one IoU, matched as COCO's evaluation does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from edgeseg.evaluate.metrics import Told
    from edgeseg.evaluate.truth import Truth

GRID = np.linspace(0, 1, 1001)
"""Confidences, and recalls, at which curves are given."""


@dataclass(frozen=True, eq=False)
class Curves:
    """Each (nc, 1001) over ``GRID``, NaN for a class without objects. ``precision_at_recall`` falls monotonically."""

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    precision_at_recall: np.ndarray

    @property
    def best(self) -> int:
        """The index of ``GRID`` at which F1, as the mean over the classes that occur, is highest."""
        return int(mean_curve(self.f1).argmax())


@dataclass
class CurveMeter:
    """Matches detections to objects image by image and gives curves at the end.

    In each image and class the highest score first takes the free object with which it overlaps most, from IoU ``iou`` on;
    one that overlaps only a crowd so far (by the share of itself) is neither right nor wrong.

    ``classes`` is how many there are; ``masks``: by them in place of boxes.
    """

    classes: int
    masks: bool = False
    iou: float = 0.5
    _scores: dict[int, list[np.ndarray]] = field(default_factory=dict)
    _right: dict[int, list[np.ndarray]] = field(default_factory=dict)
    _total: dict[int, int] = field(default_factory=dict)

    def add(self, annotations: Sequence[Mapping[str, Any]], told: Told) -> None:
        """Add one image.

        Args:
            annotations: what is there, as COCO annotations: ``category_id`` (index of the class + 1), ``bbox`` (x, y, width,
                height in pixels), ``iscrowd``; ``segmentation`` where masks are matched.
            told: what was found there, with ``runs`` where masks are matched.
        """
        wanted = np.array([a["category_id"] - 1 for a in annotations], np.int64)
        crowds = np.array([bool(a["iscrowd"]) for a in annotations], bool)
        for c in {*wanted.tolist(), *told.classes.tolist()}:
            there, mine = np.flatnonzero(wanted == c), np.flatnonzero(told.classes == c)
            overlap = self._overlaps(told, mine, [annotations[i] for i in there.tolist()])
            right, counts = matched(overlap, crowds[there], self.iou)
            self._total[c] = self._total.get(c, 0) + int((~crowds[there]).sum())
            self._scores.setdefault(c, []).append(np.asarray(told.scores)[mine][counts])
            self._right.setdefault(c, []).append(right[counts])

    def _overlaps(self, told: Told, mine: np.ndarray, there: list[Mapping[str, Any]]) -> np.ndarray:
        from faster_coco_eval import mask

        if not len(mine) or not there:
            return np.zeros((len(mine), len(there)))
        if self.masks:
            height, width = told.shape
            found: Any = [told.runs[i] for i in mine.tolist()] if told.runs else []
            true: Any = [mask.segmToRle(a["segmentation"], width, height) for a in there]
        else:
            boxes = np.asarray(told.boxes, np.float64)[mine]
            found = np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), 1)
            true = np.array([a["bbox"] for a in there], np.float64)
        return np.asarray(mask.iou(found, true, [int(a["iscrowd"]) for a in there])).reshape(len(mine), len(there))

    def result(self) -> Curves:
        """Curves over all images added."""
        out = np.full((4, self.classes, len(GRID)), np.nan)
        for c, total in self._total.items():
            if total:
                scores = np.concatenate([*self._scores[c], np.zeros(0)])
                order = np.argsort(-scores, kind="stable")
                hits = np.concatenate([*self._right[c], np.zeros(0)])[order].cumsum()
                out[:, c] = _one(scores[order], hits, total)
        return Curves(*out)


def matched(overlap: np.ndarray, crowds: np.ndarray, iou: float) -> tuple[np.ndarray, np.ndarray]:
    """Which detections are right, and which count at all: (n,) bool each.

    Args:
        overlap: (n, m) of detections by falling score with objects, 0..1.
        crowds: (m,) bool: those are crowds, which any number of detections may lie in.
        iou: the least overlap.
    """
    right, counts, free = np.zeros(len(overlap), bool), np.ones(len(overlap), bool), ~crowds
    for i in np.flatnonzero((overlap >= iou).any(axis=1)).tolist():  # the others are wrong in any case
        row = overlap[i]
        open_to = np.where(free, row, -1.0)
        best = int(open_to.argmax())
        if open_to[best] >= iou:
            right[i], free[best] = True, False
        else:
            counts[i] = not (row[crowds] >= iou).any()
    return right, counts


def curves(images: Iterable[tuple[Path, Told]], truth: Truth, iou: float = 0.5) -> Curves:
    """Curves of the boxes over all images."""
    meter = CurveMeter(len(truth.names), iou=iou)
    for path, told in images:
        meter.add(truth.of(path, told.shape), told)
    return meter.result()


def _one(scores: np.ndarray, hits: np.ndarray, total: float) -> np.ndarray:
    """(4, 1001) for one class from its scores (falling) and the number of right ones so far."""
    count = np.searchsorted(-scores, -GRID, side="right")  # detections with at least this confidence
    right = np.concatenate(([0], hits))[count]
    precision = np.where(count > 0, right / np.maximum(count, 1), 1.0)
    recall = right / total
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    each = hits / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(each[::-1])[::-1] if len(each) else each
    at = np.searchsorted(hits / total, GRID, side="left")
    return np.stack((precision, recall, f1, np.concatenate((envelope, [0.0]))[np.minimum(at, len(envelope))]))


def mean_curve(rows: np.ndarray) -> np.ndarray:
    """The mean over the classes that occur, (1001,); zeros when none does."""
    seen: Sequence[np.ndarray] = [r for r in rows if not np.isnan(r).any()]
    return np.mean(seen, 0) if len(seen) else np.zeros(len(GRID))
