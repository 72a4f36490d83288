"""Streaming observers: what a tensor's values look like over any number of images, in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeseg.quantize.equalize import between, factors
from edgeseg.quantize.flow import Flow

if TYPE_CHECKING:
    import torch

    from edgeseg.quantize.probe import Seen

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
SEEN = 0.1
"""Scores from here on count when scores are levelled: what lies below is no candidate at any usual threshold."""
EQUALIZING = 8
"""Images on which the sizes of channels are taken."""
LEVELLING = 48
"""Images, beyond those that correct the layers, on which scores are levelled."""

Scores = Mapping[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Observed:
    """What a network computes on the calibration images: all that decisions for any backend need of them but its noise.

    Attributes:
        histograms: of every tensor with values of its own, and of what convolutions read where that was only moved about.
        scores: for each image on which scores are levelled, by score output: (positions in the flat tensor, scores) of
            those of ``SEEN`` or more.
        factors: of equalization; see ``equalize.factors``.
    """

    histograms: Mapping[str, Histogram]
    scores: Sequence[Scores] = ()
    factors: Mapping[str, np.ndarray] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write it as one ``.npz`` file."""
        names = list(self.histograms)
        kept = [self.histograms[n] for n in names]
        arrays = {"counts": np.stack([h.counts for h in kept]), "spans": np.array([(h.limit, h.low, h.high) for h in kept])}
        for i, found in enumerate(self.scores):
            for name, (at, values) in found.items():
                arrays.update({f"score/{i}/{name}/at": at, f"score/{i}/{name}/values": values})
        arrays.update({f"factor/{name}": f for name, f in self.factors.items()})
        arrays.update(names=np.array(names), images=np.array(len(self.scores)))
        with path.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> Observed:
        """Read what ``save`` wrote."""
        with np.load(path, allow_pickle=False) as file:
            held = {name: file[name] for name in file.files}
        histograms = {
            str(name): Histogram(len(counts), float(limit), float(low), float(high), counts)
            for name, counts, (limit, low, high) in zip(held["names"], held["counts"], held["spans"])
        }
        scores: list[dict[str, tuple[np.ndarray, np.ndarray]]] = [{} for _ in range(int(held["images"]))]
        factors = {}
        for key, value in held.items():
            kind, _, name = key.partition("/")
            if kind == "factor":
                factors[name] = value
            elif kind == "score" and key.endswith("/at"):
                number, name = name.removesuffix("/at").split("/", 1)
                scores[int(number)][name] = value, held[key.removesuffix("at") + "values"]
        return cls(histograms, scores, factors)


def observe(
    flow: Flow,
    images: Iterable[np.ndarray],
    progress: Callable[[int], None] = lambda done: None,
    seed: int = 0,
    levelling: Collection[int] = (),
    even: bool = False,
) -> Observed:
    """What the float network computes, a few images in memory at a time.

    Every value counts with how much an error there would change what the decoder makes of the outputs (see ``probe``; a
    SiLU's input with what counts behind the SiLU) and with the number of positions that it stands for, so that
    histograms of tensors that share a scale can be added up.

    Args:
        flow: the network.
        images: letterboxed uint8 RGB (h, w, 3).
        progress: called with the number of images done.
        seed: of the random probes and of the positions that are counted.
        levelling: numbers of the images of which the scores are kept.
        even: find the factors of equalization, on the first ``EQUALIZING`` images, and count what they change as it will be.
    """
    import torch

    from edgeseg.quantize.probe import probe
    from edgeseg.quantize.simulate import Simulator, side_by_side, to_tensor

    simulator, counted = Simulator(flow), _Counted(flow, between(flow) if even else {})

    def look(numbered: tuple[int, np.ndarray]) -> tuple[dict[str, Seen], list[torch.Tensor]]:
        number, image = numbered
        random, corner = torch.Generator().manual_seed(seed + number), float(np.random.default_rng(seed + number).random())

        def take(t: torch.Tensor) -> torch.Tensor:
            if t.dim() != 4:
                return t.movedim(1, -1)
            step = max(1, int((t.shape[2] * t.shape[3] / POSITIONS) ** 0.5))
            # Channels last, as they lie in memory: values and gradients are counted as they come.
            return t.movedim(1, -1)[:, int(corner * step) :: step, int(corner * step) :: step]

        return probe(simulator, to_tensor([image]), random, take, counted.apart)

    scores: list[Scores] = []
    with side_by_side() as each:
        for number, (seen, outputs) in enumerate(each(look, enumerate(images))):
            counted.add(seen)
            if number in levelling:
                scores.append({n: _confident(y) for n, r, y in zip(flow.outputs, flow.roles, outputs) if r == "score"})
            progress(number + 1)
    counted.settle()
    return Observed(counted.histograms, scores, counted.factors)


class _Counted:
    """Histograms that grow image by image. Tensors ``apart``, which equalization changes, wait for its factors."""

    def __init__(self, flow: Flow, apart: Mapping[str, str]) -> None:
        self.flow, self.apart = flow, apart
        self.histograms: dict[str, Histogram] = {}
        self.factors: dict[str, np.ndarray] = {}
        self._waiting: list[dict[str, Seen]] | None = [] if apart else None

    def add(self, seen: dict[str, Seen]) -> None:
        """Count what was seen on an image."""
        if self._waiting is not None:
            self._waiting.append({name: seen.pop(name) for name in self.apart if name in seen})
        for name, s in seen.items():
            self._count(name, s)
        if self._waiting is not None and len(self._waiting) == EQUALIZING:
            self.settle()

    def settle(self) -> None:
        """Find the factors on what there is, and count what waited for them."""
        waiting, self._waiting = self._waiting or (), None
        reach: dict[str, np.ndarray] = {}
        for seen in waiting:
            for name in set(self.apart.values()) & set(seen):
                largest = seen[name].low.abs().maximum(seen[name].high.abs()).numpy()
                reach[name] = np.maximum(reach.get(name, 0.0), largest)
        self.factors = {**self.factors, **factors(self.flow, reach)}
        for seen in waiting:
            for name, s in seen.items():
                self._count(name, s)

    def _count(self, name: str, s: Seen) -> None:
        if s.squared is None:
            return
        share = s.positions / s.values[0, ..., 0].numel()
        values, squared, low, high = s.values.numpy(), s.squared.numpy() * share, s.low.numpy(), s.high.numpy()
        divided = self.factors.get(self.apart.get(name, ""))
        if divided is not None:
            d = divided.astype(np.float32)
            values, squared, low, high = values / d, squared * d**2, low / d, high / d
        self.histograms.setdefault(name, Histogram()).add(values, squared, (float(low.min()), float(high.max())))


def _confident(logits: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    s = logits.sigmoid().flatten()
    at = (s >= SEEN).nonzero()[:, 0]
    return at.numpy(), s[at].numpy()
