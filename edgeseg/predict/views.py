"""Detections under the names that people know from other YOLO tools: ``r.boxes.xyxy``, ``r.masks.xy``, ``model.names``.

The arrays are NumPy's and read-only, with the words of tensors (``Array``): ``cpu()``, ``int()``, ``numpy()``, so that code
written for tensors goes on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import numpy as np

from edgeseg.vision.detections import Detections, Index
from edgeseg.vision.outline import mask_outline

Held = TypeVar("Held", bound="Here")
Self = TypeVar("Self", bound="_View")
_KINDS = {"float": np.float32, "half": np.float16, "double": np.float64, "int": np.int32, "long": np.int64, "bool": np.bool_}


class Array(np.ndarray):
    """An array of NumPy that also answers to the words of a tensor; one number of it is an array without dimensions.

    ``numpy()`` and ``clone()`` give copies that may be changed; ``cpu() cuda() to("cuda") detach()`` itself, for it stays on
    the CPU; ``float() half() double() int() long() bool()`` the values as that type.
    """

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return np.asarray(found).view(Array) if isinstance(found, np.generic) else found

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def __hash__(self) -> int:  # type: ignore[override]
        if self.size != 1:
            raise TypeError("an array of several numbers has no hash")
        return hash(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __round__(self, digits: int | None = None) -> Any:
        return round(self.item(), digits)

    def cpu(self, *args: Any, **kwargs: Any) -> Array:
        """Itself."""
        return self

    cuda = detach = contiguous = cpu

    def numpy(self) -> np.ndarray:
        """A plain array with these values, which may be changed."""
        return np.array(self)

    def clone(self) -> Array:
        """The same values, which may be changed."""
        return self.copy()

    def to(self, *args: Any, **kwargs: Any) -> Array:
        """Itself, or its values as the type of NumPy or PyTorch among the arguments."""
        for word in (*args, *kwargs.values()):
            if isinstance(word, (type, np.dtype)):
                return self.astype(word).view(Array)
            if str(word).startswith("torch."):
                return self.astype(str(word).removeprefix("torch.")).view(Array)
        return self

    def numel(self) -> int:
        """How many numbers it has."""
        return self.size

    def __getattr__(self, name: str) -> Any:
        if name in _KINDS:
            return lambda: self.astype(_KINDS[name])
        raise AttributeError(f"an array of NumPy has no {name!r}: torch.as_tensor(it) makes a tensor")


class Names(dict[int, str]):
    """Class names by number; equal to a tuple of the same names too."""

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__(enumerate(names))

    def __eq__(self, other: object) -> bool:
        return tuple(self.values()) == other if isinstance(other, tuple) else super().__eq__(other)

    __hash__ = None

    def index(self, name: str) -> int:
        """The number of a class.

        Raises:
            ValueError: there is none of this name.
        """
        return list(self.values()).index(name)


class Here:
    """What lies on the CPU as NumPy's arrays, and stays there whatever is asked."""

    def cpu(self: Held) -> Held:
        """Itself."""
        return self

    numpy = cuda = cpu

    def to(self: Held, *args: Any, **kwargs: Any) -> Held:
        """Itself."""
        return self


class _View(Here, ABC):
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
    def data(self) -> Array:
        """All of it as one array."""


class Boxes(_View):
    """Boxes, scores and classes of one image.

    ``id`` is (n,) int64, from 1, where objects are followed from frame to frame (``Model.track``), else None.
    """

    def __init__(self, detections: Detections, ids: np.ndarray | None = None) -> None:
        super().__init__(detections)
        self.id = None if ids is None else ids.view(Array)

    def __getitem__(self, index: Index) -> Boxes:
        return Boxes(self.detections[index], None if self.id is None else np.atleast_1d(self.id[index]))

    @property
    def is_track(self) -> bool:
        """Whether objects are followed."""
        return self.id is not None

    @property
    def xyxy(self) -> Array:
        """(n, 4) float32 x1, y1, x2, y2 in pixels of the image."""
        return self.detections.boxes.view(Array)

    @property
    def xywh(self) -> Array:
        """(n, 4) float32 centre x, centre y, width, height in pixels."""
        b = self.detections.boxes
        return np.concatenate(((b[:, :2] + b[:, 2:]) / 2, b[:, 2:] - b[:, :2]), 1).view(Array)

    @property
    def xyxyn(self) -> Array:
        """``xyxy`` in 0..1 of the image."""
        return self.xyxy / self._sides

    @property
    def xywhn(self) -> Array:
        """``xywh`` in 0..1 of the image."""
        return self.xywh / self._sides

    @property
    def conf(self) -> Array:
        """(n,) float32 scores, falling."""
        return self.detections.scores.view(Array)

    @property
    def cls(self) -> Array:
        """(n,) float32 class numbers."""
        return self.detections.classes.astype(np.float32).view(Array)

    @property
    def data(self) -> Array:
        """(n, 6) float32: x1, y1, x2, y2, score, class; (n, 7) with the id before the score where objects are followed."""
        ids = () if self.id is None else (self.id[:, None].astype(np.float32),)
        return np.concatenate((self.xyxy, *ids, self.conf[:, None], self.cls[:, None]), 1).view(Array)

    @property
    def _sides(self) -> np.ndarray:
        height, width = self.orig_shape
        return np.array([width, height, width, height], np.float32)


class Masks(_View):
    """Masks of one image."""

    @property
    def data(self) -> Array:
        """(n, H, W) uint8 at the size of the image: 1 inside the object, 0 elsewhere."""
        masks = self.detections.masks
        masks = np.zeros((0, *self.orig_shape), bool) if masks is None else masks
        return masks.view(np.uint8).view(Array)

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
