"""Cross-format validation: any number of models on the same images beside one reference, at three levels.

Tensors (SNR and cosine by role), detections (matched, box IoU, score shift) and masks (IoU), and average precision with
them. All models see each image in turn, so that their speed is measured under the same load, and a model that fails leaves
the rest alone.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from edgeseg.artifact import Runtime
from edgeseg.data.dataset import Dataset
from edgeseg.data.images import read_image
from edgeseg.errors import EdgesegError
from edgeseg.evaluate.fidelity import Fidelity, FidelityMeter, match
from edgeseg.evaluate.metrics import Metrics, MetricsMeter
from edgeseg.evaluate.tensors import Closeness, TensorMeter, plain, same_order
from edgeseg.evaluate.truth import Truth, load_truth
from edgeseg.manifest import Manifest
from edgeseg.pipeline import Pipeline
from edgeseg.vision.detections import Detections
from edgeseg.vision.letterbox import Letterbox
from edgeseg.vision.postprocess import postprocess

AP_SETTINGS = {"conf": 0.001, "iou": 0.7, "max_det": 300, "multi_label": True}
CONF = 0.25
WORST = 3
#: Below these a model parts from its reference: SNR of the tensors in dB, share of detections matched, mean mask IoU,
#: largest mean score shift. Rounding of the precision itself stays above them; a fault of a converter does not.
FLOORS = {
    "fp32": (55.0, 0.999, 0.999, 1e-3),
    "fp16": (38.0, 0.99, 0.99, 5e-3),
    "int8": (8.0, 0.95, 0.955, 2e-2),
}


@dataclass(frozen=True)
class Subject:
    """A model under test, opened: what to call it, its size in bytes, what runs it and what its tensors mean."""

    path: Path
    title: str
    size: int
    runtime: Runtime
    manifest: Manifest


@dataclass(frozen=True)
class Disagreement:
    """An image on which a model and its reference differ; ``badness`` is missing + extra + the mean loss of box IoU."""

    badness: float
    image: Path
    reference: Detections
    other: Detections


@dataclass(frozen=True)
class Verdict:
    """What was found of one model.

    ``tensors`` is empty where the head layouts differ. ``largest_score`` and ``largest_box`` are the largest differences
    over the matched pairs, in score (0..1) and in pixels of the input. ``speed_ms`` holds the median milliseconds of each
    stage, ``p95_ms`` what 95 % of the images stay below, both without the first image, which pays for warming up.
    ``diverges`` names the first stage at which the model parts from the reference, empty when it does not. ``error`` says
    why there is nothing.
    """

    path: Path
    title: str
    format: str
    precision: str
    head: str
    size: int
    tensors: dict[str, Closeness] = field(default_factory=dict)
    fidelity: Fidelity | None = None
    largest_score: float = math.nan
    largest_box: float = math.nan
    metrics: Metrics | None = None
    speed_ms: dict[str, float] = field(default_factory=dict)
    p95_ms: dict[str, float] = field(default_factory=dict)
    diverges: str = ""
    error: str = ""
    worst: tuple[Disagreement, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for ``--json``, without the pictures."""
        return {
            "path": str(self.path),
            "title": self.title,
            "format": self.format,
            "precision": self.precision,
            "head": self.head,
            "size": self.size,
            "tensors": {role: c.to_dict() for role, c in self.tensors.items()},
            "fidelity": None if self.fidelity is None else self.fidelity.to_dict(),
            "largest_score": None if math.isnan(self.largest_score) else self.largest_score,
            "largest_box": None if math.isnan(self.largest_box) else self.largest_box,
            "metrics": None if self.metrics is None else self.metrics.to_dict(),
            "speed_ms": self.speed_ms,
            "p95_ms": self.p95_ms,
            "diverges": self.diverges,
            "error": self.error,
            "worst": [{"image": str(w.image), "badness": w.badness} for w in self.worst],
        }


