"""Explicit quantization written into an ONNX graph: pairs of QuantizeLinear and DequantizeLinear (opset 13 and up).

A reader that knows these operators fuses them with what lies between; any other computes what they say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeseg.quantize.flow import Flow, Node
from edgeseg.quantize.simulate import QParams


@dataclass(frozen=True)
class Writing:
    """How a reader wants its integers.

    ``unsigned``: activations as uint8 in place of int8 (the same grid, shifted by 128). ``integer_bias``: biases as int32 on
    the grid of the accumulator, in place of float32.
    """

    unsigned: bool = True
    integer_bias: bool = True


def write(
    model: onnx.ModelProto,
    flow: Flow,
    params: Mapping[str, QParams],
    weights: Mapping[str, np.ndarray],
    scales: Mapping[str, np.ndarray],
    biases: Mapping[str, np.ndarray],
    writing: Writing,
) -> onnx.ModelProto:
    """A copy of ``model`` with Q/DQ pairs.

    Args:
        model: the float graph that ``flow`` was read from.
        flow: the same graph.
        params: how each activation is rounded, by tensor name; a tensor without one stays float.
        weights: of all convolutions, by output tensor, shaped as in ``flow``.
        scales: of each output channel of those that get int8 weights.
        biases: new biases, by output tensor of the convolution.
        writing: the reader's wishes.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    nodes = list(graph.node)
    del graph.node[:]
    del graph.value_info[:]
    writer = _Writer(graph, writing)
    outputs = {o.name for o in graph.output}
    # What reads a rounded tensor reads the dequantized one.
    read = {name: name if name in outputs else f"{name}/dequantized" for name in params}
    if flow.input in params:
        writer.pair(flow.input, read[flow.input], params[flow.input])
    for node in nodes:
        source = flow.producer.get(node.output[0])
        if source is not None and source.weight is not None:
            writer.convolution(node, source, params.get(source.inputs[0]), weights, scales, biases)
        for i, name in enumerate(node.input):
            if name in read:
                node.input[i] = read[name]
        written = list(node.output)
        for i, name in enumerate(written):
            if name in params and name in outputs:
                node.output[i] = f"{name}/float"
        graph.node.append(node)
        for i, name in enumerate(written):
            if name in params:
                writer.pair(node.output[i], read[name], params[name])
    _drop_unused(graph)
    return made


class _Writer:
    """Appends nodes and initializers to a graph."""

    def __init__(self, graph: onnx.GraphProto, writing: Writing) -> None:
        self.graph, self.writing = graph, writing

    def constant(self, name: str, value: np.ndarray) -> str:
        """An initializer's name."""
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def pair(self, name: str, output: str, q: QParams) -> None:
        """Round tensor ``name`` by ``q`` into tensor ``output``."""
        shift = 128 if self.writing.unsigned else 0
        kind = np.uint8 if self.writing.unsigned else np.int8
        common = [
            self.constant(f"{name}/scale", np.array(q.scale, np.float32)),
            self.constant(f"{name}/zero", np.array(q.zero_point + shift, kind)),
        ]
        integers = f"{name}/quantized"
        for operator, x, y in (("QuantizeLinear", name, integers), ("DequantizeLinear", integers, output)):
            self.graph.node.append(helper.make_node(operator, [x, *common], [y], name=f"{name}/{operator}"))

    def convolution(
        self,
        node: onnx.NodeProto,
        source: Node,
        given: QParams | None,
        weights: Mapping[str, np.ndarray],
        scales: Mapping[str, np.ndarray],
        biases: Mapping[str, np.ndarray],
    ) -> None:
        """Point a convolution at its int8 weights and its new bias."""
        name, scale = source.output, scales.get(source.output)
        bias = biases.get(name, source.bias)
        if scale is not None:
            node.input[1] = self._integer_weight(name, source.kind, weights[name], scale)
        elif weights[name] is not source.weight:
            node.input[1] = self.constant(f"{name}/weight", weights[name].astype(np.float32))
        if bias is None:
            return
        if len(node.input) < 3:
            node.input.append("")
        if scale is None or given is None or not self.writing.integer_bias:
            node.input[2] = self.constant(f"{name}/bias", bias.astype(np.float32))
            return
        # The products of integer inputs and weights are on this grid, so the bias can be added before anything is rounded.
        grid = (scale.astype(np.float32) * np.float32(given.scale)).astype(np.float32)
        top = 2**31 - 1
        values = np.clip(np.rint(bias.astype(np.float64) / grid), -top, top).astype(np.int32)
        node.input[2] = self._dequantized(f"{name}/bias", values, grid, 0)

    def _integer_weight(self, name: str, kind: str, weight: np.ndarray, scale: np.ndarray) -> str:
        axis = 0 if kind == "conv" else 1
        shape = [1] * weight.ndim
        shape[axis] = -1
        scale = scale.astype(np.float32)
        values = np.clip(np.rint(weight / scale.reshape(shape)), -127, 127).astype(np.int8)
        return self._dequantized(f"{name}/weight", values, scale, axis)

    def _dequantized(self, name: str, values: np.ndarray, scale: np.ndarray, axis: int) -> str:
        inputs = [
            self.constant(f"{name}/quantized", values),
            self.constant(f"{name}/scale", scale),
            self.constant(f"{name}/zero", np.zeros(scale.shape, values.dtype)),
        ]
        node = helper.make_node("DequantizeLinear", inputs, [name], name=f"{name}/DequantizeLinear", axis=axis)
        self.graph.node.append(node)
        return name


def _drop_unused(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input} | {o.name for o in graph.output}
    kept = [i for i in graph.initializer if i.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def quantized_types(model: onnx.ModelProto) -> dict[int, int]:
    """How many tensors each element type of QuantizeLinear has; for reports and tests."""
    zeros = {i.name: i.data_type for i in model.graph.initializer}
    found: dict[int, int] = {}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            kind = zeros.get(node.input[2], TensorProto.UINT8)
            found[kind] = found.get(kind, 0) + 1
    return found
