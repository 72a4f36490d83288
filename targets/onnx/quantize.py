"""A float ONNX graph quantized by a recipe: ranges, weights and biases are the shared ones, the Q/DQ pairs are ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx

from edgeseg.export.job import Job
from edgeseg.quantize.decide import Decisions, decide
from edgeseg.quantize.flow import Flow
from edgeseg.quantize.recipe import Recipe, load_recipe

from .flow import read_flow


@dataclass(frozen=True)
class Reader:
    """What makes a reader of the file fast.

    ``inside``: it has integer kernels for what lies between convolutions, so every tensor but the outputs is rounded;
    without it, only what convolutions read is. ``deconv``: it has an integer kernel for transposed convolutions.
    """

    inside: bool
    deconv: bool = False


# ONNX Runtime on x86 runs a convolution in integers only between uint8 tensors, and a SiLU between two such convolutions is
# twice as fast in integers as in float between pairs.
ONNX_RUNTIME = Reader(inside=True)
# OpenVINO computes the SiLU in float in the epilogue of the convolution, before anything is rounded.
OPENVINO = Reader(inside=False)


def quantize(
    model: onnx.ModelProto, job: Job, outputs: Sequence[str], roles: Sequence[str], reader: Reader = ONNX_RUNTIME
) -> onnx.ModelProto:
    """The graph with Q/DQ pairs, by ``job.recipe`` with ranges from ``job.calibration``.

    Args:
        model: simplified, float32.
        job: the step.
        outputs: the tensors where integers end: the raw head's. What follows them stays float.
        roles: role of each.
        reader: who it is written for.

    Raises:
        EdgesegError: an operator before ``outputs`` that the quantizer does not know, or an empty calibration set.
    """
    recipe = load_recipe("int8") if job.recipe is None else Recipe.from_dict(job.recipe)
    flow = restrict(read_flow(model, job.imgsz, outputs, roles), reader)
    decisions = decide(flow, recipe, job.calibration, job.imgsz, lambda d, what: job.progress(0.3 + 0.5 * d, what))
    for said in unfollowed(flow, recipe, reader):
        job.note(said)
    job.progress(0.8, "writing Q/DQ pairs")
    return write(model, flow, decisions)


def write(model: onnx.ModelProto, flow: Flow, decisions: Decisions) -> onnx.ModelProto:
    """Q/DQ pairs as the decisions say. Activations of more than 8 bits stay float: convolutions have no kernels for them."""
    from . import qdq

    params = {name: q for name, q in decisions.params(flow).items() if decisions.bits.get(name, 8) == 8}
    weights = {n.output: decisions.weights.get(n.output, n.weight) for n in flow.nodes if n.weight is not None}
    made: onnx.ModelProto = qdq.write(model, flow, params, weights, decisions.weight_scales, decisions.biases, qdq.Writing())
    return made


def restrict(flow: Flow, reader: Reader) -> Flow:
    """The flow with what the reader computes in float, and with weights that its kernels on any CPU add up without overflow.

    The outputs are float tensors in the file, so rounding them would lose resolution of the scores and gain nothing.
    """
    every = {flow.input, *(n.output for n in flow.nodes)}
    floating = {n.output for n in flow.nodes if n.kind == "deconv" and not reader.deconv}
    convolutions = [n for n in flow.nodes if n.weight is not None and n.output not in floating]
    kept = set(flow.outputs)
    if reader.inside:
        # A transposed convolution in float reads and writes float; of its neighbours only the other side is rounded.
        kept |= {n.inputs[0] for n in flow.nodes if n.output in floating and len(flow.consumers[n.inputs[0]]) == 1}
    else:
        kept |= every - {n.inputs[0] for n in convolutions}
    return replace(flow, exact=frozenset(kept), floating=frozenset(floating), pairwise=True)


def unfollowed(flow: Flow, recipe: Recipe, reader: Reader) -> list[str]:
    """The lines of a recipe that this format cannot follow, each with the reason."""
    found = []
    wide = sorted({s for s in flow.stages.values() if recipe.activation_bits(s) == 16})
    if wide:
        found.append(f"16-bit activations ({', '.join(wide)}) stay float: there are no 16-bit integer kernels to run them")
    half = sorted({s for s in flow.stages.values() if recipe.weight_bits(s) == 16})
    if half:
        found.append(f"16-bit weights ({', '.join(half)}) stay float32: export half for half-precision weights")
    if "score" in recipe.clips and recipe.calibrated:
        found.append("the clip of the score is not needed: outputs are not rounded")
    return found
