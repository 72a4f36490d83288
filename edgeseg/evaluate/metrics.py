"""Average precision of boxes and masks by the COCO protocol, computed by faster-coco-eval.

Lin et al., "Microsoft COCO: Common Objects in Context", arXiv:1405.0312, and the COCO API's evaluation: AP is the mean over
classes and IoU thresholds 0.50, 0.55 ... 0.95 of the precision interpolated at 101 recall levels; at most 100 detections per
image and class count (more only where an image has more objects than that); crowd regions neither help nor harm.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeseg.errors import EdgesegError
from edgeseg.evaluate.confusion import Confusion, confusion
from edgeseg.evaluate.curves import Curves
from edgeseg.evaluate.figures import ClassFigures
from edgeseg.evaluate.truth import Truth
from edgeseg.vision.rle import to_text

if TYPE_CHECKING:
    from edgeseg.vision.detections import Detections

IOUS = tuple(0.5 + 0.05 * i for i in range(10))
"""The IoU thresholds of COCO."""
COCO_MAX_DET = 100
"""Detections of one class in one image that COCO's protocol counts."""


@dataclass(frozen=True, eq=False)
class AveragePrecision(ClassFigures):
    """AP in 0..1: ``map`` over IoU 0.50 to 0.95, ``map50`` and ``map75`` at one IoU; NaN where nothing could be measured.

    ``maps[i]`` is class i's own AP over IoU 0.50 to 0.95, NaN where the class does not occur; ``maps50[i]`` at IoU 0.50.
    ``mp`` and ``mr`` are precision and recall at IoU 0.50, means over the classes, where their F1 score is best.
    ``drawn`` holds ``map`` of as many images drawn anew, with replacement, draw by draw (empty: not asked for).
    ``curves`` (classes, 101) float32 is each class's precision at IoU 0.50 over recall 0, 0.01 ... 1; NaN as ``maps``.
    ``by_iou`` (classes, 10) is AP at each of ``IOUS``; ``by_score`` precision and recall by confidence, where asked for.
    """

    map: float
    map50: float
    map75: float
    maps: np.ndarray
    maps50: np.ndarray
    drawn: np.ndarray = field(default_factory=lambda: np.zeros(0))
    mp: float = np.nan
    mr: float = np.nan
    curves: np.ndarray = field(default_factory=lambda: np.zeros((0, 101), np.float32))
    by_iou: np.ndarray = field(default_factory=lambda: np.zeros((0, 10)))
    by_score: Curves | None = None

    def less(self, other: AveragePrecision) -> tuple[float, float, float] | None:
        """``map`` minus the other's, and its 95 % interval over the choice of images: both were drawn the same images.

        None where the two were not measured on the same images, or without draws.
        """
        if not len(self.drawn) or len(self.drawn) != len(other.drawn):
            return None
        spread, difference = 1.96 * float(np.std(self.drawn - other.drawn, ddof=1)), self.map - other.map
        return None if np.isnan(spread) else (difference, difference - spread, difference + spread)

    def with_curves(self, by_score: Curves) -> AveragePrecision:
        """The same with curves; ``mp`` and ``mr`` are then those at one confidence for all classes."""
        made = replace(self, by_score=by_score)
        known = len(made.ap_class_index) > 0
        return replace(made, mp=float(made.p.mean()), mr=float(made.r.mean())) if known else made

    def to_dict(self) -> dict[str, Any]:
        """Plain values, None in place of NaN."""
        return {
            **{k: _plain(getattr(self, k)) for k in ("map", "map50", "map75")},
            **{k: [_plain(v) for v in getattr(self, k)] for k in ("maps", "maps50")},
        }


def fitness(box: float, box50: float, seg: float, seg50: float) -> float:
    """One number to choose the best epoch by: a tenth AP at IoU 0.5, nine tenths AP, boxes and masks added; 0..2."""
    parts = (0.1 * box50 + 0.9 * box, 0.1 * seg50 + 0.9 * seg)
    return sum(0.0 if np.isnan(p) else p for p in parts)


