"""A saved Core ML program as the ``Flow`` that quantizers decide on."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeseg.errors import EdgesegError
from edgeseg.quantize.flow import Flow, Node

from .evaluate import Evaluator


def read_flow(program: Any) -> tuple[Flow, dict[str, str]]:
    """The flow of a float program with the raw head, and the name of each convolution's weight by its output tensor.

    Outputs must be named as edgeseg names them (``box_8`` ...), which tells their roles. A SiLU becomes a sigmoid and a
    product, the first called ``<output>:gate``.

    Raises:
        EdgesegError: an operator that the quantizer does not know, or a form of one.
    """
    evaluator = Evaluator(program)
    reader = _Reader(program, evaluator.constants)
    nodes = [node for op in program.operations if op.outputs[0].name not in evaluator.constants for node in reader.nodes(op)]
    outputs = tuple(o.name for o in program.outputs)
    roles = tuple(name.partition("_")[0] for name in outputs)
    return Flow(tuple(nodes), program.input.name, outputs, roles, reader.channels), reader.weights


class _Reader:
    def __init__(self, program: Any, constants: dict[str, Any]) -> None:
        self.constants = constants
        self.shapes = {program.input.name: program.input.shape}
        self.shapes.update({v.name: v.shape for op in program.operations for v in op.outputs})
        self.channels = {name: int(s[1]) for name, s in self.shapes.items() if len(s) == 4 and name not in constants}
        self.weights: dict[str, str] = {}

    def value(self, op: Any, key: str, default: Any = None) -> Any:
        """A constant argument."""
        bound = op.arguments.get(key)
        if bound is None:
            return default
        return self.constants[bound[0].name] if hasattr(bound[0], "name") else bound[0]

    def ints(self, op: Any, key: str, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """A constant list of whole numbers."""
        value = self.value(op, key)
        return default if value is None else tuple(int(v) for v in np.atleast_1d(value))

    def nodes(self, op: Any) -> list[Node]:
        """One operation as one node, two for a SiLU, one for each part of a split."""
        kind, out = op.type, op.outputs[0].name
        names = tuple(v.name for v in op.arguments.get("values", op.arguments.get("x", ())))
        if kind in ("conv", "conv_transpose"):
            return [self._convolution(op, names, out)]
        if kind == "silu":
            self.channels[f"{out}:gate"] = self.channels[out]
            return [Node("sigmoid", names, f"{out}:gate"), Node("mul", (*names, f"{out}:gate"), out)]
        if kind in ("add", "mul"):
            return [Node(kind, (*names, op.arguments["y"][0].name), out)]
        if kind == "sigmoid":
            return [Node(kind, names, out)]
        if kind == "concat" and self.ints(op, "axis") == (1,):
            return [Node(kind, names, out)]
        if kind == "split" and self.ints(op, "axis") == (1,):
            counts = [self.channels[v.name] for v in op.outputs]
            begins = [sum(counts[:i]) for i in range(len(counts))]
            return [Node("slice", names, v.name, {"begin": b, "count": n}) for v, b, n in zip(op.outputs, begins, counts)]
        if kind == "upsample_nearest_neighbor":
            return [Node("resize", names, out, {"size": tuple(self.shapes[out][2:])})]
        if kind == "max_pool":
            attrs = {"kernel": self.ints(op, "kernel_sizes"), "stride": self.ints(op, "strides"), "pad": self._pad(op)}
            return [Node("maxpool", names, out, attrs)]
        raise EdgesegError(f"the quantizer does not know this form of the operator {kind} ({op.name})")

    def _pad(self, op: Any) -> tuple[int, int, int, int]:
        kind = str(self.value(op, "pad_type", "valid"))
        if kind == "valid":
            return 0, 0, 0, 0
        if kind != "custom":
            raise EdgesegError(f"the quantizer does not know the padding {kind!r} ({op.name})")
        top, bottom, left, right = self.ints(op, "pad", (0, 0, 0, 0))
        return top, left, bottom, right

    def _convolution(self, op: Any, names: tuple[str, ...], out: str) -> Node:
        weight, bias = np.asarray(self.value(op, "weight"), np.float32), self.value(op, "bias")
        plain = self.ints(op, "groups", (1,)) == (1,) and set(self.ints(op, "dilations", (1, 1))) == {1}
        stride, pad = self.ints(op, "strides", (1, 1)), self._pad(op)
        if op.type == "conv_transpose" and (any(pad) or tuple(weight.shape[2:]) != stride):
            plain = False
        if not plain or weight.ndim != 4:
            raise EdgesegError(f"the quantizer does not know this form of the operator {op.type} ({op.name})")
        self.weights[out] = op.arguments["weight"][0].name
        kind, axis = ("conv", 0) if op.type == "conv" else ("deconv", 1)
        bias = np.zeros(weight.shape[axis], np.float32) if bias is None else np.asarray(bias, np.float32)
        return Node(kind, names, out, {"stride": stride, "pad": pad}, weight, bias)
