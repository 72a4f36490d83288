"""Anchor points and box distances: the arithmetic behind the ``box`` role, for any feature map shape."""

from __future__ import annotations

import numpy as np


def centres(cells: np.ndarray, width: int) -> np.ndarray:
    """Centres of feature map cells.

    Args:
        cells: (n,) integers, row-major index of a cell in a map of any height.
        width: columns of the map.

    Returns:
        (n, 2) float32 x, y in cells: the first cell has (0.5, 0.5). Times the stride gives input pixels.
    """
    y, x = np.divmod(cells, width)
    points = np.empty((len(cells), 2), np.float32)
    points[:, 0], points[:, 1] = x, y
    points += 0.5
    return points


def distances(logits: np.ndarray) -> np.ndarray:
    """Expected distance of a discrete distribution over bins 0, 1, 2, ... (DFL, Li et al. 2020, "Generalized Focal Loss").

    Args:
        logits: (..., bins) float.

    Returns:
        (...) float32 in 0..bins-1: sum of bin * softmax(logits)[bin], computed in float64 so that every platform
        rounds alike. NaN where a logit is NaN or +inf, or all are -inf: no distribution, and ``decode`` drops the box.
    """
    with np.errstate(invalid="ignore", under="ignore"):
        e = np.exp(np.subtract(logits, logits.max(axis=-1, keepdims=True), dtype=np.float64))
        return ((e @ np.arange(e.shape[-1], dtype=np.float64)) / e.sum(axis=-1)).astype(np.float32)


def boxes(points: np.ndarray, ltrb: np.ndarray, stride: int) -> np.ndarray:
    """Boxes from cell centres (n, 2) and distances (n, 4) to left, top, right, bottom, both in cells.

    Returns:
        (n, 4) float32 x1, y1, x2, y2 in input pixels.
    """
    out = np.empty((len(points), 4), np.float32)
    np.subtract(points, ltrb[:, :2], out=out[:, :2])
    np.add(points, ltrb[:, 2:], out=out[:, 2:])
    out *= stride
    return out


def from_xywh(xywh: np.ndarray) -> np.ndarray:
    """(n, 4) float centre x, centre y, width, height -> float32 x1, y1, x2, y2 in the same unit."""
    half = xywh[:, 2:] * 0.5
    out = np.empty((len(xywh), 4), np.float32)
    np.subtract(xywh[:, :2], half, out=out[:, :2])
    np.add(xywh[:, :2], half, out=out[:, 2:])
    return out