@dataclass(frozen=True, eq=False)
class Metrics:
    """AP of boxes and of masks (``seg``) over ``images`` images with ``instances`` objects (crowds not counted).

    ``confusion`` counts what was taken for what, at an operating threshold.
    """

    box: AveragePrecision
    seg: AveragePrecision
    names: tuple[str, ...]
    images: int
    instances: int
    confusion: Confusion | None = None

    @property
    def fitness(self) -> float:
        """See ``fitness``."""
        return fitness(self.box.map, self.box.map50, self.seg.map, self.seg.map50)

    def to_dict(self) -> dict[str, Any]:
        """``box`` and ``seg`` as plain values, and ``classes``: name -> box and mask AP of those that occur."""
        box, seg = self.box.to_dict(), self.seg.to_dict()
        classes = {name: {"box": b, "seg": s} for name, b, s in zip(self.names, box["maps"], seg["maps"]) if b is not None}
        return {"box": box, "seg": seg, "classes": classes}


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


@dataclass(frozen=True, eq=False)
class Told:
    """What was found in one image, as far as it is measured: small, and the same wherever it was found.

    ``boxes`` (n, 4) float32 xyxy in pixels, ``scores`` (n,) falling, ``classes`` (n,) integers, ``shape`` (H, W); ``runs``
    are COCO's run lengths of the masks, None without any; those of a mask that no figure depends on are of an empty one.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    shape: tuple[int, int]
    runs: list[dict[str, Any]] | None

    @classmethod
    def of(cls, found: Detections, wanted: np.ndarray | None = None) -> Told:
        """Of detections; ``wanted`` (n,) bool: whose masks are built at all (None: all)."""
        runs = None
        if found.tiles is not None and wanted is not None:
            empty = to_text(np.array([found.shape[0] * found.shape[1]]))
            runs = [{"size": list(found.shape), "counts": empty}] * len(found)
            for i, run in zip(np.flatnonzero(wanted).tolist(), found[wanted].rle()):
                runs[i] = run
        elif found.tiles is not None:
            runs = found.rle()
        return cls(found.boxes, found.scores, found.classes, found.shape, runs)

    def __len__(self) -> int:
        return len(self.scores)


@dataclass
class MetricsMeter:
    """Collects detections image by image, as run lengths, and computes the metrics at the end. Masks are not kept.

    Only images that were added count: one that could not be read must not be added. ``max_det``: the most detections
    that the model may give for an image. ``masks``: whether the model gives any; without them ``seg`` is NaN.
    """

    truth: Truth
    max_det: int = 300
    masks: bool = True
    _images: list[dict[str, Any]] = field(default_factory=list)
    _truths: list[dict[str, Any]] = field(default_factory=list)
    _found: list[tuple[int, Told]] = field(default_factory=list)

    def add(self, image: Path, detections: Detections | Told, *, whole: bool = False) -> tuple[list[dict[str, Any]], Told]:
        """Add what was found in one image; ``detections.classes`` are indices into the truth's names. See ``measured``."""
        height, width = detections.shape
        key = len(self._images) + 1
        self._images.append({"id": key, "file_name": str(image), "height": height, "width": width})
        there, told = measured(self.truth, image, detections, whole=whole)
        for a in there:
            self._truths.append({**a, "id": len(self._truths) + 1, "image_id": key})
        self.masks &= told.runs is not None or not len(told)
        self._found.append((key, told))
        return there, told

    def _rows(self) -> Iterator[dict[str, Any]]:
        """What was found, as COCO results: made when they are needed, for they take ten times the memory."""
        for key, told in self._found:
            boxes = np.asarray(told.boxes, np.float64)
            boxes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
            masks: list[Any] = [None] * len(boxes) if told.runs is None else told.runs
            for box, score, cls, mask in zip(boxes.tolist(), told.scores.tolist(), told.classes.tolist(), masks):
                found: dict[str, Any] = {"image_id": key, "category_id": cls + 1, "bbox": box, "score": score}
                yield found if mask is None else {**found, "segmentation": mask}

    def join(self, later: MetricsMeter) -> None:
        """Take over what another meter with the same truth has seen of further images."""
        images, truths = len(self._images), len(self._truths)
        self._images += [{**i, "id": i["id"] + images} for i in later._images]
        self._truths += [{**t, "id": t["id"] + truths, "image_id": t["image_id"] + images} for t in later._truths]
        self._found += [(key + images, told) for key, told in later._found]
        self.masks &= later.masks

    def result(self, *, intervals: bool = False) -> Metrics:
        """The metrics over all images added; ``intervals``: with ``drawn``, for differences to another model's.

        Raises:
            EdgesegError: faster-coco-eval is not installed, or no image was added.
        """
        if not self._images:
            raise EdgesegError("there is no image to measure on", hint="Check the dataset's images")
        nc = len(self.truth.names)
        dataset = {
            "images": self._images,
            "annotations": self._truths,
            "categories": [{"id": i + 1, "name": n} for i, n in enumerate(self.truth.names)],
        }
        limit = max(COCO_MAX_DET, self.max_det) if self._most() > COCO_MAX_DET else COCO_MAX_DET
        box = _evaluate(dataset, self._rows(), "bbox", nc, limit, intervals)
        masks = self.masks and all("segmentation" in a for a in self._truths)
        seg = _evaluate(dataset, self._rows(), "segm", nc, limit, intervals) if masks else _nothing(nc)
        instances = sum(not a["iscrowd"] for a in self._truths)
        mixed = confusion(self._truths, self._rows(), self.truth.names)
        mixed = replace(mixed, mistakes={i["file_name"]: mixed.mistakes.get(i["id"], 0) for i in self._images})
        return Metrics(box, seg, self.truth.names, len(self._images), instances, mixed)

    def warnings(self) -> tuple[str, ...]:
        """What people must know of the figures, one sentence each."""
        most = self._most()
        if most <= COCO_MAX_DET:
            return ()
        said = f"an image has {most} objects of one class: AP counts {max(COCO_MAX_DET, self.max_det)} detections of a class"
        more = f"; give max_det={most} or more" if most > self.max_det else ""
        return (f"{said} in an image there, COCO's protocol {COCO_MAX_DET}{more}",)

    def _most(self) -> int:
        """The most objects of one class in one image."""
        pairs = Counter((a["image_id"], a["category_id"]) for a in self._truths if not a["iscrowd"])
        return max(pairs.values(), default=0)


