"""Explicit quantization written into an ONNX graph: pairs of QuantizeLinear and DequantizeLinear (opset 13 and up).

A reader that knows these operators fuses them with what lies between; any other computes what they say. 8-bit weights that
multiply floats are cast and scaled in place of that: ONNX Runtime folds this when it loads the file, and then lays the
weights out for its fastest convolutions, while it would compute a DequantizeLinear anew on every image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeseg.quantize.carried import Convolution
from edgeseg.quantize.simulate import QParams


@dataclass(frozen=True)
class Writing:
    """How a reader wants its integers.

    ``unsigned``: activations as uint8 in place of int8 (the same grid, shifted by 128). ``integer_bias``: biases as int32 on
    the grid of the accumulator, in place of float32.
    """

    unsigned: bool = True
    integer_bias: bool = True


AXES = {"Conv": 0, "ConvTranspose": 1}
"""The operators with weights, and where the output channels are in these."""


def write(
    model: onnx.ModelProto, grids: Mapping[str, QParams], convolutions: Mapping[str, Convolution], writing: Writing
) -> onnx.ModelProto:
    """A copy of ``model`` with Q/DQ pairs.

    Args:
        model: the float graph.
        grids: how each activation is rounded, by tensor name; a tensor without one stays float.
        convolutions: what was decided for each convolution, by the tensor that it writes.
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
    read = {name: name if name in outputs else f"{name}/dequantized" for name in grids}
    for entry in (i.name for i in graph.input):
        if entry in grids:
            writer.pair(entry, read[entry], grids[entry])
    for node in nodes:
        if node.output[0] in convolutions:
            writer.convolution(node, convolutions[node.output[0]], grids.get(node.input[0]))
        for i, name in enumerate(node.input):
            if name in read:
                node.input[i] = read[name]
        written = list(node.output)
        for i, name in enumerate(written):
            if name in grids and name in outputs:
                node.output[i] = f"{name}/float"
        graph.node.append(node)
        for i, name in enumerate(written):
            if name in grids:
                writer.pair(node.output[i], read[name], grids[name])
    _drop_unused(graph)
    return made


class _Writer:
    """Appends nodes and initializers to a graph."""

    def __init__(self, graph: onnx.GraphProto, writing: Writing) -> None:
        self.graph, self.writing = graph, writing
        self.held = {i.name: numpy_helper.to_array(i) for i in graph.initializer}

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

    def convolution(self, node: onnx.NodeProto, ours: Convolution, entry: QParams | None) -> None:
        """Point a convolution at its decided weights and bias."""
        name, step, axis = node.output[0], ours.step, AXES[node.op_type]
        weight = ours.weight(self.held[node.input[1]])
        if step is None:
            node.input[1] = self.constant(f"{name}/weight", weight)
        else:
            shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
            scale = step.astype(np.float32)
            integers = np.clip(np.rint(weight / scale.reshape(shape)), -127, 127).astype(np.int8)
            store = self._dequantized if entry is not None else self._scaled
            node.input[1] = store(f"{name}/weight", integers, scale, axis)
        if len(node.input) < 3:
            node.input.append("")
        if step is None or entry is None or not self.writing.integer_bias:
            node.input[2] = self.constant(f"{name}/bias", ours.bias)
            return
        # The products of integer inputs and weights are on this grid, so the bias can be added before anything is rounded.
        grid = (step.astype(np.float32) * np.float32(entry.scale)).astype(np.float32)
        top = 2**31 - 1
        values = np.clip(np.rint(ours.bias.astype(np.float64) / grid), -top, top).astype(np.int32)
        node.input[2] = self._dequantized(f"{name}/bias", values, grid, 0)

    def _scaled(self, name: str, values: np.ndarray, scale: np.ndarray, axis: int) -> str:
        shape = [-1 if i == axis else 1 for i in range(values.ndim)]
        held = self.constant(f"{name}/quantized", values), self.constant(f"{name}/scale", scale.reshape(shape))
        cast = helper.make_node("Cast", [held[0]], [f"{name}/cast"], name=f"{name}/Cast", to=onnx.TensorProto.FLOAT)
        self.graph.node.extend([cast, helper.make_node("Mul", [f"{name}/cast", held[1]], [name], name=f"{name}/Mul")])
        return name

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
