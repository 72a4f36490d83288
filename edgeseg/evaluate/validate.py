"""Run a model over a split and measure it: average precision, speed, images that could not be read."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

import numpy as np

from edgeseg.data.dataset import Dataset, load_dataset
from edgeseg.data.images import read_image
from edgeseg.data.inventory import Inventory
from edgeseg.errors import EdgesegError
from edgeseg.evaluate.curves import CurveMeter
from edgeseg.evaluate.figures import Figures
from edgeseg.evaluate.metrics import AveragePrecision, Metrics, MetricsMeter, Told
from edgeseg.evaluate.truth import Truth, load_truth
from edgeseg.running.open import unheard
from edgeseg.running.pipeline import Pipeline
from edgeseg.vision.detections import Detections

STAGES = ("preprocess", "inference", "postprocess")
TIMED = 16
"""Images at the beginning during which nothing else runs: their times count. Behind them work overlaps."""
Progress = Callable[[int, int], object]


class Predictor(Protocol):
    """What is measured: ``edgeseg.running.pipeline.Pipeline``, or anything that works like it."""

    @property
    def speed(self) -> Mapping[str, float]:
        """Milliseconds that the last image took, by stage."""

    def __call__(self, image: np.ndarray, /) -> Detections:
        """Detections in a uint8 BGR image, (height, width, 3)."""


@dataclass(frozen=True, eq=False)
class ValidationResult(Figures):
    """What ``validate`` measured.

    ``speed_ms`` holds the median milliseconds of each stage, ``skipped`` (path, reason) of images that could not be read,
    ``inventory`` counts what the truth holds, ``save_dir`` is the folder of what was written.
    """

    metrics: Metrics
    speed_ms: Mapping[str, float]
    images: int
    skipped: tuple[tuple[str, str], ...] = ()
    split: str = "val"
    dataset: str = ""
    truth: str = "labels"
    settings: Mapping[str, float] | None = None
    warnings: tuple[str, ...] = ()
    inventory: Inventory = field(default_factory=Inventory)
    save_dir: Path | None = None

    @property
    def box(self) -> AveragePrecision:
        """AP of the boxes."""
        return self.metrics.box

    @property
    def seg(self) -> AveragePrecision:
        """AP of the masks."""
        return self.metrics.seg

    @property
    def speed(self) -> Mapping[str, float]:
        """The same as ``speed_ms``."""
        return self.speed_ms

    @property
    def fitness(self) -> float:
        """The one number that training maximises, 0..2: see ``edgeseg.evaluate.metrics.fitness``."""
        return self.metrics.fitness

    def to_dict(self) -> dict[str, Any]:
        """Plain values: ``metrics.box.map``, ``metrics.seg.map``, ``speed_ms.inference`` and so on."""
        return {
            "metrics": self.metrics.to_dict(),
            "speed_ms": dict(self.speed_ms),
            "images": self.images,
            "instances": self.metrics.instances,
            "skipped": [{"path": p, "reason": r} for p, r in self.skipped],
            "split": self.split,
            "dataset": self.dataset,
            "truth": self.truth,
            "settings": dict(self.settings or {}),
            "warnings": list(self.warnings),
            "inventory": self.inventory.to_dict(),
        }

    def to_json(self, **extra: Any) -> str:
        """``to_dict`` and ``extra`` as JSON; NaN becomes null."""
        return json.dumps({**self.to_dict(), **extra}, indent=2, default=str)


def validate(
    pipeline: Predictor | Callable[..., Predictor],
    dataset: Dataset | str | os.PathLike[str],
    split: str = "val",
    *,
    conf: float = 0.001,
    iou: float = 0.7,
    max_det: int = 300,
    multi_label: bool = True,
    limit: int | None = None,
    images: Sequence[Path] | None = None,
    progress: Progress | None = None,
    seen: Callable[[Truth, Path, Told], object] | None = None,
) -> ValidationResult:
    """Measure a model on a split with the COCO protocol, one image at a time.

    Args:
        pipeline: a pipeline (made anew with the settings given here), something else that has ``speed`` (used as it is), or
            what makes one of them when called with ``conf``, ``iou``, ``max_det`` and ``multi_label``.
        dataset: the dataset, its YAML file or its name.
        split: ``train``, ``val`` or ``test``.
        conf: lowest score that counts, 0..1. AP needs nearly all of them.
        iou: overlap above which NMS drops the lower score, 0..1.
        max_det: most detections per image.
        multi_label: whether one box may stand for several classes.
        limit: only the first so many images.
        images: only these, in place of all images of the split.
        progress: called with (done, total) after each image.
        seen: called with the truth, each image and what was found in it, classes being the dataset's.

    Returns:
        Metrics, median speed and what was skipped.

    Raises:
        EdgesegError: a dataset that cannot be read, a model with other classes, or no image that can be read.
    """
    if not isinstance(dataset, Dataset):
        dataset = load_dataset(dataset)
    chosen = list(images if images is not None else dataset.images(split))[:limit]
    settings = {"conf": conf, "iou": iou, "max_det": max_det, "multi_label": multi_label}
    predict = _predictor(pipeline, settings)
    task = getattr(getattr(predict, "manifest", None), "task", "segment")
    truth = load_truth(dataset.for_task(task), split, chosen)
    names = getattr(getattr(predict, "manifest", None), "names", dataset.names)
    mapping, warnings = class_order(names, dataset.names, dataset.yaml)
    meter = MetricsMeter(truth, max_det, task != "detect")
    boxes, masks = CurveMeter(dataset.nc), CurveMeter(dataset.nc, masks=True)

    def add(path: Path, found: Detections | Told) -> None:
        there, told = meter.add(path, _renamed(found, mapping, dataset.names), whole=seen is not None)
        boxes.add(there, told)
        if told.runs is not None and all("segmentation" in a for a in there):
            masks.add(there, told)
        if seen is not None:
            seen(truth, path, told)

    # Others look at the images where there is ``over``.
    looked = predict.over(chosen) if hasattr(predict, "over") else _found(predict, chosen)
    skipped: list[tuple[str, str]] = []
    speed: dict[str, list[float]] = {s: [] for s in STAGES}
    for done, (path, found, times) in enumerate(looked, 1):
        if isinstance(found, EdgesegError):
            skipped.append((str(path), found.what))
        else:
            add(path, found)
            for stage in STAGES if times else ():
                speed[stage].append(float(times.get(stage, float("nan"))))
        if progress:
            progress(done, len(chosen))
    if len(skipped) == len(chosen):
        what = f"none of the {len(chosen)} images can be read" + (f" (the first: {skipped[0][1]})" if skipped else "")
        raise EdgesegError(what, path=dataset.yaml, hint="Check the images")
    m = meter.result()
    metrics = replace(m, box=m.box.with_curves(boxes.result()), seg=m.seg.with_curves(masks.result()))
    return ValidationResult(
        metrics,
        {s: float(np.median(t)) for s, t in speed.items()},
        len(chosen) - len(skipped),
        tuple(skipped),
        split,
        str(dataset.yaml),
        "labels" if truth.source is None else str(truth.source),
        settings,
        (*truth.warnings, *warnings, *meter.warnings()),
        truth.inventory,
    )


def _renamed(found: Detections | Told, mapping: np.ndarray | None, names: tuple[str, ...]) -> Detections | Told:
    """The same with the dataset's classes."""
    if mapping is None:
        return found
    classes = mapping[found.classes]
    if isinstance(found, Told):
        return replace(found, classes=classes)
    return Detections(found.boxes, found.scores, classes, found.tiles, names, found.shape)


