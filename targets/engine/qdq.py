"""Q/DQ ONNX made fit for TensorRT, which rounds symmetrically: zero points are 0, int8 only, biases are float.

What fits already is left alone. Pairs are kept where a convolution reads them, as NVIDIA recommends: what lies between a
convolution and its SiLU is fused in float there, and the symmetric grid of a SiLU's input would be coarse. Weights are
written as float values with a Q/DQ pair: every TensorRT since 8 folds that, while only 10 and later take int8 initializers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from edgeseg.errors import EdgesegError


def fit(model: onnx.ModelProto) -> list[str]:
    """Change ``model`` in place and say what was changed, each as a sentence.

    Raises:
        EdgesegError: there are no Q/DQ pairs, or scales that are no constants.
    """
    graph = model.graph
    if not any(n.op_type == "QuantizeLinear" for n in graph.node):
        raise EdgesegError("the ONNX file has no Q/DQ pairs, which is all that TensorRT takes int8 from", hint="Export int8")
    constants = _Constants(graph)
    notes = []
    if dropped := _float_between(graph, constants):
        notes.append(f"{dropped} activations that no convolution reads stay float, where TensorRT fuses them")
    if moved := _symmetric(graph, constants):
        notes.append(f"{moved} activations rounded symmetrically, as TensorRT does: one-sided ranges lose up to one bit")
    if biases := _float_biases(graph, constants):
        notes.append(f"{biases} biases written as float")
    if folded := _float_weights(graph, constants):
        notes.append(f"8-bit weights of {folded} convolutions with float activations written as float")
    _pairs_on_weights(graph, constants)
    _drop_unused(graph)
    return notes


# Element-wise operators of SiLU and its kin, which TensorRT fuses with the convolution before them.
_FUSED = ("Sigmoid", "Mul", "HardSigmoid", "HardSwish", "Relu", "LeakyRelu", "Clip", "Tanh")


class _Constants:
    """Initializers by name, and new ones."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.held = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                self.held[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)

    def get(self, name: str, what: str) -> np.ndarray:
        if name not in self.held:
            raise EdgesegError(f"the {what} {name} of a Q/DQ pair is no constant", hint="Quantize the network again")
        return self.held[name]

    def add(self, name: str, value: np.ndarray) -> str:
        while name in self.held:
            name += "_"
        self.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        self.held[name] = value
        return name


