"""What a dataset says is in its pictures, as the viewer shows what a model finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg.data.coco import outline_of
from edgeseg.data.dataset import Dataset
from edgeseg.data.labels import read_label_file
from edgeseg.errors import EdgesegError
from edgeseg.evaluate.truth import Truth, load_truth
from edgeseg.vision import rle
from edgeseg.vision.outline import trace


class Labels:
    """The objects of a split. YOLO labels are read when their picture is looked at, COCO annotations at once.

    Raises:
        EdgesegError: annotations that cannot be read, or that do not know the pictures.
    """

    def __init__(self, dataset: Dataset, split: str, images: Sequence[Path]) -> None:
        self._dataset, self.names = dataset, dataset.names
        self._truth = None if dataset.annotations(split) is None else load_truth(dataset, split, images)

    def of(self, image: Path, shape: tuple[int, ...], numbers: np.ndarray) -> list[dict[str, Any]]:
        """Objects in one picture of (height, width) pixels: as ``edgeseg.report.pictures`` has them, with score 1.

        ``numbers[c]`` is the class that is shown for class c. Crowds are no objects.

        Raises:
            EdgesegError: its labels are wrong.
        """
        height, width = shape[:2]
        found = []
        for a in self._truth_of(image).of(image, (height, width)):
            if a["iscrowd"]:
                continue
            x, y, w, h = a["bbox"]
            try:
                rings = _rings(a, height, width)
            except (ValueError, KeyError, TypeError, OverflowError) as e:
                raise EdgesegError(f"an object of {image.name}: {e}", path=self._dataset.yaml) from e
            found.append(
                {
                    "class": int(numbers[a["category_id"] - 1]),
                    "score": 1.0,
                    "box": [round(v, 1) for v in (x, y, x + w, y + h)],
                    "rings": [np.round(ring, 1).ravel().tolist() for ring in rings],
                    "pair": -1,
                }
            )
        return found

    def _truth_of(self, image: Path) -> Truth:
        if self._truth is not None:
            return self._truth
        file = read_label_file(self._dataset.label_path(image), self._dataset.nc, self._dataset.boxes)
        return Truth(self.names, labels={image: file.labels})


def _rings(annotation: Mapping[str, Any], height: int, width: int) -> list[np.ndarray]:
    """Its parts and holes, each (k, 2) x, y in pixels; they are not joined, which takes long."""
    value = annotation.get("segmentation") or []
    if isinstance(value, Mapping):
        return trace(rle.decode(dict(value)))
    parts = (outline_of({"segmentation": [part]}, height, width) for part in value)
    return [part for part in parts if part is not None]


def labels_if_any(dataset: Dataset, split: str, images: Sequence[Path]) -> Labels | None:
    """The labels of these pictures; None where nobody labelled them."""
    files = (dataset.label_path(image) for image in images)
    if dataset.annotations(split) is None and not any(f.is_file() and f.stat().st_size for f in files):
        return None
    return Labels(dataset, split, images)
