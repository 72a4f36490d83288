"""The training loop: batches in, weights out. What is shown, written and drawn is the business of listeners."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from edgeseg.data.inventory import Inventory
from edgeseg.data.loader import Batch, EpochBatches
from edgeseg.errors import EdgesegError
from edgeseg.network.model import Network
from edgeseg.training.distributed import Processes
from edgeseg.training.loss import PARTS, network_loss
from edgeseg.training.optimize import Rates, Schedule, WeightAverage, apply_rates
from edgeseg.training.options import TrainOptions
from edgeseg.training.targets import Targets


@dataclass
class Position:
    """Where a run is: ``batch`` batches of ``epoch`` (from 0) are done, ``step`` batches altogether.

    ``sums`` are the sums of the loss parts over the epoch's batches so far; ``history`` has a row per finished epoch.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0] * len(PARTS))
    best: float = -1.0
    best_epoch: int = -1
    history: list[dict[str, float]] = field(default_factory=list)


class Listener:
    """Gets told what happens; every method may be left out."""

    def on_data(self, split: str, inventory: Inventory, warnings: Sequence[str]) -> None:
        """Once the images and labels of ``train`` and ``val`` are read, in the main process."""

    def on_start(self, trainer: Trainer) -> None:
        """Before the first batch (of a fresh or a resumed run)."""

    def on_batch(self, trainer: Trainer, batch: Batch, rates: Rates) -> None:
        """After each batch, in the main process."""

    def on_epoch(self, trainer: Trainer, row: dict[str, float], is_best: bool) -> None:
        """After each epoch and its validation, in the main process; ``row`` is the new row of the history."""

    def on_stop(self, trainer: Trainer) -> None:
        """After the last epoch, or when the run is interrupted at a step."""


