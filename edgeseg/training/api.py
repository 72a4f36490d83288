"""``train``: from options to a finished run."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgeseg.data.cache import ImageCache, Scan, scan
from edgeseg.data.dataset import Dataset, load_dataset
from edgeseg.data.loader import EpochBatches, TrainImages, collate, make_loader
from edgeseg.data.remembered import remember
from edgeseg.errors import EdgesegError
from edgeseg.evaluate.truth import Truth, load_truth
from edgeseg.kernel import handled
from edgeseg.network.checkpoint import load_checkpoint, load_training_state
from edgeseg.network.model import Network
from edgeseg.training.distributed import Processes, share_statistics
from edgeseg.training.loop import Listener, Position, Trainer
from edgeseg.training.optimize import Schedule, WeightAverage, choose_optimizer, freeze, make_optimizer
from edgeseg.training.options import TrainOptions
from edgeseg.training.record import Checkpoints, Results, left_behind, new_folder, newest_trained
from edgeseg.training.statistics import measure
from edgeseg.training.trackers import checked, trackers
from edgeseg.training.transfer import start_network
from edgeseg.training.validation import Validator

QAT_LR = 1e-4
"""Peak learning rate of quantization-aware training, which only adjusts a trained network."""


@dataclass(frozen=True)
class TrainResult:
    """What a run left behind.

    Attributes:
        folder: the run's folder. best, last: checkpoints. complete: False when it was interrupted.
        epochs: epochs done. best_epoch: from 1. metrics: the figures of the best epoch. warnings: for people.
    """

    folder: Path
    best: Path
    last: Path
    complete: bool
    epochs: int
    best_epoch: int
    metrics: dict[str, float]
    warnings: tuple[str, ...] = ()

    @property
    def save_dir(self) -> Path:
        """The same as ``folder``."""
        return self.folder

    @property
    def results_dict(self) -> dict[str, float]:
        """The same as ``metrics``."""
        return self.metrics


def train(
    options: TrainOptions, *, listeners: Sequence[Listener] = (), progress: Callable[[str, int, int], None] | None = None
) -> TrainResult:
    """Train a network and leave ``weights/best.pt`` and ``weights/last.pt`` in the run's folder.

    Args:
        options: what to do. Under ``torchrun`` every process calls this with the same options.
        listeners: told of each batch and epoch, after the built-in ones.
        progress: called with (what, done, all) while the dataset is read.

    Raises:
        EdgesegError: unusable options, data or checkpoint; a batch that does not fit; a disk that is full.
        KeyboardInterrupt: a second Ctrl-C; says what is there.
    """
    state: dict[str, Any] = {}
    left: tuple[str, ...] = ()
    if options.resume:
        wished = options
        options, state = _resumed(options)
        left = wished.left_out(options)
    checked(options.log)
    processes = Processes.start(options.device)
    try:
        result = _train(options, state, processes, listeners, progress)
        return replace(result, warnings=(*left, *result.warnings))
    finally:
        processes.close()


def _train(
    options: TrainOptions,
    state: dict[str, Any],
    processes: Processes,
    listeners: Sequence[Listener],
    progress: Callable[[str, int, int], None] | None,
) -> TrainResult:
    seed_everything(options.seed)
    dataset = load_dataset(options.data)
    folded: tuple[str, ...] = ()
    if options.resume:
        network = load_checkpoint(options.resume)
    else:
        start = start_network(options, dataset.names)
        network, folded = start.network, start.folded
    dataset = dataset.for_task(network.task)
    data = {split: _scan(dataset, split, processes, progress) for split in ("train", "val")}
    warnings = _checked(data["train"], dataset)
    # Before the first epoch, not after it: labels that are not there, annotations of other images.
    truth = load_truth(dataset, "val", [r.path for r in data["val"].records])
    if processes.main:
        _tell(listeners, data["train"], dataset, truth)
    network.info = {**network.info, "imgsz": options.imgsz, **remember(dataset)}
    if options.qat:
        network = _rounding(network, options, dataset, processes, progress)
    network = network.float().to(processes.device)
    if options.batch == -1:
        from edgeseg.training.autobatch import fitting_batch

        each = fitting_batch(network, options, processes.device)
        options = replace(options, batch=processes.share(lambda: each) * processes.world)
    run = Path(options.resume).parent.parent if options.resume else None
    folder = processes.share(lambda: run or new_folder(options.project, options.name, options.exist_ok))
    images = _images(options, data["train"])
    if folded and not options.qat:
        warnings += ("its batch normalisation was folded in; statistics were measured on training images",)
        restore_statistics(network, folded, images, processes.device)
    trainer = make_trainer(options, network, images, data["val"], dataset, processes, folder, listeners, truth)
    if state:
        trainer.load_state_dict(state["trainer"])
    try:
        with _interruptible(trainer):
            complete = trainer.fit(lambda p: stale(p, options.patience))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(left_behind(folder)) from None
    return _result(trainer, folder, complete, warnings + _missing(options))


def make_trainer(
    options: TrainOptions,
    network: Network,
    images: TrainImages,
    held_out: Scan,
    dataset: Dataset,
    processes: Processes,
    folder: Path,
    listeners: Sequence[Listener] = (),
    truth: Truth | None = None,
) -> Trainer:
    """Put a trainer together; ``network`` lies on the device."""
    share = max(1, options.batch // processes.world)
    batches = EpochBatches(len(images), share, seed=options.seed, rank=processes.rank, world=processes.world)
    loader = make_loader(images, batches, workers=options.workers, pin=processes.device.type == "cuda")

    accumulate = max(1, round(options.nominal_batch / (share * processes.world)))
    steps = -(-len(batches) // accumulate) * options.epochs
    name, lr = choose_optimizer(options.optimizer, options.lr or (QAT_LR if options.qat else None), steps, dataset.nc)
    schedule = Schedule(
        lr, options.final_lr, options.epochs, options.schedule, options.momentum,
        warmup=round(options.warmup_epochs * len(batches)), warmup_bias_lr=0.1 if name == "sgd" else 0.0,
    )  # fmt: skip
    decay = options.weight_decay * share * processes.world * accumulate / options.nominal_batch
    average = WeightAverage(network, options.ema) if options.ema else None
    if options.sync_bn:  # before the optimizer: this replaces layers
        share_statistics(network, processes)
    frozen = freeze(network, options.freeze)
    optimizer = make_optimizer(network, name, schedule, decay)
    validator = Validator(dataset, held_out.records, options.imgsz, share, processes, gains=options.gains, _truth=truth)
    own = _recorders(folder, options, dataset.names, images.closing) if processes.main else []
    return Trainer(
        network, processes, options, optimizer, schedule, loader, batches, accumulate=accumulate, average=average,
        validate=validator, listeners=[*own, *listeners] if processes.main else [], frozen=frozen,
    )  # fmt: skip


def _rounding(
    network: Network,
    options: TrainOptions,
    dataset: Dataset,
    processes: Processes,
    progress: Callable[[str, int, int], None] | None,
) -> Network:
    """The network as it rounds under the recipe, calibrated on the training split, or with ranges learned before."""
    from edgeseg.quantize.calibration import choose
    from edgeseg.quantize.learned import learned_of
    from edgeseg.quantize.recipe import Recipe, load_recipe
    from edgeseg.training.qat import prepare

    recipe, before = load_recipe(options.recipe), network.info.get("qat")
    if before and recipe.same_rules(Recipe.from_dict(before["recipe"])):
        recipe = replace(recipe, learned=learned_of(before))
    images = [] if recipe.learned else list(choose(dataset, recipe.images, seed=options.seed).images)
    report = (lambda done, _: progress("ranges", round(100 * done), 100)) if progress and processes.main else None
    # It has all that the loop and the validation use of a network.
    return prepare(network, recipe, images, options.imgsz, report or (lambda done, what: None))  # type: ignore[return-value]


def _images(options: TrainOptions, data: Scan) -> TrainImages:
    cache = ImageCache(options.imgsz, options.cache)
    cache.fill(data.records)
    closing = options.epochs - options.close_mosaic
    return TrainImages(data.records, options.imgsz, options.augment, seed=options.seed, closing=closing, cache=cache)


def restore_statistics(
    network: Network, folded: Sequence[str], images: TrainImages, device: torch.device, count: int = 64, batch: int = 8
) -> None:
    """Measure the named layers' statistics on ``count`` training pictures; every process does the same on the same ones."""
    keys = [(0, i % len(images)) for i in range(count)]
    groups = (keys[i : i + batch] for i in range(0, count, batch))
    pictures = (collate([images[k] for k in group]).images.to(device).float() / 255 for group in groups)
    measure(network, folded, pictures)


