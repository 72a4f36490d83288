"""How faithful a model is to its reference: at the operating threshold, detection by detection.

Average precision ranks; it does not see all scores sink together. Fidelity does: which of the reference's detections are
still found, with what box, mask and score.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeseg.errors import EdgesegError

if TYPE_CHECKING:
    from edgeseg.vision.detections import Detections
    from edgeseg.vision.masks import Tiles


@dataclass(frozen=True)
class Fidelity:
    """How well another model's detections match the reference's, both with score >= ``conf``.

    ``agreement`` is 2 pairs / (reference + other), 0..1: what is lost and what is invented count alike (the F1 score with
    the reference's detections as truth); ``agreement_range`` is its 95 % interval over the choice of images (``interval``).
    ``matched`` is the share of the reference's detections that have a partner of their class with box IoU >= 0.5, 0..1;
    ``box_iou`` and ``mask_iou`` are means over the pairs, 0..1 (``mask_iou`` NaN without masks); ``score_shift`` is the mean
    of (other score - reference score) over the pairs and ``score_shift_std`` its standard deviation. ``extra`` counts the
    other's detections without a partner. NaN where there is nothing to measure.
    """

    matched: float
    box_iou: float
    mask_iou: float
    score_shift: float
    score_shift_std: float
    pairs: int
    reference: int
    other: int
    images: int
    conf: float = 0.25
    agreement_range: tuple[float, float] = (math.nan, math.nan)

    @property
    def agreement(self) -> float:
        """What is lost and what is invented in one figure."""
        both = self.reference + self.other
        return 2 * self.pairs / both if both else math.nan

    @property
    def extra(self) -> int:
        """Detections of the other model that the reference does not have."""
        return self.other - self.pairs

    @property
    def missing(self) -> int:
        """Detections of the reference that the other model does not have."""
        return self.reference - self.pairs

    @property
    def missing_extra(self) -> str:
        """Both counts for a table's cell."""
        return f"{self.missing}, {self.extra} of {self.reference}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, None in place of NaN."""
        values = {**asdict(self), "agreement": self.agreement, "extra": self.extra, "missing": self.missing}
        values["agreement_range"] = None if math.isnan(self.agreement_range[0]) else list(self.agreement_range)
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in values.items()}


