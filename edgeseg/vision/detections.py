"""What was found on one image, in pixels of that image, and the shapes in which other tools want it."""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any

import cv2
import numpy as np

from edgeseg.vision import rle
from edgeseg.vision.masks import Tiles
from edgeseg.vision.outline import mask_outline, outlines

TOLERANCE = 0.5
"""Pixels by which a written outline may leave the mask's edge: half the points of the exact one, the same area."""

Index = int | slice | np.ndarray | list[int] | list[bool]


class Detections:
    """Detections of one image, by falling score. Validates itself, and is not changed afterwards (its arrays are read-only).

    Masks are kept as the part inside each box. Those of a network are built when they are first asked for (``tiles``,
    ``masks``, ``rle()`` ...), from a copy of what the network said: the same pixels whenever that is.

    Args:
        boxes: (n, 4) xyxy in pixels of the source image, x1 <= x2, y1 <= y2, inside the image.
        scores: (n,) in 0..1, falling.
        classes: (n,) integers, indices into ``names``.
        masks: (n, H, W) bool, or ``Tiles``, or None.
        names: name of each class.
        shape: (H, W) of the source image in pixels.

    Raises:
        ValueError: any of the above does not hold.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    names: tuple[str, ...]
    shape: tuple[int, int]
    tiles: Tiles | None

    def __init__(
        self,
        boxes: np.ndarray,
        scores: np.ndarray,
        classes: np.ndarray,
        masks: np.ndarray | Tiles | None,
        names: tuple[str, ...],
        shape: tuple[int, int],
    ) -> None:
        own = self.__dict__
        own["boxes"] = _frozen(boxes, np.float32)
        own["scores"] = _frozen(scores, np.float32)
        own["classes"] = _frozen(classes, np.int32)
        own["names"] = tuple(names)
        own["shape"] = (int(shape[0]), int(shape[1]))
        if isinstance(masks, np.ndarray):
            if masks.dtype != bool or masks.shape != (len(self.scores), *self.shape):
                raise ValueError(f"masks are {masks.dtype} {masks.shape}, not bool {(len(self.scores), *self.shape)}")
            own["masks"] = _frozen(masks, bool)
            masks = Tiles.of(masks)
        own["tiles"] = masks
        self._check()

    def _check(self) -> None:
        n, (height, width) = len(self.scores), self.shape
        if self.boxes.shape != (n, 4) or self.scores.shape != (n,) or self.classes.shape != (n,):
            raise ValueError(f"boxes {self.boxes.shape}, scores {self.scores.shape}, classes {self.classes.shape}: unequal")
        if self.tiles is not None and (len(self.tiles) != n or self.tiles.shape != self.shape):
            raise ValueError(f"{len(self.tiles)} masks of {self.tiles.shape} for {n} boxes on {self.shape}")
        if not n:
            return
        b, s, c = self.boxes, self.scores, self.classes
        # Written so that NaN fails too.
        if not (b.min() >= 0 and (b[:, :2] <= b[:, 2:]).all() and b[:, 2].max() <= width and b[:, 3].max() <= height):
            raise ValueError(f"boxes are not x1 <= x2, y1 <= y2 inside the image of {width}x{height}")
        if not (s[-1] >= 0 and s[0] <= 1 and (s[1:] <= s[:-1]).all()):
            raise ValueError("scores are not falling within 0..1")
        if c.min() < 0 or c.max() >= len(self.names):
            raise ValueError(f"classes {c.min()}..{c.max()} are not indices of {len(self.names)} names")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"Detections are not changed: {name}")

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        return f"Detections({len(self)} on {self.shape[1]}x{self.shape[0]}: {self.summary() or 'nothing'})"

    def summary(self) -> str:
        """Class names with their numbers, most frequent first: ``2 person, 1 dog``."""
        count = np.bincount(self.classes, minlength=len(self.names))
        order = [i for i in np.argsort(-count, kind="stable") if count[i]]
        return ", ".join(f"{count[i]} {self.names[i]}" for i in order)

    def __getitem__(self, index: Index) -> Detections:
        """A part of the detections, in the same order: one index, a slice, indices or a bool array (n,)."""
        if isinstance(index, (int, np.integer)):
            if not -len(self) <= index < len(self):
                raise IndexError(f"{index} of {len(self)} detections")
            index = np.array([index])
        at = np.arange(len(self))[index]
        tiles = None if self.tiles is None else self.tiles.take(at)
        return Detections(self.boxes[at], self.scores[at], self.classes[at], tiles, self.names, self.shape)

    @cached_property
    def masks(self) -> np.ndarray | None:
        """(n, H, W) bool, every mask at the size of the image; None when there are none."""
        return None if self.tiles is None else _frozen(self.tiles.full(), bool)

    def masks_at(self, size: tuple[int, int]) -> np.ndarray | None:
        """(n, h, w) bool, every mask at ``size`` (height, width), without building them at the size of the image.

        A pixel is that pixel of ``masks`` in which its centre lies.
        """
        return None if self.tiles is None else self.tiles.sampled(size).full()

    def polygons(self, size: tuple[int, int] | None = None) -> list[list[np.ndarray]]:
        """Outlines of every mask: a list per detection of (k, 2) float32 x, y, largest area first, k >= 3.

        They run along the edges of the pixels, in the coordinates of the boxes, ``TOLERANCE`` pixels off at most: filled by
        the even-odd rule they give the mask back. One ring a part; holes are joined to it by bridges of no width. Without
        masks, each box is its outline.

        Args:
            size: (height, width) at which to trace, for large images: the outlines are those of ``masks_at(size)``, enlarged
                to the image. Before ``TOLERANCE`` (in pixels of ``size``) they cross between the same two neighbouring
                pixels of ``size`` as the mask does; what is smaller than such a pixel may be missing. None: exact.
        """
        if self.tiles is None:
            return [[box[[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2)] for box in self.boxes]
        tiles = self.tiles if size is None else self.tiles.sampled(size)
        scale = np.divide(self.shape, tiles.shape)[::-1]
        pairs = zip(tiles.tiles, tiles.corners)
        return [[((ring + c) * scale).astype(np.float32) for ring in outlines(t, TOLERANCE)] for t, c in pairs]

    def rle(self) -> list[dict[str, Any]]:
        """COCO's compressed run lengths of every mask: ``{"size": [H, W], "counts": str}``. Empty list without masks."""
        if self.tiles is None:
            return []
        pairs = zip(self.tiles.tiles, self.tiles.corners.tolist())
        texts = rle.to_texts([rle.counts_of(t, (x, y), self.shape) for t, (x, y) in pairs])
        return [{"size": list(self.shape), "counts": text} for text in texts]

    def to_dicts(self, *, rle: bool = False, polygons: bool = False) -> list[dict[str, Any]]:
        """Plain values: ``box`` [x1, y1, x2, y2], ``score``, ``class``, ``name``; on request ``rle``, ``polygons``."""
        out: list[dict[str, Any]] = [
            {"box": [round(v, 3) for v in box], "score": round(score, 5), "class": c, "name": self.names[c]}
            for box, score, c in zip(self.boxes.tolist(), self.scores.tolist(), self.classes.tolist())
        ]
        if rle:
            for item, code in zip(out, self.rle()):
                item["rle"] = code
        if polygons:
            for item, parts in zip(out, self.polygons()):
                item["polygons"] = [part.tolist() for part in parts]
        return out

    def to_json(self, *, rle: bool = False, polygons: bool = False, indent: int | None = None) -> str:
        """One JSON object: ``shape`` [H, W] and ``detections`` as in ``to_dicts``."""
        value = {"shape": list(self.shape), "detections": self.to_dicts(rle=rle, polygons=polygons)}
        return json.dumps(value, indent=indent)

    def to_yolo(self, *, scores: bool = False) -> list[str]:
        """One line a detection for label files: class, then x y of the outline's points in 0..1 of the image.

        Parts and holes are one ring, joined by bridges of no width. An empty mask has no line. Without masks: class, centre
        x, centre y, width, height in 0..1. ``scores`` appends the score.
        """
        height, width = self.shape
        lines = []
        for i, (x1, y1, x2, y2) in enumerate(self.boxes):
            if self.tiles is None:
                numbers = np.array(((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height))
            else:
                ring = mask_outline(self.tiles.tiles[i], TOLERANCE)
                if ring is None:
                    continue
                numbers = ((ring + self.tiles.corners[i]) / (width, height)).ravel()
            tail = f" {self.scores[i]:.6g}" if scores else ""
            lines.append(f"{self.classes[i]} " + " ".join(f"{v:.6g}" for v in numbers) + tail)
        return lines

    def to_supervision(self, ids: np.ndarray | None = None) -> Any:
        """``supervision.Detections`` with boxes, masks, scores, classes, ids (n,) of followed objects as ``tracker_id``, and
        ``data["class_name"]`` (needs that package; ``edgeseg.ecosystem.supervision`` has the way back)."""
        try:
            import supervision
        except ImportError as e:
            from edgeseg.errors import EdgesegError

            raise EdgesegError("supervision is not installed", hint="pip install supervision") from e
        return supervision.Detections(
            xyxy=self.boxes.copy(),
            mask=None if self.masks is None else self.masks.copy(),
            confidence=self.scores.copy(),
            class_id=self.classes.astype(int),
            tracker_id=None if ids is None else ids.astype(int),
            data={"class_name": np.array([self.names[c] for c in self.classes], dtype=str)},
        )


def _frozen(values: Any, dtype: Any) -> np.ndarray:
    array = np.asarray(values, dtype).view()
    array.flags.writeable = False
    return array


def borders(tile: np.ndarray, corner: np.ndarray) -> list[np.ndarray]:
    """Lines to draw around a mask (h, w) bool at ``corner`` x, y: (k, 2) int32 x, y, centres of its border pixels."""
    if not tile.any():
        return []
    found, _ = cv2.findContours(
        np.ascontiguousarray(tile).view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=tuple(corner.tolist())
    )
    return [contour.reshape(-1, 2) for contour in sorted(found, key=cv2.contourArea, reverse=True)]