def _recorders(folder: Path, options: TrainOptions, names: tuple[str, ...], closing: int) -> list[Listener]:
    """What writes into the run's folder."""
    own: list[Listener] = [Checkpoints(folder, options), Results(folder, options)]
    if options.plots:
        from edgeseg.training.plots import Charts, Sheets

        own += [Sheets(folder, names, closing), *([Charts(folder, names)] if Charts.available() else [])]
    return [*own, *trackers(folder, options)]


def _missing(options: TrainOptions) -> tuple[str, ...]:
    """What was asked for and could not be drawn."""
    if options.plots:
        from edgeseg.training.plots import Charts

        if not Charts.available():
            return ("no charts were drawn: they need matplotlib (pip install matplotlib)",)
    return ()


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch, and have cuDNN choose reproducible kernels."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def stale(position: Position, patience: int) -> bool:
    """Whether ``patience`` epochs have passed since the best one."""
    return bool(patience) and position.best_epoch >= 0 and position.epoch - position.best_epoch >= patience


def _resumed(options: TrainOptions) -> tuple[TrainOptions, dict[str, Any]]:
    path = Path(str(options.resume))
    if path.name.lower() == "true":
        newest = newest_trained(options.project, ("last.pt",))
        if newest is None:
            raise EdgesegError("there is no run to go on with", path=options.project, hint="Give resume=RUN/weights/last.pt")
        path = newest
    state = load_training_state(path)
    if "options" not in state or "trainer" not in state:
        raise EdgesegError("no run can go on from this file", path=path, hint="Give the weights/last.pt of a run")
    options = options.resumed(state["options"], str(path))
    if state["trainer"]["position"]["epoch"] >= options.epochs:
        raise EdgesegError(
            f"all {options.epochs} epochs of this run are done", path=path, hint="Start a new run from best.pt"
        )
    return options, state


