"""Full-integer TF Lite: the decisions, written into the flatbuffer by ai-edge-quantizer."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from edgeseg.errors import EdgesegError
from edgeseg.export.describe import INPUT
from edgeseg.export.job import Job
from edgeseg.quantize.carried import Carried
from edgeseg.quantize.recipe import FLOAT, Recipe

from . import flatbuffer, graph


def quantize(content: bytes, job: Job) -> bytes:
    """Quantize a float flatbuffer by the job's decisions.

    Of the decoded head the boxes are computed in float, from the last convolutions on, and rounded once.

    Raises:
        EdgesegError: boxes, scores and coefficients in one tensor; a tensor or operator that is not the network's.
    """
    decisions, model = job.decisions(), flatbuffer.read(content)
    ends = {graph.tensor_name(model.subgraphs[0], i) for i in model.subgraphs[0].outputs}
    if "prediction" in ends:
        what = "boxes, scores and coefficients in one tensor would share one scale, in which the scores and masks are lost"
        raise EdgesegError(what, hint="Export int8 with head=raw, or head=decoded, which gives them apart")
    names, tail = graph.matched(model, content, decisions, job.imgsz, decoded=job.head == "decoded")
    job.progress(0.9, "writing integers")
    scales = graph.set_constants(model, names, decisions)
    return _integers(flatbuffer.pack(model, len(content) + 4096), names, decisions, scales, tail)


def _integers(
    content: bytes, names: dict[str, str], decisions: Carried, scales: dict[str, np.ndarray], tail: graph.Tail
) -> bytes:
    import logging

    from ai_edge_quantizer import qtyping, quantizer

    logging.getLogger().setLevel(max(logging.getLogger().level, logging.WARNING))
    statistics: dict[str, dict[str, np.ndarray]] = {}
    for name, ours in names.items():
        reach = decisions.tensors[ours].range
        if reach is not None:
            statistics[name] = {"min": np.array(reach[0], np.float32), "max": np.array(reach[1], np.float32)}
    for name, scale in scales.items():
        largest = (scale * 127).astype(np.float32)
        statistics[name] = {"min": -largest, "max": largest}
    for name, (low, high) in tail.ranges.items():
        statistics[name] = {"min": np.array(low, np.float32), "max": np.array(high, np.float32)}
    q: Any = quantizer.Quantizer(bytearray(content))
    _configure(q, names, decisions)
    for name in tail.floats:
        _rule(q, f"^{re.escape(name)};?$", qtyping.TFLOperationName.ALL_SUPPORTED, (FLOAT, FLOAT), None)
    try:
        return bytes(q.quantize(statistics, enable_progress_bar=False, enable_progress_report=False).quantized_model)
    except (ValueError, RuntimeError) as e:
        raise EdgesegError(f"ai-edge-quantizer refused the network ({e})", hint="Use ai-edge-quantizer 0.10") from e


def _configure(q: Any, names: dict[str, str], decisions: Carried) -> None:
    """One rule for all operators, then one for each whose stage has other bits (the last rule that fits wins)."""
    from ai_edge_quantizer import qtyping

    every, recipe = qtyping.TFLOperationName.ALL_SUPPORTED, decisions.recipe
    granularities = {"channel": qtyping.QuantGranularity.CHANNELWISE, "tensor": qtyping.QuantGranularity.TENSORWISE}
    granularity = granularities[recipe.weights.granularity]
    usual = (recipe.activations.bits, recipe.weights.bits)
    _rule(q, ".*", every, usual, granularity)
    _edges(q, recipe, granularity)
    for name, ours in names.items():
        if name == INPUT:
            continue  # it has a rule of its own
        stage = decisions.tensors[ours].stage
        bits = (recipe.activation_bits(stage), recipe.weight_bits(stage))
        if bits != usual:
            # A scope is the output tensor's name and a semicolon.
            _rule(q, f"^{re.escape(name)};?$", every, bits, granularity)


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
        known = qtyping.TFLOperationName
        for name in (known.CONV_2D, known.DEPTHWISE_CONV_2D, known.CONV_2D_TRANSPOSE):
            q.add_weight_only_config(regex, name, 8, granularity)
