"""A moving average of the weights, which is what gets validated and exported."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch

from edgeseg.network.model import Network


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
