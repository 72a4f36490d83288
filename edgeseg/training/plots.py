"""Pictures of a run: losses, curves, confusion, and samples with labels and predictions (matplotlib, where installed)."""

from __future__ import annotations

import contextlib
import importlib.util
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edgeseg.data.images import read_image, reduced
from edgeseg.data.loader import Batch
from edgeseg.evaluate.curves import curves
from edgeseg.evaluate.written import CURVES, figure_of, lines, matrix, write
from edgeseg.training.loop import Listener, Trainer
from edgeseg.training.optimize import Rates
from edgeseg.training.validation import Validator
from edgeseg.vision.draw import colour_of, draw

SAMPLES = 16
"""Pictures in one sheet."""


class Sheets(Listener):
    """Sample sheets: the first batches of a run, the first of the closing epochs, and predictions beside labels."""

    def __init__(self, folder: Path, names: tuple[str, ...], closing: int) -> None:
        self.folder, self.names, self.closing = folder, names, closing

    def on_batch(self, trainer: Trainer, batch: Batch, rates: Rates) -> None:
        """Keep a sheet of batches 1 to 3, and of the first one with whole pictures only."""
        p = trainer.position
        if p.step <= 3:
            save(self.folder / f"train_batch{p.step}.jpg", batch_sheet(batch, self.names))
        elif p.epoch == self.closing and p.batch == 1:
            save(self.folder / "train_closing.jpg", batch_sheet(batch, self.names))

    def on_epoch(self, trainer: Trainer, row: dict[str, float], is_best: bool) -> None:
        """Predictions of the best epoch so far."""
        if is_best and isinstance(trainer.validate, Validator):
            truth = trainer.validate.truth
            tiles = []
            for path, detections in trainer.validate.samples:
                image = read_image(path)
                tiles.append(reduced(_truth(image, truth.of(path, detections.shape), self.names), 480))
                tiles.append(reduced(draw(image, detections), 480))
            save(self.folder / "val_predictions.jpg", sheet(tiles, columns=4))


class Charts(Listener):
    """Charts with matplotlib: losses and AP after each epoch, curves and confusion of the best epoch."""

    def __init__(self, folder: Path, names: tuple[str, ...]) -> None:
        self.folder, self.names = folder, names

    @staticmethod
    def available() -> bool:
        """Whether matplotlib is installed."""
        return importlib.util.find_spec("matplotlib") is not None

    def on_epoch(self, trainer: Trainer, row: dict[str, float], is_best: bool) -> None:
        """Draw what has changed; a chart is not worth ending a run for."""
        with contextlib.suppress(OSError):
            history(trainer.position.history, self.folder / "results.png")
            if is_best and isinstance(trainer.validate, Validator):
                found = curves(trainer.validate.found, trainer.validate.truth)
                for (_, *what), file in zip(CURVES, ("pr_curve", "f1_curve", "precision_curve", "recall_curve")):
                    lines(self.folder / f"{file}.png", getattr(found, what[0]), self.names, what[1:])
                if trainer.validate.confusion is not None:
                    matrix(self.folder / "confusion_matrix.png", trainer.validate.confusion.normalized(), self.names)


def batch_sheet(batch: Batch, names: tuple[str, ...]) -> np.ndarray:
    """Pictures of a batch with exactly what the loss sees: boxes, classes and the index map's masks."""
    tiles = []
    for i in range(min(len(batch.images), SAMPLES)):
        picture = np.ascontiguousarray(batch.images[i].numpy().transpose(1, 2, 0)[..., ::-1])
        mine = batch.owner == i
        classes, boxes = batch.classes[mine].tolist(), batch.boxes[mine].tolist()
        side = picture.shape[1::-1]
        index = cv2.resize(batch.index_maps[i].numpy(), side, interpolation=cv2.INTER_NEAREST)
        for k, (cls, box) in enumerate(zip(classes, boxes), 1):
            inside = index == k
            picture[inside] = (picture[inside] * 0.55 + np.array(colour_of(cls)) * 0.45).astype(np.uint8)
            _box(picture, box, cls, names)
        tiles.append(picture)
    return sheet(tiles)


