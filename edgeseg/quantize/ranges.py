"""Range methods: from a histogram of what occurs to the range (lo, hi) that an 8-bit tensor should cover.

All are pure NumPy. The error that the ``mse`` method minimises is measured after the next operator: for a SiLU's input that
is the error of ``silu(x)``, so that values which the SiLU flattens to zero cost nothing when they are clipped.
"""

from __future__ import annotations

import numpy as np

from edgeseg.quantize.kinds import Function
from edgeseg.quantize.observe import Histogram

METHODS = ("minmax", "percentile", "mse", "kl")


def identity(x: np.ndarray) -> np.ndarray:
    """The value itself."""
    return x


def quantize_values(x: np.ndarray, lo: float, hi: float, levels: int = 256) -> np.ndarray:
    """Values rounded and clipped to ``levels`` steps over lo..hi with zero exactly on the grid."""
    scale = max(hi - lo, 1e-12) / (levels - 1)
    zero = round(-lo / scale)
    return (np.clip(np.rint(x / scale) + zero, 0, levels - 1) - zero) * scale


def error(
    h: Histogram, lo: float, hi: float, function: Function = identity, levels: int = 256, centred: bool = False
) -> float:
    """Mean squared error of ``function`` after rounding to lo..hi, over the histogram (bins count at their centres).

    Where a step is finer than a few bins, positions inside a bin are averaged over, else rounding would be aliased. With
    ``centred`` the mean error is left out: a bias behind the tensor can take it away.
    """
    used = np.flatnonzero(h.counts)
    width = 2 * h.limit / h.bins
    total = mean = 0.0
    for offset in (-0.375, -0.125, 0.125, 0.375):
        x = h.centres[used] + offset * width
        gap = function(quantize_values(x, lo, hi, levels)) - function(x)
        total += float((h.counts[used] * gap * gap).sum())
        mean += float((h.counts[used] * gap).sum())
    number = 4 * h.counts.sum()
    return total / number - (mean / number) ** 2 if centred else total / number


def minmax(h: Histogram) -> tuple[float, float]:
    """All that occurred, and zero."""
    return min(h.low, 0.0), max(h.high, 0.0)


def percentile(h: Histogram, share: float = 0.9999) -> tuple[float, float]:
    """The smallest range with ``share`` of the weight, the rest left out in equal parts on both sides."""
    tail = (1 - share) / 2
    return min(h.quantile(tail), 0.0), max(h.quantile(1 - tail), 0.0)


def mse(
    h: Histogram, function: Function = identity, levels: int = 256, steps: int = 24, centred: bool = False
) -> tuple[float, float]:
    """The range with the least ``error``: each end in turn over a grid, then over a finer one, until nothing moves."""
    low, high = minmax(h)
    lo, hi = low, high
    if hi - lo <= 0 or not h.counts.any():  # nothing occurs, or nothing that occurs has any influence
        return lo, hi
    for span, rounds in ((1.0, 3), (0.15, 2)):
        for _ in range(rounds):
            before = (lo, hi)
            if high > 0:
                top = np.unique(np.clip(_grid(hi, high, span, steps), 1e-9, high))
                hi = float(min(top, key=lambda v: error(h, lo, float(v), function, levels, centred)))
            if low < 0:
                bottom = np.unique(np.clip(_grid(-lo, -low, span, steps), 0.0, -low))
                lo = -float(min(bottom, key=lambda v: error(h, -float(v), hi, function, levels, centred)))
            if (lo, hi) == before:
                break
    return lo, hi


def mse_symmetric(h: Histogram, steps: int = 40) -> tuple[float, float]:
    """The range ``-t..t`` with the least ``error`` over 255 levels."""
    reach = max(-min(h.low, 0.0), h.high)
    if reach <= 0:
        return 0.0, 0.0
    limits = np.geomspace(reach * 0.02, reach, steps)
    best = float(min(limits, key=lambda t: error(h, -float(t), float(t), levels=255)))
    fine = np.clip(np.linspace(best * 0.9, best * 1.1, 21), 1e-9, reach)
    best = float(min(fine, key=lambda t: error(h, -float(t), float(t), levels=255)))
    return -best, best


