"""The gate: is a quantized artifact still the network that it was made from?

Judged on images that did not calibrate it, against the float network, by detections (where there is enough to detect) and
by tensors: a branch that is broken at one stride may still cost the detections of these images little. When it is not, the
role that broke is found by exchange: the float network's tensors with those of one role taken from the artifact, through the
same postprocess.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from edgeseg.data.images import read_image
from edgeseg.errors import EdgesegError
from edgeseg.evaluate.fidelity import Fidelity, FidelityMeter
from edgeseg.evaluate.parity import CONF
from edgeseg.evaluate.tensors import Beside, TensorMeter
from edgeseg.manifest import Manifest
from edgeseg.quantize.floors import Floors
from edgeseg.running.open import Opened
from edgeseg.running.pipeline import Pipeline
from edgeseg.vision.detections import Detections
from edgeseg.vision.postprocess import postprocess
from edgeseg.vision.preprocess import Letterbox

LEAST_IMAGES = 8
BUDGET_S = 180.0
#: Slower than float by more than this share is said.
SLOWER = 1.05
#: A tensor with more different values than this is no lattice of 8-bit steps.
LEVELS = 256
BEFORE = "everything before the branches (backbone or neck)"
Progress = Callable[[int, int], object]


@dataclass(frozen=True)
class GateVerdict:
    """What the gate found, all plain values.

    Attributes:
        reasons: which floors were missed, in words; empty: passed.
        culprits: the roles that broke (``box score coeff proto``), or ``BEFORE``; empty when passed.
        worst: name and SNR (dB) of the culprits' worst tensor, in words.
        fidelity: as ``Fidelity.to_dict``.
        snr: dB by role, of what is ``relevant``; empty where the head layouts differ.
        resolution: step between neighbouring scores at the threshold, as a probability; None for float scores.
        by: ``detections``, or ``tensors`` where the float network found too little.
        images: number of images looked at.
        where: which images, in words.
        speed_ms: median milliseconds of inference by title: the artifact's, then those of float models, the fastest first.
        ratio: median of its time over that of the fastest float model, image by image.
    """

    reasons: tuple[str, ...] = ()
    culprits: tuple[str, ...] = ()
    worst: str = ""
    fidelity: Mapping[str, Any] = field(default_factory=dict)
    snr: Mapping[str, float | None] = field(default_factory=dict)
    resolution: float | None = None
    by: str = "detections"
    images: int = 0
    where: str = ""
    speed_ms: Mapping[str, float] = field(default_factory=dict)
    ratio: float | None = None

    @property
    def passed(self) -> bool:
        """Whether every floor was reached."""
        return not self.reasons

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with ``passed``."""
        return {"passed": self.passed, **asdict(self)}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> GateVerdict:
        """Read what ``to_dict`` wrote.

        Raises:
            TypeError, KeyError: it was written by another version.
        """
        values = {k: v for k, v in raw.items() if k != "passed"}
        return cls(**{**values, "reasons": tuple(values["reasons"]), "culprits": tuple(values["culprits"])})

    def summary(self) -> str:
        """One line of figures for people."""
        f = self.fidelity
        if self.by == "tensors":
            figures = ", ".join(f"{role} {_number(db, 'g')} dB" for role, db in self.snr.items())
            return f"gate: too few detections to compare ({f['reference']}), SNR of tensors {figures}, {self.where}"
        low, high = f.get("agreement_range") or (None, None)
        parts = [f"agreement {_number(f['agreement'], '.1%')}" + (f" ({low:.1%} to {high:.1%})" if low is not None else "")]
        parts.append(f"{f['missing']} missing and {f['extra']} extra of {f['reference']} detections")
        parts += [f"mask IoU {f['mask_iou']:.3f}"] if f["mask_iou"] is not None else []
        parts.append(f"score shift {_number(f['score_shift'], '+.3f')}")
        if self.resolution is not None:
            parts.append(f"scores in steps of {self.resolution:.3f}")
        return f"gate: {', '.join(parts)}, {self.where}"

    def speed(self) -> str:
        """One line about speed, empty when there is nothing to compare with."""
        if self.ratio is None or len(self.speed_ms) < 2:
            return ""
        (own, ms), (other, other_ms) = list(self.speed_ms.items())[:2]
        if self.ratio <= SLOWER:
            return f"{own} takes {ms:.1f} ms an image here, {other} {other_ms:.1f} ms"
        return f"INT8 is slower than float on this machine: {own} {ms:.1f} ms; faster: {other} ({other_ms:.1f} ms)"

    def blame(self) -> str:
        """What broke, in words, empty when passed."""
        if self.passed:
            return ""
        roles = [f"the {c} branch" if c != BEFORE else c for c in self.culprits]
        who = f"It is {' and '.join(roles)}" if roles else "No single role can be blamed"
        return f"{'; '.join(self.reasons)}. {who}" + (f" ({self.worst})" if self.worst else "")