def _scan(dataset: Dataset, split: str, processes: Processes, progress: Callable[[str, int, int], None] | None) -> Scan:
    if split not in dataset.splits:
        raise EdgesegError(f"training needs a {split} split", path=dataset.yaml, hint=f"Add `{split}: images/{split}` to it")
    report = (lambda done, count: progress(f"{split} images", done, count)) if progress else None
    return scan(dataset, split, progress=report if processes.main else None)


def _tell(listeners: Sequence[Listener], data: Scan, dataset: Dataset, truth: Truth) -> None:
    counts = data.inventory.with_orphans(dataset, [r.path for r in data.records])
    for listener in listeners:
        listener.on_data("train", counts, (*dataset.warnings, *counts.warnings()))
        listener.on_data("val", truth.inventory, [w for w in truth.warnings if w not in dataset.warnings])


def _checked(data: Scan, dataset: Dataset) -> tuple[str, ...]:
    """Warnings about the training split.

    Raises:
        EdgesegError: it has no labels at all.
    """
    if data.background == len(data.records):
        first = dataset.label_path(data.records[0].path)
        raise EdgesegError(
            f"none of the {len(data.records)} training images has a label", path=dataset.yaml,
            hint=f"The label of the first one would be {first}",
        )  # fmt: skip
    warnings = []
    if data.skipped:
        warnings.append(f"{len(data.skipped)} images cannot be read and are skipped, the first: {data.skipped[0]}")
    if len(data.records) == 1:
        warnings.append("there is only one training image: the network will learn it by heart")
    return tuple(warnings)


def _result(trainer: Trainer, folder: Path, complete: bool, warnings: tuple[str, ...]) -> TrainResult:
    p = trainer.position
    metrics = next((row for row in p.history if row["epoch"] == p.best_epoch), p.history[-1] if p.history else {})
    weights = folder / "weights"
    return TrainResult(
        folder, weights / "best.pt", weights / "last.pt", complete, p.epoch, p.best_epoch, dict(metrics), warnings
    )


@contextmanager
def _interruptible(trainer: Trainer) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) ends the run after the present step, a validation at once; the second one anything."""

    def handle(number: int, frame: Any) -> None:
        again, trainer.stop_requested = trainer.stop_requested, True
        if again or (trainer.validating and trainer.processes.world == 1):
            raise KeyboardInterrupt

    with handled(handle):
        yield