class Trainer:
    """Trains a network.

    Args:
        network: on the device already. processes: this process among all. options: of the run.
        optimizer, schedule: how weights move. loader, batches: training data, both made for this process.
        accumulate: batches for one step of the optimizer, after the warmup.
        average: the averaged weights, or None to do without.
        validate: gives the figures of a network, among them ``fitness``; called as often as the options say, and at the end.
        frozen: modules kept in evaluation mode.
    """

    def __init__(
        self,
        network: Network,
        processes: Processes,
        options: TrainOptions,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        loader: DataLoader[Any],
        batches: EpochBatches,
        *,
        accumulate: int,
        average: WeightAverage | None = None,
        validate: Callable[[Network], dict[str, float]] | None = None,
        listeners: Sequence[Listener] = (),
        frozen: Sequence[nn.Module] = (),
    ) -> None:
        self.network, self.processes, self.options = network, processes, options
        self.optimizer, self.schedule, self.loader, self.batches = optimizer, schedule, loader, batches
        self.average, self.validate, self.listeners, self.frozen = average, validate, listeners, frozen
        self.position = Position()
        self.stop_requested = self.validating = False
        self._accumulate, self._amp = accumulate, options.amp and not options.qat and processes.device.type == "cuda"
        self.scaler = torch.amp.GradScaler(processes.device.type, enabled=self._amp)
        self._model = processes.wrap(network)
        self._trained = [p for p in network.parameters() if p.requires_grad]

    @property
    def result(self) -> Network:
        """The network to validate and export: the averaged one, if there is one."""
        return self.average.network if self.average else self.network

    def fit(self, stop_early: Callable[[Position], bool] = lambda position: False) -> bool:
        """Train until the last epoch, or until ``stop_early`` or ``stop_requested`` says so.

        Returns:
            Whether the run is complete (not interrupted).

        Raises:
            EdgesegError: the loss is no number any more, or a batch does not fit in memory.
        """
        for listener in self.listeners:
            listener.on_start(self)
        complete = True
        while self.position.epoch < self.options.epochs:
            if not self._epoch():
                complete = False
                break
            if self.processes.share(lambda: stop_early(self.position)):
                break
        for listener in self.listeners:
            listener.on_stop(self)
        return complete

    def _epoch(self) -> bool:
        """The rest of the present epoch and its validation; False when interrupted."""
        p = self.position
        self.network.train()
        for module in self.frozen:
            module.eval()
        self.batches.set(p.epoch, p.batch)
        count, gathered = len(self.batches), 0
        self.optimizer.zero_grad()
        for batch in self.loader:
            rates = self.schedule.rates(p.step, p.epoch)
            apply_rates(self.optimizer, rates)
            gathered += 1
            last = p.batch + 1 == count
            steps_now = last or gathered >= self.schedule.accumulate(p.step, self._accumulate)
            with _memory_errors(len(batch.images) * self.processes.world), self._synchronised(steps_now):
                parts = self._backward(batch)
            p.sums = [a + b for a, b in zip(p.sums, self._check(parts))]
            p.batch, p.step = p.batch + 1, p.step + 1
            if steps_now:
                self._step()
                gathered = 0
            if self.processes.main:
                for listener in self.listeners:
                    listener.on_batch(self, batch, rates)
            if steps_now and not last and self.processes.sum(torch.tensor(float(self.stop_requested))).item():
                return False
        try:
            self._finish_epoch(count)
        except KeyboardInterrupt:
            if not self.validating:
                raise
            return False  # nothing has moved: a resumed run has no batch left in this epoch, and validates
        return not self.stop_requested or p.epoch >= self.options.epochs

    def _backward(self, batch: Batch) -> Tensor:
        device = self.processes.device
        images, targets = prepare(batch, device)
        if self.options.multi_scale:
            rng = np.random.default_rng((self.options.seed, self.position.step, 1))
            images, targets = rescale(images, targets, rng.uniform(-1, 1) * self.options.multi_scale)
        with torch.autocast(device.type, enabled=self._amp):
            output = self._model(images)
        total = self.processes.sum if self.processes.world > 1 else None
        done = self.position.epoch / max(self.options.epochs - 1, 1)
        loss = network_loss(output, targets, self.network.strides, self.options.gains, done=done, total=total)
        # DDP divides by the number of processes; the loss is a share of the sum, not of the mean.
        self.scaler.scale(loss.total * self.processes.world).backward()
        return self.processes.sum(loss.parts)

    def _step(self) -> None:
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self._trained, self.options.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.average:
            self.average.update(self.network)

    def _check(self, parts: Tensor) -> list[float]:
        values: list[float] = parts.tolist()
        if not all(math.isfinite(v) for v in values):
            raise EdgesegError(
                f"the loss is no number any more (epoch {self.position.epoch + 1}, batch {self.position.batch + 1})",
                hint="Use a smaller lr, or amp=false; the last checkpoint is intact",
            )
        return values

    def _synchronised(self, now: bool) -> contextlib.AbstractContextManager[Any]:
        """Gradients need not be exchanged before the batch that ends a step."""
        model = self._model
        if now or not isinstance(model, nn.parallel.DistributedDataParallel):
            return contextlib.nullcontext()
        return model.no_sync()

    def _finish_epoch(self, count: int) -> None:
        p = self.position
        row: dict[str, float] = {"epoch": p.epoch + 1}
        row.update({f"train/{k}": v / count for k, v in zip(PARTS, p.sums)})
        row["lr"] = self.schedule.lr * self.schedule.factor(p.epoch)
        best = False
        every = self.options.validate_every
        if self.validate and ((every and (p.epoch + 1) % every == 0) or p.epoch + 1 >= self.options.epochs):
            self.validating = True
            if self.stop_requested and self.processes.world == 1:  # the signal came in the last step
                raise KeyboardInterrupt
            row.update(self.validate(self.result))
            self.validating = False
            best = row["fitness"] > p.best
            if best:
                p.best, p.best_epoch = row["fitness"], p.epoch + 1
        p.epoch, p.batch, p.sums = p.epoch + 1, 0, [0.0] * len(PARTS)
        p.history.append(row)
        if self.processes.main:
            for listener in self.listeners:
                listener.on_epoch(self, row, best)

    def state_dict(self) -> dict[str, Any]:
        """All that another process needs to go on exactly from here (between two optimizer steps), as plain values."""
        return {
            "weights": {k: v.detach().cpu() for k, v in self.network.state_dict().items()},
            "average": {"weights": self.average.network.state_dict(), "updates": self.average.updates}
            if self.average
            else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "position": {**vars(self.position), "history": [dict(r) for r in self.position.history]},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self.network.load_state_dict(state["weights"])
        if self.average and state["average"]:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.position = Position(**state["position"])


def prepare(batch: Batch, device: torch.device) -> tuple[Tensor, Targets]:
    """Images as float RGB in 0..1 and targets, on the device."""
    images = batch.images.to(device, non_blocking=True).float() / 255
    return images, Targets(batch.owner, batch.classes, batch.boxes, batch.index_maps).to(device, non_blocking=True)


def rescale(images: Tensor, targets: Targets, change: float, multiple: int = 32) -> tuple[Tensor, Targets]:
    """The batch at another size: ``1 + change`` times the present one, to the next multiple of 32, at least 64 pixels."""
    side = images.shape[-1]
    new = max(64, round(side * (1 + change) / multiple) * multiple)
    if new == side:
        return images, targets
    images = F.interpolate(images, (new, new), mode="bilinear", align_corners=False, antialias=new < side)
    masks = F.interpolate(targets.masks[:, None].float(), (new // 4, new // 4), mode="nearest")[:, 0].short()
    return images, Targets(targets.image, targets.classes, targets.boxes * (new / side), masks)


@contextlib.contextmanager
def _memory_errors(batch: int) -> Iterator[None]:
    """Say what to do when a batch does not fit."""
    try:
        yield
    except (RuntimeError, MemoryError) as e:
        text = str(e)
        if isinstance(e, (torch.OutOfMemoryError, MemoryError)) or "allocate memory" in text or "not enough memory" in text:
            raise EdgesegError(
                f"a batch of {batch} images does not fit in memory",
                hint=f"Use batch={max(1, batch // 2)}, or batch=-1 to measure",
            ) from e
        raise
