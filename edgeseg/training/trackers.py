"""A run in the tools that people follow runs with: TensorBoard, MLflow, Weights & Biases.

They get what was asked for, the figures of each epoch, and at the end the checkpoints and pictures. None of them can end a
training: what goes wrong in one is said once, and the run goes on without it. A run that is resumed goes on in the same one:
``trackers.json`` in the run's folder keeps their ids.
"""

from __future__ import annotations

import importlib.util
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeseg.errors import EdgesegError, Notice, did_you_mean
from edgeseg.training.loop import Listener, Trainer
from edgeseg.training.options import TrainOptions
from edgeseg.training.record import write_atomically

PICTURES = (".png", ".jpg")


class Tracker(Listener):
    """What all of them have in common. ``name`` is the tool's in ``log=``, and the extra that brings its package."""

    name, title, module = "", "", ""
    epoch = 0

    def __init__(self, folder: Path, options: TrainOptions) -> None:
        self.folder, self.options, self.failed = folder, options, False

    @classmethod
    def available(cls) -> bool:
        """Whether its package is installed."""
        return importlib.util.find_spec(cls.module) is not None

    def start(self, trainer: Trainer) -> None:
        """Begin a run of the tool's, or go on with the one that has the id in ``trackers.json``."""

    def point(self, figures: Mapping[str, float], epoch: int) -> None:
        """The figures of one epoch, counted from 1."""

    def stop(self, files: Sequence[Path], pictures: Sequence[Path], complete: bool) -> None:
        """The checkpoints and pictures that are there, and the end."""

    def on_start(self, trainer: Trainer) -> None:
        """Begin."""
        self._safely(self.start, trainer)

    def on_epoch(self, trainer: Trainer, row: dict[str, float], is_best: bool) -> None:
        """One point for each figure."""
        self.epoch = int(row["epoch"])
        self._safely(self.point, {k: float(v) for k, v in row.items() if k != "epoch"}, self.epoch)

    def on_stop(self, trainer: Trainer) -> None:
        """Hand over the checkpoints and pictures."""
        files = [p for p in (self.folder / "weights" / f"{n}.pt" for n in ("best", "last")) if p.exists()]
        pictures = sorted(p for p in self.folder.iterdir() if p.suffix in PICTURES)
        self._safely(self.stop, files, pictures, not trainer.stop_requested)

    def _safely(self, does: Callable[..., None], *given: Any) -> None:
        if self.failed:
            return
        try:
            does(*given)
        except Exception as e:  # whatever a tool's server, disk or package comes up with
            self.failed = True
            why = " ".join((str(e) or type(e).__name__).split())[:160]
            warnings.warn(f"{self.title} is left out from here on, the training goes on: {why}", Notice, stacklevel=2)

    @property
    def known(self) -> str | None:
        """The tool's id of this run, None for a new one."""
        return self._ids().get(self.name)

    def remember(self, key: str) -> None:
        """Keep the tool's id of this run for when it is resumed."""
        write_atomically(self.folder / "trackers.json", json.dumps({**self._ids(), self.name: key}))

    def _ids(self) -> dict[str, str]:
        try:
            return dict(json.loads((self.folder / "trackers.json").read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return {}


class TensorBoard(Tracker):
    """Event files in the run's folder."""

    name, title, module = "tensorboard", "TensorBoard", "tensorboard"
    writer: Any = None

    def start(self, trainer: Trainer) -> None:
        """What was written after the epoch that a run resumes from is to be ignored."""
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(self.folder), purge_step=trainer.position.epoch + 1)
        rows = "\n".join(f"| {k} | {v} |" for k, v in self.options.to_flat().items())
        self.writer.add_text("options", f"| option | value |\n|---|---|\n{rows}", trainer.position.epoch)

    def point(self, figures: Mapping[str, float], epoch: int) -> None:
        """Scalars, at once on the disk."""
        for key, value in figures.items():
            self.writer.add_scalar(key, value, epoch)
        self.writer.flush()

    def stop(self, files: Sequence[Path], pictures: Sequence[Path], complete: bool) -> None:
        """Pictures; checkpoints lie beside the event file."""
        from edgeseg.data.images import read_image

        for path in pictures:
            self.writer.add_image(path.stem, read_image(path)[..., ::-1], dataformats="HWC")
        self.writer.close()


class MLflow(Tracker):
    """A run of the experiment ``MLFLOW_EXPERIMENT_NAME`` (``edgeseg``), at ``MLFLOW_TRACKING_URI`` or MLflow's default."""

    name, title, module = "mlflow", "MLflow", "mlflow"

    def start(self, trainer: Trainer) -> None:
        """Options are parameters."""
        from mlflow.tracking import MlflowClient

        self.client = MlflowClient()
        if self.known:
            self.run = self.known
            self.client.update_run(self.run, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "edgeseg")
        found = self.client.get_experiment_by_name(name)
        key = self.client.create_experiment(name) if found is None else found.experiment_id
        self.run = self.client.create_run(key, run_name=self.folder.name).info.run_id
        self.remember(self.run)
        for option, value in self.options.to_flat().items():
            self.client.log_param(self.run, option, str(value)[:500])

    def point(self, figures: Mapping[str, float], epoch: int) -> None:
        """Metrics of the step."""
        for key, value in figures.items():
            self.client.log_metric(self.run, key, value, step=epoch)

    def stop(self, files: Sequence[Path], pictures: Sequence[Path], complete: bool) -> None:
        """Artifacts under ``weights`` and ``plots``."""
        for path in files:
            self.client.log_artifact(self.run, str(path), "weights")
        for path in pictures:
            self.client.log_artifact(self.run, str(path), "plots")
        self.client.set_terminated(self.run, "FINISHED" if complete else "KILLED")


class WandB(Tracker):
    """A run of the project ``WANDB_PROJECT`` (``edgeseg``), or the one that is active; ``WANDB_MODE=offline`` works."""

    name, title, module = "wandb", "Weights & Biases", "wandb"

    def start(self, trainer: Trainer) -> None:
        """Options are the configuration."""
        import wandb

        self.own = wandb.run is None
        if wandb.run is not None:  # of a sweep
            self.run = wandb.run
            self.run.config.update(self.options.to_flat(), allow_val_change=True)
            return
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "edgeseg"),
            name=self.folder.name,
            dir=str(self.folder),
            id=self.known,
            resume="allow",
            config=self.options.to_flat(),
            settings=wandb.Settings(console="off"),
        )
        self.remember(self.run.id)

    def point(self, figures: Mapping[str, float], epoch: int) -> None:
        """The history of the run, a step an epoch."""
        self.run.log({**figures, "epoch": epoch}, step=epoch)

    def stop(self, files: Sequence[Path], pictures: Sequence[Path], complete: bool) -> None:
        """An artifact ``run-ID`` of the type ``model``, and pictures."""
        import wandb

        model = wandb.Artifact(f"run-{self.run.id}", type="model")
        for path in files:
            model.add_file(str(path))
        self.run.log_artifact(model)
        # Of the last epoch's step: a later one would be in the way of a run that goes on.
        self.run.log({f"plots/{p.stem}": wandb.Image(str(p)) for p in pictures}, step=self.epoch)
        if self.own:
            self.run.finish(exit_code=0 if complete else 1)


TRACKERS: Mapping[str, type[Tracker]] = {t.name: t for t in (TensorBoard, MLflow, WandB)}


def checked(log: str | Sequence[str]) -> tuple[str, ...]:
    """Names of trackers from a list, or text with commas; each must be installed.

    Raises:
        EdgesegError: there is none of that name, or its package is not installed.
    """
    words = [w.strip() for w in log.split(",")] if isinstance(log, str) else [str(w) for w in log]
    for word in words:
        if word not in TRACKERS:
            hint = did_you_mean(word, TRACKERS, f"There are: {', '.join(TRACKERS)}")
            raise EdgesegError(f"log={word} is no tool that follows runs", hint=hint)
        if not TRACKERS[word].available():
            raise EdgesegError(f"log={word}: {TRACKERS[word].title} is not installed", hint=f'pip install "edgeseg[{word}]"')
    return tuple(dict.fromkeys(words))


def trackers(folder: Path, options: TrainOptions) -> list[Listener]:
    """Those that the options ask for, and TensorBoard where it is installed and not switched off."""
    usual = (TensorBoard.name,) if options.tensorboard and TensorBoard.available() else ()
    return [TRACKERS[name](folder, options) for name in dict.fromkeys((*options.log, *usual))]
