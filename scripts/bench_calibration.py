"""Time and memory of a calibration for growing sets of images, each in a process of its own.

    python scripts/bench_calibration.py --images 32 100 500
    python scripts/bench_calibration.py --model yolov8n-seg.pt --imgsz 640 --images 100 1000 --recipe int8

Images are generated (100 of them, repeated); the network is the demo one unless ``--model`` says another. *stream* is how
far the peak of the process grows while images are observed, and *whole* over everything, both over a process that has run
the network once on one image, as inference would. Linear time and flat memory show as equal columns.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edgeseg.resources import demo_checkpoint

DIFFERENT = 100
HEADER = ("images", "observing s", "ms an image", "correcting s", "before MB", "stream +MB", "whole +MB")


def peak() -> float:
    """Most memory that this process has held so far, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def one(model: Path, folder: Path, count: int, imgsz: int, recipe: str) -> dict[str, Any]:
    """Calibrate once, in this process."""
    from edgeseg.network.checkpoint import load_checkpoint
    from edgeseg.network.flow import network_flow
    from edgeseg.quantize.calibration import iterate
    from edgeseg.quantize.decide import decide
    from edgeseg.quantize.recipe import load_recipe
    from edgeseg.quantize.simulate import Simulator, to_tensor

    flow = network_flow(load_checkpoint(model), (imgsz, imgsz))
    files = sorted(folder.rglob("*.png"))
    images = [files[i % len(files)] for i in range(count)]
    for image in iterate(images[:1], (imgsz, imgsz)):
        Simulator(flow).run(to_tensor([image]))
    before, marks = peak(), []
    start = perf_counter()

    def report(done: float, what: str) -> None:
        if what.startswith("observing"):
            marks[:] = [perf_counter() - start, peak() - before]

    decide(flow, load_recipe(recipe), images, (imgsz, imgsz), report)
    seconds, streaming = marks
    rest = perf_counter() - start - seconds
    return dict(zip(HEADER, (count, seconds, 1e3 * seconds / count, rest, before, streaming, peak() - before)))


def main() -> None:
    """Parse the command line and print one row a number of images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=demo_checkpoint())
    parser.add_argument("--images", type=int, nargs="+", default=[32, 100, 500])
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--recipe", default="int8")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(args.model, args.one, args.images[0], args.imgsz, args.recipe)))
        return
    from edgeseg.data.shapes import make_shapes

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        make_shapes(folder, train=DIFFERENT, val=1, size=args.imgsz)
        print("".join(f"{name:>14}" for name in HEADER))
        for count in args.images:
            command = [sys.executable, __file__, "--one", f"{folder}/images/train", "--images", str(count)]
            command += ["--model", str(args.model), "--imgsz", str(args.imgsz), "--recipe", args.recipe]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print("".join(f"{value:>14.0f}" for value in rows[-1].values()), flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
