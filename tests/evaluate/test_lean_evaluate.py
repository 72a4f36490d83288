"""Reading data and the measuring code must load where there is no torch, and load nothing heavy by themselves."""

from __future__ import annotations

import subprocess
import sys

MODULES = (
    "data." + m
    for m in (
        "coco",
        "convert",
        "dataset",
        "images",
        "labelme",
        "labels",
        "merging",
        "named",
        "placing",
        "planned",
        "shapes",
    )
)
EVALUATE = ("evaluate." + m for m in ("fidelity", "metrics", "tensors", "truth", "validate"))
HEAVY = ("torch", "onnx", "onnxruntime", "tensorflow", "faster_coco_eval", "rich", "hypothesis")


def test_nothing_heavy_is_imported() -> None:
    lines = [f"import edgeseg.{m}" for m in (*MODULES, *EVALUATE)]
    code = "\n".join(["import sys", *lines, f"print([m for m in {HEAVY!r} if m in sys.modules])"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
