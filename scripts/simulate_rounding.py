"""Simulate what rounding costs: agreement with the float network when this and that is in 8 bits (docs/decisions/0023).

    python scripts/simulate_rounding.py yolov8n-seg.pt coco.yaml PICTURES --limit 100

``coco.yaml`` calibrates (its train split), the folder PICTURES judges and needs no labels. Nothing is exported: these are
simulations, and what a runtime really gives is measured by ``edgeseg validate --reference``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgeseg.data.dataset import load_dataset, pictures
from edgeseg.data.images import read_image
from edgeseg.evaluate.fidelity import fidelity
from edgeseg.manifest import Manifest
from edgeseg.network.checkpoint import load_checkpoint
from edgeseg.network.flow import network_flow
from edgeseg.network.runtime import NetworkRuntime
from edgeseg.quantize.calibration import choose
from edgeseg.quantize.constraints import Constraints, constrain
from edgeseg.quantize.decide import Decisions, decide, look, rounded_weights
from edgeseg.quantize.flow import Flow
from edgeseg.quantize.recipe import Correction, load_recipe
from edgeseg.quantize.simulate import QParams, Simulator, to_tensor
from edgeseg.registry import target_by_name
from edgeseg.vision.detections import Detections
from edgeseg.vision.postprocess import postprocess
from edgeseg.vision.preprocess import letterbox

ENTRIES = Constraints(rounds="entries")
Grids = Mapping[str, QParams]


def of(format: str) -> Constraints:
    """What a format's integers can follow."""
    return Constraints.from_table(target_by_name(format).quantize)


def finer(grids: Grids, bits: int) -> Grids:
    """The same ranges with so many bits more."""
    n = 1 << bits
    return {k: QParams(q.scale / n, q.zero_point * n, q.low * n, (q.high + 1) * n - 1) for k, q in grids.items()}


def without(grids: Grids, wanted: Callable[[str], bool]) -> Grids:
    """With some tensors in float."""
    return {k: q for k, q in grids.items() if not wanted(k)}


def rows(
    flow: Flow, recipe: str, images: list[Path], size: tuple[int, int]
) -> list[tuple[str, Flow, Decisions | None, Grids]]:
    """What is simulated: title, flow, the decisions behind its weights (None: float), and the grids of its activations."""
    rules = load_recipe(recipe)
    seen = look(flow, rules, images, size)
    found: list[tuple[str, Flow, Decisions | None, Grids]] = [("float", flow, None, {})]
    for title, c in (
        ("TF Lite: every tensor", of("tflite")),
        ("ONNX: every tensor but the outputs", of("onnx")),
        ("ncnn: what convolutions read, symmetric", of("ncnn")),
        ("what convolutions read", ENTRIES),
    ):
        for note, method in (("", rules.correction), (", biases not corrected", Correction("none"))):
            d = decide(flow, replace(rules, correction=method), images, size, constraints=c, observed=seen)
            made = constrain(flow, c)
            found.append((title + note, made, d, d.params(made)))
    title, made, d, grids = found[-2]  # corrected, as the rows of the decision are
    stages = made.stages
    found.append(("weights alone", made, found[-1][2], {}))
    found += [(f"{title}, {n} more bit{'s' if n > 1 else ''}", made, d, finer(grids, n)) for n in (1, 2)]
    for stage in ("backbone", "neck", "score"):
        found.append((f"{title}, {stage} in float", made, d, without(grids, lambda k, s=stage: stages.get(k) == s)))
    return found


def simulator(flow: Flow, d: Decisions | None, grids: Grids) -> Simulator:
    """The network with the weights and biases as decided."""
    if d is None:
        return Simulator(flow)
    rounded = {**rounded_weights(flow.nodes, d.weight_scales), **d.weights}
    biases = {n.output: d.biases.get(n.output, n.bias) for n in flow.nodes if n.weight is not None}
    return Simulator(flow.with_weights({k: (w, biases[k]) for k, w in rounded.items()}), grids)


def detections(run: Simulator, manifest: Manifest, judges: list[Path]) -> list[Detections]:
    """What is found at the usual threshold in each picture."""
    found = []
    for path in judges:
        boxed, place = letterbox(read_image(path), manifest.imgsz)
        outputs = run.run(to_tensor([np.ascontiguousarray(boxed[..., ::-1])]))
        found.append(postprocess([o.numpy() for o in outputs], manifest, place))
    return found


def main() -> None:
    """Calibrate, simulate row by row, print as each is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data")
    parser.add_argument("pictures")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--recipe", default="int8")
    parser.add_argument("--limit", type=int, help="only the first so many pictures")
    args = parser.parse_args()
    size = (args.imgsz, args.imgsz)
    network = load_checkpoint(args.model).float()
    manifest = replace(NetworkRuntime(network).manifest, imgsz=size)
    judges = pictures(args.pictures, "val")[0][: args.limit]
    chosen = choose(load_dataset(args.data), load_recipe(args.recipe).images).images
    reference: list[Detections] = []
    print("| rounded | agreement | missing, extra | score shift, its std |\n|---|---|---|---|")
    for title, flow, d, grids in rows(network_flow(network, size), args.recipe, list(chosen), size):
        found = detections(simulator(flow, d, grids), manifest, list(judges))
        reference = reference or found
        f = fidelity(reference, found)
        low, high = f.agreement_range
        shift = f"{f.score_shift:+.4f}, {f.score_shift_std:.4f}"
        print(f"| {title} | {f.agreement:.4f} ({low:.3f} .. {high:.3f}) | {f.missing_extra} | {shift} |", flush=True)


if __name__ == "__main__":
    main()
