"""Charts of a validation as PNG files (matplotlib): curves by class, and the matrix of what is taken for what."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

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