def _found(
    predict: Predictor, images: Sequence[Path]
) -> Iterator[tuple[Path, Detections | EdgesegError, Mapping[str, float]]]:
    """Each image with what is found there, in order; the first ones alone, with times (``TIMED``), the others meanwhile.

    Those others are read and looked at in threads, by a crew of runtimes where there is one: some images are held at a time.
    """
    at, timed = 0, False
    while at < len(images) and (at < TIMED or not timed):
        found = _look(images[at], lambda image: predict(image))
        good = not isinstance(found, EdgesegError)
        yield images[at], found, predict.speed if good else {}
        at, timed = at + 1, timed or good
    if at == len(images):
        return
    crew, idle = _crew(predict), SimpleQueue[Predictor]()
    for one in crew:
        idle.put(one)

    def free(image: np.ndarray) -> Detections:
        one = idle.get()
        try:
            return one(image)
        finally:
            idle.put(one)

    with ThreadPoolExecutor(len(crew) + 1) as pool:  # one reads while the others look
        coming: deque[tuple[Path, Future[Detections | EdgesegError]]] = deque()
        for path in images[at:]:
            coming.append((path, pool.submit(_look, path, free)))
            if len(coming) > len(crew) + 1:
                first, found_there = coming.popleft()
                yield first, found_there.result(), {}
        for first, found_there in coming:
            yield first, found_there.result(), {}


def _look(path: Path, predict: Callable[[np.ndarray], Detections]) -> Detections | EdgesegError:
    try:
        image = read_image(path)
    except EdgesegError as e:
        return e
    return predict(image)


def _crew(predict: Predictor) -> list[Predictor]:
    """Those that look at images at once: more of the same where its runtime can, else it alone."""
    more = getattr(getattr(predict, "runtime", None), "crew", None)
    if more is None or not isinstance(predict, Pipeline):
        return [predict]
    how = {k: getattr(predict, k) for k in ("conf", "iou", "max_det", "multi_label", "classes")}
    with unheard():
        return [Pipeline(one, predict.manifest, **predict.kept, **how) for one in more()] or [predict]


def _predictor(pipeline: Any, settings: Mapping[str, Any]) -> Predictor:
    if isinstance(pipeline, Pipeline):
        return Pipeline(pipeline.runtime, pipeline.manifest, **pipeline.kept, **settings)
    if hasattr(pipeline, "speed") or hasattr(pipeline, "over"):
        return pipeline
    made: Predictor = pipeline(**settings)
    return made


def class_order(
    names: Sequence[str], wanted: Sequence[str], path: Path | None = None
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """How a model's class indices become those of a dataset (None when they are the same), and what to say of it.

    Raises:
        EdgesegError: another number of classes; ``path`` is the dataset's.
    """
    if tuple(names) == tuple(wanted):
        return None, ()
    if sorted(names) == sorted(wanted) and len(set(names)) == len(names):
        order = np.array([wanted.index(n) for n in names], np.int32)
        return order, ("the model has the dataset's classes in another order; they were matched by name",)
    if len(names) != len(wanted):
        what = f"the model has {len(names)} classes, the dataset has {len(wanted)}"
        raise EdgesegError(what, path=path, hint="Validate on the dataset that the model was trained for")
    other = next((a, b) for a, b in zip(names, wanted) if a != b)
    return None, (f"class names differ ({other[0]!r} is {other[1]!r} in the dataset); classes were matched by number",)
