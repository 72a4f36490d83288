"""Streaming observers: what a tensor's values look like over any number of images, in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from edgeseg.quantize.flow import Flow

BINS = 4096


@dataclass
class Histogram:
    """Weighted histogram over a span that doubles when values fall outside, with the true minimum and maximum.

    The span is symmetric about zero, ``-limit..limit``, in ``bins`` equal bins; doubling merges neighbouring bins, so no
    count is ever lost and nothing has to be known beforehand.
    """

    bins: int = BINS
    limit: float = 0.0
    low: float = np.inf
    high: float = -np.inf
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def add(self, values: np.ndarray, weights: np.ndarray | None = None, extent: tuple[float, float] | None = None) -> None:
        """Count values (any shape), each with its weight (same shape, or None for one).

        ``extent`` gives the true minimum and maximum where ``values`` is a sample of a larger tensor.
        """
        if values.size == 0:
            return
        low, high = extent or (float(values.min()), float(values.max()))
        self.low, self.high = min(self.low, low), max(self.high, high)
        if not self.counts.size:
            self.counts = np.zeros(self.bins)
        self._grow(max(abs(low), abs(high), 1e-6))
        flat = values.ravel()
        index = ((flat + self.limit) * (self.bins / (2 * self.limit))).astype(np.int32)
        np.clip(index, 0, self.bins - 1, out=index)
        self.counts += np.bincount(index, None if weights is None else weights.ravel(), self.bins)

    def _grow(self, reach: float) -> None:
        if self.limit == 0.0:
            self.limit = float(2.0 ** np.ceil(np.log2(reach)))
        while self.limit < reach:
            half = self.bins // 2
            merged = self.counts.reshape(half, 2).sum(1)
            quarter = (self.bins - half) // 2
            self.counts = np.concatenate([np.zeros(quarter), merged, np.zeros(quarter)])
            self.limit *= 2

    def merged(self, other: Histogram) -> Histogram:
        """Both together, as a new histogram."""
        if not self.counts.size or not other.counts.size:
            source = self if self.counts.size else other
            return Histogram(source.bins, source.limit, source.low, source.high, source.counts.copy())
        a = Histogram(self.bins, self.limit, self.low, self.high, self.counts.copy())
        b = Histogram(other.bins, other.limit, other.low, other.high, other.counts.copy())
        a._grow(b.limit)
        b._grow(a.limit)
        return Histogram(a.bins, a.limit, min(a.low, b.low), max(a.high, b.high), a.counts + b.counts)

    @property
    def centres(self) -> np.ndarray:
        """Value in the middle of each bin."""
        return (np.arange(self.bins) + 0.5) * (2 * self.limit / self.bins) - self.limit

    def quantile(self, q: float) -> float:
        """The value below which the share ``q`` (0..1) of the weight lies, to a bin's width, within low..high."""
        total = np.cumsum(self.counts)
        i = int(np.searchsorted(total, q * total[-1]))
        return float(np.clip(self.centres[min(i, self.bins - 1)], self.low, self.high))


POSITIONS = 400
"""Positions (pixels) of each tensor and image that are counted; minima and maxima are taken over all."""


def observe(
    flow: Flow, images: Iterable[np.ndarray], progress: Callable[[int], None] = lambda done: None, seed: int = 0
) -> dict[str, Histogram]:
    """Histograms of what the float network computes, one image in memory at a time.

    Every value counts with how much an error there would change what the decoder makes of the outputs (see ``probe``; a
    SiLU's input with what counts behind the SiLU) and with the number of positions that it stands for, so that
    histograms of tensors that share a scale can be added up.

    Args:
        flow: the network.
        images: letterboxed uint8 RGB (h, w, 3).
        progress: called with the number of images done.
        seed: of the random probes and of the positions that are counted.
    """
    import torch

    from edgeseg.quantize.probe import probe
    from edgeseg.quantize.simulate import Simulator, to_tensor

    found: dict[str, Histogram] = {}
    simulator, random = Simulator(flow), torch.Generator().manual_seed(seed)
    places = np.random.default_rng(seed)
    for done, image in enumerate(images, 1):
        corner = float(places.random())

        def take(t: torch.Tensor, corner: float = corner) -> torch.Tensor:
            if t.dim() != 4:
                return t
            step = max(1, int((t.shape[2] * t.shape[3] / POSITIONS) ** 0.5))
            return t[:, :, int(corner * step) :: step, int(corner * step) :: step]

        for name, seen in probe(simulator, to_tensor([image]), random, take).items():
            if seen.squared is not None:
                share = seen.positions / seen.values[0, 0].numel()
                counts = seen.squared.numpy() * share
                found.setdefault(name, Histogram()).add(seen.values.numpy(), counts, (seen.low, seen.high))
        progress(done)
    return found
