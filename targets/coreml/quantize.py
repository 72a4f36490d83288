"""Integers in a Core ML program: 8-bit weights, and 8-bit activations where the recipe wants them.

The ranges are our own, from the calibration images and the recipe; coremltools' own way needs macOS to run the network. What
enters a convolution is quantized and dequantized again (``quantize``, ``dequantize``: from iOS 17), which Core ML fuses with
the convolution where the hardware multiplies integers. Everything between, SiLUs included, stays in half floats, and so do
the outputs: recipes' clips and ranges of those have nothing to act on here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
from coremltools.converters.mil.mil.passes.helper import block_context_manager
from coremltools.models.utils import _apply_graph_pass

from edgeseg.errors import EdgesegError
from edgeseg.export.job import Job
from edgeseg.quantize import ranges
from edgeseg.quantize.calibration import iterate
from edgeseg.quantize.correct import Adjusted, sequential
from edgeseg.quantize.decide import UNIT, activation_bits, rounded_weights, weight_scales
from edgeseg.quantize.flow import Flow
from edgeseg.quantize.kinds import kind_of
from edgeseg.quantize.observe import Histogram, observe
from edgeseg.quantize.recipe import Activations, Correction, Recipe
from edgeseg.quantize.simulate import QParams

from .flow import read_flow

FLOAT = 32
IOS16, IOS17 = 7, 8
"""Versions of the specification."""
WEIGHTS_ONLY = Recipe("w8a32", activations=Activations(bits=FLOAT), correction=Correction(method="none"))
"""What happens without a recipe: no images are needed."""
SMALLEST_SCALE = 2.0**-14
"""Smallest half float with full precision."""


@dataclass(frozen=True, eq=False)
class Layer:
    """What becomes of one convolution: its weights, integers if there is a ``scale`` for each index along ``axis``, its
    bias, and its input's quantization (None: float)."""

    weight: np.ndarray
    scale: np.ndarray | None
    axis: int
    bias: np.ndarray
    entry: QParams | None


def quantize(model: Any, reference: Any, job: Job) -> tuple[Any, tuple[str, ...]]:
    """Quantize a converted model.

    Args:
        model: the ``MLModel`` in half floats, with either head.
        reference: the ``Program`` of the same network in float32 with the raw head.
        job: its recipe (None: weights only), calibration images and size.

    Returns:
        The new ``MLModel``, and what a person should know of how the recipe was followed.

    Raises:
        EdgesegError: no calibration images where the recipe needs some, or a convolution of the network was not found.
    """
    recipe = WEIGHTS_ONLY if job.recipe is None else Recipe.from_dict(job.recipe)
    flow, names = read_flow(reference)
    layers = _layers(flow, names, recipe, job)
    job.progress(0.8, "writing integers")
    entries = any(layer.entry is not None for layer in layers.values())
    apply = Quantize(layers)
    done = _apply_graph_pass(model, apply, spec_version=IOS17 if entries else IOS16, skip_model_load=True)
    if apply.left:
        raise EdgesegError(f"{len(apply.left)} convolutions were not found ({min(apply.left)})", hint="Use coremltools 9.0")
    return done, _notes(recipe, entries)


def _layers(flow: Flow, names: Mapping[str, str], recipe: Recipe, job: Job) -> dict[str, Layer]:
    """The layers by the name of their weight."""
    scales, params = weight_scales(flow, recipe), _entries(flow, recipe, job)
    found: Mapping[str, Adjusted] = {}
    if params and recipe.correction.method != "none":
        few = iterate(job.calibration[: recipe.correction.images], job.imgsz)
        report = lambda done: job.progress(0.6 + 0.2 * done, "correcting layer after layer")  # noqa: E731
        rounded = rounded_weights(flow, scales)
        found = sequential(flow, rounded, params, few, method=recipe.correction.method, progress=report)
    layers = {}
    for n in flow.nodes:
        if n.weight is None or n.bias is None:
            continue
        axis, scale, weight, bias = (0 if n.kind == "conv" else 1), scales.get(n.output), n.weight, n.bias
        shape = [-1 if i == axis else 1 for i in range(4)]
        if scale is not None:
            weight = np.clip(np.rint(weight / scale.reshape(shape)), -127, 127).astype(np.int8)
        if n.output in found:
            gain, bias = found[n.output].gain, found[n.output].bias
            scale, weight = (None, weight * gain.reshape(shape)) if scale is None else (scale * gain, weight)
        layers[names[n.output]] = Layer(weight, scale, axis, bias, params.get(n.inputs[0]))
    return layers


