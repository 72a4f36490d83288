"""What a validation leaves in a folder: detections as a COCO results file, curves and confusion as charts."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeseg.errors import EdgesegError
from edgeseg.runs import new_folder
from edgeseg.store import disk_error, writing

if TYPE_CHECKING:
    from edgeseg.evaluate.metrics import Told
    from edgeseg.evaluate.truth import Truth
    from edgeseg.evaluate.validate import ValidationResult

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
    from edgeseg.evaluate.charts import CURVES, lines, matrix

    metrics = result.metrics
    for word, ap in (("Box", metrics.box), ("Mask", metrics.seg)):
        if ap.by_score is not None and not np.isnan(ap.map):
            for short, which, *axes in CURVES:
                lines(folder / f"{word}{short}_curve.png", getattr(ap.by_score, which), metrics.names, axes)
    if metrics.confusion is not None:
        matrix(folder / "confusion_matrix.png", metrics.confusion.matrix, metrics.names)
        matrix(folder / "confusion_matrix_normalized.png", metrics.confusion.normalized(), metrics.names)
