"""Full-integer TF Lite: our own decisions, written into the flatbuffer by ai-edge-quantizer."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from edgeseg.errors import EdgesegError
from edgeseg.export.job import Job
from edgeseg.manifest import ROLES
from edgeseg.quantize.decide import Decisions, decide
from edgeseg.quantize.flow import Flow
from edgeseg.quantize.recipe import FLOAT, Recipe, load_recipe

from . import flatbuffer, graph


def quantize(content: bytes, job: Job) -> bytes:
    """Quantize a float flatbuffer by ``job.recipe`` with ranges from ``job.calibration``.

    The outputs must be named as edgeseg names them (``box_8`` ...), which tells their roles.

    Raises:
        EdgesegError: an operator that integers cannot serve (the decoded head), an empty calibration set.
    """
    recipe = load_recipe("int8") if job.recipe is None else Recipe.from_dict(job.recipe)
    model = flatbuffer.read(content)
    names = [graph.tensor_name(model.subgraphs[0], i) for i in model.subgraphs[0].outputs]
    roles = [name.partition("_")[0] for name in names]
    if job.head != "raw" or not set(roles) <= set(ROLES[:4]):
        raise EdgesegError(
            "integers cannot hold boxes, scores and coefficients in one tensor: the decoded head would lose the masks",
            hint="Export int8 with head=raw",
        )
    flow = graph.read_flow(model, names, roles)
    decisions = decide(flow, recipe, job.calibration, job.imgsz, lambda d, what: job.progress(0.4 + 0.5 * d, what))
    job.progress(0.9, "writing integers")
    graph.set_constants(model, {name: (decisions.weights[name], bias) for name, bias in decisions.biases.items()})
    return _integers(flatbuffer.pack(model, len(content) + 4096), flow, recipe, decisions, graph.weight_names(model))


def _integers(content: bytes, flow: Flow, recipe: Recipe, decisions: Decisions, weight_names: dict[str, str]) -> bytes:
    import logging

    from ai_edge_quantizer import quantizer

    logging.getLogger().setLevel(max(logging.getLogger().level, logging.WARNING))
    statistics: dict[str, dict[str, np.ndarray]] = {
        name: {"min": np.array(lo, np.float32), "max": np.array(hi, np.float32)}
        for name, (lo, hi) in decisions.ranges.items()
    }
    for name, scale in decisions.weight_scales.items():
        reach = (scale * 127).reshape(-1, 1, 1, 1).astype(np.float32)
        statistics[weight_names[name]] = {"min": -reach, "max": reach}
    q: Any = quantizer.Quantizer(bytearray(content))
    _configure(q, flow, recipe, decisions)
    try:
        return bytes(q.quantize(statistics, enable_progress_bar=False, enable_progress_report=False).quantized_model)
    except (ValueError, RuntimeError) as e:
        raise EdgesegError(f"ai-edge-quantizer refused the network ({e})", hint="Use ai-edge-quantizer 0.10") from e


def _configure(q: Any, flow: Flow, recipe: Recipe, decisions: Decisions) -> None:
    """One rule for all operators, then one for each whose stage has other bits (the last rule that fits wins)."""
    from ai_edge_quantizer import qtyping

    every = qtyping.TFLOperationName.ALL_SUPPORTED
    granularity = {"channel": qtyping.QuantGranularity.CHANNELWISE, "tensor": qtyping.QuantGranularity.TENSORWISE}
    usual = (recipe.activations.bits, recipe.weights.bits)
    _rule(q, ".*", every, usual, granularity[recipe.weights.granularity])
    _edges(q, recipe, granularity[recipe.weights.granularity])
    for n in flow.nodes:
        stage = flow.stages[n.output]
        bits = (recipe.activation_bits(stage), recipe.weight_bits(stage))
        if bits != usual:
            # A scope is the output tensor's name and a semicolon.
            _rule(q, f"^{re.escape(n.output)};?$", every, bits, granularity[recipe.weights.granularity])


def _edges(q: Any, recipe: Recipe, granularity: Any) -> None:
    """The input always takes 8 bits (an image has no more); outputs of a recipe with 16 bits throughout are float."""
    from ai_edge_quantizer import algorithm_manager, qtyping

    if recipe.calibrated and recipe.activations.bits != 8:
        _rule(q, ".*", qtyping.TFLOperationName.INPUT, (8, 8), granularity)
        q.update_quantization_recipe(
            ".*", qtyping.TFLOperationName.OUTPUT, algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE
        )


def _rule(q: Any, regex: str, operation: Any, bits: tuple[int, int], granularity: Any) -> None:
    """Add one rule. A float rule is spelled out, because a rule that does not fit an operator leaves it to earlier ones."""
    from ai_edge_quantizer import algorithm_manager, qtyping

    activation, weight = bits
    if activation != FLOAT:
        q.add_static_config(regex, operation, activation, weight, granularity)
        return
    q.update_quantization_recipe(regex, operation, algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE)
    if weight == 8:
        for name in (qtyping.TFLOperationName.CONV_2D, qtyping.TFLOperationName.CONV_2D_TRANSPOSE):
            q.add_weight_only_config(regex, name, 8, granularity)