def _entries(flow: Flow, recipe: Recipe, job: Job) -> dict[str, QParams]:
    """Quantization of the tensors that enter convolutions and that have 8 bits by the recipe."""
    bits = activation_bits(flow, recipe)
    names = [name for name in dict.fromkeys(n.inputs[0] for n in flow.nodes if n.weight is not None) if bits[name] == 8]
    if not names:
        return {}
    total = len(job.calibration)
    if not total:
        raise EdgesegError("the calibration set is empty", hint="Give data=YOUR.yaml with a train split")
    report = lambda n: job.progress(0.4 + 0.2 * n / total, f"observing image {n} of {total}")  # noqa: E731
    seen = observe(flow, iterate(job.calibration, job.imgsz), report)
    return {name: _half_scale(QParams.from_range(*_range(flow, name, seen, recipe.activations))) for name in names}


def _range(flow: Flow, name: str, seen: Mapping[str, Histogram], how: Activations) -> tuple[float, float]:
    """The range of one tensor. Nothing here must share a scale: what is joined is joined in half floats."""
    if name == flow.input:
        return UNIT
    together = Histogram()
    for source in _sources(flow, name):
        together = together.merged(seen[source])
    if how.method == "mse":
        return ranges.mse(together)
    if how.method == "percentile":
        return ranges.percentile(together, how.percentile)
    return ranges.kl(together) if how.method == "kl" else ranges.minmax(together)


def _sources(flow: Flow, name: str) -> set[str]:
    """The computed tensors whose values a tensor holds, through operators that only move values."""
    node = flow.producer[name]
    return {s for i in node.inputs for s in _sources(flow, i)} if kind_of(node.kind).moves else {name}


def _half_scale(q: QParams) -> QParams:
    """The quantization with a scale that a half float can hold."""
    return replace(q, scale=float(np.float16(max(q.scale, SMALLEST_SCALE))))


def _notes(recipe: Recipe, entries: bool) -> tuple[str, ...]:
    if entries:
        notes = ["needs iOS 17 or macOS 14; what enters convolutions has 8 bits, all else stays in half floats"]
        if 16 in {recipe.activations.bits, *(s.activations for s in recipe.stages.values())}:
            notes.append("Core ML has no 16-bit integer activations: they stay in half floats")
        return tuple(notes)
    notes = ["8-bit weights, arithmetic in half floats: smaller, not faster than fp16 on most devices"]
    if recipe.activations.bits == 16:
        notes.append("Core ML has no 16-bit integer activations: they stay in half floats")
    return tuple(notes)


class Quantize(AbstractGraphPass):
    """Rewrites convolutions of a program. ``left`` holds those that it has not met."""

    def __init__(self, layers: Mapping[str, Layer]) -> None:
        self.layers = layers
        self.left = set(layers)

    def apply(self, prog: Any) -> None:
        """Rewrite all functions of ``prog``."""
        for function in prog.functions.values():
            self._rewrite(function)

    @block_context_manager
    def _rewrite(self, block: Any) -> None:
        pairs: dict[str, Any] = {}
        for op in list(block.operations):
            if op.op_type not in ("conv", "conv_transpose"):
                continue
            # The pass that makes half floats of weights adds to their names.
            name = op.inputs["weight"].name.removesuffix("_to_fp16")
            layer = self.layers.get(name)
            if layer is not None:
                self.left.discard(name)
                self._layer(block, op, layer, pairs)

    @staticmethod
    def _layer(block: Any, op: Any, layer: Layer, pairs: dict[str, Any]) -> None:
        arguments = dict(op.inputs)
        half = arguments["weight"].val.dtype
        if layer.scale is None:
            arguments["weight"] = layer.weight.astype(half)
        else:
            arguments["weight"] = mb.constexpr_affine_dequantize(
                quantized_data=layer.weight,
                zero_point=np.int8(0),
                scale=np.maximum(layer.scale, SMALLEST_SCALE).astype(half),
                axis=np.int32(layer.axis),
                before_op=op,
                name=arguments["weight"].name + "_integers",
            )
        arguments["bias"] = layer.bias.astype(half)
        x = arguments["x"]
        if layer.entry is not None:
            if x.name not in pairs:
                q = {"scale": half.type(layer.entry.scale), "zero_point": np.int8(layer.entry.zero_point)}
                integers = mb.quantize(input=x, output_dtype="int8", before_op=op, name=f"{x.name}_q", **q)
                pairs[x.name] = mb.dequantize(input=integers, before_op=op, name=f"{x.name}_dq", **q)
            arguments["x"] = pairs[x.name]
        new = getattr(mb, op.op_type)(**arguments, name=op.name, before_op=op)
        old = op.outputs[0]
        new.name = old.name
        block.replace_uses_of_var_after_op(anchor_op=op, old_var=old, new_var=new)
        block.remove_ops([op])