def sheet(tiles: list[np.ndarray], columns: int | None = None) -> np.ndarray:
    """Pictures side by side, each padded to the largest, at most about 1920 pixels wide; uint8 BGR."""
    if not tiles:
        return np.full((32, 32, 3), 114, np.uint8)
    columns = columns or int(np.ceil(np.sqrt(len(tiles))))
    h, w = max(t.shape[0] for t in tiles), max(t.shape[1] for t in tiles)
    canvas = np.full((-(-len(tiles) // columns) * h, columns * w, 3), 255, np.uint8)
    for i, tile in enumerate(tiles):
        y, x = i // columns * h, i % columns * w
        canvas[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
    ratio = min(1.0, 1920 / canvas.shape[1])
    return cv2.resize(canvas, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA) if ratio < 1 else canvas


def save(path: Path, picture: np.ndarray) -> None:
    """Write a JPEG; a picture is not worth ending a run for, so a full disk is passed over."""
    try:
        cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tofile(path)
    except OSError:
        path.unlink(missing_ok=True)


def history(rows: list[dict[str, float]], path: Path) -> None:
    """Losses (training and validation) and AP over the epochs; few epochs are points, and what is no number is left out."""
    parts = [k.removeprefix("train/") for k in rows[0] if k.startswith("train/")]
    charts = [(f"{part} loss", {split: f"{split}/{part}" for split in ("train", "val")}) for part in parts]
    kinds = {"box AP": "box", "mask AP": "seg"}
    charts += [(title, {"AP": f"{kind}/map", "AP50": f"{kind}/map50"}) for title, kind in kinds.items()]
    charts = [(title, keys) for title, keys in charts if any(key in r for key in keys.values() for r in rows)]
    figure, axes = figure_of(2, 3, (12, 6))
    for axis, (title, keys) in zip(axes, charts):
        for label, key in keys.items():
            points = [(r["epoch"], r[key] if np.isfinite(r[key]) else np.nan) for r in rows if key in r]
            if points:
                axis.plot(*zip(*points), label=label, marker="o" if len(points) <= 20 else None, markersize=4)
        axis.set(title=title, xlabel="epoch", xlim=(0.5, max(r["epoch"] for r in rows) + 0.5))
        axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axis.legend()
        if not any(np.isfinite(r[key]) for key in keys.values() for r in rows if key in r):
            axis.text(0.5, 0.5, "no number", transform=axis.transAxes, ha="center")
    for axis in axes[len(charts) :]:
        axis.set_visible(False)
    write(figure, path)


def _truth(image: np.ndarray, rows: list[dict[str, Any]], names: tuple[str, ...]) -> np.ndarray:
    picture = image.copy()
    for row in rows:
        cls = row["category_id"] - 1
        if isinstance(row.get("segmentation"), list):
            rings = [np.rint(np.reshape(r, (-1, 2))).astype(np.int32) for r in row["segmentation"]]
            cv2.polylines(picture, rings, True, colour_of(cls), 2, cv2.LINE_AA)
        x, y, w, h = row["bbox"]
        _box(picture, [x, y, x + w, y + h], cls, names)
    return picture


def _box(picture: np.ndarray, box: list[float], cls: int, names: tuple[str, ...]) -> None:
    x1, y1, x2, y2 = (round(v) for v in box)
    cv2.rectangle(picture, (x1, y1), (x2, y2), colour_of(cls), 1)
    cv2.putText(
        picture, names[cls], (x1 + 1, max(y1 - 2, 8)), cv2.FONT_HERSHEY_SIMPLEX, 0.35, colour_of(cls), 1, cv2.LINE_AA
    )
