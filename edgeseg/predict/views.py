"""Detections under the names that people know from other YOLO tools: ``r.boxes.xyxy``, ``r.masks.xy``, ``model.names``.

The arrays are NumPy's and read-only. ``cpu()``, ``numpy()`` and ``to()`` give the same object back, so that code written for
tensors goes on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np

from edgeseg.vision.detections import Detections, Index
from edgeseg.vision.outline import mask_outline

Self = TypeVar("Self", bound="_View")


class Names(tuple[str, ...]):
    """Class names: a tuple that also answers as the mapping number -> name (``items``, ``keys``, ``values``, ``get``)."""

    __slots__ = ()

    def keys(self) -> range:
        """The class numbers."""
        return range(len(self))

    def values(self) -> tuple[str, ...]:
        """The names."""
        return tuple(self)

    def items(self) -> list[tuple[int, str]]:
        """(number, name) of each class."""
        return list(enumerate(self))

    def get(self, number: int, default: str | None = None) -> str | None:
        """The name of a class, or ``default``."""
        return self[number] if 0 <= number < len(self) else default


class _View(ABC):
    """A part of ``Detections`` that can be counted, indexed and gone through, one detection at a time."""

    def __init__(self, detections: Detections) -> None:
        self.detections = detections

    def __len__(self) -> int:
        return len(self.detections)

    def __getitem__(self: Self, index: Index) -> Self:
        return type(self)(self.detections[index])

    def __iter__(self: Self) -> Iterator[Self]:
        return (self[i] for i in range(len(self)))

    @property
    def orig_shape(self) -> tuple[int, int]:
        """(H, W) of the image in pixels."""
        return self.detections.shape

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of ``data``."""
        return tuple(self.data.shape)

    @property
    @abstractmethod
    def data(self) -> np.ndarray:
        """All of it as one array."""

    def cpu(self: Self) -> Self:
        """Itself: the arrays are NumPy's already."""
        return self

    numpy = cpu

    def to(self: Self, *args: Any, **kwargs: Any) -> Self:
        """Itself: the arrays stay on the CPU."""
        return self


class Boxes(_View):
    """Boxes, scores and classes of one image.

    ``id`` is (n,) int64, from 1, where objects are followed from frame to frame (``Model.track``), else None.
    """

    def __init__(self, detections: Detections, ids: np.ndarray | None = None) -> None:
        super().__init__(detections)
        self.id = ids

    def __getitem__(self, index: Index) -> Boxes:
        return Boxes(self.detections[index], None if self.id is None else np.atleast_1d(self.id[index]))

    @property
    def is_track(self) -> bool:
        """Whether objects are followed."""
        return self.id is not None

    @property
    def xyxy(self) -> np.ndarray:
        """(n, 4) float32 x1, y1, x2, y2 in pixels of the image."""
        return self.detections.boxes

    @property
    def xywh(self) -> np.ndarray:
        """(n, 4) float32 centre x, centre y, width, height in pixels."""
        b = self.detections.boxes
        return np.concatenate(((b[:, :2] + b[:, 2:]) / 2, b[:, 2:] - b[:, :2]), 1)

    @property
    def xyxyn(self) -> np.ndarray:
        """``xyxy`` in 0..1 of the image."""
        return self.xyxy / self._sides

    @property
    def xywhn(self) -> np.ndarray:
        """``xywh`` in 0..1 of the image."""
        return self.xywh / self._sides

    @property
    def conf(self) -> np.ndarray:
        """(n,) float32 scores, falling."""
        return self.detections.scores

    @property
    def cls(self) -> np.ndarray:
        """(n,) float32 class numbers."""
        return self.detections.classes.astype(np.float32)

    @property
    def data(self) -> np.ndarray:
        """(n, 6) float32: x1, y1, x2, y2, score, class; (n, 7) with the id before the score where objects are followed."""
        ids = () if self.id is None else (self.id[:, None].astype(np.float32),)
        return np.concatenate((self.xyxy, *ids, self.conf[:, None], self.cls[:, None]), 1)

    @property
    def _sides(self) -> np.ndarray:
        height, width = self.orig_shape
        return np.array([width, height, width, height], np.float32)


class Masks(_View):
    """Masks of one image."""

    @property
    def data(self) -> np.ndarray:
        """(n, H, W) bool at the size of the image."""
        masks = self.detections.masks
        return np.zeros((0, *self.orig_shape), bool) if masks is None else masks

    @property
    def xy(self) -> list[np.ndarray]:
        """The outline of each mask: (k, 2) float32 x, y in pixels, parts joined by bridges of no width; (0, 2) if empty."""
        tiles, found = self.detections.tiles, []
        for tile, corner in zip(tiles.tiles, tiles.corners) if tiles is not None else ():
            ring = mask_outline(tile, 0.5)
            found.append(np.zeros((0, 2), np.float32) if ring is None else (ring + corner).astype(np.float32))
        return found

    @property
    def xyn(self) -> list[np.ndarray]:
        """``xy`` in 0..1 of the image."""
        height, width = self.orig_shape
        return [ring / np.array([width, height], np.float32) for ring in self.xy]
