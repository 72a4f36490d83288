"""Floors of the gate: how near to the float network a quantized artifact must be for its export to succeed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


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
        extra: largest share of detections that the float network does not have, 0..1.
        snr: smallest signal-to-noise ratio of a role's tensors in dB, of what the decoder reads of them
            (``edgeseg.quantize.relevance``). Sound exports have 16 dB and more; coefficients with one scale fifty times too
            coarse have 11.4 dB and less, and may still give a mask IoU of 0.963.
        detections: with fewer of the float network's detections than these, tensors alone decide.
        images: most images that are looked at.
    """

    matched: float = 0.9
    box_iou: float = 0.945
    mask_iou: float = 0.94
    score_shift: float = 0.05
    extra: float = 0.2
    snr: float = 12.0
    detections: int = 20
    images: int = 32

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def _share(value: float) -> bool:
    return 0 <= value <= 1


#: What a ``[gate]`` table may say, by key.
CHECKS: Mapping[str, Any] = {
    **dict.fromkeys(("matched", "box_iou", "mask_iou", "score_shift", "extra"), _share),
    "detections": lambda value: value > 0,
    "images": lambda value: value > 0,
}
