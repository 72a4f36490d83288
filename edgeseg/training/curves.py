"""What the plots of a validation show: precision, recall and F1 by confidence, and which class is taken for which."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from edgeseg.evaluate.truth import Truth
from edgeseg.training.validation import Found

GRID = np.linspace(0, 1, 201)
"""Confidences, and recalls, at which curves are given."""


@dataclass(frozen=True)
class Curves:
    """Each (nc, 201); rows of classes without objects are NaN. ``precision_at_recall`` falls monotonically."""

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    precision_at_recall: np.ndarray


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n, m) IoU of boxes (n, 4) and (m, 4), xyxy."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inter = (high - low).clip(0).prod(-1)
    sizes = [(x[:, 2:] - x[:, :2]).prod(-1) for x in (a, b)]
    return inter / np.maximum(sizes[0][:, None] + sizes[1][None] - inter, 1e-9)


def pairs(found: np.ndarray, truth: np.ndarray, iou: float) -> np.ndarray:
    """For each box found, best first, the index of the true box it matches (greedy, each true box once), else -1."""
    matched = np.full(len(found), -1, np.int64)
    if not len(found) or not len(truth):
        return matched
    overlap = box_iou(found, truth)
    for i in range(len(found)):
        j = int(overlap[i].argmax())
        if overlap[i, j] >= iou:
            matched[i] = j
            overlap[:, j] = -1
    return matched


def truth_boxes(truth: Truth, found: Found) -> tuple[np.ndarray, np.ndarray]:
    """xyxy boxes (m, 4) and classes (m,) of one image, without crowds."""
    rows = [a for a in truth.of(found[0], found[1].shape) if not a["iscrowd"]]
    boxes = np.array([a["bbox"] for a in rows], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes, np.array([a["category_id"] - 1 for a in rows], np.int64)


def curves(images: Iterable[Found], truth: Truth, iou: float = 0.5) -> Curves:
    """Curves of the boxes over all images at one IoU threshold."""
    nc = len(truth.names)
    scores: list[list[np.ndarray]] = [[] for _ in range(nc)]
    right: list[list[np.ndarray]] = [[] for _ in range(nc)]
    total = np.zeros(nc)
    for item in images:
        boxes, classes = truth_boxes(truth, item)
        for c in set(classes.tolist()) | set(item[1].classes.tolist()):
            mine = item[1].classes == c
            total[c] += (classes == c).sum()
            scores[c].append(np.asarray(item[1].scores)[mine])
            right[c].append(pairs(np.asarray(item[1].boxes)[mine], boxes[classes == c], iou) >= 0)
    out = np.full((4, nc, len(GRID)), np.nan)
    for c in np.flatnonzero(total):
        s = np.concatenate(scores[c]) if scores[c] else np.zeros(0)
        order = np.argsort(-s, kind="stable")
        hits = np.concatenate(right[c])[order].cumsum() if len(s) else np.zeros(0)
        out[:, c] = _one(s[order], hits, total[c])
    return Curves(*out)


def _one(scores: np.ndarray, hits: np.ndarray, total: float) -> np.ndarray:
    """(4, 201) for one class from its scores (falling) and the number of right ones so far."""
    count = np.searchsorted(-scores, -GRID, side="right")  # detections with at least this confidence
    right = np.concatenate(([0], hits))[count]
    precision = np.where(count > 0, right / np.maximum(count, 1), 1.0)
    recall = right / total
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    each = hits / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(each[::-1])[::-1] if len(each) else each
    at = np.searchsorted(hits / total, GRID, side="left")
    return np.stack((precision, recall, f1, np.concatenate((envelope, [0.0]))[np.minimum(at, len(envelope))]))


def confusion(images: Iterable[Found], truth: Truth, conf: float = 0.25, iou: float = 0.45) -> np.ndarray:
    """(nc + 1, nc + 1) counts, row: what it was taken for, column: what it is; the last of each is background."""
    nc = len(truth.names)
    table = np.zeros((nc + 1, nc + 1), np.int64)
    for item in images:
        boxes, classes = truth_boxes(truth, item)
        sure = np.asarray(item[1].scores) >= conf
        mine = np.asarray(item[1].classes)[sure]
        matched = pairs(np.asarray(item[1].boxes)[sure], boxes, iou)
        for taken, j in zip(mine.tolist(), matched.tolist()):
            table[taken, classes[j] if j >= 0 else nc] += 1
        for j in set(range(len(classes))) - set(matched.tolist()):
            table[nc, classes[j]] += 1
    return table


def mean_curve(rows: np.ndarray) -> np.ndarray:
    """The mean over the classes that occur, (201,); zeros when none does."""
    seen: Sequence[np.ndarray] = [r for r in rows if not np.isnan(r).any()]
    return np.mean(seen, 0) if len(seen) else np.zeros(len(GRID))
