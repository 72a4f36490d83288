"""Floors: how near to its float network an artifact must be. The gate and every comparison judge by this one table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol


class Compared(Protocol):
    """What floors are compared with: ``edgeseg.evaluate.fidelity.Fidelity``."""

    @property
    def agreement(self) -> float: ...
    @property
    def matched(self) -> float: ...
    @property
    def box_iou(self) -> float: ...
    @property
    def mask_iou(self) -> float: ...
    @property
    def score_shift(self) -> float: ...
    @property
    def pairs(self) -> int: ...
    @property
    def reference(self) -> int: ...
    @property
    def other(self) -> int: ...
    @property
    def extra(self) -> int: ...


@dataclass(frozen=True)
class Floors:
    """The ``[gate]`` table of a recipe. An artifact that falls below any of them is refused.

    A floor lies where a model has clearly gone wrong, not where it merely lost a little: a sound INT8 export of the COCO
    network has 95 % of the detections, a box IoU of 0.97 and a mask IoU of 0.96, a plain min-max calibration 91 %, 0.957 and
    0.945. The floors of the IoU are as high as they are because a box branch or prototypes with one scale fifty times too
    coarse still give 0.94 and 0.93.

    Attributes:
        matched: smallest share of the float network's detections that are found, 0..1.
        box_iou: smallest mean box IoU of the pairs, 0..1.
        mask_iou: smallest mean mask IoU of the pairs, 0..1.
        score_shift: largest mean score shift of the pairs, either way, 0..1.
        extra: largest share of detections that the float network does not have, 0..1; with few detections it is refused
            only what is two standard deviations of their number beyond (sound INT8 invents 4 to 8 in 100).
        snr: smallest signal-to-noise ratio of a role's tensors in dB, of what the decoder reads of them
            (``edgeseg.quantize.relevance``). Sound exports have 16 dB and more; coefficients with one scale fifty times too
            coarse have 11.4 dB and less, and may still give a mask IoU of 0.963.
        detections: with fewer of the float network's detections than these, tensors alone decide.
        images: most images that are looked at.
        agreement: smallest agreement of the detections (see ``Fidelity``), 0..1.
    """

    matched: float = 0.9
    box_iou: float = 0.945
    mask_iou: float = 0.94
    score_shift: float = 0.05
    extra: float = 0.065
    snr: float = 12.0
    detections: int = 20
    images: int = 32
    agreement: float = 0.9

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def missed(self, f: Compared) -> list[str]:
        """The floors that detections missed, in words."""
        found = []
        if f.reference and not f.agreement >= self.agreement:
            found.append(f"agreement {f.agreement:.1%} (at least {self.agreement:.1%})")
        if f.reference and not f.matched >= self.matched:
            found.append(f"{f.matched:.1%} of {f.reference} detections matched (at least {self.matched:.1%})")
        if f.pairs and f.box_iou < self.box_iou:
            found.append(f"mean box IoU {f.box_iou:.3f} (at least {self.box_iou})")
        if f.pairs and f.mask_iou < self.mask_iou:
            found.append(f"mean mask IoU {f.mask_iou:.3f} (at least {self.mask_iou})")
        if f.pairs and abs(f.score_shift) > self.score_shift:
            found.append(f"scores shifted by {f.score_shift:+.3f} (at most {self.score_shift})")
        expected = self.extra * f.other
        if f.extra > expected + 2 * math.sqrt(expected):
            found.append(f"{f.extra} extra: of {f.other} detections not the float network's (about {self.extra:.1%} may be)")
        return found

    def ghosts(self, f: Compared) -> list[str]:
        """Detections where the float network has next to none, in words."""
        if f.extra > self.detections:
            return [f"{f.extra} detections where the float network has {f.reference}"]
        return []


#: What an artifact that rounds nothing, or to half floats, must reach. Rounding of the precision itself stays above it; a
#: fault of a converter does not.
EXACT: Mapping[str, Floors] = {
    "fp32": Floors(0.999, 0.999, 0.999, 1e-3, 0.001, 55.0, 0, agreement=0.999),
    "fp16": Floors(0.99, 0.99, 0.99, 5e-3, 0.01, 38.0, 0, agreement=0.99),
}


def floors_of(precision: str) -> Floors:
    """The floors of an artifact of this precision; a quantized one has those of the gate."""
    return EXACT.get(precision, Floors())


def _share(value: float) -> bool:
    return 0 <= value <= 1


#: What a ``[gate]`` table may say, by key.
CHECKS: Mapping[str, Any] = {
    **dict.fromkeys(("agreement", "matched", "box_iou", "mask_iou", "score_shift", "extra"), _share),
    "detections": lambda value: value > 0,
    "images": lambda value: value > 0,
}