def _linear(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    yield from (n for n in graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear"))


def _float_between(graph: onnx.GraphProto, constants: _Constants) -> int:
    """Remove the pairs that only feed element-wise activations, or an output of the network."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {o.name for o in graph.output}
    renamed: dict[str, str] = {}
    gone: set[str] = set()
    count = 0
    for first in graph.node:
        if first.op_type != "QuantizeLinear" or first.input[0] in constants.held:
            continue
        seconds = readers.get(first.output[0], [])
        after = [r for second in seconds for r in readers.get(second.output[0], [])]
        if any(s.op_type != "DequantizeLinear" for s in seconds) or any(r.op_type not in _FUSED for r in after):
            continue
        for name in (second.output[0] for second in seconds):
            old, new = (first.input[0], name) if name in outputs else (name, first.input[0])
            renamed[old] = new
            gone.add(name)
        gone.add(first.output[0])
        count += 1
    _rewrite(graph, renamed, gone)
    return count


def _symmetric(graph: onnx.GraphProto, constants: _Constants) -> int:
    """Give every activation's pair a zero point of 0 and the smallest symmetric range that holds its own."""
    made: dict[tuple[str, ...], tuple[str, str]] = {}
    count = 0
    for node in _linear(graph):
        if node.input[0] in constants.held:
            continue
        scale = constants.get(node.input[1], "scale")
        zero = constants.get(node.input[2], "zero point") if len(node.input) > 2 else np.array(0, np.uint8)
        if zero.dtype == np.int8 and not zero.any():
            continue
        if zero.size != 1 or zero.dtype not in (np.int8, np.uint8):
            raise EdgesegError(f"activation {node.input[0]} is not int8 with one scale", hint="Quantize the network again")
        key = tuple(node.input[1:])
        if key not in made:
            limits = np.iinfo(zero.dtype)
            reach = max(abs(limits.min - int(zero)), abs(limits.max - int(zero))) * float(scale) / 127
            made[key] = (
                constants.add(f"{node.input[1]}/symmetric", np.asarray(reach, scale.dtype)),
                constants.add(f"{node.input[1]}/zero", np.asarray(0, np.int8)),
            )
        del node.input[1:]
        node.input.extend(made[key])
        count += node.op_type == "QuantizeLinear"
    return count


def _float_biases(graph: onnx.GraphProto, constants: _Constants) -> int:
    """Replace the dequantization of an int32 constant by its value."""
    renamed = {}
    for node in _linear(graph):
        value = constants.held.get(node.input[0])
        if node.op_type == "DequantizeLinear" and value is not None and value.dtype == np.int32:
            real = value.astype(np.float64) * constants.get(node.input[1], "scale")
            renamed[node.output[0]] = constants.add(node.output[0] + "/float", real.astype(np.float32))
    _rewrite(graph, renamed, renamed)
    return len(renamed)


def _float_weights(graph: onnx.GraphProto, constants: _Constants) -> int:
    """Replace int8 constants that are cast and multiplied by a constant by their product."""
    held = {name: value for name, value in constants.held.items() if value.dtype == np.int8}
    cast = {n.output[0]: held[n.input[0]] for n in graph.node if n.op_type == "Cast" and n.input[0] in held}
    renamed = {}
    for node in graph.node:
        if node.op_type == "Mul" and node.input[0] in cast and node.input[1] in constants.held:
            real = cast[node.input[0]] * constants.held[node.input[1]]
            renamed[node.output[0]] = constants.add(node.output[0] + "/float", real.astype(np.float32))
    used = {name for node in graph.node if node.output[0] not in renamed for name in node.input}
    _rewrite(graph, renamed, {*renamed, *(name for name in cast if name not in used)})
    return len(renamed)


def _pairs_on_weights(graph: onnx.GraphProto, constants: _Constants) -> None:
    """int8 constants become float constants with a pair; rounding gives the very same integers back."""
    nodes = list(graph.node)
    made = []
    for node in nodes:
        if node.op_type == "DequantizeLinear" and node.input[0] in constants.held:
            value = constants.held[node.input[0]]
            if len(node.input) > 2 and constants.get(node.input[2], "zero point").any():
                raise EdgesegError(f"weight {node.input[0]} has a zero point", hint="TensorRT wants symmetric weights")
            if value.dtype == np.int8:
                scale = constants.get(node.input[1], "scale")
                axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
                shape = [-1 if i == axis % value.ndim else 1 for i in range(value.ndim)] if scale.size > 1 else []
                real = constants.add(node.input[0] + "/float", (value * scale.reshape(shape)).astype(np.float32))
                pair = onnx.helper.make_node("QuantizeLinear", [real, *node.input[1:]], [node.output[0] + "/int8"])
                pair.attribute.extend(node.attribute)
                node.input[0] = pair.output[0]
                made.append(pair)
        made.append(node)
    del graph.node[:]
    graph.node.extend(made)


def _rewrite(graph: onnx.GraphProto, names: Mapping[str, str], gone: Collection[str]) -> None:
    """Leave out the nodes that write ``gone``, and call tensors by their new ``names``."""
    kept = [node for node in graph.node if node.output[0] not in gone]
    for side in (side for node in kept for side in (node.input, node.output)):
        for i, name in enumerate(side):
            while name in names:
                name = names[name]
            side[i] = name
    del graph.node[:]
    graph.node.extend(kept)


def _drop_unused(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input} | {o.name for o in graph.output}
    _rewrite(graph, {}, {n.output[0] for n in graph.node if n.op_type == "Constant"} - used)
    kept = [i for i in graph.initializer if i.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
