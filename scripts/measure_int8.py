"""Measure quantized artifacts against the float network: size, average precision, fidelity at the operating threshold.

    python scripts/measure_int8.py yolov8n-seg.pt coco100-seg.yaml a.tflite b.onnx
    python scripts/measure_int8.py yolov8n-seg.pt coco100-seg.yaml --recipe int8 --recipe int8-accurate

The float network's detections are computed once per run. With ``--recipe`` the TF Lite file is made first.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

from edgeseg.data.dataset import Dataset, load_dataset
from edgeseg.data.images import read_image
from edgeseg.evaluate.fidelity import fidelity
from edgeseg.evaluate.validate import validate
from edgeseg.export.job import Job
from edgeseg.network.runtime import NetworkRuntime
from edgeseg.quantize.calibration import choose
from edgeseg.quantize.recipe import load_recipe
from edgeseg.registry import target_by_name
from edgeseg.running.open import open_model
from edgeseg.running.pipeline import Pipeline

CONF = 0.25


def make(model: Path, dataset: Dataset, name: str, imgsz: int, count: int | None, folder: Path) -> Path:
    """The INT8 TF Lite file by one recipe; prints how long it took and the peak of memory."""
    recipe = load_recipe(name)
    chosen = choose(dataset, count or recipe.images)
    output = folder / f"{model.stem}_{Path(name).stem}.tflite"
    job = Job("tflite", model, "network", output, folder, "int8", imgsz=(imgsz, imgsz), recipe=recipe.to_dict(),
              calibration=chosen.images, calibration_info={"hash": chosen.hash, "images": len(chosen.images)})  # fmt: skip
    start = time.perf_counter()
    target_by_name("tflite").load("convert").convert(job)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{name}: {time.perf_counter() - start:.0f} s for {len(chosen.images)} images, peak {peak:.0f} MB")
    return output


def main() -> None:
    """Parse the command line and print one row an artifact."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="checkpoint: the reference")
    parser.add_argument("data", help="dataset YAML or name")
    parser.add_argument("artifacts", nargs="*", type=Path)
    parser.add_argument("--recipe", action="append", default=[], help="make a TF Lite file by this recipe and measure it")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--images", type=int, help="calibration images (default: the recipe's)")
    parser.add_argument("--no-ap", action="store_true", help="fidelity only, which takes half the time")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    dataset = load_dataset(args.data)
    folder = Path(tempfile.mkdtemp(prefix="edgeseg-int8-"))
    artifacts = [*args.artifacts, *(make(args.model, dataset, r, args.imgsz, args.images, folder) for r in args.recipe)]
    images = [read_image(p) for p in dataset.images("val")]
    network = NetworkRuntime(args.model)
    reference = [Pipeline(network, network.manifest, conf=CONF)(image) for image in images]
    rows = []
    for path in [None, *artifacts]:
        runtime, manifest = (network, network.manifest) if path is None else _open(path)
        row = {"artifact": "float network" if path is None else path.name}
        if path is not None:
            pipeline = Pipeline(runtime, manifest, conf=CONF)
            row |= {"mb": path.stat().st_size / 1e6, **fidelity(reference, [pipeline(i) for i in images], CONF).to_dict()}
        if not args.no_ap:
            metrics = validate(Pipeline(runtime, manifest), dataset)
            row |= {"box_map": metrics.box.map, "mask_map": metrics.seg.map}
        rows.append(row)
        print("  ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


def _open(path: Path) -> tuple:
    artifact = open_model(path)
    return artifact.runtime, artifact.manifest


if __name__ == "__main__":
    main()
