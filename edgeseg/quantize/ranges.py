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


class Error:
    """Mean squared error of ``function`` after rounding what a histogram holds (bins count at their centres).

    Where a step is finer than a few bins, positions inside a bin are averaged over, else rounding would be aliased. With
    ``centred`` the mean error is left out: a bias behind the tensor can take it away.
    """

    def __init__(self, h: Histogram, function: Function = identity, levels: int = 256, centred: bool = False) -> None:
        used, width = np.flatnonzero(h.counts), 2 * h.limit / h.bins
        self.x = (h.centres[used] + np.array([[-0.375], [-0.125], [0.125], [0.375]]) * width).ravel()
        self.exact, self.counts = function(self.x), np.tile(h.counts[used], 4)
        self.function, self.levels, self.centred = function, levels, centred
        self.number = self.counts.sum()

    def __call__(self, lo: float, hi: float) -> float:
        """The error of the range lo..hi."""
        scale = max(hi - lo, 1e-12) / (self.levels - 1)
        zero = round(-lo / scale)
        steps = np.clip(np.rint(self.x / scale) + zero, 0, self.levels - 1).astype(np.intp)
        # The function of every step is known beforehand.
        gap = self.function((np.arange(self.levels) - zero) * scale)[steps] - self.exact
        weighted = self.counts * gap
        total = float(weighted @ gap) / self.number
        return total - (float(weighted.sum()) / self.number) ** 2 if self.centred else total


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
    """The range with the least ``Error``: each end in turn over a grid, then over a finer one, until nothing moves."""
    low, high = minmax(h)
    lo, hi = low, high
    if hi - lo <= 0 or not h.counts.any():  # nothing occurs, or nothing that occurs has any influence
        return lo, hi
    error = Error(h, function, levels, centred)
    for span, rounds in ((1.0, 3), (0.15, 2)):
        for _ in range(rounds):
            before = (lo, hi)
            if high > 0:
                top = np.unique(np.clip(_grid(hi, high, span, steps), 1e-9, high))
                hi = float(min(top, key=lambda v: error(lo, float(v))))
            if low < 0:
                bottom = np.unique(np.clip(_grid(-lo, -low, span, steps), 0.0, -low))
                lo = -float(min(bottom, key=lambda v: error(-float(v), hi)))
            if (lo, hi) == before:
                break
    return lo, hi


def mse_symmetric(h: Histogram, steps: int = 40) -> tuple[float, float]:
    """The range ``-t..t`` with the least ``Error`` over 255 levels."""
    reach = max(-min(h.low, 0.0), h.high)
    if reach <= 0:
        return 0.0, 0.0
    error = Error(h, levels=255)
    limits = np.geomspace(reach * 0.02, reach, steps)
    best = float(min(limits, key=lambda t: error(-float(t), float(t))))
    fine = np.clip(np.linspace(best * 0.9, best * 1.1, 21), 1e-9, reach)
    best = float(min(fine, key=lambda t: error(-float(t), float(t))))
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
        better = gap < best * (1 - 1e-9)
        if pairwise and better.any():
            better[better] = ~_crowded(values[better], weight.shape[1 - axis])
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
    steps, found = values.astype(np.int16), np.zeros(len(values), bool)
    # An odd number of input channels is padded by some kernels and not by others: then both ways to pair them count.
    for before in (0, 1) if inputs % 2 else (0,):
        padded = np.pad(steps, ((0, 0), (before, (steps.shape[1] + before) % 2)))
        # No weight alone is beyond PAIR, so two of different signs never are.
        found |= (np.abs(padded[:, ::2] + padded[:, 1::2]) > PAIR).any(1)
    return found
