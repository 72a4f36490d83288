"""Sensitivity with detections beside tensors: which stage, or which layer, costs what."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from edgeseg.data.images import read_image
from edgeseg.errors import EdgesegError
from edgeseg.evaluate.fidelity import FidelityMeter
from edgeseg.evaluate.gate import CONF, harm
from edgeseg.manifest import Manifest
from edgeseg.quantize.decide import Decisions
from edgeseg.quantize.flow import Flow
from edgeseg.quantize.sensitivity import Loss, Part, sensitivity
from edgeseg.vision.postprocess import postprocess
from edgeseg.vision.preprocess import Letterbox, letterbox

COLOURS: Mapping[str, tuple[int, int, int]] = {
    "backbone": (180, 119, 31),
    "neck": (14, 127, 255),
    "box": (44, 160, 44),
    "score": (40, 39, 214),
    "coeff": (189, 103, 148),
    "proto": (75, 86, 140),
}
GREY = (120, 120, 120)


def measure(
    flow: Flow,
    decisions: Decisions,
    parts: Sequence[Part],
    images: Sequence[Path],
    manifest: Manifest,
    *,
    detections: bool = True,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Loss]:
    """Losses of the parts, the largest first, with fidelity at the operating threshold in ``Loss.extra``.

    Args:
        flow: the float network.
        decisions: how it would be quantized.
        parts: what is quantized in turn.
        images: held-out images.
        manifest: the network's, with ``imgsz`` as in ``flow``.
        detections: compare detections too; else tensors only.
        progress: called with the number of parts done, over all images.

    Raises:
        EdgesegError: no image can be read.
    """
    meters = {p.name: FidelityMeter(CONF) for p in parts}
    boxed: list[np.ndarray] = []
    geometry: list[Letterbox] = []
    for path in images:
        try:
            picture, place = letterbox(read_image(path), manifest.imgsz)
        except EdgesegError:
            continue
        boxed.append(np.ascontiguousarray(picture[..., ::-1]))
        geometry.append(place)
    if not boxed:
        raise EdgesegError("none of the images can be read", path=images[0] if images else None)

    def watch(name: str, image: int, exact: list[np.ndarray], rough: list[np.ndarray]) -> None:
        if detections:
            pair = (postprocess(side, manifest, geometry[image], conf=CONF) for side in (exact, rough))
            meters[name].add(*pair)

    found = []
    for loss in sensitivity(flow, decisions, parts, boxed, watch, progress):
        if detections:
            f = meters[loss.part.name].result()
            loss = replace(loss, extra={"harm": round(harm(f), 4) if f.reference else None, "fidelity": f.to_dict()})
        found.append(loss)
    return sorted(found, key=lambda loss: -loss.loss)


def draw(losses: Sequence[Loss], title: str, most: int = 40) -> np.ndarray:
    """A bar chart, the largest loss above: uint8 BGR. Bars are logarithmic, coloured by stage; at most ``most``."""
    shown = list(losses)[:most]
    row, left, width = 24, 330, 520
    picture = np.full((70 + row * len(shown), left + width + 110, 3), 255, np.uint8)
    _text(picture, title, (12, 26), 0.6)
    values = np.array([max(loss.loss, 1e-7) for loss in shown])
    low, high = np.log10(values.min()) - 0.3, np.log10(values.max())
    for i, (loss, value) in enumerate(zip(shown, values)):
        y = 48 + row * i
        length = int(width * (np.log10(value) - low) / max(high - low, 1e-9))
        cv2.rectangle(picture, (left, y), (left + length, y + row - 6), COLOURS.get(loss.part.stage, GREY), cv2.FILLED)
        _text(picture, loss.part.name[-38:], (12, y + 14), 0.42)
        _text(picture, f"{100 * loss.loss:.3g} %", (left + length + 6, y + 14), 0.42)
    _text(picture, "noise over signal power at the outputs, mean of the roles (logarithmic)", (12, len(picture) - 8), 0.4)
    return picture


def _text(picture: np.ndarray, text: str, where: tuple[int, int], size: float) -> None:
    cv2.putText(picture, text, where, cv2.FONT_HERSHEY_SIMPLEX, size, (30, 30, 30), 1, cv2.LINE_AA)
