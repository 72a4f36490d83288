"""Cross-format validation: any number of models on the same images beside one reference, at three levels.

Tensors (SNR and cosine by role), detections (matched, box IoU, score shift) and masks (IoU), and average precision with
them. All models see each image in turn, so that their speed is measured under the same load, and a model that fails leaves
the rest alone.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from edgeseg.data.images import read_ahead
from edgeseg.errors import EdgesegError
from edgeseg.evaluate.fidelity import Fidelity, FidelityMeter, match
from edgeseg.evaluate.metrics import Metrics, MetricsMeter, Told
from edgeseg.evaluate.tensors import Beside, Closeness, TensorMeter
from edgeseg.evaluate.truth import Truth
from edgeseg.evaluate.validate import class_order
from edgeseg.quantize.floors import EXACT, floors_of
from edgeseg.running.open import Opened
from edgeseg.running.pipeline import Pipeline
from edgeseg.vision.detections import Detections
from edgeseg.vision.postprocess import postprocess
from edgeseg.vision.preprocess import Letterbox

AP_SETTINGS = {"conf": 0.001, "iou": 0.7, "max_det": 300, "multi_label": True}
CONF = 0.25
WORST = 20
"""Pictures of a model that are kept."""
ALIKE = 0.01
"""``Disagreement.badness`` up to which there is nothing to be seen."""


@dataclass(frozen=True)
class Disagreement:
    """An image on which a model and its reference differ; ``badness`` is missing + extra + the mean loss of box IoU.

    What both found is kept as run lengths; ``names`` are those of the classes: the reference's, unless the model has more.
    """

    badness: float
    image: Path
    reference: Told
    other: Told
    names: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """What was found of one model.

    ``tensors`` is empty where the head layouts differ. ``largest_score`` and ``largest_box`` are the largest differences
    over the matched pairs, in score (0..1) and in pixels of the input. ``ap_difference`` is AP minus the reference's and its
    95 % interval, for ``box`` and ``seg``. ``speed_ms`` holds the median milliseconds of each
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
    ap_difference: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    speed_ms: dict[str, float] = field(default_factory=dict)
    p95_ms: dict[str, float] = field(default_factory=dict)
    diverges: str = ""
    error: str = ""
    worst: tuple[Disagreement, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for ``--json``, without the pictures."""
        return {
            "path": str(self.path),
            **{k: getattr(self, k) for k in ("title", "format", "precision", "head", "size")},
            "tensors": {role: c.to_dict() for role, c in self.tensors.items()},
            "fidelity": None if self.fidelity is None else self.fidelity.to_dict(),
            **{k: None if math.isnan(v) else v for k in ("largest_score", "largest_box") for v in [getattr(self, k)]},
            "metrics": None if self.metrics is None else self.metrics.to_dict(),
            "ap_difference": {k: list(d) for k, d in self.ap_difference.items()},
            **{k: getattr(self, k) for k in ("speed_ms", "p95_ms", "diverges", "error")},
            "worst": [{"image": str(w.image), "badness": w.badness} for w in self.worst],
        }


def compare(
    reference: Opened,
    others: Sequence[Opened],
    images: Sequence[Path],
    truth: Truth | None = None,
    *,
    progress: Callable[[int, int], object] | None = None,
) -> list[Verdict]:
    """Run all models over some images, each beside the reference at its own input size.

    Args:
        reference: what the others are measured against; where it takes any size, it runs at that of each of the others.
        others: the models under test.
        images: what to look at.
        truth: what is in them, for average precision; None: there are no labels, and the verdicts have no ``metrics``.
        progress: called with (done, total) after each image.

    Returns:
        A verdict for the reference (compared with itself) at each size, then one for each of the others.

    Raises:
        EdgesegError: no image can be read, or the reference itself fails.
    """

    def tell(done: int) -> None:
        if progress:
            progress(done, len(images))

    seen = look(reference, others, read_ahead(images, len(images)), truth, tell)
    return concluded(reference, others, images, seen)


def look(
    reference: Opened,
    others: Sequence[Opened],
    images: Iterable[tuple[Path, np.ndarray | EdgesegError]],
    truth: Truth | None,
    progress: Callable[[int], object] | None = None,
) -> list[Seen]:
    """What ``compare`` measures on some of the images (those that can be read), in the order of its verdicts.

    Raises:
        EdgesegError: the reference itself fails.
    """
    firsts = {size: _Run(_at(reference, size), _at(reference, size), truth) for size in _sizes(reference, others)}
    runs = [_Run(s, firsts[_size(s, reference)].subject, truth) for s in others]
    for done, (path, image) in enumerate(images, 1):
        if isinstance(image, EdgesegError):
            continue  # `validate` tells of each; here only the comparison counts
        for first in firsts.values():
            got = first.outputs(image)
            if first.seen.error or got is None:
                raise EdgesegError(f"the reference fails: {first.seen.error}", path=reference.path)
            found = first.detect(*got)
            first.add(path, image, got, found, mine=got)
            for run in runs:
                if run.reference is first.subject:
                    run.add(path, image, got, found, mine=None)
        if progress:
            progress(done)
    return [run.seen for run in (*firsts.values(), *runs)]


def concluded(reference: Opened, others: Sequence[Opened], images: Sequence[Path], seen: Sequence[Seen]) -> list[Verdict]:
    """The verdicts of what was seen on all images.

    Raises:
        EdgesegError: no image could be read.
    """
    sizes = _sizes(reference, others)
    if not any(s.speed["inference"] for s in seen[: len(sizes)]):
        raise EdgesegError(f"none of the {len(images)} images can be read", path=images[0] if images else None)
    first = {size: s.verdict(_at(reference, size)) for size, s in zip(sizes, seen)}
    rest = zip(others, seen[len(sizes) :])
    return [*first.values(), *(_beside(s.verdict(o), first[_size(o, reference)]) for o, s in rest)]


def _sizes(reference: Opened, others: Sequence[Opened]) -> list[tuple[int, int]]:
    """The input sizes at which the reference runs."""
    height, width = reference.manifest.imgsz
    return list(dict.fromkeys(_size(s, reference) for s in others)) or [(height, width)]


def _beside(v: Verdict, reference: Verdict) -> Verdict:
    """With the differences of AP to the reference's, where both were measured on the same images."""
    if v.metrics is None or reference.metrics is None or v.metrics.images != reference.metrics.images:
        return v
    found = {kind: getattr(v.metrics, kind).less(getattr(reference.metrics, kind)) for kind in ("box", "seg")}
    return replace(v, ap_difference={kind: d for kind, d in found.items() if d is not None})


def _size(subject: Opened, reference: Opened) -> tuple[int, int]:
    """The input size at which a model and the reference meet: that of the one of the two that cannot choose."""
    free = subject.manifest.dynamic or not reference.manifest.dynamic
    height, width = (reference if free else subject).manifest.imgsz
    return height, width


def _at(subject: Opened, size: tuple[int, int]) -> Opened:
    if tuple(subject.manifest.imgsz) == size or not subject.manifest.dynamic:
        return subject
    return replace(subject, manifest=replace(subject.manifest, imgsz=size))


@dataclass
class Seen:
    """What was measured of one model on some images; ``join`` takes over what was on those that follow.

    ``comparable``: its tensors mean what the reference's mean. ``judged`` is what of them is judged, as the gate does;
    ``tensors`` is what is shown. ``scores`` and ``boxes`` are differences over the pairs; the first error ends it.
    """

    metrics: MetricsMeter | None
    fidelity: FidelityMeter
    tensors: TensorMeter
    judged: TensorMeter
    comparable: bool
    speed: dict[str, list[float]] = field(
        default_factory=lambda: {s: [] for s in ("preprocess", "inference", "postprocess")}
    )
    scores: list[float] = field(default_factory=lambda: [0.0])
    boxes: list[float] = field(default_factory=lambda: [0.0])
    worst: list[tuple[float, int, Disagreement]] = field(default_factory=list)
    error: str = ""

    def join(self, later: Seen) -> None:
        """Add what was seen of the same model on the images that follow."""
        if self.error:
            return
        before = len(self.speed["inference"])
        if self.metrics is not None and later.metrics is not None:
            self.metrics.join(later.metrics)
        self.fidelity.join(later.fidelity)
        self.tensors.join(later.tensors)
        self.judged.join(later.judged)
        for stage, times in later.speed.items():
            self.speed[stage] += times
        self.scores += later.scores
        self.boxes += later.boxes
        self.worst = heapq.nlargest(
            WORST, [*self.worst, *((b, n - before, d) for b, n, d in later.worst)], key=lambda t: t[:2]
        )
        self.comparable, self.error = self.comparable and later.comparable, later.error

    def verdict(self, s: Opened) -> Verdict:
        """The figures over all images, of a model."""
        m = s.manifest
        about = (s.path, s.title, m.format, m.precision, m.head, s.size)
        if self.error:
            return Verdict(*about, error=self.error, diverges="runtime")
        tensors = self.tensors.by_role() if self.comparable else {}
        fidelity = self.fidelity.result()
        judged = self.judged.by_role() if m.precision not in EXACT else tensors
        times = {k: v[1:] or v for k, v in self.speed.items() if v}
        return Verdict(
            *about,
            tensors=tensors,
            fidelity=fidelity,
            largest_score=max(self.scores),
            largest_box=max(self.boxes),
            metrics=self.metrics.result(intervals=True) if self.metrics is not None else None,
            speed_ms={k: float(np.median(v)) for k, v in times.items()},
            p95_ms={k: float(np.percentile(v, 95)) for k, v in times.items()},
            diverges=first_divergence(m.precision, judged, fidelity),
            worst=tuple(w for _, _, w in sorted(self.worst, key=lambda t: (-t[0], -t[1]))),
        )


class _Run:
    """One model on its way through the images; the first error ends it."""

    def __init__(self, subject: Opened, reference: Opened, truth: Truth | None) -> None:
        size = None if not subject.manifest.dynamic else reference.manifest.imgsz
        self.beside = Beside(reference.manifest, subject.manifest)
        meters = TensorMeter(reference.manifest.outputs), TensorMeter(self.beside.parts)
        own, theirs = subject.manifest.names, reference.manifest.names
        comparable = self.beside.comparable and class_order(own, theirs)[0] is None
        metrics = MetricsMeter(truth, masks=subject.manifest.task != "detect") if truth else None
        self.seen = Seen(metrics, FidelityMeter(CONF), *meters, comparable)
        self.subject, self.reference, self.names = subject, reference, theirs if truth is None else truth.names
        self.order: np.ndarray | None = None
        try:
            if truth is not None or len(own) == len(theirs):  # without labels a model may know more than its reference
                self.order, _ = class_order(own, self.names)
            self.pipeline = Pipeline(subject.runtime, subject.manifest, conf=CONF, size=size)
            if not reference.manifest.dynamic and tuple(self.pipeline.size) != tuple(reference.manifest.imgsz):
                mine, other = ("x".join(map(str, s)) for s in (self.pipeline.size, reference.manifest.imgsz))
                raise EdgesegError(f"it takes {mine} pixels, the reference {other}: give the checkpoint as reference")
        except EdgesegError as e:
            self.seen.error = str(e)

    def outputs(self, image: np.ndarray) -> tuple[list[np.ndarray], Letterbox] | None:
        """Output tensors of one image, in the manifest's order; None once the model has failed."""
        if self.seen.error:
            return None
        try:
            outputs, letterbox = self.pipeline.raw(image)
        except EdgesegError as e:
            self.seen.error = str(e)
            return None
        except Exception as e:
            self.seen.error = f"{type(e).__name__}: {e}"
            return None
        inside = getattr(self.subject.runtime, "seconds", 0.0)  # a runtime in its own process: without the pipes
        self.seen.speed["preprocess"].append(self.pipeline.speed["preprocess"])
        self.seen.speed["inference"].append(1e3 * inside if inside else self.pipeline.speed["inference"])
        return outputs, letterbox

    def detect(self, outputs: list[np.ndarray], letterbox: Letterbox, **settings: Any) -> Detections:
        """Detections at the operating threshold, or with other settings; classes are the truth's, else the reference's."""
        found = postprocess(outputs, self.subject.manifest, letterbox, **{"conf": CONF, "iou": 0.7, **settings})
        if self.order is None:
            return found
        return Detections(found.boxes, found.scores, self.order[found.classes], found.tiles, self.names, found.shape)

    def add(
        self,
        path: Path,
        image: np.ndarray,
        first: tuple[list[np.ndarray], Letterbox],
        found: Detections,
        mine: tuple[list[np.ndarray], Letterbox] | None,
    ) -> None:
        """One image: ``first`` and ``found`` are the reference's outputs and detections, ``mine`` this model's if known."""
        got, seen = mine or self.outputs(image), self.seen
        if got is None:
            return
        outputs, letterbox = got
        if seen.comparable:
            theirs, ours = self.beside.plain(first[0], outputs)
            try:
                seen.tensors.add(theirs, ours)
                if self.subject.manifest.precision not in EXACT:
                    seen.judged.add(*self.beside.judged(*self.beside.apart(theirs, ours)))
            except EdgesegError:
                seen.comparable = False  # another input size: detections are compared all the same
        start = perf_counter()
        mine_found = self.detect(outputs, letterbox)
        seen.speed["postprocess"].append(1e3 * (perf_counter() - start))
        seen.fidelity.add(found, mine_found)
        if seen.metrics is not None:
            seen.metrics.add(path, self.detect(outputs, letterbox, **AP_SETTINGS))
        self._disagreement(path, found, mine_found, letterbox.ratio)

    def _disagreement(self, path: Path, reference: Detections, other: Detections, ratio: float) -> None:
        pairs = match(reference, other)
        for i, j, _ in pairs:
            self.seen.scores.append(abs(float(reference.scores[i]) - float(other.scores[j])))
            self.seen.boxes.append(float(np.abs(reference.boxes[i] - other.boxes[j]).max()) * ratio)
        unmatched = len(reference) + len(other) - 2 * len(pairs)
        badness = unmatched + float(np.mean([1 - p[2] for p in pairs])) if pairs else float(unmatched)
        order, worst = (badness, -len(self.seen.speed["inference"])), self.seen.worst
        full = len(worst) >= WORST
        if badness > ALIKE and not (full and order < worst[0][:2]):
            names = max(reference.names, other.names, key=len)
            kept = Disagreement(badness, path, Told.of(reference), Told.of(other), names)
            (heapq.heapreplace if full else heapq.heappush)(worst, (*order, kept))


def first_divergence(precision: str, tensors: dict[str, Closeness], fidelity: Fidelity) -> str:
    """The first stage at which a model parts from its reference: tensors of a role, detections, scores or masks; or nothing.

    Args:
        precision: of the model; it has the floors (see ``edgeseg.quantize.floors``).
        tensors: by role; of a quantized model, what of them is ``relevant``, as the gate compares them.
        fidelity: of its detections.
    """
    floors = floors_of(precision)
    noisy = [f"{role} tensors ({c.snr_db:.1f} dB)" for role, c in tensors.items() if c.snr_db < floors.snr]
    few = precision not in EXACT and tensors and fidelity.reference < floors.detections
    seen = floors.ghosts(fidelity) if few else floors.missed(fidelity)
    # The noise of half floats is the price of their precision, and only named when what is seen through it suffers.
    if noisy and (seen or precision != "fp16"):
        return noisy[0]
    return seen[0] if seen else ""