def compare(
    reference: Subject,
    others: Sequence[Subject],
    dataset: Dataset,
    split: str = "val",
    *,
    limit: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> list[Verdict]:
    """Run all models over a split.

    Args:
        reference: what the others are measured against.
        others: the models under test.
        dataset: images and truth.
        split: ``train``, ``val`` or ``test``.
        limit: only the first so many images.
        progress: called with (done, total) after each image.

    Returns:
        One verdict for the reference (compared with itself), then one for each of the others.

    Raises:
        EdgesegError: no image can be read, or the reference itself fails.
    """
    images = dataset.images(split)[:limit]
    truth = load_truth(dataset, split, images)
    runs = [_Run(s, reference, truth) for s in (reference, *others)]
    read = 0
    for done, path in enumerate(images, 1):
        try:
            image = read_image(path)
        except EdgesegError:
            continue  # `validate` tells of each; here only the comparison counts
        read += 1
        first = runs[0].outputs(image)
        if runs[0].error or first is None:
            raise EdgesegError(f"the reference fails: {runs[0].error}", path=reference.path)
        found = runs[0].detect(*first)
        for run in runs:
            run.add(path, image, first, found, mine=first if run is runs[0] else None)
        if progress:
            progress(done, len(images))
    if not read:
        raise EdgesegError(f"none of the {len(images)} images can be read", path=dataset.yaml, hint="Check the images")
    return [run.verdict() for run in runs]


class _Run:
    """One model on its way through the images; the first error ends it."""

    def __init__(self, subject: Subject, reference: Subject, truth: Truth) -> None:
        self.subject, self.error = subject, ""
        size = None if not subject.manifest.dynamic else reference.manifest.imgsz
        self.metrics, self.fidelity = MetricsMeter(truth), FidelityMeter(CONF)
        self.tensors = TensorMeter(reference.manifest.outputs)
        self.comparable = subject.manifest.head == reference.manifest.head and reference.manifest.nc == subject.manifest.nc
        self.speed: dict[str, list[float]] = {"preprocess": [], "inference": [], "postprocess": []}
        self.scores, self.boxes = [0.0], [0.0]
        self.worst: list[tuple[float, int, Disagreement]] = []
        self.reference = reference
        try:
            self.pipeline = Pipeline(subject.runtime, subject.manifest, conf=CONF, size=size)
        except EdgesegError as e:
            self.error = str(e)

    def outputs(self, image: np.ndarray) -> tuple[list[np.ndarray], Letterbox] | None:
        """Output tensors of one image, in the manifest's order; None once the model has failed."""
        if self.error:
            return None
        try:
            outputs, letterbox = self.pipeline.raw(image)
        except EdgesegError as e:
            self.error = str(e)
            return None
        except Exception as e:
            self.error = f"{type(e).__name__}: {e}"
            return None
        inside = getattr(self.subject.runtime, "seconds", 0.0)  # a runtime in its own process: without the pipes
        self.speed["preprocess"].append(self.pipeline.speed["preprocess"])
        self.speed["inference"].append(1e3 * inside if inside else self.pipeline.speed["inference"])
        return outputs, letterbox

    def detect(self, outputs: list[np.ndarray], letterbox: Letterbox, **settings: Any) -> Detections:
        """Detections at the operating threshold, or with other settings."""
        return postprocess(outputs, self.subject.manifest, letterbox, **{"conf": CONF, "iou": 0.7, **settings})

    def add(
        self,
        path: Path,
        image: np.ndarray,
        first: tuple[list[np.ndarray], Letterbox],
        found: Detections,
        mine: tuple[list[np.ndarray], Letterbox] | None,
    ) -> None:
        """One image: ``first`` and ``found`` are the reference's outputs and detections, ``mine`` this model's if known."""
        got = mine or self.outputs(image)
        if got is None:
            return
        outputs, letterbox = got
        if self.comparable:
            ours = plain(self.subject.manifest, outputs)
            theirs = plain(self.reference.manifest, first[0])
            order = same_order(self.reference.manifest.outputs, self.subject.manifest.outputs)
            try:
                self.tensors.add(theirs, [ours[i] for i in order])
            except EdgesegError:
                self.comparable = False  # another input size: detections are compared all the same
        start = perf_counter()
        mine_found = self.detect(outputs, letterbox)
        self.speed["postprocess"].append(1e3 * (perf_counter() - start))
        self.fidelity.add(found, mine_found)
        self.metrics.add(path, self.detect(outputs, letterbox, **AP_SETTINGS))
        self._disagreement(path, found, mine_found, letterbox.ratio)

    def _disagreement(self, path: Path, reference: Detections, other: Detections, ratio: float) -> None:
        pairs = match(reference, other)
        for i, j, _ in pairs:
            self.scores.append(abs(float(reference.scores[i]) - float(other.scores[j])))
            self.boxes.append(float(np.abs(reference.boxes[i] - other.boxes[j]).max()) * ratio)
        unmatched = len(reference) + len(other) - 2 * len(pairs)
        badness = unmatched + float(np.mean([1 - p[2] for p in pairs])) if pairs else float(unmatched)
        item = (badness, -len(self.speed["inference"]), Disagreement(badness, path, reference, other))
        (heapq.heappush if len(self.worst) < WORST else heapq.heappushpop)(self.worst, item)

    def verdict(self) -> Verdict:
        """The figures over all images."""
        s, m = self.subject, self.subject.manifest
        about = (s.path, s.title, m.format, m.precision, m.head, s.size)
        if self.error:
            return Verdict(*about, error=self.error, diverges="runtime")
        tensors = self.tensors.by_role() if self.comparable else {}
        fidelity = self.fidelity.result()
        times = {k: v[1:] or v for k, v in self.speed.items() if v}
        return Verdict(
            *about,
            tensors=tensors,
            fidelity=fidelity,
            largest_score=max(self.scores),
            largest_box=max(self.boxes),
            metrics=self.metrics.result(),
            speed_ms={k: float(np.median(v)) for k, v in times.items()},
            p95_ms={k: float(np.percentile(v, 95)) for k, v in times.items()},
            diverges=first_divergence(m.precision, tensors, fidelity),
            worst=tuple(w for _, _, w in sorted(self.worst, key=lambda t: (-t[0], -t[1])) if w.badness > 0.01),
        )


def first_divergence(precision: str, tensors: dict[str, Closeness], fidelity: Fidelity) -> str:
    """The first stage at which a model parts from its reference: tensors of a role, detections, scores or masks; or nothing.

    Tensors alone do not convict a quantized model: their noise is the price of its precision, and only named when what is
    seen through it suffers.
    """
    snr, matched, mask, shift = FLOORS.get(precision, FLOORS["int8"])
    noisy = [f"{role} tensors ({c.snr_db:.1f} dB)" for role, c in tensors.items() if c.snr_db < snr]
    seen = []
    if fidelity.matched < matched:
        seen.append(f"detections ({fidelity.matched:.1%} matched)")
    if abs(fidelity.score_shift) > shift:
        seen.append(f"scores (mean shift {fidelity.score_shift:+.3f})")
    if fidelity.mask_iou < mask:
        seen.append(f"masks (mean IoU {fidelity.mask_iou:.3f})")
    if noisy and (seen or precision == "fp32"):
        return noisy[0]
    return seen[0] if seen else ""