def measured(
    truth: Truth, image: Path, found: Detections | Told, *, whole: bool = False
) -> tuple[list[dict[str, Any]], Told]:
    """What is there in one image, its segmentation as run lengths; and what was found, as far as it is measured.

    ``whole``: with all masks, not only those that can overlap an object of their class by the least IoU that counts, of
    which alone AP depends.
    """
    height, width = found.shape
    there = truth.of(image, (height, width))
    for a in there:
        if "segmentation" in a:
            a["segmentation"] = _library().mask.segmToRle(a["segmentation"], width, height)
    if isinstance(found, Told):
        return there, found
    return there, Told.of(found, None if whole else reaching(found, there))


def reaching(found: Detections, there: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """(n,) bool: the masks that can overlap an object of their class, or a crowd, enough to be matched with it.

    A mask lies in its window: IoU is at most what of the object's extent lies there, over the object's area. No other mask
    has an influence on any figure.

    Args:
        found: detections, whose masks are not built for this.
        there: COCO annotations with compressed run lengths; where one has none, masks are not measured.
    """
    if found.tiles is None or not there or not all("segmentation" in a for a in there):
        return np.zeros(len(found), bool)
    shapes = [a["segmentation"] for a in there]
    mask, crowds = _library().mask, np.array([a["iscrowd"] for a in there], bool)
    low, size = np.split(np.asarray(mask.toBbox(shapes), np.float64), 2, axis=1)
    windows = found.tiles.windows[:, None]
    shared = np.clip(np.minimum(windows[..., 2:], low + size) - np.maximum(windows[..., :2], low), 0, None).prod(-1)
    enough = (shared > 0) & (shared >= np.where(crowds, 0, IOUS[0] * np.asarray(mask.area(shapes))))
    alike = np.asarray(found.classes)[:, None] + 1 == [a["category_id"] for a in there]
    return (enough & alike).any(axis=1)


def _library() -> Any:
    try:
        import faster_coco_eval
    except ImportError as e:
        raise EdgesegError("average precision needs faster-coco-eval", hint='pip install "edgeseg[evaluate]"') from e
    return faster_coco_eval


def _nothing(nc: int) -> AveragePrecision:
    nan = float("nan")
    return AveragePrecision(nan, nan, nan, np.full(nc, nan), np.full(nc, nan))


def _evaluate(
    dataset: dict[str, Any], found: Iterable[dict[str, Any]], kind: str, nc: int, limit: int, intervals: bool
) -> AveragePrecision:
    library = _library()
    # The library writes into what it is given: annotations are copied, one level deep.
    truth = library.COCO({**dataset, "annotations": [dict(a) for a in dataset["annotations"]]})
    results = truth.loadRes(list(found))
    run = library.COCOeval_faster(truth, results, iouType=kind, separate_eval=True)
    run.params.maxDets = [limit]
    run.params.areaRng, run.params.areaRngLbl = [[0, 1e10]], ["all"]
    run.evaluate()
    run.accumulate()
    precision = np.asarray(run.eval["precision"])[:, :, :, 0, -1]  # (IoU, recall, class), -1 where a class has no object
    precision = np.where(precision < 0, np.nan, precision)
    present = ~np.isnan(precision).all(axis=(0, 1))
    maps, maps50, maps75 = (np.full(nc, np.nan) for _ in range(3))
    if present.any():
        maps[present] = precision[:, :, present].mean(axis=(0, 1))
        maps50[present] = precision[0][:, present].mean(axis=0)
        maps75[present] = precision[5][:, present].mean(axis=0)
    else:
        return _nothing(nc)
    mean, mean50, mean75 = (float(np.nanmean(m)) for m in (maps, maps50, maps75))
    drawn = _drawn(run, len(dataset["images"]), np.flatnonzero(present)) if intervals else np.zeros(0)
    by_iou = precision.mean(axis=1).T
    best = _best(precision[0][:, present].mean(axis=1))
    return AveragePrecision(mean, mean50, mean75, maps, maps50, drawn, *best, precision[0].T.astype(np.float32), by_iou)


def _best(precision: np.ndarray) -> tuple[float, float]:
    """Precision and recall of the point of a curve, (101,) over recall 0..1, whose F1 score is best."""
    recall = np.linspace(0, 1, len(precision))
    best = int(np.argmax(2 * precision * recall / np.maximum(precision + recall, 1e-9)))
    return float(precision[best]), float(recall[best])


def _drawn(run: Any, images: int, classes: np.ndarray) -> np.ndarray:
    """Mean AP of images drawn with replacement: what was found in each is accumulated again, for the classes that occur.

    The draws are the same for every model; fewer of many images, which take longer and vary less.
    """
    whole, random = list(run._evalImgs_cpp), np.random.default_rng(0)
    run._paramsEval.catIds = [run.params.catIds[c] for c in classes]
    found = []
    for _ in range(max(40, min(200, 6000 // images))):
        chosen = random.integers(0, images, images)
        run._evalImgs_cpp = [whole[c * images + i] for c in classes for i in chosen]
        run.accumulate()
        precision = np.asarray(run.eval["precision"])[:, :, :, 0, -1]
        found.append(precision[precision >= 0].mean() if (precision >= 0).any() else np.nan)
    return np.array(found)
