"""Between masks and outlines: exact tracing along pixel edges, one ring for several parts, exact filling."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np


def trace(mask: np.ndarray) -> list[np.ndarray]:
    """The outlines of a mask along the edges of its pixels, so that their area is exactly the mask's.

    Args:
        mask: (height, width), non-zero inside. Pixels that touch only at a corner are separate parts.

    Returns:
        Rings of corner points (k, 2) int32 x, y, in 0..width and 0..height: parts clockwise (positive ``ring_area``), holes
        counter-clockwise (negative).
    """
    m = np.pad(np.asarray(mask) != 0, 1).astype(np.int8)
    across = m[1:, :] - m[:-1, :]  # 1: the object begins below this horizontal edge, -1: it ends there
    along = m[:, 1:] - m[:, :-1]
    follow: dict[tuple[int, int], list[tuple[int, int]]] = {}
    # The padding shifts everything by one pixel; with the object always on the right, rings of parts run clockwise.
    for sign, edges, (x0, y0), (x1, y1) in (
        (1, across, (-1, 0), (0, 0)),
        (-1, across, (0, 0), (-1, 0)),
        (1, along, (0, 0), (0, -1)),
        (-1, along, (0, -1), (0, 0)),
    ):
        ys, xs = np.nonzero(edges == sign)
        for x, y in zip(xs.tolist(), ys.tolist()):
            follow.setdefault((x + x0, y + y0), []).append((x + x1, y + y1))
    rings = []
    while follow:
        start = at = next(iter(follow))
        ring: list[tuple[int, int]] = []
        dx = dy = 0
        while True:
            ways = follow[at]
            # Where two parts touch at a corner two edges leave: turning right keeps the parts separate.
            pick = next((w for w in ways if (w[0] - at[0], w[1] - at[1]) == (-dy, dx)), ways[0])
            ways.remove(pick)
            if not ways:
                del follow[at]
            step = (pick[0] - at[0], pick[1] - at[1])
            if step != (dx, dy):
                ring.append(at)
            (dx, dy), at = step, pick
            if at == start and (at[0] - dy, at[1] + dx) not in follow.get(at, []):
                break
        first = (ring[1][0] - ring[0][0], ring[1][1] - ring[0][1])
        if first[0] * dy == first[1] * dx:  # the start lies in the middle of a straight side
            ring.pop(0)
        rings.append(np.array(ring, np.int32))
    return rings


def ring_area(ring: np.ndarray) -> float:
    """Signed area of a closed ring (k, 2) by the shoelace formula; positive is clockwise on the screen (y points down)."""
    x, y = ring[:, 0].astype(np.float64), ring[:, 1].astype(np.float64)
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def simplify(ring: np.ndarray, tolerance: float) -> np.ndarray:
    """Fewer points, none of the outline further than ``tolerance`` pixels off (Douglas-Peucker); (k, 2) float64."""
    if tolerance <= 0 or len(ring) < 4:
        return ring.astype(np.float64)
    thin = cv2.approxPolyDP(ring.astype(np.float32).reshape(-1, 1, 2), tolerance, True).reshape(-1, 2)
    return (thin if len(thin) >= 3 else ring).astype(np.float64)


def join(rings: Sequence[np.ndarray]) -> np.ndarray:
    """Parts and holes as one ring: each is tied to the rest by a bridge of no width between the nearest two points.

    Filled by the even-odd rule (as OpenCV and COCO do) the result covers the parts without the holes.

    Args:
        rings: at least one ring (k, 2).

    Returns:
        One ring (n, 2) float64.
    """
    left = sorted((np.asarray(r, np.float64) for r in rings), key=lambda r: -abs(ring_area(r)))
    out = left.pop(0)
    while left:
        best = None
        for k, ring in enumerate(left):
            gap = ((out[:, None] - ring[None]) ** 2).sum(-1)
            at = int(gap.argmin())
            if best is None or gap.flat[at] < best[0]:
                best = (gap.flat[at], k, *divmod(at, len(ring)))
        if best is None:
            break
        _, k, i, j = best
        ring = left.pop(k)
        out = np.concatenate([out[: i + 1], ring[j:], ring[: j + 1], out[i:]])
    return out


def mask_outline(mask: np.ndarray, tolerance: float = 0.0, smallest: float = 0.0) -> np.ndarray | None:
    """The outline of a mask as one ring in pixels, holes and parts joined.

    Args:
        mask: (height, width), non-zero inside.
        tolerance: pixels by which ``simplify`` may move the outline; 0 keeps every pixel corner.
        smallest: parts and holes below this area (pixels) are left out, as long as one part remains.

    Returns:
        (k, 2) float64 x, y, or None for an empty mask.
    """
    rings = trace(mask)
    if not rings:
        return None
    kept = [r for r in rings if abs(ring_area(r)) >= smallest] or [max(rings, key=ring_area)]
    return join([simplify(r, tolerance) for r in kept])


def outlines(mask: np.ndarray, tolerance: float = 0.0) -> list[np.ndarray]:
    """The outline of each connected part of a mask as one ring in pixels, its holes joined to it.

    Args:
        mask, tolerance: as for ``mask_outline``.

    Returns:
        Rings (k, 2) float64 x, y, largest part first; [] for an empty mask.
    """
    filled = np.ascontiguousarray(np.asarray(mask) != 0)
    if not filled.any():
        return []
    _, parts = cv2.connectedComponents(filled.view(np.uint8), connectivity=4)
    rings: dict[int, list[np.ndarray]] = {}
    for ring in trace(filled):
        (x0, y0), (x1, y1) = ring[:2].tolist()
        # The object lies to the right of every step.
        x, y = min(x0, x1) - (y1 > y0), min(y0, y1) - (x1 < x0)
        rings.setdefault(int(parts[y, x]), []).append(ring)
    largest_first = sorted(rings.values(), key=lambda part: -sum(ring_area(r) for r in part))
    return [join([simplify(r, tolerance) for r in part]) for part in largest_first]


def fill(rings: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """The pixels whose centre lies in one of the rings.

    Args:
        rings: each (k, 2) x, y in pixels; within a ring the even-odd rule holds, several rings are united.
        shape: (height, width).

    Returns:
        (height, width) bool. For the rings that ``trace`` makes it is the traced mask, pixel for pixel.
    """
    height, width = shape
    out = np.zeros(shape, bool)
    for ring in rings:
        a = np.asarray(ring, np.float64)
        b = np.roll(a, -1, axis=0)
        # Row r is crossed by an edge whose ends lie on different sides of r + 0.5 (the upper end counts as above).
        first, last = (
            np.clip(np.ceil(f(a[:, 1], b[:, 1]) - 0.5), 0, height).astype(np.int64) for f in (np.minimum, np.maximum)
        )
        count = last - first
        edge = np.repeat(np.arange(len(a)), count)
        row = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + first[edge]
        share = (row + 0.5 - a[edge, 1]) / (b[edge, 1] - a[edge, 1])
        x = a[edge, 0] + share * (b[edge, 0] - a[edge, 0])
        column = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
        turns = np.bincount(row * (width + 1) + column, minlength=height * (width + 1)).reshape(height, width + 1)
        out |= (np.cumsum(turns[:, :width], axis=1) & 1).astype(bool)
    return out
