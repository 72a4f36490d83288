"""Outlines under clipping: what remains of a polygon inside the picture, without the artefacts of cutting."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeseg.vision.outline import fill

Rings = list[np.ndarray]
"""One object: rings (k, 2) float64 x, y in pixels; a point is inside when it lies in an odd number of them."""


def bounds(rings: Sequence[np.ndarray]) -> tuple[float, float, float, float]:
    """x1, y1, x2, y2 around rings that have at least one point."""
    points = rings[0] if len(rings) == 1 else np.concatenate(rings)
    (x1, y1), (x2, y2) = points.min(0), points.max(0)
    return float(x1), float(y1), float(x2), float(y2)


def area(rings: Sequence[np.ndarray]) -> float:
    """Area in square pixels; holes run against their part and count negative."""
    return abs(sum(_signed_area(r) for r in rings))


def _signed_area(ring: np.ndarray) -> float:
    """Shoelace formula; positive is clockwise on the screen."""
    x, y = ring[:, 0], ring[:, 1]
    return float(x[:-1] @ y[1:] - x[1:] @ y[:-1] + x[-1] * y[0] - x[0] * y[-1]) / 2


def clip(rings: Sequence[np.ndarray], width: float, height: float) -> Rings:
    """The part of an object inside 0..width and 0..height.

    Each ring is cut at the four sides in turn (Sutherland and Hodgman, "Reentrant polygon clipping", CACM 1974). Where an
    object leaves the picture and comes back, that method leaves edges along the border that enclose nothing; they are
    cancelled here and the pieces become rings of their own, so that bounds are those of the visible part.
    """
    result: Rings = []
    for ring in rings:
        (x1, y1), (x2, y2) = ring.min(0), ring.max(0)
        if x1 >= 0 and y1 >= 0 and x2 <= width and y2 <= height:
            result.append(ring)
            continue
        if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
            continue
        for axis, bound, sign in ((0, 0.0, 1.0), (0, float(width), -1.0), (1, 0.0, 1.0), (1, float(height), -1.0)):
            ring = _cut(ring, axis, bound, sign)
            if len(ring) < 3:
                break
        else:
            result += _separate(ring, width, height)
    return result


def rasterize(rings: Sequence[np.ndarray], shape: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
    """The pixels whose centre lies inside, as a patch.

    Args:
        rings: an object that was clipped to the picture. shape: (height, width) of the picture.

    Returns:
        The patch (h, w) bool and the (x, y) of its top left pixel; 0x0 when no pixel is inside.
    """
    x1, y1, x2, y2 = bounds(rings)
    left, top = max(int(np.floor(x1)), 0), max(int(np.floor(y1)), 0)
    right, bottom = min(int(np.ceil(x2)), shape[1]), min(int(np.ceil(y2)), shape[0])
    if right <= left or bottom <= top:
        return np.zeros((0, 0), bool), (left, top)
    size = (bottom - top, right - left)
    patch = fill([rings[0] - (left, top)], size)
    for ring in rings[1:]:
        patch ^= fill([ring - (left, top)], size)
    return patch, (left, top)


def _cut(ring: np.ndarray, axis: int, bound: float, sign: float) -> np.ndarray:
    """The ring on the side ``sign * (p[axis] - bound) >= 0``; new points lie on the bound exactly."""
    depth = sign * (ring[:, axis] - bound)
    inside = depth >= 0
    if inside.all():
        return ring
    following = np.roll(ring, -1, 0)
    next_depth = np.roll(depth, -1)
    crosses = inside != (next_depth >= 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = depth / (depth - next_depth)
        between = ring + (following - ring) * share[:, None]
    between[:, axis] = bound
    points = np.stack((ring, between), 1)
    return points[np.stack((inside, crosses), 1)]


def _separate(ring: np.ndarray, width: float, height: float) -> Rings:
    """Cancel edges along the border that run both ways, and trace what is left as rings."""
    following = np.roll(ring, -1, 0)
    on_border = np.zeros(len(ring), bool)
    edges: list[tuple[tuple[float, float], tuple[float, float]]] = []
    for axis, bound in ((0, 0.0), (0, float(width)), (1, 0.0), (1, float(height))):
        here = (ring[:, axis] == bound) & (following[:, axis] == bound) & ~on_border
        on_border |= here
        if here.any():
            edges += _net(ring[here, 1 - axis], following[here, 1 - axis], axis, bound)
    if on_border.sum() < 2:
        return [ring] if _has_extent(ring) else []
    for a, b in zip(ring[~on_border].tolist(), following[~on_border].tolist()):
        edges.append(((a[0], a[1]), (b[0], b[1])))
    return [r for r in _trace(edges) if len(r) >= 3 and _has_extent(r)]


def _has_extent(ring: np.ndarray) -> bool:
    """Whether the ring is more than a line along a border."""
    return bool((np.ptp(ring, axis=0) > 0).all())


def _net(
    start: np.ndarray, end: np.ndarray, axis: int, bound: float
) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Directed edges along one border line after opposite directions have cancelled."""
    stops = np.unique(np.concatenate((start, end)))
    cover = np.zeros(len(stops), np.int64)
    a, b = np.searchsorted(stops, start), np.searchsorted(stops, end)
    np.add.at(cover, a, 1)
    np.add.at(cover, b, -1)
    result = []
    for i, times in enumerate(np.cumsum(cover)[:-1].tolist()):
        low, high = float(stops[i]), float(stops[i + 1])
        p, q = ((bound, low), (bound, high)) if axis == 0 else ((low, bound), (high, bound))
        result += [(p, q) if times > 0 else (q, p)] * abs(times)
    return result


def _trace(edges: list[tuple[tuple[float, float], tuple[float, float]]]) -> Rings:
    """Closed walks over directed edges that enter each point as often as they leave it."""
    leaving: dict[tuple[float, float], list[tuple[float, float]]] = {}
    for a, b in edges:
        if a != b:
            leaving.setdefault(a, []).append(b)
    rings: Rings = []
    while leaving:
        start = at = next(iter(leaving))
        ring = []
        while True:
            ring.append(at)
            ways = leaving[at]
            step = ways.pop()
            if not ways:
                del leaving[at]
            at = step
            if at == start:
                break
        rings.append(np.array(ring, np.float64))
    return rings
