"""How fast training is: images per second of the data pipeline alone, and one epoch, beside another tool where installed.

    python scripts/bench_train.py --data coco128-seg.yaml --imgsz 320 --batch 16

The other tool (``ultralytics``) is used only when it is importable; both then train one epoch from the same
definition on the same images, size, batch and number of workers, one after the other in one run; the ratio is printed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from edgeseg.data.augment import AugmentOptions
from edgeseg.data.cache import ImageCache, scan
from edgeseg.data.dataset import load_dataset
from edgeseg.data.loader import Batch, EpochBatches, TrainImages, make_loader
from edgeseg.training.api import train
from edgeseg.training.loop import Listener, Trainer
from edgeseg.training.optimize import Rates
from edgeseg.training.options import TrainOptions


class Clock(Listener):
    """Seconds from the start of the run's first epoch to its last batch."""

    begin = end = 0.0

    def on_start(self, trainer: Trainer) -> None:
        """The first batch is about to be loaded."""
        self.begin = time.perf_counter()

    def on_batch(self, trainer: Trainer, batch: Batch, rates: Rates) -> None:
        """One more batch is done."""
        self.end = time.perf_counter()


def pipeline_speed(data: str, imgsz: int, batch: int, workers: int, cache: str) -> float:
    """Augmented images per second that the loader delivers with mosaic on."""
    records = scan(load_dataset(data), "train").records
    kept = ImageCache(imgsz, cache)
    kept.fill(records)
    images = TrainImages(records, imgsz, AugmentOptions(), seed=0, closing=1 << 30, cache=kept)
    batches = EpochBatches(len(images), batch, seed=0)
    loader = make_loader(images, batches, workers=workers)
    for epoch in range(2):  # the first round starts the workers
        batches.set(epoch)
        start = time.perf_counter()
        count = sum(len(b.images) for b in loader)
    return count / (time.perf_counter() - start)


def our_epoch(args: argparse.Namespace, folder: Path) -> float:
    """Seconds of one epoch of ours, validation not counted."""
    clock = Clock()
    options = TrainOptions(
        data=args.data, model=args.model, epochs=1, imgsz=args.imgsz, batch=args.batch, workers=args.workers,
        device=args.device, validate_every=0, close_mosaic=0, plots=False, tensorboard=False, project=str(folder),
    )  # fmt: skip
    train(options, listeners=[clock])
    return clock.end - clock.begin


def their_epoch(args: argparse.Namespace, folder: Path) -> float | None:
    """Seconds of one epoch of the other tool, None when it is not installed."""
    if importlib.util.find_spec("ultralytics") is None:
        return None
    from ultralytics import YOLO

    times: dict[str, float] = {}
    model: Any = YOLO(args.model)
    model.add_callback("on_train_epoch_start", lambda _: times.setdefault("begin", time.perf_counter()))
    model.add_callback("on_train_epoch_end", lambda _: times.update(end=time.perf_counter()))
    model.train(
        data=args.data, epochs=1, imgsz=args.imgsz, batch=args.batch, workers=args.workers, device=args.device, val=False,
        plots=False, close_mosaic=0, project=str(folder), exist_ok=True,
    )  # fmt: skip
    return times["end"] - times["begin"]


def main() -> None:
    """Measure and print, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="coco128-seg.yaml")
    parser.add_argument("--model", default="yolov8n-seg.yaml")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--loader-only", action="store_true", help="leave the epochs out")
    args = parser.parse_args()
    found: dict[str, Any] = {"torch": torch.__version__, "threads": torch.get_num_threads(), **vars(args)}
    found["images_per_s"] = {
        f"workers {w}, cache {c}": round(pipeline_speed(args.data, args.imgsz, args.batch, w, c), 1)
        for w in sorted({0, args.workers})
        for c in ("none", "ram")
    }
    if not args.loader_only:
        with tempfile.TemporaryDirectory() as scratch:
            ours, theirs = our_epoch(args, Path(scratch) / "ours"), their_epoch(args, Path(scratch) / "theirs")
        found["epoch_s"] = {"edgeseg": round(ours, 1), "ultralytics": theirs and round(theirs, 1)}
        found["ratio"] = theirs and round(ours / theirs, 3)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
