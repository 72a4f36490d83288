"""Curves against plain counting, and against the average precision of faster-coco-eval."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeseg.evaluate.curves import GRID, CurveMeter, curves, matched, mean_curve
from edgeseg.evaluate.metrics import MetricsMeter, Told
from edgeseg.evaluate.truth import Truth
from edgeseg.vision import rle

pytest.importorskip("faster_coco_eval")
NAMES = ("a", "b", "c")


def scene(seed: int) -> tuple[Truth, list[tuple[Path, Told]]]:
    """Random detections around random objects; class c never occurs."""
    rng = np.random.default_rng(seed)
    annotations, found = {}, []
    for i in range(5):
        low = rng.uniform(0, 60, (4, 2))
        true = np.concatenate((low, low + rng.uniform(10, 40, (4, 2))), 1)
        classes = rng.integers(0, 2, 4)
        path = Path(f"{i}.png")
        annotations[path] = [
            {"category_id": int(c) + 1, "iscrowd": 0, "bbox": [*b[:2], *(b[2:] - b[:2])]} for b, c in zip(true, classes)
        ]
        boxes = np.clip(np.concatenate((true + rng.normal(0, 3, true.shape), true[:2] + 25)), 0, 100).astype(np.float32)
        scores = np.sort(rng.uniform(0, 1, 6).astype(np.float32))[::-1]
        guess = np.concatenate((np.where(rng.random(4) < 0.8, classes, 1 - classes), [0, 1])).astype(np.int32)
        found.append((path, Told(boxes, scores.copy(), guess, (100, 100), [])))
    return Truth(NAMES, source=Path("x.json"), annotations=annotations), found


def iou(a: list[float], b: list[float]) -> float:
    w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return w * h / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h)


@pytest.mark.parametrize("seed", range(3))
def test_precision_and_recall_are_what_counting_gives(seed: int) -> None:
    truth, found = scene(seed)
    got = curves(found, truth)
    assert np.isnan(got.f1[2]).all() and not np.isnan(got.f1[:2]).any()
    for cls in (0, 1):
        for k in (0, 200, 500, 800):
            right = shown = total = 0
            for path, d in found:
                true = [
                    np.add(a["bbox"], [0, 0, *a["bbox"][:2]]).tolist()
                    for a in truth.annotations[path]
                    if a["category_id"] == cls + 1
                ]
                total += len(true)
                for box, score, c in zip(d.boxes.tolist(), d.scores.tolist(), d.classes.tolist()):
                    if c == cls and score >= GRID[k]:
                        shown += 1
                        best = max(true, key=lambda t: iou(box, t), default=None)
                        if best is not None and iou(box, best) >= 0.5:
                            right += 1
                            true.remove(best)
            assert got.recall[cls, k] == pytest.approx(right / total)
            assert got.precision[cls, k] == pytest.approx(right / shown if shown else 1.0)
    assert (np.diff(got.precision_at_recall[:2], axis=1) <= 1e-12).all()
    assert mean_curve(got.f1) == pytest.approx(got.f1[:2].mean(0))
    best = got.best
    assert mean_curve(got.f1)[best] == max(got.f1[:2].mean(0))


def slow_match(overlap: np.ndarray, crowds: list[bool], iou: float) -> list[str]:
    """Each detection is right, wrong, or neither of both (in a crowd)."""
    said, taken = [], set()
    for row in overlap.tolist():
        free = [(o, -j) for j, o in enumerate(row) if j not in taken and not crowds[j] and o >= iou]
        if free:
            taken.add(-max(free)[1])
        said.append("right" if free else "crowd" if any(o >= iou and c for o, c in zip(row, crowds)) else "wrong")
    return said


@pytest.mark.parametrize("seed", range(20))
def test_matching_is_what_pair_by_pair_gives(seed: int) -> None:
    rng = np.random.default_rng(seed)
    overlap = rng.integers(0, 11, (rng.integers(0, 9), rng.integers(0, 7))) / 10
    crowds = rng.random(overlap.shape[1]) < 0.3
    right, counts = matched(overlap, crowds, 0.5)
    said = slow_match(overlap, crowds.tolist(), 0.5)
    assert right.tolist() == [s == "right" for s in said] and counts.tolist() == [s != "crowd" for s in said]


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_the_area_below_is_the_average_precision(seed: int, masks: bool) -> None:
    """COCO's AP at IoU 0.5 is the mean of the precision at 101 recalls: crowds, boxes and masks alike."""
    rng = np.random.default_rng(seed)
    truths, told = {}, []
    for i in range(6):
        low = rng.integers(0, 50, (5, 2))
        true = np.concatenate((low, low + rng.integers(8, 40, (5, 2))), 1)
        moved = np.clip(np.concatenate((true + rng.integers(-4, 5, true.shape), true[:3] + 6)), 0, 95)
        kind, guess = rng.integers(0, 2, 5), rng.integers(0, 2, 8)
        guess[:5] = np.where(rng.random(5) < 0.8, kind, guess[:5])
        scores = np.sort(rng.random(8).astype(np.float32))[::-1].copy()

        def run(box: np.ndarray) -> dict:
            mask = np.zeros((100, 100), bool)
            mask[box[1] : box[3], box[0] : box[2] - 2] = True
            return rle.encode(mask)

        path = Path(f"{i}.png")
        truths[path] = [
            {
                "category_id": int(c) + 1, "iscrowd": int(k == 0 and i % 2),
                "bbox": [*b[:2].tolist(), *(b[2:] - b[:2]).tolist()],
                "area": float((b[2:] - b[:2]).prod()), "segmentation": run(b),
            }
            for k, (c, b) in enumerate(zip(kind, true))
        ]  # fmt: skip
        told.append(
            (path, Told(moved.astype(np.float32), scores, guess.astype(np.int32), (100, 100), [run(b) for b in moved]))
        )
    truth = Truth(("a", "b", "c"), source=Path("x.json"), annotations=truths)
    meter, shapes = MetricsMeter(truth), CurveMeter(3, masks)
    for path, found in told:
        meter.add(path, found)
        shapes.add(truth.of(path, found.shape), found)
    got, wanted = shapes.result(), meter.result()
    ap = wanted.seg if masks else wanted.box
    mean = got.precision_at_recall[:, :: (len(GRID) - 1) // 100].mean(1)
    assert np.isnan(mean[2]) and mean[:2] == pytest.approx(ap.maps50[:2], abs=1e-9) and 0.1 < mean[0] < 0.99
