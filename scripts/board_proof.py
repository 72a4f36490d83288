"""What an emulated Raspberry Pi finds beside what this machine finds: the wheel, installed there, on the same images.

    python scripts/board_proof.py            Pi 4 and Pi 5, Python 3.11 and 3.13, five files: a row each

The demo network is exported here; the project's own wheel with ``[tflite,onnx,ncnn]`` is installed for each Python from
aarch64 wheels; ``python -m edgeseg predict --json`` runs on both sides. ``scripts/arm64.py`` says what it needs.

Exit code: 0 all agree as ``EXPECTED`` says, 1 some do not, 2 the emulated machines cannot be made here.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import arm64

IMAGES, SIZE, SEED = 20, 320, 20
EXTRAS = ("tflite", "onnx", "ncnn")
FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "tflite int8": ("tflite", {"int8": True}),
    "onnx int8": ("onnx", {"int8": True}),
    "onnx fp32": ("onnx", {}),
    "ncnn int8": ("ncnn", {"int8": True}),
    "ncnn fp16": ("ncnn", {"half": True}),
}


@dataclass(frozen=True)
class Agreement:
    """How far the detections of a board are from ours: pixels, scores, and how many of ours are there to the last digit.

    ``matched``: those with a partner of the same class whose box overlaps by 0.9 or more.
    """

    ours: int
    theirs: int
    identical: int
    matched: int
    box: float
    score: float


# Integer arithmetic gives the same everywhere: boxes, scores and run lengths to the last digit. In a float network sums are
# added in another order: the last digit that is written may be another. ncnn computes what lies between its integer layers
# in float, with an exponential function of its own for each CPU: where a value lies at the edge between two integers, the
# next layer gets the neighbour.
EXPECTED = {
    "tflite int8": lambda a: a.identical == a.ours == a.theirs,
    "onnx int8": lambda a: a.identical == a.ours == a.theirs,
    "onnx fp32": lambda a: a.matched == a.ours == a.theirs and a.box <= 0.002 and a.score <= 2e-5,
    "ncnn int8": lambda a: a.matched >= 0.95 * max(a.ours, a.theirs) and a.box <= 8 and a.score <= 0.1,
    "ncnn fp16": lambda a: a.matched == a.ours == a.theirs and a.box <= 0.002 and a.score <= 2e-5,  # computed in float
}


def agreement(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> Agreement:
    """Compare two lists of images as ``predict --json`` writes them."""
    if [Path(i["path"]).name for i in ours] != [Path(i["path"]).name for i in theirs]:
        raise SystemExit("the images are not the same")
    identical = matched = 0
    box = score = 0.0
    for a, b in zip(ours, theirs):
        left = list(b["detections"])
        identical += sum(d in left for d in a["detections"])
        for d in a["detections"]:
            near = max((c for c in left if c["class"] == d["class"]), key=lambda c: _iou(c["box"], d["box"]), default=None)
            if near is None or _iou(near["box"], d["box"]) < 0.9:
                continue
            left.remove(near)
            matched += 1
            box = max(box, *(abs(p - q) for p, q in zip(near["box"], d["box"])))
            score = max(score, abs(near["score"] - d["score"]))
    numbers = [sum(len(i["detections"]) for i in side) for side in (ours, theirs)]
    return Agreement(*numbers, identical, matched, round(box, 4), round(score, 6))


def _iou(a: Sequence[float], b: Sequence[float]) -> float:
    wide, high = (max(0.0, min(a[k + 2], b[k + 2]) - max(a[k], b[k])) for k in (0, 1))
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return wide * high / (both - wide * high)


def artifacts(root: Path) -> tuple[dict[str, Path], Path]:
    """The demo network in each of ``FORMATS``, calibrated on generated images, and the folder of images to predict on."""
    from edgeseg.data.shapes import make_shapes
    from edgeseg.model import Model
    from edgeseg.resources import demo_checkpoint

    data = make_shapes(root / "shapes", train=40, val=IMAGES, size=SIZE, seed=SEED)
    model, found = Model(demo_checkpoint()), {}
    for name, (format, options) in FORMATS.items():
        given = {**options, "data": str(data)} if options else options
        found[name] = Path(str(model.export(format, out=root / "models", **given)))
    return found, root / "shapes" / "images" / "val"


def site(root: Path, python: str, extras: Sequence[str] = EXTRAS) -> Path:
    """The project's wheel and what it needs with ``extras`` on such a board, installed for that Python."""
    from edgeseg.fleet.wheels import Platform, gather, own_wheel

    wheels = root / f"wheels-{python}-{'-'.join(extras)}"
    for folder in (wheels, root / "own"):
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("edgeseg-*.whl"):
            old.unlink()
    own = own_wheel(root / "own")
    gather(wheels, own, extras, Platform("aarch64", python, arm64.DEBIANS[python][1]))
    place = arm64.make_site(root, sorted(str(w) for w in wheels.glob("*.whl") if w.name != own.name), python, alone=True)
    fresh = root / f"edgeseg-{python}-{os.getpid()}"
    arm64.call([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-compile", "--target", fresh, own])
    for item in fresh.iterdir():  # what changes between two runs is the project alone
        arm64.call(["rm", "-rf", place / item.name])
        item.rename(place / item.name)
    fresh.rmdir()
    return place


def words(model: Path, images: Path, to: Path) -> list[str | Path]:
    """The command that both sides run."""
    return ["-m", "edgeseg", "predict", model, images, "--json", to, "--no-save", "--threads", "1"]


def here(model: Path, images: Path, to: Path) -> list[dict[str, Any]]:
    """What this machine finds."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(arm64.HERE)}
    command = [sys.executable, *map(str, words(model, images, to))]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return list(json.loads(to.read_text())["images"])


def there(machine: arm64.Machine, place: Path, model: Path, images: Path, to: Path) -> list[dict[str, Any]]:
    """What the emulated board finds."""
    done = machine.run((place,), words(model, images, to), cwd=to.parent, capture_output=True)
    if done.returncode:
        raise SystemExit(f"{machine.cpu}, Python {machine.python}, {model.name}: {done.stderr.strip()[-400:]}")
    return list(json.loads(to.read_text())["images"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--root", type=Path, default=arm64.ROOT, help="where the emulated machines are kept")
    parser.add_argument("--cpu", action="append", choices=arm64.CPUS, help="default: all")
    parser.add_argument("--python", action="append", choices=arm64.DEBIANS, help="default: all")
    args = parser.parse_args()
    root, pythons = args.root.resolve(), args.python or list(arm64.DEBIANS)
    try:
        machines = [arm64.make_machine(root, cpu, python) for cpu in args.cpu or arm64.CPUS for python in pythons]
        sites = {python: site(root, python) for python in pythons}
    except arm64.CannotBeMade as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    models, images = artifacts(root)
    ours = {name: here(model, images, root / f"here-{name.replace(' ', '-')}.json") for name, model in models.items()}

    def row(machine: arm64.Machine, name: str) -> bool:
        to = root / f"{machine.cpu}-{machine.python}-{name.replace(' ', '-')}.json"
        a = agreement(ours[name], there(machine, sites[machine.python], models[name], images, to))
        good = EXPECTED[name](a)
        said = f"{a.ours} here, {a.theirs} there, {a.identical} identical, {a.matched} matched"
        board = f"{arm64.BOARDS[machine.cpu]}  Python {machine.python}  {name:<11}"
        print(f"{board}  {said}; worst {a.box:g} px, {a.score:g} of score{'' if good else '  DIFFERS'}", flush=True)
        return good

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        good = list(pool.map(lambda one: row(*one), [(m, name) for m in machines for name in FORMATS]))
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
