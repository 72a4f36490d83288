"""The network as the quantizer sees it: traced once by ``torch.export``, one short function for each operator of PyTorch.

Tensors are called like the module that makes them: ``backbone.p2.down.conv``, ``backbone.p2.mix/cat``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from edgeseg.errors import EdgesegError
from edgeseg.network.model import Network
from edgeseg.quantize.flow import Flow, Node

INPUT = "images"
Reads = Callable[["Tracer", Any], list[Node]]
OPERATORS: dict[str, Reads] = {}
"""By the name of the operator, without overload and trailing underscore (``silu_.default`` is ``silu``)."""


def reads(*names: str) -> Callable[[Reads], Reads]:
    """Register the decorated function as the reader of these operators."""

    def keep(function: Reads) -> Reads:
        OPERATORS.update(dict.fromkeys(names, function))
        return function

    return keep


def network_flow(network: Network, imgsz: tuple[int, int]) -> Flow:
    """The fused network with raw head as a ``Flow`` for images of (height, width) ``imgsz``.

    Raises:
        EdgesegError: an operator that the quantizer does not know.
    """
    outputs = network.outputs("raw", None, batch=-1)
    return trace(network.fuse().view("raw").eval(), imgsz, [o.role for o in outputs])


def trace(module: torch.nn.Module, imgsz: tuple[int, int], roles: list[str]) -> Flow:
    """Any module of one image (1, 3, h, w) and several output tensors as a ``Flow``; ``roles`` in the order of the outputs.

    Raises:
        EdgesegError: an operator that the quantizer does not know.
    """
    program = torch.export.export(module, (torch.zeros(1, 3, *imgsz),), strict=False)
    tracer = Tracer(program)
    nodes: list[Node] = []
    outputs: tuple[str, ...] = ()
    for n in program.graph.nodes:
        if n.op == "call_function":
            kind = kind_of(n)
            if kind not in OPERATORS:
                raise EdgesegError(f"the quantizer does not know the operator {kind} ({tracer.place(n)})")
            nodes += OPERATORS[kind](tracer, n)
        elif n.op == "output":
            outputs = tuple(tracer.name(a) for a in n.args[0])
    return Flow(tuple(nodes), INPUT, outputs, tuple(roles), tracer.channels)


class Tracer:
    """Names, constants and sizes of the traced program while its operators are read."""

    def __init__(self, program: Any) -> None:
        state = {**dict(program.named_parameters()), **dict(program.named_buffers())}
        specs = program.graph_signature.input_specs
        self._arrays = {s.arg.name: state[s.target].detach().numpy() for s in specs if s.target in state}
        image = next(n for n in program.graph.nodes if n.op == "placeholder" and n.name not in self._arrays)
        self._names = {image.name: INPUT}
        self.channels: dict[str, int] = {INPUT: 3}

    def name(self, node: Any) -> str:
        """What the flow calls the tensor of a traced node."""
        if node.name not in self._names:
            module = self.place(node).removeprefix("network.")
            leaf = module.rpartition(".")[2] in ("conv", "act", "up")
            wanted = module if leaf else f"{module}/{kind_of(node)}"
            taken, number = set(self._names.values()), 1
            name = wanted
            while name in taken:
                number += 1
                name = f"{wanted}.{number}"
            self._names[node.name] = name
            value = node.meta.get("val")
            if isinstance(value, torch.Tensor) and value.dim() > 1:
                self.channels[name] = int(value.shape[1])
        return self._names[node.name]

    def place(self, node: Any) -> str:
        """Where in the network a node stands, for people."""
        stack = list((node.meta.get("nn_module_stack") or {"": ("",)}).values())
        return str(stack[-1][0])

    def array(self, node: Any) -> np.ndarray | None:
        """The constant that a node stands for."""
        return None if node is None else self._arrays[node.name]

    def one(self, kind: str, node: Any, attrs: dict[str, Any] | None = None, inputs: int = 1) -> list[Node]:
        """A node of the flow that reads the first ``inputs`` arguments."""
        return [Node(kind, tuple(self.name(a) for a in node.args[:inputs]), self.name(node), attrs or {})]


def kind_of(node: Any) -> str:
    """The operator of a traced node, as ``OPERATORS`` has it."""
    return str(getattr(node.target, "__name__", node.target)).split(".")[0].rstrip("_")


def arguments(node: Any, *defaults: Any) -> list[Any]:
    """The arguments of a traced node, the missing ones at their defaults."""
    return [*node.args, *defaults[len(node.args) :]]


@reads("conv2d")
def _conv(t: Tracer, n: Any) -> list[Node]:
    x, w, b, stride, pad, dilation, groups = arguments(n, None, None, None, (1, 1), (0, 0), (1, 1), 1)
    weight, bias = t.array(w), t.array(b)
    attrs = {"stride": tuple(stride), "pad": (*pad, *pad)}
    if groups != 1:
        attrs["groups"] = groups
    if tuple(dilation) != (1, 1):
        attrs["dilation"] = tuple(dilation)
    bias = np.zeros(len(weight), np.float32) if bias is None and weight is not None else bias
    return [Node("conv", (t.name(x),), t.name(n), attrs, weight, bias)]


@reads("conv_transpose2d")
def _deconv(t: Tracer, n: Any) -> list[Node]:
    x, w, b, stride, pad, *_ = arguments(n, None, None, None, (1, 1), (0, 0))
    weight, bias = t.array(w), t.array(b)
    if weight is None or any(pad) or tuple(stride) != weight.shape[2:]:
        raise EdgesegError(f"the quantizer knows transposed convolutions whose kernel is their stride ({t.place(n)})")
    bias = np.zeros(weight.shape[1], np.float32) if bias is None else bias
    return [Node("deconv", (t.name(x),), t.name(n), {"stride": tuple(stride), "pad": (0, 0, 0, 0)}, weight, bias)]


@reads("silu")
def _silu(t: Tracer, n: Any) -> list[Node]:
    x, y = t.name(n.args[0]), t.name(n)
    gate = f"{y}/gate"
    t.channels[gate] = t.channels[y]
    return [Node("sigmoid", (x,), gate), Node("mul", (x, gate), y)]


@reads("relu6", "hardtanh")  # a ReLU6 is exported as the clip that it is
def _relu6(t: Tracer, n: Any) -> list[Node]:
    if [float(v) for v in arguments(n, None, 0.0, 6.0)[1:3]] != [0.0, 6.0]:
        raise EdgesegError(f"the quantizer knows no other clip than that of a ReLU6 ({t.place(n)})")
    return t.one("relu6", n)


@reads("hardswish", "sigmoid")
def _alone(t: Tracer, n: Any) -> list[Node]:
    return t.one(kind_of(n), n)


@reads("add", "mul", "matmul")
def _two(t: Tracer, n: Any) -> list[Node]:
    kind = kind_of(n)
    if kind == "mul" and not hasattr(n.args[1], "name"):
        return t.one("scale", n, {"factor": float(n.args[1])})
    if not hasattr(n.args[1], "name"):
        raise EdgesegError(f"the quantizer does not know the sum with a constant ({t.place(n)})")
    return t.one(kind, n, inputs=2)


@reads("softmax")
def _softmax(t: Tracer, n: Any) -> list[Node]:
    return t.one("softmax", n, {"axis": int(n.args[1])})


@reads("cat")
def _cat(t: Tracer, n: Any) -> list[Node]:
    tensors, axis = arguments(n, (), 0)[:2]
    attrs = {} if axis == 1 else {"axis": int(axis)}
    return [Node("concat", tuple(t.name(a) for a in tensors), t.name(n), attrs)]


@reads("chunk", "split", "split_with_sizes")
def _parts(t: Tracer, n: Any) -> list[Node]:
    return []  # each part is read where it is taken


@reads("getitem")
def _part(t: Tracer, n: Any) -> list[Node]:
    source, index = n.args
    axis = int(arguments(source, None, None, 0)[2])
    sizes = [int(v.shape[axis]) for v in source.meta["val"]]
    attrs = {"begin": sum(sizes[:index]), "count": sizes[index]}
    attrs.update({} if axis == 1 else {"axis": axis})
    return [Node("slice", (t.name(source.args[0]),), t.name(n), attrs)]


@reads("max_pool2d")
def _maxpool(t: Tracer, n: Any) -> list[Node]:
    _, kernel, stride, pad, *_ = arguments(n, None, None, None, (0, 0))
    return t.one("maxpool", n, {"kernel": tuple(kernel), "stride": tuple(stride), "pad": (*pad, *pad)})


@reads("upsample_nearest2d")
def _resize(t: Tracer, n: Any) -> list[Node]:
    return t.one("resize", n, {"size": tuple(int(s) for s in n.meta["val"].shape[2:])})


@reads("reshape", "view", "flatten", "unflatten")
def _reshape(t: Tracer, n: Any) -> list[Node]:
    return t.one("reshape", n, {"shape": tuple(int(s) for s in n.meta["val"].shape)})


@reads("permute", "transpose")
def _transpose(t: Tracer, n: Any) -> list[Node]:
    rank = n.meta["val"].dim()
    if kind_of(n) == "permute":
        order = [int(i) % rank for i in n.args[1]]
    else:
        order = list(range(rank))
        a, b = (int(i) % rank for i in n.args[1:3])
        order[a], order[b] = order[b], order[a]
    return t.one("transpose", n, {"order": tuple(order)})


@reads("contiguous", "clone", "detach", "alias")
def _same(t: Tracer, n: Any) -> list[Node]:
    t._names[n.name] = t.name(n.args[0])
    return []
