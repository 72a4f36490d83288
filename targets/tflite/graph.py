"""A float TFLite file as a ``Flow``, and its constants written back; nothing depends on names that a converter gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgeseg.errors import EdgesegError
from edgeseg.quantize.flow import Flow, Node

_CONVOLUTIONS = ("CONV_2D", "TRANSPOSE_CONV")
_RELU6 = 3  # of schema.ActivationFunctionType


def operator_names(model: Any) -> list[str]:
    """Name of each operator of the main subgraph, in order."""
    from ai_edge_litert import schema_py_generated as schema

    names = {v: k for k, v in vars(schema.BuiltinOperator).items() if not k.startswith("_")}
    codes = [max(c.builtinCode, c.deprecatedBuiltinCode) for c in model.operatorCodes]
    return [names[codes[op.opcodeIndex]] for op in model.subgraphs[0].operators]


def tensor_name(graph: Any, index: int) -> str:
    """Name of a tensor as text."""
    name = graph.tensors[index].name
    return name.decode() if isinstance(name, bytes) else str(name)


def constant(model: Any, index: int, dtype: Any) -> np.ndarray:
    """A constant tensor's values in its own shape."""
    tensor = model.subgraphs[0].tensors[index]
    data = model.buffers[tensor.buffer].data
    if data is None:
        raise EdgesegError(f"tensor {tensor_name(model.subgraphs[0], index)} holds no constant")
    return np.frombuffer(np.asarray(data, np.uint8).tobytes(), dtype).reshape(tensor.shape)


def _same_padding(size: Sequence[int], kernel: Sequence[int], stride: Sequence[int]) -> tuple[int, int, int, int]:
    total = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(size, kernel, stride)]
    return total[0] // 2, total[1] // 2, total[0] - total[0] // 2, total[1] - total[1] // 2


def _convolved(model: Any, op: Any) -> str:
    """The tensor of the flow that a convolution writes: not in the file where a ReLU6 is fused, which writes the output."""
    graph, fused = model.subgraphs[0], op.builtinOptions.fusedActivationFunction
    return tensor_name(graph, op.outputs[0]) + ("/unclipped" if fused == _RELU6 else "")


def _nodes(model: Any, kind: str, op: Any) -> list[Node]:
    """One operator as one node, two where a ReLU6 is fused into a convolution."""
    node = _node(model, kind, op)
    output = tensor_name(model.subgraphs[0], op.outputs[0])
    return [node] if node.output == output else [node, Node("relu6", (node.output,), output)]