def interval(counts: np.ndarray, figure: Callable[[np.ndarray], np.ndarray], draws: int = 1000) -> tuple[float, float]:
    """The 95 % interval of a figure over the choice of images: bootstrap, the same draws for the same number of images.

    Args:
        counts: what a figure is made of, by image: (images, n).
        figure: figures (m,) of sums of the rows: (m, n).
        draws: how often as many images are drawn from them, with replacement.

    Returns:
        The 2.5th and the 97.5th percentile; NaN with fewer than two images, or nothing to measure.
    """
    if len(counts) < 2:
        return math.nan, math.nan
    drawn = np.random.default_rng(0).multinomial(len(counts), np.full(len(counts), 1 / len(counts)), draws)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = figure(drawn @ counts)
    values = values[np.isfinite(values)]
    if not len(values):
        return math.nan, math.nan
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU of every box of ``a`` (n, 4) with every box of ``b`` (m, 4), xyxy: (n, m) float64 in 0..1."""
    a, b = np.asarray(a, np.float64)[:, None], np.asarray(b, np.float64)[None]
    side = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None)
    shared = side.prod(-1)
    total = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - shared
    return np.where(total > 0, shared / np.where(total > 0, total, 1), 0.0)


def match(reference: Detections, other: Detections, iou: float = 0.5) -> list[tuple[int, int, float]]:
    """Pairs of detections of the same class, one to one, the largest box IoU first.

    Returns:
        (index in ``reference``, index in ``other``, box IoU), IoU >= ``iou``, falling.
    """
    if not len(reference) or not len(other):
        return []
    overlap = box_iou(reference.boxes, other.boxes)
    overlap[np.asarray(reference.classes)[:, None] != np.asarray(other.classes)[None]] = 0.0
    rows, columns = np.nonzero(overlap >= iou)
    order = np.argsort(-overlap[rows, columns], kind="stable")
    taken_rows: set[int] = set()
    taken_columns: set[int] = set()
    pairs = []
    for i, j in zip(rows[order].tolist(), columns[order].tolist()):
        if i not in taken_rows and j not in taken_columns:
            taken_rows.add(i)
            taken_columns.add(j)
            pairs.append((i, j, float(overlap[i, j])))
    return pairs


def mask_iou(a: Tiles, i: int, b: Tiles, j: int) -> float:
    """IoU of mask ``i`` of ``a`` and mask ``j`` of ``b`` at full size, 0..1; two empty masks agree: 1."""
    first, second = a.tiles[i], b.tiles[j]
    (x1, y1), (u1, v1) = a.corners[i].tolist(), b.corners[j].tolist()
    left, top = max(x1, u1), max(y1, v1)
    right = min(x1 + first.shape[1], u1 + second.shape[1])
    bottom = min(y1 + first.shape[0], v1 + second.shape[0])
    shared = 0
    if left < right and top < bottom:
        one = first[top - y1 : bottom - y1, left - x1 : right - x1]
        two = second[top - v1 : bottom - v1, left - u1 : right - u1]
        shared = int(np.count_nonzero(one & two))
    union = int(np.count_nonzero(first)) + int(np.count_nonzero(second)) - shared
    return shared / union if union else 1.0


@dataclass
class FidelityMeter:
    """Compares image by image and keeps only numbers.

    Args:
        conf: lowest score that counts on both sides, 0..1.
        iou: box IoU from which two detections of one class are a pair.
    """

    conf: float = 0.25
    iou: float = 0.5
    _boxes: list[float] = field(default_factory=list)
    _masks: list[float] = field(default_factory=list)
    _shifts: list[float] = field(default_factory=list)
    _counts: list[tuple[int, int, int]] = field(default_factory=list)  # of each image: pairs, reference, other

    def add(self, reference: Detections, other: Detections) -> None:
        """Add one image: what the reference found in it and what the other model found.

        Raises:
            EdgesegError: the detections belong to images of different size.
        """
        if tuple(reference.shape) != tuple(other.shape):
            raise EdgesegError(f"detections of different images: {reference.shape} and {other.shape} pixels")
        reference, other = (d[np.asarray(d.scores) >= self.conf] for d in (reference, other))
        pairs = match(reference, other, self.iou)
        self._counts.append((len(pairs), len(reference), len(other)))
        for i, j, overlap in pairs:
            self._boxes.append(overlap)
            self._shifts.append(float(other.scores[j]) - float(reference.scores[i]))
            if reference.tiles is not None and other.tiles is not None:
                self._masks.append(mask_iou(reference.tiles, i, other.tiles, j))

    def join(self, later: FidelityMeter) -> None:
        """Take over what another meter has seen of further images."""
        for mine, theirs in zip(self._lists(), later._lists()):
            mine.extend(theirs)

    def _lists(self) -> tuple[list[Any], ...]:
        return self._boxes, self._masks, self._shifts, self._counts

    def result(self) -> Fidelity:
        """The figures over all images added."""
        counts = np.array(self._counts, np.int64).reshape(-1, 3)
        pairs, reference, other = (int(n) for n in counts.sum(0))
        nan = float("nan")
        return Fidelity(
            matched=pairs / reference if reference else nan,
            box_iou=float(np.mean(self._boxes)) if pairs else nan,
            mask_iou=float(np.mean(self._masks)) if self._masks else nan,
            score_shift=float(np.mean(self._shifts)) if pairs else nan,
            score_shift_std=float(np.std(self._shifts)) if pairs else nan,
            pairs=pairs,
            reference=reference,
            other=other,
            images=len(counts),
            conf=self.conf,
            agreement_range=interval(counts, lambda n: 2 * n[:, 0] / (n[:, 1] + n[:, 2])),
        )


def fidelity(reference: Iterable[Detections], other: Iterable[Detections], conf: float = 0.25) -> Fidelity:
    """Fidelity over the same images, in the same order.

    Raises:
        EdgesegError: the two sides have a different number of images.
    """
    meter = FidelityMeter(conf)
    try:
        for a, b in zip(reference, other, strict=True):
            meter.add(a, b)
    except ValueError as e:
        raise EdgesegError("the two sides have a different number of images") from e
    return meter.result()
