"""The table of a network and its exports on a whole validation split, such as COCO val2017: agreement and AP with intervals.

    python scripts/coco_table.py yolov8n-seg.pt coco.yaml --format tflite,onnx,openvino,ncnn --out coco-table
    python scripts/coco_table.py yolov8n-seg.pt coco.yaml --format all --half --int8 --out coco-table

``coco.yaml`` is a dataset whose ``val`` has the 5,000 images (``edgeseg data`` makes one of COCO's JSON). Each artifact is
exported and compared with the network in a process of its own, and its row is a file: started again, what is there already
is not measured again. A format that cannot be made or run here has a row that says so, and is tried again next time. Prints
Markdown.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from edgeseg.registry import targets
from edgeseg.running.open import open_model

EDGESEG = [sys.executable, "-m", "edgeseg"]
PRECISIONS = {"fp32": [], "fp16": ["--half"], "int8": ["--int8"]}
HEADER = ("format", "precision", "MB", "box AP", "mask AP", "box AP - float", "mask AP - float", "agreement", "ms")


def measured(args: argparse.Namespace, format: str, precision: str) -> dict[str, Any] | None:
    """What ``edgeseg validate --reference`` says of one artifact, from its file where there is one; None: it has no say."""
    row = args.out / f"{format}-{precision}.json"
    if not row.exists():
        folder = args.out / f"{format}-{precision}"
        flags = [*PRECISIONS[precision], "--data", args.data, *(["--imgsz", str(args.imgsz)] if args.imgsz else [])]
        note = args.out / f"{format}-{precision}.made"
        export = [*EDGESEG, "export", args.model, "-f", format, "--out", str(folder), *flags, "--json", str(note)]
        if subprocess.run(export, check=False).returncode:
            return None
        (made,) = json.loads(note.read_text())["exports"]
        limit = ["--limit", str(args.limit)] if args.limit else []
        part = row.with_suffix(".part")
        compare = [*EDGESEG, "validate", made["path"], "--reference", args.model, "--data", args.data, *limit]
        done = subprocess.run([*compare, "--html", str(row.with_suffix(".html")), "--json", str(part)], check=False)
        # 1: it parts from its reference, which is what the table is to show.
        if done.returncode not in (0, 1) or json.loads(part.read_text())["models"][-1]["error"]:
            return None
        part.rename(row)
    found: dict[str, Any] = json.loads(row.read_text())
    return found


def line(format: str, precision: str, v: dict[str, Any]) -> str:
    """One row of the table."""
    box, seg = (v["metrics"].get(kind, {}).get("map") for kind in ("box", "seg"))
    cells = [format, precision, f"{v['size'] / 1e6:.2f}", *("" if a is None else f"{a:.4f}" for a in (box, seg))]
    for kind in ("box", "seg"):
        three = v["ap_difference"].get(kind)
        cells.append("" if not three else "{:+.2f} ({:+.2f} .. {:+.2f})".format(*(100 * x for x in three)))
    f = v.get("fidelity") or {}
    low, high = f.get("agreement_range") or (float("nan"),) * 2
    cells += [f"{f['agreement']:.4f} ({low:.4f} .. {high:.4f})" if f else "", f"{v['speed_ms']['inference']:.1f}"]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Export, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="checkpoint: the reference")
    parser.add_argument("data", help="dataset YAML or name")
    parser.add_argument("--format", default="tflite,onnx,openvino,ncnn", help="with commas, or all")
    parser.add_argument("--half", action="store_true")
    parser.add_argument("--int8", action="store_true")
    parser.add_argument("--imgsz", type=int)
    parser.add_argument("--limit", type=int, help="only the first so many images")
    parser.add_argument("--out", type=Path, required=True, help="folder for artifacts, rows and pages")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    open_model(args.model)  # a wrong name is told before the work
    formats = list(targets()) if args.format == "all" else args.format.split(",")
    asked = ["fp32", *(["fp16"] if args.half else []), *(["int8"] if args.int8 else [])]
    lines, images = [], 0
    for format in formats:
        for precision in asked:
            if precision in targets()[format].precisions:
                found = measured(args, format, precision)
                nothing = f"| {format} | {precision} | not made or run here" + " |" * (len(HEADER) - 2)
                said = None if found is None else found["models"][-1]
                kit = said is not None and targets()[format].is_kit(Path(said["path"]))
                name = f"{format} (what its kit holds)" if kit else format
                lines.append(nothing if said is None else line(name, precision, said))
                images = images if found is None else found["images"]
    print(f"\n{images} images; differences of AP in points, in brackets 95 % intervals over the choice of images\n")
    print("| " + " | ".join(HEADER) + " |\n" + "|---" * len(HEADER) + "|\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
