"""What sending the work through Ray costs on one machine: many models exported and validated, here and on ``--ray local``.

    python scripts/bench_cluster.py --models 12 --formats torchscript,onnx,openvino,ncnn --images 1000
    python scripts/bench_cluster.py --nodes 3 --kill      on three nodes of one core here, one of which dies half-way

Both sides start from an empty cache, in turn, model by model (here, Ray; Ray, here; here, Ray ...), so that a change of
load hits both. Starting the cluster is told apart: it is paid once.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from threading import Timer
from typing import Any

import edgeseg.demo
from edgeseg.cluster import connect
from edgeseg.data.shapes import make_shapes
from edgeseg.evaluate.validate import validate
from edgeseg.export.api import export
from edgeseg.export.options import ExportOptions
from edgeseg.network.checkpoint import load_checkpoint, save_checkpoint
from edgeseg.running.open import open_model

DEMO = Path(edgeseg.demo.__path__[0]) / "demo-seg.pt"


def networks(folder: Path, count: int) -> list[Path]:
    """Networks that differ: the demo network, weights scaled."""
    found = []
    for number in range(count):
        network = load_checkpoint(DEMO)
        for parameter in network.parameters():
            parameter.data *= 1 + number / 1000
        found.append(folder / f"net{number}.pt")
        save_checkpoint(found[-1], network)
    return found


def nodes_of(count: int) -> Any:
    """A cluster here: a head that runs nothing, and so many nodes of one core."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.mine = [cluster.add_node(num_cpus=1) for _ in range(count)]
    return cluster


def seconds(work: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--models", type=int, default=12)
    parser.add_argument("--formats", default="torchscript,onnx,openvino,ncnn")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--nodes", type=int, default=0, help="nodes of one core here, in place of --ray local")
    parser.add_argument("--kill", action="store_true", help="kill a node half-way")
    args = parser.parse_args()
    started = nodes_of(args.nodes) if args.nodes else None
    with tempfile.TemporaryDirectory(prefix="edgeseg-bench-") as name:
        folder, formats = Path(name), args.formats.split(",")
        os.environ["SOURCE_DATE_EPOCH"] = "1700000000"
        models, options = networks(folder, args.models), ExportOptions.of(imgsz=(160, 160))
        dataset = make_shapes(folder / "shapes", train=1, val=args.images, size=160, seed=7)
        spent: dict[str, dict[str, float]] = {"export": {"here": 0.0, "ray": 0.0}, "validate": {"here": 0.0, "ray": 0.0}}
        start, context = seconds(lambda: connect(started.address if started else "local"))
        with context as cluster:
            for number, model in enumerate(models):
                if started and args.kill and number == len(models) // 2:
                    Timer(2, started.remove_node, (started.mine[0],), {"allow_graceful": False}).start()
                keys = {}
                for side in ("here", "ray") if number % 2 == 0 else ("ray", "here"):
                    os.environ["EDGESEG_HOME"] = str(folder / side)
                    performer = cluster if side == "ray" else None
                    took, made = seconds(
                        lambda: export(model, formats, options, out=folder / f"out-{side}", performer=performer)  # noqa: B023
                    )
                    spent["export"][side] += took
                    keys[side] = [(r.format, r.key, str(r.error)) for r in made]
                assert keys["here"] == keys["ray"], keys  # noqa: S101
            for number, model in enumerate(models):
                with open_model(folder / "out-here" / f"{model.stem}.onnx") as opened:
                    figures = {}
                    for side in ("here", "ray") if number % 2 == 0 else ("ray", "here"):
                        what = opened.pipeline() if side == "here" else cluster.spread(opened, None, {})
                        took, result = seconds(lambda: validate(what, dataset))  # noqa: B023
                        spent["validate"][side] += took
                        figures[side] = result.metrics.to_dict()
                assert json.dumps(figures["here"]) == json.dumps(figures["ray"])  # noqa: S101
            print(json.dumps(spent), flush=True)
        same = [p for p in (folder / "out-here").rglob("*") if p.is_file()]
        equal = sum(p.read_bytes() == (folder / "out-ray" / p.relative_to(folder / "out-here")).read_bytes() for p in same)
    print(f"starting the cluster: {start:.1f} s; {equal} of {len(same)} files are equal byte for byte")
    for what, s in spent.items():
        print(f"{what}: here {s['here']:.1f} s, on Ray {s['ray']:.1f} s, ratio {s['ray'] / s['here']:.3f}")


if __name__ == "__main__":
    main()
