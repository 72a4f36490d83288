"""What a bundle's self-test compares: images, and what the machine that made the bundle computed from them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from edgeseg.errors import EdgesegError
from edgeseg.vision import rle
from edgeseg.vision.detections import Detections

if TYPE_CHECKING:
    from edgeseg.running.pipeline import Pipeline

FOLDER = "selftest"
TENSOR_BYTES = 24 << 20
"""So much of the expected tensors travels, those of the first image in any case."""


@dataclass(frozen=True)
class Case:
    """One image, uint8 BGR (H, W, 3), what must be found in it, and the output tensors in the manifest's order, if kept."""

    name: str
    image: np.ndarray
    expected: Detections
    tensors: tuple[np.ndarray, ...] = ()


def write_cases(folder: Path, pipeline: Pipeline, images: Sequence[np.ndarray]) -> int:
    """Write images as PNG, and beside them what ``pipeline`` makes of them; returns how many detections those are."""
    folder.mkdir(parents=True)
    kept, found = 0, 0
    for i, image in enumerate(images):
        stem = folder / f"{i:02d}"
        detections = pipeline(image)
        tensors = [np.array(t) for t in pipeline.raw(image)[0]]
        cv2.imwrite(f"{stem}.png", image)
        stem.with_suffix(".json").write_text(json.dumps(to_plain(detections)), encoding="utf-8")
        kept, found = kept + sum(t.nbytes for t in tensors), found + len(detections)
        if not i or kept <= TENSOR_BYTES:
            np.savez_compressed(stem.with_suffix(".npz"), *tensors)
    return found


def read_cases(folder: Path, names: tuple[str, ...]) -> list[Case]:
    """The cases of a bundle, in order; ``names`` are those of the classes.

    Raises:
        EdgesegError: there is none, or one cannot be read.
    """
    cases = []
    for file in sorted(folder.glob("*.png")):
        try:
            image = cv2.imread(str(file))
            plain = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
            tensors = file.with_suffix(".npz")
            arrays: tuple[np.ndarray, ...] = ()
            if tensors.is_file():
                with np.load(tensors) as z:
                    arrays = tuple(z[f"arr_{k}"] for k in range(len(z.files)))
            if image is None:
                raise ValueError("no picture")
            cases.append(Case(file.stem, image, from_plain(plain, names), arrays))
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise EdgesegError(f"the self-test cannot be read ({e})", path=file, hint="Copy the bundle again") from e
    if not cases:
        raise EdgesegError("there is no self-test here", path=folder, hint="Copy the bundle again")
    return cases


def to_plain(found: Detections) -> dict[str, Any]:
    """Detections with every digit that they have."""
    return {
        "shape": list(found.shape),
        "boxes": found.boxes.tolist(),
        "scores": found.scores.tolist(),
        "classes": found.classes.tolist(),
        "rle": None if found.tiles is None else found.rle(),
    }


def from_plain(value: dict[str, Any], names: tuple[str, ...]) -> Detections:
    """What ``to_plain`` gave.

    Raises:
        ValueError, KeyError, TypeError: it did not.
    """
    shape, n = (int(value["shape"][0]), int(value["shape"][1])), len(value["scores"])
    masks = None
    if value["rle"] is not None:
        masks = np.array([rle.decode(r) for r in value["rle"]], bool).reshape(n, *shape)
    boxes = np.array(value["boxes"], np.float32).reshape(n, 4)
    return Detections(boxes, np.array(value["scores"]), np.array(value["classes"]), masks, names, shape)


def largest_difference(expected: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> float:
    """The largest difference of any value, in the tensors' own unit: quantization steps for integers.

    Raises:
        EdgesegError: their number, shapes or types differ.
    """
    same = len(expected) == len(found) and all(a.shape == b.shape and a.dtype == b.dtype for a, b in zip(expected, found))
    if not same:
        raise EdgesegError("the model gives other tensors here than where the bundle was made")
    return max((float(np.abs(a.astype(np.float64) - b).max()) for a, b in zip(expected, found) if a.size), default=0.0)
