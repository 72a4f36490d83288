"""Class-aware (or agnostic) non-maximum suppression: greedy, exact, in blocks."""

from __future__ import annotations

import numpy as np

_BLOCK = 256  # boxes judged at once: the pairwise matrices stay in the cache


def nms(
    boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, iou: float, max_det: int, agnostic: bool = False
) -> np.ndarray:
    """Greedy suppression: by falling score, a box stays unless one that stayed before it, of its class, overlaps it.

    Two boxes overlap when intersection > iou * union (float32); boxes without area overlap nothing. Equal scores keep the
    order in which they came.

    Args:
        boxes: (n, 4) float32 xyxy, any unit.
        scores: (n,) float.
        classes: (n,) integers.
        iou: threshold, 0..1.
        max_det: how many to return at most.
        agnostic: of any class.

    Returns:
        (m,) intp indices, by falling score, m <= max_det.
    """
    order = np.argsort(-scores, kind="stable")
    sides = np.ascontiguousarray(boxes[order].T, dtype=np.float32)
    kinds = np.zeros(len(order), np.intp) if agnostic else classes[order]
    area = np.maximum(sides[2] - sides[0], 0) * np.maximum(sides[3] - sides[1], 0)
    kept = np.zeros(0, np.intp)
    threshold, start, limit = np.float32(iou), 0, len(order)
    while start < limit and len(kept) < max_det:
        block = np.arange(start, min(start + _BLOCK, limit))
        start += _BLOCK
        if len(kept):
            hit = _overlaps(sides, area, kinds, kept, block, threshold)
            block = block[~hit.any(axis=0)]
        stays = _greedy(np.triu(_overlaps(sides, area, kinds, block, block, threshold), 1))
        kept = np.concatenate((kept, block[stays]))
    return order[kept[:max_det]]


def _overlaps(
    sides: np.ndarray, area: np.ndarray, kinds: np.ndarray, a: np.ndarray, b: np.ndarray, threshold: np.float32
) -> np.ndarray:
    """(len(a), len(b)) bool: same class and intersection > threshold * union."""
    p, q = sides[:, a, None], sides[:, None, b]
    width = np.minimum(p[2], q[2])
    width -= np.maximum(p[0], q[0])
    height = np.minimum(p[3], q[3])
    height -= np.maximum(p[1], q[1])
    inter = np.maximum(width, 0, out=width)
    inter *= np.maximum(height, 0, out=height)
    union = area[a, None] + area[None, b]
    union -= inter
    union *= threshold
    return np.logical_and(inter > union, kinds[a, None] == kinds[None, b])


def _greedy(hits: np.ndarray) -> np.ndarray:
    """(n,) bool of who stays, from ``hits[i, j]``: i (of higher score than j) would suppress j.

    Starting from "all stay", "j stays if no staying i hits it" is repeated until nothing changes. After k rounds the first k
    boxes are settled, so the fixed point is the greedy result; chains of suppression are short, so few rounds are needed.
    """
    stays = np.ones(len(hits), bool)
    while True:
        after = np.logical_not(hits[stays].any(axis=0))
        if np.array_equal(after, stays):
            return stays
        stays = after
