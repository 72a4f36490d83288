"""The kinds of nodes of a ``Flow``: what each computes, what is known of its range, and how it passes errors on.

A kind is one ``Kind`` in one place. A target's folder may add its own: ``register(Kind(...))`` before its flow is made.
Functions take and give tensors of PyTorch unless they say NumPy; activations are (n, c, h, w) or of any other rank that the
kinds around them agree on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeseg.errors import EdgesegError

if TYPE_CHECKING:
    import torch

    from edgeseg.quantize.flow import Node

Run = Callable[["Node", Sequence["torch.Tensor"], "torch.Tensor | None", "torch.Tensor | None"], "torch.Tensor"]
Slope = Callable[["torch.Tensor"], "torch.Tensor"]
Function = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Kind:
    """What a node does.

    Attributes:
        name: what ``Node.kind`` says.
        run: (node, inputs, weight, bias) -> output, in float.
        moves: hands its values on unchanged: one scale must serve input and output.
        axis: where the output channels are in the weight; None without weights.
        activation: a function of one tensor, value by value, behind which errors count.
        flattens: that function in NumPy, where it lets little of some values through: ranges before it are judged behind it.
        slope: its squared derivative.
        clips: what it reads is never rounded itself, since integer convolutions clip while they round.
        span: the range of its output, where that is known.
        kernels: (scale, zero point) that integer kernels give its 8-bit output, whatever the range.
    """

    name: str
    run: Run
    moves: bool = False
    axis: int | None = None
    activation: bool = False
    flattens: Function | None = None
    slope: Slope | None = None
    clips: bool = False
    span: tuple[float, float] | None = None
    kernels: tuple[float, int] | None = None


KINDS: dict[str, Kind] = {}


def register(kind: Kind) -> Kind:
    """Make a kind known under its name; one of the same name is replaced."""
    KINDS[kind.name] = kind
    return kind


def kind_of(name: str) -> Kind:
    """The kind called ``name``.

    Raises:
        EdgesegError: there is none.
    """
    if name not in KINDS:
        raise EdgesegError(f"the operator {name!r} is none that the quantizer knows ({', '.join(KINDS)})")
    return KINDS[name]


def channels(kind: str, values: np.ndarray, rank: int = 4) -> np.ndarray:
    """One value for each output channel, shaped to be multiplied with a weight of ``kind``."""
    shape = [1] * rank
    shape[kind_of(kind).axis or 0] = -1
    return values.reshape(shape)


def silu(x: np.ndarray) -> np.ndarray:
    """``x * sigmoid(x)``, in NumPy."""
    return x / (1.0 + np.exp(-np.clip(x, -60.0, 60.0)))


def silu_slope(x: torch.Tensor) -> torch.Tensor:
    """Its squared derivative."""
    s = x.sigmoid()
    return (s * (1 + x * (1 - s))) ** 2


def hardswish(x: np.ndarray) -> np.ndarray:
    """``x * clip(x + 3, 0, 6) / 6`` (Howard et al., arXiv:1905.02244), in NumPy."""
    return x * np.clip(x + 3.0, 0.0, 6.0) / 6.0


def _hardswish_slope(x: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.where(x.abs() < 3, (2 * x + 3) / 6, (x >= 3).float()) ** 2


def _conv(node: Node, x: Sequence[Any], weight: Any, bias: Any) -> Any:
    import torch
    import torch.nn.functional as f

    a = node.attrs
    top, left, bottom, right = a["pad"]
    groups, dilation = a.get("groups", 1), a.get("dilation", (1, 1))
    if (
        weight.shape[2:] == (1, 1)
        and a["pad"] == (0,) * 4
        and x[0].device.type == "cpu"
        and torch.backends.mkldnn.is_available()
    ):
        # On one thread PyTorch leaves these to a kernel that takes twice as long.
        return torch.ops.aten.mkldnn_convolution(x[0], weight, bias, (0, 0), a["stride"], dilation, groups)
    if (top, left) == (bottom, right):
        return f.conv2d(x[0], weight, bias, a["stride"], (top, left), dilation, groups)
    return f.conv2d(f.pad(x[0], (left, right, top, bottom)), weight, bias, a["stride"], 0, dilation, groups)


def _deconv(node: Node, x: Sequence[Any], weight: Any, bias: Any) -> Any:
    import torch.nn.functional as f

    return f.conv_transpose2d(x[0], weight, bias, node.attrs["stride"])


def _maxpool(node: Node, x: Sequence[Any], weight: Any, bias: Any) -> Any:
    import torch.nn.functional as f

    top, left, bottom, right = node.attrs["pad"]
    padded = f.pad(x[0], (left, right, top, bottom), value=float("-inf"))
    return f.max_pool2d(padded, node.attrs["kernel"], node.attrs["stride"])


def _pad(node: Node, x: Sequence[Any], weight: Any, bias: Any) -> Any:
    import torch.nn.functional as f

    top, left, bottom, right = node.attrs["pad"]
    return f.pad(x[0], (left, right, top, bottom))


def _resize(node: Node, x: Sequence[Any], weight: Any, bias: Any) -> Any:
    import torch.nn.functional as f

    return f.interpolate(x[0], size=node.attrs["size"], mode="nearest")


def _hardswish(node: Node, x: Sequence[Any], weight: Any, bias: Any) -> Any:
    import torch.nn.functional as f

    return f.hardswish(x[0])


def _concat(node: Node, x: Sequence[Any], weight: Any, bias: Any) -> Any:
    import torch

    return torch.cat(list(x), node.attrs.get("axis", 1))


def _slice(node: Node, x: Sequence[Any], weight: Any, bias: Any) -> Any:
    return x[0].narrow(node.attrs.get("axis", 1), node.attrs["begin"], node.attrs["count"])


register(Kind("conv", _conv, axis=0))
register(Kind("deconv", _deconv, axis=1))
register(Kind("sigmoid", lambda n, x, w, b: x[0].sigmoid(), span=(0.0, 1.0), kernels=(1 / 256, -128)))
register(
    Kind(
        "relu6",
        lambda n, x, w, b: x[0].clamp(0, 6),
        activation=True,
        slope=lambda x: ((x > 0) & (x < 6)).float(),
        clips=True,
    )
)
register(Kind("hardswish", _hardswish, activation=True, flattens=hardswish, slope=_hardswish_slope))
register(Kind("mul", lambda n, x, w, b: x[0] * x[1]))
register(Kind("add", lambda n, x, w, b: x[0] + x[1]))
register(Kind("matmul", lambda n, x, w, b: x[0] @ x[1]))
register(Kind("softmax", lambda n, x, w, b: x[0].softmax(n.attrs["axis"]), span=(0.0, 1.0), kernels=(1 / 256, -128)))
register(Kind("scale", lambda n, x, w, b: x[0] * n.attrs["factor"]))
register(Kind("concat", _concat, moves=True))
register(Kind("slice", _slice, moves=True))
register(Kind("maxpool", _maxpool, moves=True))
register(Kind("resize", _resize, moves=True))
register(Kind("pad", _pad, moves=True))
register(Kind("reshape", lambda n, x, w, b: x[0].reshape(len(x[0]), *n.attrs["shape"][1:]), moves=True))
register(Kind("transpose", lambda n, x, w, b: x[0].permute(n.attrs["order"]), moves=True))
register(Kind("copy", lambda n, x, w, b: x[0].view_as(x[0])))  # a tensor of its own for autograd
