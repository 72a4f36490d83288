"""Integers in a Core ML program: 8-bit weights, and 8-bit activations where the recipe wants them.

The decisions are those of every format; coremltools' own way needs macOS to run the network. What
enters a convolution is quantized and dequantized again (``quantize``, ``dequantize``: from iOS 17), which Core ML fuses with
the convolution where the hardware multiplies integers. Everything between, SiLUs included, stays in half floats, and so do
the outputs: recipes' clips and ranges of those have nothing to act on here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
from coremltools.converters.mil.mil.passes.helper import block_context_manager
from coremltools.models.utils import _apply_graph_pass

from edgeseg.errors import EdgesegError
from edgeseg.export.job import Job
from edgeseg.quantize.carried import Carried, Convolution
from edgeseg.quantize.learned import fingerprint

IOS16, IOS17 = 7, 8
"""Versions of the specification."""
_AXES = {"conv": 0, "conv_transpose": 1}
"""Operators with weights, and where the output channels are in these."""
SMALLEST_SCALE = 2.0**-14
"""Smallest half float with full precision."""


def quantize(model: Any, weights: Iterable[np.ndarray], job: Job) -> tuple[Any, tuple[str, ...]]:
    """Quantize a converted model by the job's decisions.

    Args:
        model: the ``MLModel`` in half floats, with either head.
        weights: of all convolutions of the network, in float32.
        job: its decisions.

    Returns:
        The new ``MLModel``, and what a person should know of how the recipe was followed.

    Raises:
        EdgesegError: a convolution of the network that was not found.
    """
    decisions, floats = job.decisions(), {fingerprint(w.astype(np.float16)): w for w in weights}
    apply = Quantize(decisions, floats)
    job.progress(0.8, "writing integers")
    entries = any(c.entry is not None for c in decisions.convolutions.values())
    done = _apply_graph_pass(model, apply, spec_version=IOS17 if entries else IOS16, skip_model_load=True)
    if apply.left:
        raise EdgesegError(f"{len(apply.left)} convolutions were not found ({min(apply.left)})", hint="Use coremltools 9.0")
    if entries:
        return done, ("needs iOS 17 or macOS 14; what enters convolutions has 8 bits, all else stays in half floats",)
    return done, ()


class Quantize(AbstractGraphPass):
    """Rewrites convolutions of a program. ``left`` holds those that it has not met."""

    def __init__(self, decisions: Carried, floats: Mapping[tuple[float, ...], np.ndarray]) -> None:
        self.decisions, self.floats = decisions, floats
        self.left = set(decisions.convolutions)

    def apply(self, prog: Any) -> None:
        """Rewrite all functions of ``prog``."""
        for function in prog.functions.values():
            self._rewrite(function)

    @block_context_manager
    def _rewrite(self, block: Any) -> None:
        pairs: dict[str, Any] = {}
        operations = {op.name: op for op in block.operations if op.op_type in _AXES}
        # Half floats are too coarse to know the decisions' weights by: those of the network stand between.
        known = {name: self.floats.get(fingerprint(op.inputs["weight"].val)) for name, op in operations.items()}
        weights = {name: w for name, w in known.items() if w is not None}
        for name, layer in self.decisions.by_weights(weights.items()).items():
            self.left.discard(layer.name)
            self._layer(block, operations[name], layer, weights[name], pairs)

    @staticmethod
    def _layer(block: Any, op: Any, layer: Convolution, given: np.ndarray, pairs: dict[str, Any]) -> None:
        arguments = dict(op.inputs)
        half, step, axis, weight = arguments["weight"].val.dtype, layer.step, _AXES[op.op_type], layer.weight(given)
        if step is None:
            arguments["weight"] = weight.astype(half)
        else:
            shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
            arguments["weight"] = mb.constexpr_affine_dequantize(
                quantized_data=np.clip(np.rint(weight / step.reshape(shape)), -127, 127).astype(np.int8),
                zero_point=np.int8(0),
                scale=np.maximum(step, SMALLEST_SCALE).astype(half),
                axis=np.int32(axis),
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
