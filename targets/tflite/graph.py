"""What a float TFLite file holds of the network: its tensors found by their values, its weights exchanged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgeseg.errors import EdgesegError
from edgeseg.quantize.carried import Carried, probe_image
from edgeseg.quantize.kinds import kind_of

from . import flatbuffer

# Where the bias is among the inputs, and the order of axes that makes the weight that of a ``Node``.
_WEIGHTED = {"CONV_2D": (2, (0, 3, 1, 2)), "DEPTHWISE_CONV_2D": (2, (3, 0, 1, 2)), "TRANSPOSE_CONV": (3, (3, 0, 1, 2))}
_MOVES = (
    "PAD",
    "PADV2",
    "RESHAPE",
    "TRANSPOSE",
    "SLICE",
    "STRIDED_SLICE",
    "SPLIT",
    "CONCATENATION",
    "SQUEEZE",
    "EXPAND_DIMS",
)


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


@dataclass
class Tail:
    """What a decoded head does behind the network's outputs, by the tensor that each operator writes: the ``ranges`` of
    those that integers can follow, and of the boxes at the end; ``floats``: those that are computed in float."""

    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    floats: list[str] = field(default_factory=list)


def matched(
    model: Any, content: bytes, decisions: Carried, imgsz: tuple[int, int], *, decoded: bool = False
) -> tuple[dict[str, str], Tail]:
    """The network's tensor of each float tensor of the file that its main subgraph computes, by its name there, and what
    follows them in the file of a decoded head.

    Raises:
        EdgesegError: an operator that does more than move values about writes something that the network does not have.
    """
    graph, tail = model.subgraphs[0], Tail()
    seen = flatbuffer.values(content, probe_image(imgsz).astype(np.float32)[None] / 255)
    found = decisions.by_values({tensor_name(graph, i): values for i, values in seen.items()})
    computed = {int(i) for op in graph.operators for i in op.outputs}
    for kind, op in zip(operator_names(model), graph.operators):
        name, sources = tensor_name(graph, op.outputs[0]), [tensor_name(graph, i) for i in op.inputs if i in computed]
        behind = [s for s in sources if s in tail.ranges or s in tail.floats]
        if name in found and not behind:
            continue
        first = tensor_name(graph, op.inputs[0])
        joins = decoded and kind == "CONCATENATION"
        if kind in _MOVES and first in found and not joins:
            found[name] = found[first]
        elif decoded and name not in found:
            _follow(kind, name, sources, tail, {s: decisions.tensors[found[s]].range for s in sources if s in found})
        else:
            what = f"the operator {kind} of the file computes what the network does not"
            raise EdgesegError(what, hint="Export with the raw head")
    if decoded:
        tail.ranges |= {name: (0.0, 1.0) for name in tail.floats if name == "box"}
    return found, tail


def _follow(kind: str, name: str, sources: list[str], tail: Tail, known: Mapping[str, tuple[float, float] | None]) -> None:
    """Note one operator behind the network: integers do what moves values, joins tensors, or is a table of 256 values."""
    reaches = [tail.ranges.get(s, known.get(s)) for s in sources]
    if kind == "LOGISTIC" and None not in reaches:
        tail.ranges[name] = (0.0, 255 / 256)  # what the operator's integers mean in every runtime
    elif kind in _MOVES and None not in reaches:
        tail.ranges[name] = (min(r[0] for r in reaches if r), max(r[1] for r in reaches if r))
    else:
        tail.floats.append(name)


def set_constants(model: Any, names: Mapping[str, str], decisions: Carried) -> dict[str, np.ndarray]:
    """Write the decided weights and biases of all convolutions into the model, and give the steps of the output channels of
    those with integer weights, shaped to multiply the weight, by its name.

    Raises:
        EdgesegError: an operator with weights that the network does not have.
    """
    graph, steps = model.subgraphs[0], dict[str, np.ndarray]()
    for kind, op in zip(operator_names(model), graph.operators):
        if kind not in _WEIGHTED:
            continue
        ours = decisions.written_by(names.get(tensor_name(graph, op.outputs[0]), ""))
        if ours is None:
            raise EdgesegError(f"the operator {kind} of the file has weights that the network does not have")
        bias, order = _WEIGHTED[kind]
        weight = ours.weight(constant(model, op.inputs[1], np.float32).transpose(order))
        new = {op.inputs[1]: weight.transpose(np.argsort(order))}
        if len(op.inputs) > bias:
            new[op.inputs[bias]] = ours.bias
        for index, values in new.items():
            data = np.ascontiguousarray(values, np.float32)
            model.buffers[graph.tensors[index].buffer].data = np.frombuffer(data.tobytes(), np.uint8)
        if ours.step is not None:
            shape = [1, 1, 1, 1]
            shape[order[kind_of(ours.kind).axis or 0]] = -1  # where the file has what are output channels in a ``Node``
            steps[tensor_name(graph, op.inputs[1])] = ours.step.reshape(shape)
    return steps


def constant(model: Any, index: int, dtype: Any) -> np.ndarray:
    """A constant tensor's values in its own shape."""
    tensor = model.subgraphs[0].tensors[index]
    data = model.buffers[tensor.buffer].data
    if data is None:
        raise EdgesegError(f"tensor {tensor_name(model.subgraphs[0], index)} holds no constant")
    return np.frombuffer(np.asarray(data, np.uint8).tobytes(), dtype).reshape(tensor.shape)
