"""An ncnn network with int8 convolutions, by a recipe. No tool that ships with ncnn writes these: this one does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg.errors import EdgesegError
from edgeseg.export.job import Job
from edgeseg.manifest import Output
from edgeseg.quantize.decide import Decisions, decide
from edgeseg.quantize.flow import Flow
from edgeseg.quantize.recipe import Recipe, load_recipe

from . import flow as ncnn_flow


def quantize(param: Path, weights: Path, job: Job, outputs: Sequence[Output]) -> None:
    """Rewrite a float32 network in place, by ``job.recipe`` with ranges from ``job.calibration``.

    ncnn rounds what a convolution reads, symmetrically, and computes all else in float.

    Raises:
        EdgesegError: the decoded head, a layer that the quantizer does not know, or an empty calibration set.
    """
    if job.head != "raw":
        raise EdgesegError("ncnn's int8 needs the raw head", hint="Export int8 with head=raw")
    recipe = load_recipe("int8") if job.recipe is None else Recipe.from_dict(job.recipe)
    layers = ncnn_flow.read(param.read_text(encoding="utf-8"), weights.read_bytes())
    flow: Flow = ncnn_flow.as_flow(layers, job.imgsz, [o.name for o in outputs], [o.role for o in outputs])
    decisions = decide(flow, recipe, job.calibration, job.imgsz, lambda d, what: job.progress(0.3 + 0.6 * d, what))
    for said in unfollowed(flow, recipe):
        job.note(said)
    text, content = ncnn_flow.pack(*adjusted(layers, flow, decisions))
    param.write_text(text, encoding="utf-8")
    weights.write_bytes(content)


def adjusted(
    layers: Sequence[Any], flow: Flow, decisions: Decisions
) -> tuple[list[Any], dict[str, tuple[np.ndarray, float]]]:
    """The layers with the decided weights and biases, and the scales of those convolutions that run in integers.

    ncnn multiplies int8 by int8 only: a convolution whose input stays float keeps float weights.
    """
    params, made = decisions.params(flow), []
    scales: dict[str, tuple[np.ndarray, float]] = {}
    for layer in layers:
        node = flow.producer.get(layer.outputs[0]) if layer.weight is not None else None
        if node is not None:
            name, bias = node.output, decisions.biases.get(node.output, node.bias)
            weight = decisions.weights.get(name, node.weight)
            given = params.get(node.inputs[0])
            if given is not None and name in decisions.weight_scales and decisions.bits.get(node.inputs[0], 8) == 8:
                scales[name] = decisions.weight_scales[name].astype(np.float32), float(given.scale)
            if node.kind == "deconv" and weight is not None:
                weight = weight.transpose(1, 0, 2, 3)
            layer = replace(layer, weight=weight, bias=bias, params={**layer.params, 5: ("1",)})
        made.append(layer)
    return made, scales


def unfollowed(flow: Flow, recipe: Recipe) -> list[str]:
    """The lines of a recipe that ncnn cannot follow, each with the reason."""
    found = [
        "the transposed convolution stays float: ncnn has no integer kernel for it",
        "the first three convolutions stay float: symmetric integers are coarse, and their noise reaches every output",
        "the last convolutions stay float: symmetric integers are coarse, and nothing behind them evens out their noise",
    ]
    stages = sorted(set(flow.stages.values()))
    wide = [s for s in stages if recipe.activation_bits(s) == 16]
    if wide:
        found.append(f"16-bit activations ({', '.join(wide)}) stay float, weights too: ncnn's integers have 8 bits")
    alone = [s for s in stages if recipe.activation_bits(s) == 32 and recipe.weight_bits(s) == 8]
    if alone:
        found.append(f"8-bit weights with float activations ({', '.join(alone)}) stay float32: ncnn has no such convolution")
    if "score" in recipe.clips and recipe.calibrated:
        found.append("the clip of the score is not needed: outputs are not rounded")
    return found
