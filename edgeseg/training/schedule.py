"""Learning rate and momentum as plain functions of the step, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math
from dataclasses import dataclass

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
