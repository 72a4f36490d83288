"""Time ``edgeseg validate`` in two checkouts and beside another tool, in turn, and print the ratios.

    python scripts/bench_validate.py yolov8n-seg.onnx=theirs/yolov8n-seg.onnx --data coco.yaml --other ../older --peer PYTHON
    python scripts/bench_validate.py yolov8n-seg.onnx yolov8n-seg_int8.onnx --reference yolov8n-seg.pt --data coco.yaml --other ../older

All sides look at the same images; each run is a process of its own, imports included. ``MODEL=THEIRS``: the same format as
``--peer``, a Python that has Ultralytics, wrote it (default: MODEL itself, which then needs the decoded head). With
``--reference`` all models are put beside it at once; that tool has nothing like it. ``cpu`` are the seconds that a process
and its threads computed, which other work on the machine changes less. Shown is the median of the rounds; the ratio holds
for one machine and one run.
"""  # noqa: E501

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from bench_export import HERE, run

PEER = """
import sys
from ultralytics import YOLO
model, data, imgsz, folder = sys.argv[1:]
YOLO(model, task="segment").val(data=data, imgsz=int(imgsz), plots=False, verbose=False, project=folder)
"""


def ours(checkout: Path, models: list[str], a: argparse.Namespace) -> dict[str, float]:
    """One run of the command with the code of ``checkout``."""
    with tempfile.TemporaryDirectory(prefix="edgeseg-bench-") as folder:
        env = {**os.environ, "PYTHONPATH": str(checkout), "EDGESEG_HOME": folder, "EDGESEG_OFFLINE": "1"}
        beside = ["--reference", a.reference] if a.reference else []
        command = [sys.executable, "-m", "edgeseg", "validate", *models, *beside, f"data={a.data}"]
        done, took = run(command, cwd=folder, env=env, capture_output=True)
    if done.returncode not in (0, bool(a.reference)):  # 1: a model parts from the reference
        raise SystemExit(f"it failed with the code of {checkout}\n{done.stderr[-2000:]}")
    return took


def theirs(model: str, a: argparse.Namespace) -> dict[str, float]:
    """One run of the other tool."""
    with tempfile.TemporaryDirectory(prefix="edgeseg-bench-") as folder:
        env = {**os.environ, "YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "false"}
        done, took = run([a.peer, "-c", PEER, model, a.data, str(a.imgsz), folder], cwd=folder, env=env, capture_output=True)
    if done.returncode:
        raise SystemExit(f"{model}: the other tool failed\n{(done.stdout + done.stderr)[-2000:]}")
    return took


def measured(models: list[str], a: argparse.Namespace) -> dict[str, dict[str, float]]:
    """The medians of all sides on some models, each side once a round."""
    mine, other = ([os.path.abspath(m) for m in side] for side in zip(*(m.split("=") * (2 - m.count("=")) for m in models)))
    sides: dict[str, Any] = {"other": lambda: ours(a.other.resolve(), mine, a)} if a.other else {}
    sides |= {"here": lambda: ours(HERE, mine, a)} | ({"peer": lambda: theirs(other[0], a)} if a.peer else {})
    rounds = [{side: once() for side, once in sides.items()} for _ in range(a.rounds)]
    return {side: {k: round(median(r[side][k] for r in rounds), 2) for k in ("seconds", "cpu")} for side in sides}


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="MODEL[=THEIRS]")
    parser.add_argument("--data", required=True, type=os.path.abspath)
    parser.add_argument("--imgsz", type=int, default=640, help="of the models, for the other tool")
    parser.add_argument("--reference", type=os.path.abspath, help="compare all models with this one")
    parser.add_argument("--other", type=Path, help="another checkout of edgeseg")
    parser.add_argument("--peer", help="a Python that has Ultralytics")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    a = parser.parse_args()
    if a.reference and a.peer:
        parser.error("--peer has nothing like --reference")
    found = {}
    for models in [a.models] if a.reference else [[m] for m in a.models]:
        name = " ".join(Path(m.partition("=")[0]).name for m in models)
        found[name] = measured(models, a)
        for side, took in found[name].items():
            ratios = [f"{found[name]['here'][k] / took[k]:.2f} {k}" for k in took] if side != "here" else []
            told = f"here / {side}: {', '.join(ratios)}" if ratios else ""
            print(f"{name:40s} {side:6s} {took['seconds']:7.2f} s  cpu {took['cpu']:7.2f} s  {told}", flush=True)
    if a.json:
        a.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
