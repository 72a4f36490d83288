"""What prediction gives for one image."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from edgeseg.errors import EdgesegError
from edgeseg.predict.sources import Frame, Unreadable, frames

if TYPE_CHECKING:
    from edgeseg.running.pipeline import Pipeline
    from edgeseg.vision.detections import Detections

WRITABLE = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class Result:
    """Detections of one image.

    ``image`` is the source, uint8 BGR (H, W, 3). ``path`` is where it came from ("" for arrays), ``name`` a file name for
    what is saved. ``number`` and ``fps`` belong to frames of a video. ``speed`` holds milliseconds under ``preprocess``,
    ``inference`` and ``postprocess``.
    """

    detections: Detections
    image: np.ndarray
    path: str = ""
    name: str = "image.jpg"
    number: int | None = None
    fps: float | None = None
    speed: Mapping[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.detections)

    @property
    def names(self) -> tuple[str, ...]:
        """Class names."""
        return self.detections.names

    def plot(self) -> np.ndarray:
        """A copy of the image, uint8 BGR, with boxes, masks and labels drawn."""
        from edgeseg.vision.draw import draw

        return draw(self.image, self.detections)

    def save(self, path: str | Path) -> Path:
        """Write the drawn image.

        Args:
            path: a file (its suffix tells the format), or an existing folder, where it gets the name of its source.

        Raises:
            EdgesegError: no image format has this suffix.
        """
        path = Path(path)
        if path.is_dir():
            path = path / self.name
        write_image(path, self.plot())
        return path

    def to_dict(self, *, polygons: bool = False) -> dict[str, Any]:
        """Path, size and detections as plain values for JSON.

        Each detection holds its mask, where there is one, as ``rle`` (COCO's compressed run lengths), and on request as
        ``polygons`` in its place: a list of outlines, each [[x, y], ...] in pixels.
        """
        head: dict[str, Any] = {"path": self.path, "height": self.image.shape[0], "width": self.image.shape[1]}
        if self.number is not None:
            head["frame"] = self.number
        speed = {k: round(float(v), 3) for k, v in self.speed.items()}
        return {**head, "speed_ms": speed, "detections": self.detections.to_dicts(rle=not polygons, polygons=polygons)}

    def summary(self) -> str:
        """How many of which class, such as ``2 person, 1 bus``."""
        return self.detections.summary() or "nothing"


def write_image(path: Path, image: np.ndarray) -> None:
    """Write uint8 BGR to a file, whole or not at all.

    Raises:
        EdgesegError: the suffix is no image format's, the disk is full, or the folder is not writable.
    """
    if path.suffix.lower() not in WRITABLE:
        raise EdgesegError(f"no image format has the suffix {path.suffix!r}", path=path, hint="Use .jpg or .png")
    try:
        good, data = cv2.imencode(path.suffix, image)
    except cv2.error:
        good = False
    if not good:
        raise EdgesegError("the image cannot be encoded", path=path, hint="Use .jpg or .png")
    try:
        path.write_bytes(data.tobytes())
    except OSError as e:
        with contextlib.suppress(OSError):
            if path.stat().st_size < len(data):
                path.unlink()
        hint = "Free some space, or choose another folder with --out"
        raise EdgesegError(f"it cannot be written ({(e.strerror or str(e)).lower()})", path=path, hint=hint) from e


def results(pipeline: Pipeline, source: Any) -> Iterator[Result | Unreadable]:
    """Predict on every image of ``source`` (see ``frames``), one at a time."""
    for item in frames(source):
        yield item if isinstance(item, Unreadable) else predict_frame(pipeline, item)


def predict_frame(pipeline: Pipeline, frame: Frame) -> Result:
    """Predict on one image."""
    detections = pipeline(frame.image)
    return Result(detections, frame.image, frame.path, frame.name, frame.number, frame.fps, dict(pipeline.speed))


def class_ids(wanted: str | int | Sequence[int] | None, names: tuple[str, ...]) -> tuple[int, ...] | None:
    """Class numbers from ``"0,3"``, ``"person,bus"`` or a list of numbers.

    Raises:
        EdgesegError: the network has no such class.
    """
    if wanted is None:
        return None
    parts = [p.strip() for p in wanted.strip("[]() ").split(",")] if isinstance(wanted, str) else wanted
    parts = [parts] if isinstance(parts, int) else parts
    found: list[int] = []
    for part in parts:
        if str(part) in names:
            found.append(names.index(str(part)))
        elif str(part).isdigit() and int(part) < len(names):
            found.append(int(part))
        else:
            raise EdgesegError(f"the network has no class {part!r}", hint=f"Classes 0 to {len(names) - 1}: {_listed(names)}")
    return tuple(found)


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:10]) + (" ..." if len(names) > 10 else "")
