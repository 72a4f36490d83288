"""Train the demo network from nothing but a seed: generated shapes in, ``edgeseg/demo/demo-seg.pt`` and ``golden.json`` out.

    python scripts/train_demo.py --seed 0
    python scripts/train_demo.py --family yolo11 --task detect --epochs 24 --out tests/networks

About ten minutes on one CPU core. Nothing is downloaded. The committed network had 12 epochs on another CPU (golden.json:
0.757 / 0.699 box / mask AP); CPUs round differently, and 12 epochs gave 0.722 / 0.668 on one, 18 epochs 0.779 / 0.713.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from edgeseg.data.augment import AugmentOptions
from edgeseg.data.shapes import make_shapes
from edgeseg.evaluate.validate import validate
from edgeseg.manifest import TASKS
from edgeseg.network.checkpoint import load_checkpoint, save_checkpoint
from edgeseg.network.definition import FAMILIES, SUFFIXES
from edgeseg.network.runtime import NetworkRuntime
from edgeseg.running.pipeline import Pipeline
from edgeseg.training.api import train
from edgeseg.training.loop import Listener, Trainer
from edgeseg.training.options import TrainOptions

DEMO = Path(__file__).resolve().parents[1] / "edgeseg" / "demo"
IMGSZ = 160
HELD_OUT = 200
HELD_OUT_SEED = 1_000_003
DEFINITION = "variant: demo\nnc: 4\ndepth: {}\nwidth: {}\nmax_channels: {}\nfamily: {}\ntask: {}\n"
# Their first blocks work on a quarter of the channels, which must not be too few.
SIZES = {"yolov8": (0.33, 0.1, 512), "yolo11": (0.5, 0.1875, 256), "yolo26": (0.5, 0.375, 128)}
TOLERANCE = 0.005


class Shown(Listener):
    """One line an epoch."""

    def __init__(self, console: Console) -> None:
        self.console, self.start = console, time.perf_counter()

    def on_epoch(self, trainer: Trainer, row: dict[str, float], is_best: bool) -> None:
        """Print the figures."""
        figures = "  ".join(f"{k} {v:.4g}" for k, v in row.items() if k.startswith(("train/", "box/", "seg/")))
        self.console.print(f"epoch {row['epoch']:.0f}  {time.perf_counter() - self.start:.0f} s  {figures}", highlight=False)


def options(data: Path, model: Path, runs: Path, seed: int, epochs: int, device: str) -> TrainOptions:
    """How the demo network is trained: whole pictures, no mosaic, AdamW with a cosine schedule."""
    return TrainOptions(
        data=str(data), model=str(model), epochs=epochs, imgsz=IMGSZ, batch=8, nominal_batch=8, optimizer="adamw",
        lr=0.003, final_lr=0.02, schedule="cosine", momentum=0.9, warmup_epochs=1.0, weight_decay=0.0005, patience=0,
        seed=seed, workers=1, device=device, cache="ram", close_mosaic=0, validate_every=4, project=str(runs), name="demo",
        plots=False, tensorboard=False,
        augment=AugmentOptions(mosaic=0, hsv_h=0.02, hsv_s=0.4, hsv_v=0.3, translate=0.1, scale=0.3, fliplr=0.5, flipud=0.5),
    )  # fmt: skip


def golden_of(name: str, figures: dict[str, float], training: dict[str, Any]) -> dict[str, Any]:
    """The golden figures of a checkpoint, as they are written beside it."""
    reason = "the same file on another CPU rounds differently"
    held_out = {"train": 1, "val": HELD_OUT, "size": IMGSZ, "seed": HELD_OUT_SEED}
    return {
        "about": f"Accuracy of {name} on held-out generated shapes.",
        "data": {"generator": "edgeseg.data.shapes.make_shapes", **held_out},
        "protocol": "edgeseg.evaluate.validate with its defaults, on the checkpoint itself",
        "training": training,
        "metrics": {
            what: {"value": round(value, 4), "tolerance": TOLERANCE, "reason": reason} for what, value in figures.items()
        },
    }


def main() -> None:
    """Train, store in half precision, measure what was stored."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=18)
    parser.add_argument("--images", type=int, default=1600, help="training images")
    parser.add_argument("--family", choices=tuple(FAMILIES), default="yolov8")
    parser.add_argument("--task", choices=TASKS, default="segment")
    parser.add_argument("--out", type=Path, default=DEMO, help="folder for the checkpoint and its golden figures")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    demo = (args.family, args.task) == ("yolov8", "segment")
    stem = "demo-seg" if demo else f"{args.family}{SUFFIXES[args.task]}"
    torch.set_num_threads(args.threads)
    console = Console()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data = make_shapes(folder / "shapes", train=args.images, val=100, size=IMGSZ, seed=args.seed)
        console.print(f"{args.images} images drawn after {time.perf_counter() - start:.0f} s")
        model = folder / f"{stem}.yaml"
        model.write_text(DEFINITION.format(*SIZES[args.family], args.family, args.task), encoding="utf-8")
        result = train(
            options(data, model, folder / "runs", args.seed, args.epochs, args.device), listeners=[Shown(console)]
        )
        network = load_checkpoint(result.last)
        network.info = {
            "imgsz": IMGSZ,
            "origin": "own work: trained on generated shapes, no outside weights or data",
            "script": "scripts/train_demo.py",
            "seed": args.seed,
            "epochs": args.epochs,
            "images": args.images,
            "license": "Apache-2.0",
        }
        file = save_checkpoint(args.out / f"{stem}.pt", network.half())
        minutes = (time.perf_counter() - start) / 60
        held_out = make_shapes(folder / "held-out", train=1, val=HELD_OUT, size=IMGSZ, seed=HELD_OUT_SEED)
        runtime = NetworkRuntime(file)
        m = validate(Pipeline(runtime, runtime.manifest), held_out).metrics
    figures = {"box.map": m.box.map, "box.map50": m.box.map50}
    figures |= {"seg.map": m.seg.map, "seg.map50": m.seg.map50} if args.task == "segment" else {}
    golden = golden_of(file.name, figures, {k: network.info[k] for k in ("script", "seed", "epochs", "images")})
    (args.out / ("golden.json" if demo else f"{stem}.json")).write_text(
        json.dumps(golden, indent=2) + "\n", encoding="utf-8"
    )
    console.print(
        f"{file}: {file.stat().st_size / 1e6:.2f} MB, trained in {minutes:.1f} min; " + str(figures), highlight=False
    )


if __name__ == "__main__":
    main()