def _node(model: Any, kind: str, op: Any) -> Node:
    graph, o = model.subgraphs[0], op.builtinOptions
    shape = [int(n) for n in graph.tensors[op.inputs[0]].shape]
    names = tuple(tensor_name(graph, i) for i in op.inputs)
    output = tensor_name(graph, op.outputs[0])
    if getattr(o, "fusedActivationFunction", 0) not in ((0, _RELU6) if kind in _CONVOLUTIONS else (0,)):
        raise EdgesegError(f"operator {kind} has a fused activation, which the quantizer does not know")
    if kind == "CONV_2D":
        weight = constant(model, op.inputs[1], np.float32).transpose(0, 3, 1, 2)
        bias = constant(model, op.inputs[2], np.float32)
        stride, kernel = (o.strideH, o.strideW), weight.shape[2:]
        pad = _same_padding(shape[1:3], kernel, stride) if o.padding == 0 else (0, 0, 0, 0)
        return Node("conv", names[:1], _convolved(model, op), {"stride": stride, "pad": pad}, weight, bias)
    if kind == "TRANSPOSE_CONV":
        weight = constant(model, op.inputs[1], np.float32).transpose(3, 0, 1, 2)
        stride, name = (o.strideH, o.strideW), tensor_name(graph, op.inputs[2])
        if tuple(weight.shape[2:]) != stride:
            raise EdgesegError("a transposed convolution whose kernel is not its stride cannot be quantized")
        bias = constant(model, op.inputs[3], np.float32) if len(op.inputs) > 3 else np.zeros(weight.shape[1], np.float32)
        return Node("deconv", (name,), _convolved(model, op), {"stride": stride}, weight, bias)
    if kind == "MAX_POOL_2D":
        window, stride = (o.filterHeight, o.filterWidth), (o.strideH, o.strideW)
        pad = _same_padding(shape[1:3], window, stride) if o.padding == 0 else (0, 0, 0, 0)
        return Node("maxpool", names, output, {"kernel": window, "stride": stride, "pad": pad})
    if kind == "PAD":
        p = constant(model, op.inputs[1], np.int32)
        return Node("pad", names[:1], output, {"pad": (int(p[1, 0]), int(p[2, 0]), int(p[1, 1]), int(p[2, 1]))})
    if kind == "RESIZE_NEAREST_NEIGHBOR":
        height, width = (int(n) for n in constant(model, op.inputs[1], np.int32))
        return Node("resize", names[:1], output, {"size": (height, width)})
    if kind == "SLICE":
        begin, size = (constant(model, i, np.int32) for i in op.inputs[1:3])
        if begin[:3].any() or [int(n) for n in size[1:3]] != shape[1:3]:
            raise EdgesegError("a slice along rows or columns cannot be quantized")
        count = int(size[3]) if size[3] >= 0 else shape[3] - int(begin[3])
        return Node("slice", names[:1], output, {"begin": int(begin[3]), "count": count})
    simple = {
        "LOGISTIC": "sigmoid",
        "MUL": "mul",
        "ADD": "add",
        "CONCATENATION": "concat",
        "HARD_SWISH": "hardswish",
    }
    if kind not in simple:
        raise EdgesegError(f"the quantizer does not know the operator {kind}", hint="Export with the raw head")
    if kind == "CONCATENATION" and o.axis not in (3, -1):
        raise EdgesegError("a concatenation along another axis than the channels cannot be quantized")
    return Node(simple[kind], names, output)


def read_flow(model: Any, outputs: Sequence[str], roles: Sequence[str]) -> Flow:
    """The main subgraph as a ``Flow``.

    Args:
        model: what ``read_model`` gave.
        outputs: names of the output tensors, in the order of ``roles``.
        roles: ``box``, ``score``, ``coeff`` or ``proto`` of each output.
    """
    graph = model.subgraphs[0]
    nodes = [n for kind, op in zip(operator_names(model), graph.operators) for n in _nodes(model, kind, op)]
    channels = {
        tensor_name(graph, i): int(t.shape[-1]) for i, t in enumerate(graph.tensors) if t.shape is not None and len(t.shape)
    }
    channels.update({n.inputs[0]: channels[n.output] for n in nodes if n.kind == "relu6"})
    return Flow(tuple(nodes), tensor_name(graph, graph.inputs[0]), tuple(outputs), tuple(roles), channels)


def weight_names(model: Any) -> dict[str, str]:
    """Name of the weight tensor of each convolution, by the tensor of the flow that it writes."""
    graph = model.subgraphs[0]
    return {
        _convolved(model, op): tensor_name(graph, op.inputs[1])
        for kind, op in zip(operator_names(model), graph.operators)
        if kind in _CONVOLUTIONS
    }


def set_constants(model: Any, weights: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Write (weight, bias) of convolutions, named by their output tensor and shaped as in ``Flow``, into the model."""
    graph = model.subgraphs[0]
    for kind, op in zip(operator_names(model), graph.operators):
        name = _convolved(model, op) if kind in _CONVOLUTIONS else ""
        if name not in weights:
            continue
        weight, bias = weights[name]
        if kind == "CONV_2D":
            new = {op.inputs[1]: weight.transpose(0, 2, 3, 1), op.inputs[2]: bias}
        else:
            new = {op.inputs[1]: weight.transpose(1, 2, 3, 0)}
            if len(op.inputs) > 3:
                new[op.inputs[3]] = bias
        for index, values in new.items():
            data = np.ascontiguousarray(values, np.float32)
            model.buffers[graph.tensors[index].buffer].data = np.frombuffer(data.tobytes(), np.uint8)
