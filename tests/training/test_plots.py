"""Curves against plain counting; the pictures that a run leaves."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeseg.data.augment import NO_AUGMENTATION
from edgeseg.data.shapes import make_shapes
from edgeseg.evaluate.metrics import Told
from edgeseg.evaluate.truth import Truth
from edgeseg.training import TrainOptions, train
from edgeseg.training.curves import GRID, confusion, curves, mean_curve

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
        for k in (0, 40, 100, 160):
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


def test_confusion_counts_every_object_once() -> None:
    truth, found = scene(7)
    table = confusion(found, truth)
    assert table.sum(0)[:3].tolist() == [
        sum(a["category_id"] == c + 1 for rows in truth.annotations.values() for a in rows) for c in range(3)
    ]
    assert table.sum(1)[:3].sum() == sum(int((d.scores >= 0.25).sum()) for _, d in found)


def test_a_run_leaves_its_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESEG_HOME", str(tmp_path / "home"))
    data = make_shapes(tmp_path / "shapes", train=4, val=2, size=64, seed=3)
    (tmp_path / "tiny.yaml").write_text("variant: tiny\ndepth: 0.33\nwidth: 0.0625\nmax_channels: 128\nnc: 4\n")
    result = train(
        TrainOptions(
            data=str(data), model=str(tmp_path / "tiny.yaml"), epochs=1, imgsz=64, batch=2, workers=0, device="cpu",
            project=str(tmp_path / "runs"), augment=NO_AUGMENTATION, close_mosaic=0,
        )
    )  # fmt: skip
    written = {p.name for p in result.folder.iterdir()}
    assert {"train_batch1.jpg", "train_batch2.jpg", "results.csv", "options.yaml"} <= written
    assert cv2.imread(str(result.folder / "train_batch1.jpg")).shape == (64, 128, 3)
    if result.best_epoch == 1:
        assert "val_predictions.jpg" in written
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return
    assert "results.png" in written