def judge(
    reference: Opened,
    artifact: Opened,
    images: Sequence[Path],
    floors: Floors,
    *,
    others: Sequence[Opened] = (),
    where: str = "",
    progress: Progress = lambda done, total: None,
    budget_s: float = BUDGET_S,
) -> GateVerdict:
    """Compare an artifact with its float network, and time it.

    Args:
        reference: the float network.
        artifact: the artifact.
        images: held-out images.
        floors: what it must reach.
        others: float models that are only timed, beside the reference.
        where: which images these are, in words.
        progress: called with (done, total) after each image.
        budget_s: seconds after which no further image is begun, once there are ``LEAST_IMAGES``.

    Raises:
        EdgesegError: no image can be read, or a model fails.
    """
    pair, timed = _Pair(reference, artifact), [Pipeline(s.runtime, s.manifest, conf=CONF) for s in others]
    seen = _Seen(pair)
    start = monotonic()
    for path in images:
        if len(seen.used) >= LEAST_IMAGES and monotonic() - start > budget_s:
            break
        try:
            image = read_image(path)
        except EdgesegError:
            continue
        shot = pair.shoot(image)
        seen.add(path, shot, [_timed(p, image) for p in timed])
        progress(len(seen.used), len(images))
    if not seen.used:
        raise EdgesegError("none of the held-out images can be read", path=images[0] if images else None)
    verdict = seen.figures([artifact.title, *(s.title for s in others), reference.title], floors, where)
    return _judged(verdict, pair, seen, floors)


@dataclass
class _Seen:
    """What was seen on the images so far."""

    pair: _Pair
    used: list[Path] = field(default_factory=list)
    rows: list[list[float]] = field(default_factory=list)  # milliseconds: the artifact, others, the reference
    step: float | None = None

    def __post_init__(self) -> None:
        self.meter, self.tensors = FidelityMeter(CONF), TensorMeter(self.pair.beside.parts)

    def add(self, path: Path, shot: _Shot, others: Sequence[float]) -> None:
        """One image: what both made of it, and what other float models took for it."""
        self.rows.append([shot.milliseconds[1], *others, shot.milliseconds[0]])
        self.meter.add(shot.expected, shot.found)
        if self.pair.beside.comparable:
            self.tensors.add(*self.pair.beside.judged(shot.theirs, shot.ours))
        if self.step is None:
            self.step = resolution(self.pair.artifact.manifest, shot.outputs)
        self.used.append(path)

    def snr(self) -> dict[str, float]:
        """dB by role."""
        return {role: c.snr_db for role, c in self.tensors.by_role().items()}

    def figures(self, titles: Sequence[str], floors: Floors, where: str) -> GateVerdict:
        """A verdict that holds the figures, and no reasons yet."""
        fidelity = self.meter.result()
        times = np.array(self.rows[1:] if len(self.rows) > 4 else self.rows)  # the first image pays for warming up
        medians = np.median(times, axis=0)
        order = [0, *(1 + np.argsort(medians[1:], kind="stable"))]
        return GateVerdict(
            fidelity=fidelity.to_dict(),
            snr={role: _finite(db) for role, db in self.snr().items()},
            resolution=self.step,
            by="tensors" if fidelity.reference < floors.detections and self.pair.beside.comparable else "detections",
            images=len(self.used),
            where=where,
            speed_ms={titles[i]: round(float(medians[i]), 3) for i in order},
            ratio=round(float(np.median(times[:, 0] / np.maximum(times[:, order[1]], 1e-6))), 3),
        )


def _judged(verdict: GateVerdict, pair: _Pair, seen: _Seen, floors: Floors) -> GateVerdict:
    """The verdict with the floors that were missed, and with who is to blame."""
    fidelity, snr = seen.meter.result(), seen.snr()
    missed = floors.missed(fidelity) if verdict.by == "detections" else floors.ghosts(fidelity)
    noisy = [role for role, db in snr.items() if db < floors.snr]
    reasons = (*missed, *(f"{role} tensors {snr[role]:.1f} dB (at least {floors.snr:g})" for role in noisy))
    if not reasons or not pair.beside.comparable:
        return replace(verdict, reasons=reasons)
    guilty = _exchange(pair, seen.used, floors) if missed and verdict.by == "detections" else []
    # In the order of the roles; where neither knows one, the noisiest.
    culprits = [role for role in snr if role in guilty or role in noisy] or sorted(snr, key=lambda r: snr[r])[:1]
    by_output = {name: c.snr_db for name, c in seen.tensors.by_output().items()}
    role_of = {o.name: o.role for o in pair.beside.parts}
    worst = min((n for n in by_output if role_of[n] in culprits), key=lambda n: by_output[n], default="")
    words = f"worst tensor {worst}, {by_output[worst]:.1f} dB" if worst else ""
    if pair.reference.manifest.head == "raw" and len(culprits) >= max(2, len(snr) - 1):
        culprits = [BEFORE]  # what breaks three branches of four, or both of two, is something that they share
    return replace(verdict, reasons=reasons, culprits=tuple(culprits), worst=words)


