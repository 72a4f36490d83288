"""The optimizer and what belongs to one step of it: rates, and the moving average that is validated and exported.

Rates are plain functions of the step, so that a resumed run needs no scheduler state.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from edgeseg.errors import EdgesegError
from edgeseg.network.layouts import layer_numbers
from edgeseg.network.model import Network

SCHEDULES = ("linear", "cosine")


@dataclass(frozen=True)
class Rates:
    """What the optimizer uses in one step. ``bias_lr`` is for biases, which warm up from above."""

    lr: float
    bias_lr: float
    momentum: float


@dataclass(frozen=True)
class Schedule:
    """Warmup over the first batches, then linear or cosine decay from ``lr`` to ``lr * final`` by epoch.

    Attributes:
        lr: peak learning rate. final: share of it at the last epoch. epochs: length of the run.
        kind: ``linear`` or ``cosine``. momentum: after warmup.
        warmup: batches of linear warmup. warmup_momentum, warmup_bias_lr: the values they start from.
    """

    lr: float
    final: float
    epochs: int
    kind: str = "linear"
    momentum: float = 0.937
    warmup: int = 0
    warmup_momentum: float = 0.8
    warmup_bias_lr: float = 0.1

    def factor(self, epoch: float) -> float:
        """Share of the peak rate in an epoch (from 0), in ``final``..1."""
        progress = min(max(epoch / max(self.epochs, 1), 0.0), 1.0)
        if self.kind == "cosine":
            return self.final + (1 - self.final) * (1 + math.cos(math.pi * progress)) / 2
        return self.final + (1 - self.final) * (1 - progress)

    def rates(self, batch: int, epoch: int) -> Rates:
        """Rates of the ``batch``-th batch of the whole run (from 0), which lies in ``epoch`` (from 0)."""
        lr = self.lr * self.factor(epoch)
        if batch >= self.warmup:
            return Rates(lr, lr, self.momentum)
        share = batch / self.warmup
        return Rates(
            lr * share,
            self.warmup_bias_lr + (lr - self.warmup_bias_lr) * share,
            self.warmup_momentum + (self.momentum - self.warmup_momentum) * share,
        )

    def accumulate(self, batch: int, target: int) -> int:
        """Batches per optimizer step: grows from 1 to ``target`` over the warmup."""
        if batch >= self.warmup:
            return target
        return max(1, round(1 + (target - 1) * batch / self.warmup))


SHORT_RUN = 10_000
"""Steps below which ``auto`` takes AdamW."""


def choose_optimizer(name: str, lr: float | None, steps: int, nc: int) -> tuple[str, float]:
    """The optimizer's name and peak learning rate. ``auto``: AdamW for short runs, its rate smaller for more classes."""
    if name == "auto":
        name = "adamw" if steps < SHORT_RUN else "sgd"
    return name, lr if lr is not None else 0.01 if name == "sgd" else round(0.002 * 5 / (4 + nc), 6)


def make_optimizer(network: nn.Module, name: str, schedule: Schedule, weight_decay: float) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, or AdamW. Three groups: kernels (with decay), biases, the rest (both without)."""
    kernels: list[nn.Parameter] = []
    norms: list[nn.Parameter] = []
    biases: list[nn.Parameter] = []
    for module in network.modules():
        for key, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            (biases if key == "bias" else kernels if parameter.ndim == 4 else norms).append(parameter)
    groups = [
        {"params": kernels, "weight_decay": weight_decay},
        {"params": norms, "weight_decay": 0.0},
        {"params": biases, "weight_decay": 0.0, "bias": True},
    ]
    if name == "sgd":
        return torch.optim.SGD(groups, lr=schedule.lr, momentum=schedule.momentum, nesterov=True)
    return torch.optim.AdamW(groups, lr=schedule.lr, betas=(schedule.momentum, 0.999))


def apply_rates(optimizer: torch.optim.Optimizer, rates: Rates) -> None:
    """Set learning rates and momentum for the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rates.bias_lr if group.get("bias") else rates.lr
        if "betas" in group:
            group["betas"] = (rates.momentum, group["betas"][1])
        else:
            group["momentum"] = rates.momentum


def freeze(network: Network, parts: tuple[str, ...]) -> list[nn.Module]:
    """Exclude parts from training; returns them: keep them in evaluation mode, so that their statistics stay too.

    A part is a module's name, or the number of a layer in the published list of the network's family.

    Raises:
        EdgesegError: no such part.
    """
    known = dict(network.named_modules())
    layers = {str(number): part for part, number in layer_numbers(network.definition.plan).items()}
    parts = tuple(layers.get(part, part) for part in parts if not (part.isdigit() and _no_weights(part, layers)))
    for part in parts:
        if part not in known or not part:
            top = [n for n in known if n.count(".") <= 1 and n]
            raise EdgesegError(f"freeze={part}: the network has no such part", hint=f"For example: {', '.join(top[:8])}")
        known[part].requires_grad_(False)
    return [known[part] for part in parts]


def _no_weights(number: str, layers: dict[str, str]) -> bool:
    """Whether a layer of that number only joins or enlarges maps."""
    return number not in layers and int(number) < max(map(int, layers))


class WeightAverage:
    """Exponential moving average of a network's parameters and buffers.

    The decay grows from 0 as ``decay * (1 - exp(-updates / tau))``, so that early averages forget the random start.
    Integer buffers (step counters) are copied.
    """

    def __init__(self, network: Network, decay: float = 0.9999, tau: float = 2000.0) -> None:
        self.network = copy.deepcopy(network).eval()
        self.network.requires_grad_(False)
        self.decay, self.tau, self.updates = decay, tau, 0

    @torch.no_grad()
    def update(self, network: Network) -> None:
        """Move the average towards ``network`` (of the same structure)."""
        self.updates += 1
        keep = self.decay * (1 - math.exp(-self.updates / self.tau))
        source = network.state_dict()
        for name, value in self.network.state_dict().items():
            if value.dtype.is_floating_point:
                value.lerp_(source[name].to(value.dtype), 1 - keep)
            else:
                value.copy_(source[name])

    def state_dict(self) -> dict[str, Any]:
        """Weights and the number of updates."""
        return {"weights": self.network.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where :meth:`state_dict` left off."""
        self.network.load_state_dict(state["weights"])
        self.updates = int(state["updates"])
