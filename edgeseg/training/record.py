"""What a run writes: its folder, checkpoints, and a table of figures."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import yaml

from edgeseg import resources, store
from edgeseg.errors import EdgesegError
from edgeseg.network.checkpoint import save_checkpoint
from edgeseg.network.model import Network
from edgeseg.training.loop import Listener, Trainer
from edgeseg.training.options import TrainOptions

LEADING = ("epoch", "train/box", "train/mask", "train/score", "train/dfl")


def new_folder(project: str, name: str, exist_ok: bool = False) -> Path:
    """A run's folder (see ``resources.new_folder``) with one for its weights; what killed runs left is removed.

    Raises:
        EdgesegError: it cannot be made.
    """
    for weights in Path(project).glob("*/weights"):
        for left in (weights, weights.parent):
            store.sweep_folder(left)
    folder = resources.new_folder(project, name, exist_ok)
    store.make_folder(folder / "weights")
    return folder


def newest_trained(project: str | Path = "runs/train", kinds: tuple[str, ...] = ("best.pt", "last.pt")) -> Path | None:
    """The ``weights/best.pt`` (else ``last.pt``) written last below ``project``, None when there is none."""
    for kind in kinds:
        found = list(Path(project).glob(f"*/weights/{kind}"))
        if found:
            return max(found, key=lambda p: p.stat().st_mtime_ns)
    return None


def left_behind(folder: Path) -> str:
    """What an interrupted run has left, and how to go on."""
    there = [name for name in ("best.pt", "last.pt") if (folder / "weights" / name).is_file()]
    if "last.pt" not in there:
        return f"interrupted before anything was saved in {folder}"
    none = "" if "best.pt" in there else ", and no best.pt, for no epoch was finished"
    go_on = f"Go on with: edgeseg train resume={folder / 'weights' / 'last.pt'}"
    return f"interrupted: {folder / 'weights'} holds {' and '.join(there)}{none}. {go_on}"


def write_atomically(path: Path, text: str) -> None:
    """Replace a text file as a whole.

    Raises:
        EdgesegError: the disk is full or the folder is gone.
    """
    try:
        store.write_atomically(path, text)
    except OSError as e:
        raise EdgesegError(f"cannot be written ({e.strerror})", path=path, hint="Free some space") from e


def exportable(network: Any) -> Network:
    """The network as a checkpoint holds it: one that is trained through rounding gives its fused form."""
    made: Network = network.to_network() if hasattr(network, "to_network") else network
    return made


class Checkpoints(Listener):
    """Writes ``weights/last.pt`` after each epoch and when interrupted, ``weights/best.pt`` after the best epoch.

    ``last.pt`` holds the averaged network and the state of the run; ``best.pt`` only the network.
    """

    def __init__(self, folder: Path, options: TrainOptions) -> None:
        self.weights, self.options = folder / "weights", options

    def on_start(self, trainer: Trainer) -> None:
        """Remember the options beside the weights."""
        write_atomically(self.weights.parent / "options.yaml", yaml.safe_dump(self.options.to_flat(), sort_keys=False))

    def on_epoch(self, trainer: Trainer, row: dict[str, float], is_best: bool) -> None:
        """Write both files; the best one first, so that ``last.pt`` never speaks of a best that is not there."""
        if is_best or not (self.weights / "best.pt").exists():
            save_checkpoint(self.weights / "best.pt", exportable(trainer.result), figures=dict(row))
        self._save_last(trainer)

    def on_stop(self, trainer: Trainer) -> None:
        """Save where an interrupted epoch stands."""
        if trainer.position.batch:
            self._save_last(trainer)

    def _save_last(self, trainer: Trainer) -> None:
        save_checkpoint(
            self.weights / "last.pt",
            exportable(trainer.result),
            trainer=trainer.state_dict(),
            options=self.options.to_flat(),
        )


class Results(Listener):
    """Writes ``results.csv``: one row per epoch, written anew each time, so that a resumed run has no row twice."""

    def __init__(self, folder: Path, options: TrainOptions) -> None:
        self.path = folder / "results.csv"

    def on_epoch(self, trainer: Trainer, row: dict[str, float], is_best: bool) -> None:
        """Write the whole history."""
        write_atomically(self.path, to_csv(trainer.position.history))


def to_csv(history: list[dict[str, float]]) -> str:
    """The history as CSV text; an epoch without validation has empty cells there."""
    keys = list(dict.fromkeys([*LEADING, *(k for row in history for k in row)]))
    out = io.StringIO()
    writer = csv.DictWriter(out, keys, lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: f"{v:.6g}" for k, v in row.items()} for row in history)
    return out.getvalue()
