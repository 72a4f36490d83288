"""What a validation leaves in a folder: detections as a COCO results file, curves and confusion as charts (matplotlib)."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeseg.errors import EdgesegError
from edgeseg.resources import new_folder
from edgeseg.store import disk_error, writing

if TYPE_CHECKING:
    from edgeseg.evaluate.metrics import Told
    from edgeseg.evaluate.truth import Truth
    from edgeseg.evaluate.validate import ValidationResult
from collections.abc import Sequence

from edgeseg.evaluate.curves import GRID, mean_curve

CURVES = (
    ("PR", "precision_at_recall", "recall", "precision"),
    ("F1", "f1", "confidence", "F1"),
    ("P", "precision", "confidence", "precision"),
    ("R", "recall", "confidence", "recall"),
)
"""Short name, field of ``Curves``, and what its axes are."""


def lines(path: Path, rows: np.ndarray, names: tuple[str, ...], labels: Sequence[str]) -> None:
    """A curve over ``GRID`` for each class, (nc, 1001), in grey when there are many, and their mean."""
    figure, (axis,) = figure_of(1, 1, (7, 5))
    few = len(names) <= 20
    for name, row in zip(names, rows):
        if not np.isnan(row).any():
            axis.plot(GRID, row, linewidth=1, **({"label": name} if few else {"color": "0.8"}))
    mean = mean_curve(rows)
    best = f" (best {mean.max():.3f} at {GRID[mean.argmax()]:.2f})" if labels[0] == "confidence" else f" {mean.mean():.3f}"
    axis.plot(GRID, mean, linewidth=3, color="tab:blue", label=f"mean{best}")
    axis.set(xlabel=labels[0], ylabel=labels[1], xlim=(0, 1), ylim=(0, 1.02))
    axis.legend(fontsize="small")
    write(figure, path)


def matrix(path: Path, table: np.ndarray, names: tuple[str, ...]) -> None:
    """A confusion matrix (nc + 1, nc + 1), of counts or of shares in 0..1."""
    most = max(float(table.max()), 1.0)
    size = min(24.0, 4 + 0.35 * len(table))
    figure, (axis,) = figure_of(1, 1, (size + 1, size))
    shown = axis.imshow(table, cmap="Blues", vmin=0, vmax=most)
    words = [*names, "background"]
    axis.set_xticks(range(len(words)), words, rotation=90)
    axis.set_yticks(range(len(words)), words)
    axis.set(xlabel="is", ylabel="taken for")
    if len(words) <= 20:
        for (i, j), value in np.ndenumerate(table):
            if value:
                said = f"{value:.2f}" if table.dtype.kind == "f" else str(value)
                axis.text(j, i, said, ha="center", va="center", color="white" if value > most / 2 else "black")
    figure.colorbar(shown)
    write(figure, path)


def figure_of(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, list[Any]]:
    """A figure that needs no display and leaves matplotlib's global state alone."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(np.ravel(figure.subplots(rows, columns)))


def write(figure: Any, path: Path) -> None:
    """The figure as PNG."""
    figure.savefig(path, dpi=110)


OPTIONS = {"save_json": "json", "plots": "plots", "project": "project", "name": "name", "exist_ok": "exist_ok"}
"""The options of a validation that ask for it."""


@dataclass
class Written:
    """Keeps what was found while a validation runs (``seen``), and writes it into ``project/name``.

    ``predictions.json`` is COCO's: ``image_id category_id bbox score`` and ``segmentation`` (compressed run lengths). Ids
    are those of the dataset's JSON file; without one the number that the image is called by, else its stem, and class + 1.
    """

    json: bool = False
    plots: bool = False
    project: str | Path = "runs/validate"
    name: str = "exp"
    exist_ok: bool = False
    _rows: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, options: dict[str, Any]) -> Written:
        """Take its options out of ``options``.

        Raises:
            EdgesegError: charts, and matplotlib is not installed.
        """
        given = {ours: options.pop(theirs) for theirs, ours in OPTIONS.items() if theirs in options}
        made = cls(**{k: v for k, v in given.items() if v is not None})
        if made.plots and importlib.util.find_spec("matplotlib") is None:
            raise EdgesegError("plots need matplotlib", hint='pip install "edgeseg[train]", or leave plots out')
        return made

    def seen(self, truth: Truth, image: Path, told: Told) -> None:
        """Keep what was found in one image."""
        if not self.json or not len(told):
            return
        stem = image.stem
        key = truth.image_ids[image] if image in truth.image_ids else int(stem) if stem.isdecimal() else stem
        numbers = truth.category_ids or tuple(range(1, len(truth.names) + 1))
        boxes = np.asarray(told.boxes, np.float64)
        boxes = np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), 1).tolist()
        for i, (box, score, cls) in enumerate(zip(boxes, told.scores.tolist(), told.classes.tolist())):
            row = {"image_id": key, "file_name": image.name, "category_id": numbers[cls], "bbox": box, "score": score}
            if told.runs is not None:
                row["segmentation"] = told.runs[i]
            if numbers[cls] is not None:
                self._rows.append(json.dumps(row))

    def finish(self, result: ValidationResult) -> ValidationResult:
        """Write what was asked for; the result with its ``save_dir``.

        Raises:
            EdgesegError: it cannot be written.
        """
        if not (self.json or self.plots):
            return result
        folder = new_folder(self.project, self.name, self.exist_ok)
        if self.json:
            with writing(folder / "predictions.json") as stream:
                stream.write(b"[\n" + ",\n".join(self._rows).encode() + b"\n]\n")
        if self.plots:
            try:
                draw(folder, result)
            except OSError as e:
                raise disk_error(e, folder) from e
        return replace(result, save_dir=folder)


def draw(folder: Path, result: ValidationResult) -> None:
    """Write ``BoxPR_curve.png``, F1, P and R by confidence, the same for masks, and ``confusion_matrix.png``, counts and
    ``_normalized`` shares."""

    metrics = result.metrics
    for word, ap in (("Box", metrics.box), ("Mask", metrics.seg)):
        if ap.by_score is not None and not np.isnan(ap.map):
            for short, which, *axes in CURVES:
                lines(folder / f"{word}{short}_curve.png", getattr(ap.by_score, which), metrics.names, axes)
    if metrics.confusion is not None:
        matrix(folder / "confusion_matrix.png", metrics.confusion.matrix, metrics.names)
        matrix(folder / "confusion_matrix_normalized.png", metrics.confusion.normalized(), metrics.names)