def resolution(manifest: Manifest, outputs: Sequence[np.ndarray]) -> float | None:
    """The coarsest step between neighbouring scores at the threshold, as a probability (0..1); None for float scores.

    For logits it is their step times the slope of the sigmoid there. Where a file gives its quantized scores as floats, the
    step is the smallest difference between its values.
    """
    steps = []
    for spec, array in zip(manifest.outputs, outputs, strict=True):
        if spec.role not in ("score", "prediction"):
            continue
        slope = CONF * (1 - CONF) if spec.role == "score" else 1.0
        if spec.scale is not None:
            steps.append(spec.scale * slope)
        elif spec.role == "score":
            values = np.unique(array)
            if 1 < len(values) <= LEVELS < array.size // 2:
                steps.append(float(np.diff(values).min()) * slope)
    return max(steps) if steps else None


def _exchange(pair: _Pair, images: Sequence[Path], floors: Floors) -> list[str]:
    """The roles whose tensors alone, in the float network's place, miss a floor; else the one that harms more than all
    others together; else all of them."""
    roles = list(dict.fromkeys(o.role for o in pair.beside.parts))
    meters = {role: FidelityMeter(CONF) for role in roles}
    for path in images:
        shot = pair.shoot(read_image(path))
        for role in roles:
            meters[role].add(shot.expected, pair.mixed(shot, role))
    results = {role: meter.result() for role, meter in meters.items()}
    guilty = [role for role in roles if floors.missed(results[role])]
    harms = {role: harm(result) for role, result in results.items()}
    worst = max(roles, key=lambda role: harms[role])
    return guilty or ([worst] if 2 * harms[worst] > sum(harms.values()) else roles)


def harm(f: Fidelity) -> float:
    """How far detections are from the reference's, as one number, 0 for equal ones."""
    lost = [1 - f.agreement, 1 - f.box_iou, 1 - f.mask_iou, abs(f.score_shift)]
    return float(sum(0.0 if math.isnan(v) else v for v in lost))


@dataclass(frozen=True)
class _Shot:
    """One image through both: detections, the artifact's own tensors, and both sides' parts (see ``Beside.parts``)."""

    expected: Detections
    found: Detections
    outputs: list[np.ndarray]
    theirs: list[np.ndarray]
    ours: list[np.ndarray]
    letterbox: Letterbox
    milliseconds: tuple[float, float]


class _Pair:
    """The float network and the artifact at the same input size, with tensors taken apart by role."""

    def __init__(self, reference: Opened, artifact: Opened) -> None:
        self.reference, self.artifact = reference, artifact
        size = artifact.manifest.imgsz
        self.first = Pipeline(reference.runtime, reference.manifest, conf=CONF, size=size)
        self.second = Pipeline(artifact.runtime, artifact.manifest, conf=CONF)
        self.beside = Beside(reference.manifest, artifact.manifest)

    def shoot(self, image: np.ndarray) -> _Shot:
        """Run both on a uint8 BGR image."""
        theirs, box = self.first.raw(image)
        expected = postprocess(theirs, self.reference.manifest, box, conf=CONF)
        first_ms = self.first.speed["inference"]
        outputs, own = self.second.raw(image)
        found = postprocess(outputs, self.artifact.manifest, own, conf=CONF)
        milliseconds = (first_ms, self.second.speed["inference"])
        if not self.beside.comparable:
            return _Shot(expected, found, outputs, [], [], box, milliseconds)
        first, second = self.beside.apart(*self.beside.plain(theirs, outputs))
        return _Shot(expected, found, outputs, first, second, box, milliseconds)

    def mixed(self, shot: _Shot, role: str) -> Detections:
        """Detections from the float network's tensors with those of one role taken from the artifact."""
        parts = [mine if o.role == role else theirs for o, theirs, mine in zip(self.beside.parts, shot.theirs, shot.ours)]
        if self.reference.manifest.head == "raw":
            outputs = parts
        else:  # what ``apart`` took apart
            rest = sum(o.role == "proto" for o in self.beside.parts)
            outputs = [np.concatenate(parts[: len(parts) - rest], 1), *parts[len(parts) - rest :]]
        manifest = replace(
            self.reference.manifest, outputs=tuple(replace(o, layout="nchw") for o in self.reference.manifest.outputs)
        )
        return postprocess(outputs, manifest, shot.letterbox, conf=CONF)


def _timed(pipeline: Pipeline, image: np.ndarray) -> float:
    pipeline.raw(image)
    return pipeline.speed["inference"]


def _finite(value: float) -> float | None:
    return round(value, 2) if math.isfinite(value) else None


def _number(value: float | None, spec: str) -> str:
    return "-" if value is None else format(value, spec)
