"""Quantization-aware training: the network is trained through the rounding that a recipe will bring.

It runs as the quantizer's ``Flow`` does: the same tensors are rounded, with the same rules, starting from the ranges that
the recipe calibrates. Weights, biases and ranges learn; rounding passes gradients straight through (Jacob et al.,
arXiv:1712.05877), and ranges get theirs as in Learned Step Size Quantization (Esser et al., arXiv:1902.08153).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgeseg.manifest import Output
from edgeseg.network.flow import network_flow
from edgeseg.network.head import RawOutput
from edgeseg.network.model import Network
from edgeseg.quantize.decide import Decisions, decide
from edgeseg.quantize.flow import Flow
from edgeseg.quantize.kinds import kind_of
from edgeseg.quantize.learned import fingerprint
from edgeseg.quantize.recipe import Recipe
from edgeseg.quantize.simulate import fixed, operate


def _straight(rounded: Tensor, x: Tensor) -> Tensor:
    """The value of ``rounded`` with the gradient of ``x``."""
    return x + (rounded - x).detach()


def fake_quantize(x: Tensor, low: Tensor, high: Tensor, bits: int = 8) -> Tensor:
    """``x`` on the grid of ``QParams.from_range(low, high, bits)``, differentiable in all three."""
    if bits > 8:
        top = 2.0 ** (bits - 1) - 1
        scale = torch.maximum(low.abs(), high.abs()).clamp_min(1e-9) / top
        v = x / scale
        return _straight(v.round(), v).clamp(-top - 1, top) * scale
    low, high = low.clamp_max(0), high.clamp_min(0)
    scale = (high - low).clamp_min(1e-9) / 255
    offset = -128 - low / scale
    zero = _straight(offset.round().clamp(-128, 127), offset)
    v = x / scale + zero
    return (_straight(v.round(), v).clamp(-128, 127) - zero) * scale


def fake_quantize_weight(weight: Tensor, kind: str, per_tensor: bool = False) -> Tensor:
    """A weight on its symmetric 8-bit grid, one scale per output channel (or one for all), from its present maximum."""
    axes = tuple(i for i in range(weight.dim()) if i != kind_of(kind).axis)
    top = weight.detach().abs()
    scale = (top.max() if per_tensor else top.amax(axes, keepdim=True)).clamp_min(1e-9) / 127
    v = weight / scale
    return _straight(v.round(), v).clamp(-127, 127) * scale


class QuantizedNetwork(nn.Module):
    """A network that rounds like its INT8 export, ready to train.

    Args:
        network: where it starts; its batch normalisation is folded in.
        flow: what ``network_flow`` made of it. decisions: ranges, bits and biases to start from. recipe: what they follow.
        imgsz: (height, width).
    """

    def __init__(self, network: Network, flow: Flow, decisions: Decisions, recipe: Recipe, imgsz: tuple[int, int]) -> None:
        super().__init__()
        self.flow, self.recipe, self.imgsz = flow, recipe, imgsz
        self.names, self.strides, self.nc = network.names, network.strides, network.nc
        self.task, self.reg_max = network.task, network.reg_max
        self.definition, self.info, self.fused = network.definition, dict(network.info), True
        self._origin = [network.fuse()]  # in a list: its weights are no parameters of this module
        self._convs = {n.output: i for i, n in enumerate(m for m in flow.nodes if m.weight is not None)}
        weighted = [n for n in flow.nodes if n.weight is not None and n.bias is not None]
        start = decisions.biases
        self.weight = nn.ParameterList(nn.Parameter(torch.tensor(n.weight)) for n in weighted)
        self.shift = nn.ParameterList(
            nn.Parameter(torch.tensor(np.asarray(start.get(n.output, n.bias), np.float32))) for n in weighted
        )
        self.rounded = {n.output for n in weighted if n.output in decisions.weight_scales}
        self.bits = {k: b for k, b in decisions.bits.items() if b < 32 and k in decisions.ranges}
        grids = {n.output: fixed(n.kind) for n in flow.nodes}
        self._fixed = {k: q.range for k, q in grids.items() if q is not None and self.bits.get(k) == 8}
        leaders = sorted({flow.groups[k] for k in self.bits if k not in self._fixed})
        self._slot = {leader: i for i, leader in enumerate(leaders)}
        self.register_buffer("initial", torch.tensor([decisions.ranges[k] for k in leaders]).reshape(-1, 2))
        # Learned as factors, so that one learning rate suits all ranges; the input's 0..1 stays as it is.
        self.factor = nn.Parameter(torch.ones(len(leaders), 2))

    def limits(self, name: str) -> tuple[Tensor, Tensor]:
        """The learned range of a tensor."""
        leader = self.flow.groups[name]
        initial: Tensor = self.initial  # type: ignore[assignment]
        row = initial[self._slot[leader]]
        if leader != self.flow.groups[self.flow.input]:
            row = row * self.factor[self._slot[leader]].clamp_min(0.05)
        return row[0], row[1]

    def _round(self, name: str, x: Tensor) -> Tensor:
        if name not in self.bits:
            return x
        if name in self._fixed:
            low, high = self._fixed[name]
            return fake_quantize(x, x.new_tensor(low), x.new_tensor(high))
        return fake_quantize(x, *self.limits(name), self.bits[name])

    def forward(self, images: Tensor) -> RawOutput:
        """(B, 3, H, W) float RGB in 0..1, of the size given -> ``RawOutput`` as the INT8 network gives it."""
        flow = self.flow
        live = {flow.input: self._round(flow.input, images)}
        for n in flow.nodes:
            weight = bias = None
            if n.output in self._convs:
                i = self._convs[n.output]
                weight, bias = self.weight[i], self.shift[i]
                if n.output in self.rounded:
                    weight = fake_quantize_weight(weight, n.kind, self.recipe.weights.granularity == "tensor")
            live[n.output] = self._round(n.output, operate(n, [live[k] for k in n.inputs], weight, bias))
        out = [live[k] for k in flow.outputs]
        roles = len(self._origin[0].head.roles)
        maps = [tuple(out[i : i + roles]) for i in range(0, roles * len(self.strides), roles)]
        return RawOutput(maps, out[-1] if self.task == "segment" else None)

    def outputs(self, head: str, imgsz: tuple[int, int] | None, batch: int = 1) -> tuple[Output, ...]:
        """As ``Network.outputs``."""
        return self._origin[0].outputs(head, imgsz, batch=batch)

    @torch.no_grad()
    def to_network(self) -> Network:
        """The fused network with the learned weights; ``info["qat"]`` holds recipe, size and the learned ranges.

        There ``keys`` are the fingerprints of the convolutions' weights, and ``ranges`` has a row for each of them: the
        range of its output tensor, and of the activation behind it (the same again where there is none).
        """
        network = copy.deepcopy(self._origin[0]).cpu()
        own = dict(network.named_parameters())
        for name, i in self._convs.items():
            module = name.partition("/")[0]  # the flow calls tensors after the modules that make them
            own[f"{module}.weight"].copy_(self.weight[i].cpu())
            own[f"{module}.bias"].copy_(self.shift[i].cpu())
        recipe = replace(self.recipe, learned={}).to_dict()
        qat: dict[str, Any] = {"recipe": recipe, "imgsz": list(self.imgsz), "ranges": self.table()}
        qat["keys"] = [list(fingerprint(w.detach().cpu().numpy())) for w in self.weight]
        qat["others"] = self.others()
        network.info = {**self.info, "qat": qat}
        return network

    @torch.no_grad()
    def table(self) -> list[list[float]]:
        """The rows that :meth:`to_network` stores."""
        behind = self.flow.activated
        rows = []
        for name in self._convs:
            after = behind.get(name, name)
            rows.append([v for k in (name, after) for v in (self._pair(k) if k in self.bits else (0.0, 0.0))])
        return rows

    @torch.no_grad()
    def others(self) -> dict[str, list[float]]:
        """Ranges of groups in which no convolution or its activation is, by their leader: what attention multiplies."""
        behind, groups = self.flow.activated, self.flow.groups
        told = {groups[k] for name in self._convs for k in (name, behind.get(name, name))} | {groups[self.flow.input]}
        return {leader: list(self._pair(leader)) for leader in self._slot if leader not in told}

    def _pair(self, name: str) -> tuple[float, float]:
        low, high = self.limits(name)
        return low.item(), high.item()


def prepare(
    network: Network,
    recipe: Recipe,
    images: list[Path],
    imgsz: int,
    report: Callable[[float, str], None] = lambda d, w: None,
) -> QuantizedNetwork:
    """Calibrate ``network`` by ``recipe`` on ``images`` and make it trainable; a recipe with learned ranges needs no images.

    Raises:
        EdgesegError: an operator that the quantizer does not know, or no images.
    """
    size = (imgsz, imgsz)
    flow = network_flow(network, size)
    before = torch.is_grad_enabled()
    try:
        decisions = decide(flow, recipe.without_equalization(), images, size, report)
    finally:
        torch.set_grad_enabled(before)
    return QuantizedNetwork(network, flow, decisions, recipe, size)
