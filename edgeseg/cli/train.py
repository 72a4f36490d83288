"""``edgeseg train``: train a network on a dataset."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeseg.cli import console, flags
from edgeseg.cli.flags import flag, word
from edgeseg.errors import EdgesegError, Interrupted

if TYPE_CHECKING:
    from edgeseg.training.loop import Listener

RATES, RUN = "Learning", "Run"


def train(
    context: typer.Context,
    model: Annotated[
        str | None,
        word("Checkpoint to start from, or a definition (.yaml) to train from scratch.", "[MODEL]", "yolov8n-seg.pt"),
    ] = None,
    data: Annotated[str | None, flag("Dataset YAML or name.", False, metavar="YAML")] = None,
    epochs: Annotated[int | None, flag("Passes over the images.", "100")] = None,
    imgsz: Annotated[int | None, flag("Image size in pixels, a multiple of 32.", "640")] = None,
    batch: Annotated[int | None, flag("Images per step; -1 measures what fits.", "16")] = None,
    resume: Annotated[str | None, flag("Go on with an interrupted run.", False, metavar="LAST.PT")] = None,
    pretrained: Annotated[str | None, flag("Carry over weights that fit.", False, metavar="MODEL")] = None,
    optimizer: Annotated[str | None, flag("auto, sgd or adamw.", "auto", panel=RATES)] = None,
    lr: Annotated[float | None, flag("Peak learning rate.", "the optimizer's usual", panel=RATES)] = None,
    patience: Annotated[int | None, flag("Epochs without improvement before stopping.", "100", panel=RATES)] = None,
    freeze: Annotated[
        str | None,
        flag(
            "Parts that keep their weights: backbone, neck.top4 ...; 10: the first ten layers.",
            False,
            metavar="A,B",
            panel=RATES,
        ),
    ] = None,
    device: Annotated[str | None, flag("auto, cpu, cuda:0 ...", "auto", panel=RUN)] = None,
    workers: Annotated[int | None, flag("Processes that load images.", "4", panel=RUN)] = None,
    seed: Annotated[int | None, flag("Seed of everything random.", "0", panel=RUN)] = None,
    project: Annotated[str | None, flag("Where runs go.", "runs/train", metavar="FOLDER", panel=RUN)] = None,
    name: Annotated[str | None, flag("Name of this run.", "exp", panel=RUN)] = None,
    log: Annotated[
        str | None, flag("Follow the run with wandb, mlflow, tensorboard.", False, metavar="A,B", panel=RUN)
    ] = None,
    json: flags.Json = None,
) -> None:
    """Train a network; further options (augmentation, loss gains, schedule ...) are given as key=value.

    An interrupted run goes on with resume=RUN/weights/last.pt. The newest best.pt is what export, validate and predict take
    when no model is named.
    """
    if importlib.util.find_spec("torch") is None:
        raise EdgesegError("training needs torch", hint='pip install "edgeseg[train]"')
    from edgeseg.training import TrainOptions
    from edgeseg.training import train as run
    from edgeseg.training.record import left_behind

    words = list(context.args)
    if model and "=" in model and not os.path.exists(model):  # no model was named: click gave it the first further option
        words, model = [model, *words], None
    named = {k: v for k, v in context.params.items() if k != "json"}
    flat = {**further(words), **named, "model": model}
    options = TrainOptions.from_flat(flat)
    if os.environ.get("RANK", "0") != "0":  # torchrun starts many of us; the first one talks
        run(options)
        return
    to = console.people(json)
    try:
        with shown(to) as (listener, progress):
            result = run(options, listeners=[listener], progress=progress)
    except KeyboardInterrupt as e:
        raise Interrupted(str(e) or "interrupted before training began: nothing was saved") from None
    for warning in result.warnings:
        console.warn(warning)
    facts = {
        "folder": str(result.folder),
        "best": str(result.best) if result.best.is_file() else None,
        "last": str(result.last),
        "complete": result.complete,
        "epochs": result.epochs,
        "best_epoch": result.best_epoch,
        "metrics": result.metrics,
    }
    console.as_json(json, facts)
    if json != "-" and result.metrics:
        title = f"best epoch {result.best_epoch} of {result.epochs}"
        console.table(title, ("figure", "value"), list(result.metrics.items()), to=to)
    if not result.complete:
        raise Interrupted(left_behind(result.folder))
    console.say(
        f"weights in {result.best}; next: edgeseg export {result.best} --format tflite --int8 data={options.data}", to=to
    )


def further(words: list[str]) -> dict[str, Any]:
    """``key=value`` words as typed values: numbers, booleans, lists, else text.

    Raises:
        EdgesegError: a word that is no ``key=value``.
    """
    import yaml

    values: dict[str, Any] = {}
    for pair in words:
        key, equals, text = pair.partition("=")
        if not equals:
            raise EdgesegError(f"train has no use for {pair!r}", hint="Options are key=value; see: edgeseg train --help")
        try:
            values[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            values[key] = text
    return values


@contextmanager
def shown(to: Any) -> Iterator[tuple[Listener, Any]]:
    """A listener that prints a line per epoch and keeps a live line, and the callback for reading the dataset."""
    from edgeseg.training.loop import Listener as Base

    with console.steps() as line:

        class Shown(Base):
            """Shows how far the run is."""

            def __init__(self) -> None:
                self.begun, self.batches, self.after = 0.0, 0, 0.0  # when, how many since, and seconds of validations
                self.ended: float | None = None  # when the batches of this epoch were done
                self.told = False

            def on_data(self, split: str, inventory: Any, warnings: Sequence[str]) -> None:
                console.note(f"{split}: {inventory}")
                for warning in warnings:
                    console.warn(warning)

            def on_batch(self, trainer: Any, batch: Any, rates: Any) -> None:
                p, epochs, all_batches = trainer.position, trainer.options.epochs, max(1, len(trainer.batches))
                now = time.monotonic()
                if trainer.stop_requested and not self.told:
                    self.told = True
                    console.note("stopping after this step; Ctrl-C again stops at once")
                if not self.begun:
                    self.begun, self.first = now, p.epoch
                    line("training", 0.0, "")
                    return
                self.batches += 1
                each = (now - self.begun - self.after) / self.batches
                done, validated = p.epoch * all_batches + p.batch, max(p.epoch - self.first, 1)
                left = each * (epochs * all_batches - done) + self.after / validated * (epochs - p.epoch)
                words = f"batch {p.batch} of {all_batches}"
                if p.batch >= all_batches:
                    words, self.ended = "validating", now
                share = (now - self.begun) / (now - self.begun + left) if left else 1.0
                line("training", min(share, 0.999), f"epoch {p.epoch + 1} of {epochs}, {words}")

            def on_epoch(self, trainer: Any, row: dict[str, float], is_best: bool) -> None:
                if self.ended is not None:
                    self.after, self.ended = self.after + time.monotonic() - self.ended, None
                console.note(
                    f"epoch {row['epoch']:g} of {trainer.options.epochs}: {_epoch(row)}{' (best)' if is_best else ''}"
                )

        def reading(what: str, done: int, total: int) -> None:
            line(f"reading {what}", done / max(total, 1), f"{done} of {total}" if done < total else "")

        yield Shown(), reading


def _epoch(row: dict[str, float]) -> str:
    """The figures of an epoch that fit on a line; all of them are in results.csv."""
    ap = [f"{name} AP {row[key]:.3f}" for name, key in (("box", "box/map"), ("mask", "seg/map")) if key in row]
    losses = [(name, [v for k, v in row.items() if k.startswith(f"{name}/")]) for name in ("train", "val")]
    return ", ".join([*ap, *(f"{name} loss {sum(values):.2f}" for name, values in losses if values)])
