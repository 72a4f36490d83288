"""Time one export of several formats, nothing cached, in two checkouts of edgeseg in turn, and print the ratio.

    python scripts/bench_export.py yolov8n-seg.pt --data coco.yaml --format tflite,onnx,openvino,ncnn --other ../older
    python scripts/bench_export.py yolov8n-seg.pt --data coco.yaml --format onnx,tflite --peer PYTHON

With ``--peer``, a Python that has Ultralytics, each format is exported alone, here and there in turn.

Each export runs in a process of its own with an empty cache (formats whose toolchain would have to be installed fail) and
without the gate. Seconds are those of the whole process, imports included on both sides; ``cpu`` those that it and its
children computed, which other work on the machine changes less. The ratio holds for one machine and one run; seconds do not.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
CODE = """
import json, sys, time
try:
    from edgeseg.export.api import export
    from edgeseg.export.options import ExportOptions
    more = {"gate": False}
except ImportError:  # a checkout from before the gate was part of the export
    from edgeseg.graph.export import export
    from edgeseg.graph.options import ExportOptions
    more = {}
model, formats, data, imgsz, out = sys.argv[1:]
options = ExportOptions(int8=True, data=data, imgsz=int(imgsz))
steps = {}
start = time.monotonic()
seen = lambda e: steps.setdefault(e.step, {}).update({e.kind: round(time.monotonic() - start, 1)})
made = export(model, formats.split(","), options, out=out, on_event=seen, rebuild=True, **more)
seconds = time.monotonic() - start
failed = [str(r.error) for r in made if r.error is not None]
print(json.dumps({"seconds": round(seconds, 1), "failed": failed, "steps": steps}))
"""


PEER = """
import sys
from ultralytics import YOLO
model, format, data, imgsz = sys.argv[1:]
sys.exit(not YOLO(model).export(format=format, quantize=8, data=data, imgsz=int(imgsz)))
"""
THEIRS = {"tflite": "litert"}


def run(command: list[str], **more: Any) -> tuple[subprocess.CompletedProcess[str], dict[str, float]]:
    """Run a program to its end: what it said, and its ``seconds`` and ``cpu``."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, text=True, check=False, **more)
    seconds, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done, {"seconds": round(seconds, 2), "cpu": round(cpu, 2)}


def there(peer: str, format: str, a: argparse.Namespace) -> dict[str, float]:
    """What the other tool takes for one format."""
    with tempfile.TemporaryDirectory(prefix="edgeseg-bench-") as folder:
        model = shutil.copy(a.model, folder)
        env = {**os.environ, "YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "false"}
        command = [peer, "-c", PEER, model, THEIRS.get(format, format), a.data, str(a.imgsz)]
        done, took = run(command, cwd=folder, env=env, capture_output=True)
    if done.returncode:
        raise SystemExit(f"{format}: the other tool's export failed\n{(done.stdout + done.stderr)[-2000:]}")
    return took


def beside(a: argparse.Namespace) -> dict[str, Any]:
    """Each format here, in the other checkout where one is given, and there."""
    found: dict[str, Any] = {}
    for format in a.format.split(","):
        one = argparse.Namespace(**{**vars(a), "format": format})
        sides = {**({"other": timed(a.other.resolve(), one)} if a.other else {}), "here": timed(HERE, one)}
        found[format] = sides | {"there": there(a.peer, format, a)}
        for side, took in found[format].items():
            ratios = (took[k] / found[format]["there"][k] for k in ("seconds", "cpu"))
            print(
                f"{format:10s} {side:6s} {took['seconds']:7.1f} s  cpu {took['cpu']:7.1f} s  to theirs",
                *(f"{r:.2f}" for r in ratios),
                flush=True,
            )
    return found


def timed(checkout: Path, a: argparse.Namespace) -> dict[str, Any]:
    """One export with the code of ``checkout``: seconds, and when each step began and ended."""
    with tempfile.TemporaryDirectory(prefix="edgeseg-bench-") as folder:
        env = {**os.environ, "PYTHONPATH": str(checkout), "EDGESEG_HOME": str(Path(folder) / "home"), "EDGESEG_OFFLINE": "1"}
        command = [sys.executable, "-c", CODE, a.model, a.format, a.data, str(a.imgsz), str(Path(folder) / "out")]
        done, took = run(command, cwd=folder, env=env, stdout=subprocess.PIPE)
    if done.returncode:
        raise SystemExit(f"the export failed with the code of {checkout}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if found["failed"]:
        raise SystemExit(f"{checkout}: {'; '.join(found['failed'])}")
    return {**found, **took}


def main() -> None:
    """Run the exports and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=os.path.abspath)
    parser.add_argument("--data", required=True, type=os.path.abspath)
    parser.add_argument("--format", default="tflite,onnx,openvino,ncnn")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--other", type=Path, help="another checkout of edgeseg; it goes first")
    parser.add_argument("--peer", help="a Python that has Ultralytics: compare with its INT8 exports")
    parser.add_argument("--json", type=Path)
    a = parser.parse_args()
    if a.peer:
        found = beside(a)
        if a.json:
            a.json.write_text(json.dumps(found, indent=1))
        return
    checkouts = [*([a.other.resolve()] if a.other else []), HERE]
    found = {str(checkout): timed(checkout, a) for checkout in checkouts}
    for checkout, result in found.items():
        print(f"{result['seconds']:8.1f} s  {checkout}")
    if a.other:
        first, second = (r["seconds"] for r in found.values())
        print(f"{second / first:8.3f}    this checkout's time over the other's")
    if a.json:
        a.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
