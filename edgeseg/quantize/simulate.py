"""Run a ``Flow`` with PyTorch, in float or with every tensor rounded as integer kernels would round it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from edgeseg.quantize.flow import Flow, Node
from edgeseg.quantize.kinds import channels, kind_of

if TYPE_CHECKING:
    import torch

Given = TypeVar("Given")
Found = TypeVar("Found")
AT_ONCE = 2
"""Images that are looked at side by side; each may hold all activations of the network, with what their gradients need."""


class Each(Protocol):
    """``map`` over images: what a function finds on each, in order."""

    def __call__(self, function: Callable[[Given], Found], given: Iterable[Given], /) -> Iterator[Found]:
        """Results as they are asked for; only a few of ``given`` are taken ahead."""


@contextmanager
def side_by_side() -> Iterator[Each]:
    """A ``map`` that does a few images at once: two on one thread each are faster than one on two threads."""
    import torch

    threads = torch.get_num_threads()
    at_once = min(threads, AT_ONCE)

    def each(function: Callable[[Given], Found], given: Iterable[Given]) -> Iterator[Found]:
        waiting: deque[Future[Found]] = deque()
        for one in given:
            waiting.append(pool.submit(function, one))
            if len(waiting) > at_once:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    torch.set_num_threads(max(1, threads // at_once))
    try:
        with ThreadPoolExecutor(at_once) as pool:
            yield each
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class QParams:
    """Affine quantization of one tensor: ``real = scale * (q - zero_point)``, q in ``low``..``high``."""

    scale: float
    zero_point: int
    low: int = -128
    high: int = 127

    @classmethod
    def from_range(cls, lo: float, hi: float, bits: int = 8) -> QParams:
        """Asymmetric for 8 bits, symmetric for more (the kernels' rule); zero is always exact."""
        if bits > 8:
            top = 2 ** (bits - 1) - 1
            return cls(max(abs(lo), abs(hi), 1e-9) / top, 0, -top - 1, top)
        lo, hi = min(lo, 0.0), max(hi, 0.0)
        scale = max(hi - lo, 1e-9) / 255.0
        return cls(scale, int(np.clip(round(-128 - lo / scale), -128, 127)))

    @classmethod
    def symmetric(cls, lo: float, hi: float) -> QParams:
        """8 bits without a zero point."""
        return cls(max(abs(lo), abs(hi), 1e-9) / 127, 0, -127)

    def half(self) -> QParams:
        """With a scale that a half float holds with full precision."""
        return replace(self, scale=float(np.float16(max(self.scale, 2.0**-14))))

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest real value."""
        return self.scale * (self.low - self.zero_point), self.scale * (self.high - self.zero_point)


def fixed(kind: str) -> QParams | None:
    """What integer kernels make of the 8-bit output of a kind, whatever its range."""
    grid = kind_of(kind).kernels
    return None if grid is None else QParams(*grid)


def weight_scales(weight: np.ndarray, kind: str, bits: int = 8) -> np.ndarray:
    """Symmetric scale of each output channel from the largest magnitude."""
    axes = tuple(i for i in range(weight.ndim) if i != kind_of(kind).axis)
    return np.maximum(np.abs(weight).max(axes), 1e-9) / (2 ** (bits - 1) - 1)


def fake_quantize_weight(weight: np.ndarray, kind: str, bits: int = 8, scales: np.ndarray | None = None) -> np.ndarray:
    """The weight rounded to its per-channel grid, as float32."""
    scales = weight_scales(weight, kind, bits) if scales is None else scales
    s = channels(kind, scales)
    top = 2 ** (bits - 1) - 1
    return (np.clip(np.rint(weight / s), -top, top) * s).astype(np.float32)


def operate(node: Node, inputs: list[torch.Tensor], weight: torch.Tensor | None, bias: torch.Tensor | None) -> torch.Tensor:
    """One operator in float."""
    return kind_of(node.kind).run(node, inputs, weight, bias)


def round_to(x: torch.Tensor, q: QParams | None) -> torch.Tensor:
    """The tensor on the grid of ``q``, in float (unchanged for None); a sixth of the time of PyTorch's own."""
    if q is None:
        return x
    return (x * (1 / q.scale)).add_(q.zero_point).round_().clamp_(q.low, q.high).sub_(q.zero_point).mul_(q.scale)


class Simulator:
    """A flow ready to run. Tensors named in ``params`` are rounded; the rest stays float.

    Args:
        flow: the network.
        params: quantization of activations by tensor name; ``{}`` is the float network.
        weight_bits: bits of the convolutions named by their output tensor; absent ones stay float.
    """

    def __init__(
        self, flow: Flow, params: Mapping[str, QParams] | None = None, weight_bits: Mapping[str, int] | None = None
    ) -> None:
        import torch

        self.flow, self.params, bits = flow, params or {}, weight_bits or {}
        self.weights: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        for n in flow.nodes:
            if n.weight is not None and n.bias is not None:
                array = fake_quantize_weight(n.weight, n.kind, bits[n.output]) if n.output in bits else n.weight
                w = torch.from_numpy(np.array(array, np.float32))
                self.weights[n.output] = (
                    w.contiguous(memory_format=torch.channels_last),
                    torch.from_numpy(np.array(n.bias, np.float32)),
                )

    def run(self, x: torch.Tensor, watch: Callable[[str, torch.Tensor], None] | None = None) -> list[torch.Tensor]:
        """Outputs for a batch (n, 3, h, w) of RGB in 0..1; ``watch`` sees every tensor as it is computed."""
        import torch

        last = {name: i for i, n in enumerate(self.flow.nodes) for name in n.inputs}
        with torch.no_grad():
            live = {
                self.flow.input: round_to(x.contiguous(memory_format=torch.channels_last), self.params.get(self.flow.input))
            }
            if watch:
                watch(self.flow.input, live[self.flow.input])
            for i, n in enumerate(self.flow.nodes):
                y = operate(n, [live[k] for k in n.inputs], *self.weights.get(n.output, (None, None)))
                y = round_to(y, self.params.get(n.output))
                if watch:
                    watch(n.output, y)
                live[n.output] = y
                for k in n.inputs:
                    if last[k] == i and k not in self.flow.outputs:
                        live.pop(k, None)
            return [live[k] for k in self.flow.outputs]


def to_tensor(images: Iterable[np.ndarray]) -> torch.Tensor:
    """uint8 RGB images (h, w, 3) as one float batch (n, 3, h, w) in 0..1."""
    import torch

    stacked = np.stack(list(images)).transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(stacked)).float().div_(255.0)
