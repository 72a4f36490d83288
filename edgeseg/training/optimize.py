"""The optimizer and what belongs to one step of it."""

from __future__ import annotations

import torch
from torch import nn

from edgeseg.errors import EdgesegError
from edgeseg.network.layouts import layer_numbers
from edgeseg.network.model import Network
from edgeseg.training.schedule import Rates, Schedule

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