def _grid(now: float, full: float, span: float, steps: int) -> np.ndarray:
    if span >= 1.0:
        # Geometric: the best clip of a long tail lies far below the maximum as often as near it.
        return np.append(np.geomspace(full * 0.02, full, steps), now)
    return np.append(np.linspace(now * (1 - span), now * (1 + span), steps), now)


def kl(h: Histogram, levels: int = 128, steps: int = 48) -> tuple[float, float]:
    """Clip where the rounded distribution diverges least from the real one (Migacz, 8-bit inference with TensorRT, 2017)."""
    low, high = minmax(h)
    reach = max(-low, high)
    centres, best, found = h.centres, np.inf, (low, high)
    if reach <= 0:
        return found
    for limit in np.geomspace(reach * 0.05, reach, steps):
        inside = np.abs(centres) <= limit
        p = h.counts[inside].copy()
        if p.size < levels or p.sum() <= 0:
            continue
        p[0] += h.counts[centres < -limit].sum()
        p[-1] += h.counts[centres > limit].sum()
        slot = np.arange(p.size) * levels // p.size
        raw, filled = h.counts[inside], h.counts[inside] > 0
        mass, number = np.bincount(slot, raw, levels), np.bincount(slot, filled, levels)
        q = np.where(filled, (mass / np.maximum(number, 1))[slot], 0.0)
        p, q = p / p.sum(), q / max(q.sum(), 1e-12)
        both = p > 0
        score = float((p[both] * np.log(p[both] / np.maximum(q[both], 1e-9))).sum())
        if score < best:
            best, found = score, (max(low, -float(limit)), min(high, float(limit)))
    return found


def weight_scale(weight: np.ndarray, axis: int = 0, bits: int = 8, pairwise: bool = False) -> np.ndarray:
    """Symmetric scales of a weight tensor, one for each index along ``axis``, with the least squared rounding error.

    Candidates put the largest magnitude on each integer from a quarter of the top level up, or clip it by up to a fifth. A
    weight that came from a coarse grid (a network that was quantized before) is then met exactly. With ``pairwise`` only
    those count that do not overflow (see ``overflows``): with the largest magnitude on 64 none does.
    """
    top = 2 ** (bits - 1) - 1
    rows = _rows(weight, axis)
    peak = np.maximum(np.abs(rows).max(1), 1e-9)
    best, scale = np.full(len(rows), np.inf), peak / top
    levels = [*range(top, top // 4, -1)] if bits == 8 else [top]
    for level in (*levels, *(top / np.linspace(0.8, 0.98, 10))):
        s = (peak / level)[:, None]
        values = np.clip(np.rint(rows / s), -top, top)
        gap = ((values * s - rows) ** 2).sum(1)
        if pairwise:
            gap[_crowded(values, weight.shape[1 - axis])] = np.inf
        better = gap < best * (1 - 1e-9)
        best, scale = np.where(better, gap, best), np.where(better, s[:, 0], scale)
    return scale


PAIR = 128
"""What two neighbouring weights of one sign may add up to: 255 times 128 fits into 16 bits, 255 times 129 does not."""


def overflows(weight: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Which output channels of a convolution could overflow on x86 without VNNI, where kernels multiply unsigned by signed
    bytes and add the products of two neighbouring input channels in 16 bits.

    Args:
        weight: (out, in, kh, kw).
        scale: symmetric 8-bit scale of each output channel.
    """
    rows = _rows(weight, 0)
    return _crowded(np.clip(np.rint(rows / scale[:, None]), -127, 127), weight.shape[1])


def _rows(weight: np.ndarray, axis: int) -> np.ndarray:
    """A row for each index along ``axis``, as kernels read them: all input channels of one position, then the next."""
    rows = np.moveaxis(np.moveaxis(weight, axis, 0), 1, -1)
    return rows.reshape(len(rows), -1).astype(np.float64)


def _crowded(values: np.ndarray, inputs: int) -> np.ndarray:
    found = np.zeros(len(values), bool)
    # An odd number of input channels is padded by some kernels and not by others: then both ways to pair them count.
    for before in (0, 1) if inputs % 2 else (0,):
        pairs = np.pad(values, ((0, 0), (before, (values.shape[1] + before) % 2))).reshape(len(values), -1, 2)
        for sign in (1, -1):
            found |= (np.maximum(sign * pairs, 0).sum(2) > PAIR).any(1)
    return found
