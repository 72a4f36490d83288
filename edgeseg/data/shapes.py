"""Pictures of coloured shapes with exact masks: data for the demo and the tests that needs no download.

Everything is drawn from a seed with integer arithmetic (PCG64, fixed-point polygons, exact resizing), so that the same seed
gives the same pixels on every machine.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from edgeseg.data.labels import Label, write_labels
from edgeseg.errors import EdgesegError
from edgeseg.store import making
from edgeseg.vision import rle
from edgeseg.vision.outline import mask_outline

SHAPE_NAMES = ("circle", "square", "triangle", "star")
"""The classes, in the order of their indices."""

_VERSION = 1
_FINE = 4  # shapes are drawn this much larger and averaged down
_STAMP = "shapes.json"


def shapes_image(seed: int | Sequence[int], size: int = 320) -> tuple[np.ndarray, list[Label]]:
    """One picture of 1 to 6 shapes and its labels, of ``size`` x ``size`` pixels, at least 32; seeds are >= 0.

    Returns:
        The image, (size, size, 3) uint8 BGR, and for each shape, from back to front, the outline of its visible part.
    """
    image, objects = _scene(np.random.default_rng(seed), size)
    return image, [_label(cls, mask) for cls, mask in objects]


def make_shapes(
    root: str | os.PathLike[str],
    train: int = 64,
    val: int = 16,
    size: int = 320,
    seed: int = 0,
    suffix: str = ".png",
) -> Path:
    """Write a dataset of such pictures: images, labels and COCO annotations with exact run-length masks.

    A complete set made with the same arguments is used again; one made with others is replaced. A folder with anything else
    in it is left alone.

    Args:
        root: the dataset's folder. train, val: number of images, 0 for none. size: width and height in pixels.
        seed: whole number >= 0; image i of a split depends on (seed, split, i) alone.
        suffix: ``.png`` (exact) or ``.jpg`` (smaller).

    Returns:
        The path of the YAML file, ``root/shapes.yaml``.

    Raises:
        EdgesegError: the folder holds other files, or cannot be written.
    """
    root = Path(root)
    stamp = {"version": _VERSION, "train": train, "val": val, "size": size, "seed": seed, "suffix": suffix}
    file = root / "shapes.yaml"
    if _is_complete(root, stamp):
        return file
    if root.exists() and not (root / _STAMP).is_file() and any(root.iterdir()):
        raise EdgesegError("the folder holds other files", path=root, hint="Choose an empty folder for the generated shapes")
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with making(root) as part:
            for index, (split, count) in enumerate((("train", train), ("val", val))):
                _write_split(part, split, count, size, (seed, index), suffix)
            body = {"path": ".", "train": "images/train", "val": "images/val", "names": dict(enumerate(SHAPE_NAMES))}
            (part / "shapes.yaml").write_text(yaml.safe_dump(body, sort_keys=False), encoding="utf-8")
            (part / _STAMP).write_text(json.dumps(stamp) + "\n", encoding="utf-8")
    except OSError as e:
        if not _is_complete(root, stamp):  # else another process made the same set meanwhile
            what = f"cannot be written ({e.strerror or e})"
            raise EdgesegError(what, path=root, hint="Make room, or choose another folder") from e
    return file


def _is_complete(root: Path, stamp: dict[str, Any]) -> bool:
    try:
        if json.loads((root / _STAMP).read_text(encoding="utf-8")) != stamp or not (root / "shapes.yaml").is_file():
            return False
    except (OSError, ValueError):
        return False
    counted = {s: sum(1 for _ in (root / "images" / s).glob(f"*{stamp['suffix']}")) for s in ("train", "val")}
    return counted == {"train": stamp["train"], "val": stamp["val"]}


def _write_split(root: Path, split: str, count: int, size: int, seed: tuple[int, int], suffix: str) -> None:
    images, labels = root / "images" / split, root / "labels" / split
    for folder in (images, labels, root / "annotations"):
        folder.mkdir(parents=True, exist_ok=True)
    coco: dict[str, Any] = {"images": [], "annotations": []}
    coco["categories"] = [{"id": i + 1, "name": n} for i, n in enumerate(SHAPE_NAMES)]
    options = [cv2.IMWRITE_JPEG_QUALITY, 92] if suffix == ".jpg" else [cv2.IMWRITE_PNG_COMPRESSION, 4]
    for i in range(count):
        image, objects = _scene(np.random.default_rng([*seed, i]), size)
        name = f"{i:06d}{suffix}"
        cv2.imencode(suffix, image, options)[1].tofile(images / name)
        write_labels(labels / f"{i:06d}.txt", [_label(cls, mask) for cls, mask in objects])
        coco["images"].append({"id": i + 1, "file_name": name, "width": size, "height": size})
        for cls, mask in objects:
            x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
            coco["annotations"].append(
                {
                    "id": len(coco["annotations"]) + 1,
                    "image_id": i + 1,
                    "category_id": cls + 1,
                    "iscrowd": 0,
                    "area": int(mask.sum()),
                    "bbox": [x, y, w, h],
                    "segmentation": rle.encode(mask),
                }
            )
    text = json.dumps(coco, separators=(",", ":"))
    (root / "annotations" / f"instances_{split}.json").write_text(text, encoding="utf-8")


def _label(cls: int, mask: np.ndarray) -> Label:
    ring = mask_outline(mask, tolerance=0.75, smallest=4.0)
    if ring is None:
        raise EdgesegError("a shape without a visible pixel has no label")
    return Label(cls, np.clip(ring / (mask.shape[1], mask.shape[0]), 0, 1).astype(np.float32))


def _scene(rng: np.random.Generator, size: int) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """Background, then shapes on top of each other; one that would hide too much of another is not drawn at all."""
    image = _background(rng, size)
    wanted = int(rng.integers(1, 7))
    objects: list[tuple[int, np.ndarray, int]] = []
    for _ in range(wanted * 3):
        if len(objects) == wanted:
            break
        cls = int(rng.integers(len(SHAPE_NAMES)))
        where, alpha = _cover(rng, cls, size)
        under = image[where]
        fill = _fill(rng, under, alpha)
        mask = np.zeros((size, size), bool)
        mask[where] = alpha > 127
        area = int(mask.sum())
        left = [m & ~mask for _, m, _ in objects]
        if area < max(40, size * size // 1500) or any(int(m.sum()) < 0.4 * full for m, (_, _, full) in zip(left, objects)):
            continue
        objects = [(c, m, full) for m, (c, _, full) in zip(left, objects)]
        objects.append((cls, mask, area))
        a = alpha.astype(np.int32)[..., None]
        image[where] = (under * (255 - a) + fill.astype(np.int32) * a + 127) // 255
    grain = int(rng.integers(0, 7))
    noise = rng.integers(-grain, grain + 1, image.shape, dtype=np.int16)
    return np.clip(image + noise, 0, 255).astype(np.uint8), [(c, m) for c, m, _ in objects]


def _colour(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, 3).astype(np.int32)


def _ramp(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(height, width) int32 in 0..256: rising in some direction, or from a centre outwards."""
    y, x = np.ogrid[0:height, 0:width]
    if rng.random() < 0.5:
        a, b = rng.integers(-100, 101, 2).tolist()
        value = a * x + b * y
    else:
        cx, cy = (rng.random(2) * (width, height)).astype(np.int64).tolist()
        value = (x - cx) ** 2 + (y - cy) ** 2
    low, high = int(value.min()), int(value.max())
    return ((value - low) * 256 // max(high - low, 1)).astype(np.int32)


def _blend(first: np.ndarray, second: np.ndarray, ramp: np.ndarray) -> np.ndarray:
    r = ramp[..., None]
    return ((first * (256 - r) + second * r) // 256).astype(np.uint8)


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    first, second = _colour(rng), _colour(rng)
    kind = int(rng.integers(4))
    image = _blend(first, second if kind else (first + second) // 2, _ramp(rng, size, size))
    if kind >= 2:  # clouds: coarse noise, enlarged smoothly
        cells = int(rng.integers(3, 24))
        coarse = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        cloud = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_LINEAR_EXACT).astype(np.int32)
        share = int(rng.integers(30, 120))
        image = ((image.astype(np.int32) * (256 - share) + cloud * share) // 256).astype(np.uint8)
    for _ in range(int(rng.integers(0, 6)) if kind % 2 else 0):  # clutter that is no shape: thin lines
        ends = rng.integers(0, size, 4).tolist()
        colour = tuple(int(v) for v in _colour(rng))
        cv2.line(image, (ends[0], ends[1]), (ends[2], ends[3]), colour, int(rng.integers(1, 4)), cv2.LINE_8)
    return image


def _corners(cls: int, turn: float, waist: float) -> np.ndarray:
    """Corner points (k, 2) of a shape of radius 1 around the origin."""
    if SHAPE_NAMES[cls] == "circle":
        angles, radii = [i * math.tau / 90 for i in range(90)], [1.0] * 90
    elif SHAPE_NAMES[cls] == "star":
        angles, radii = [turn + i * math.tau / 10 for i in range(10)], [1.0, waist] * 5
    else:
        sides = {"square": 4, "triangle": 3}[SHAPE_NAMES[cls]]
        angles, radii = [turn + i * math.tau / sides for i in range(sides)], [1.0] * sides
    return np.array([(r * math.cos(a), r * math.sin(a)) for a, r in zip(angles, radii)])


def _cover(rng: np.random.Generator, cls: int, size: int) -> tuple[tuple[slice, slice], np.ndarray]:
    """A random shape: the rows and columns around it, and how much of each pixel there it covers (uint8, 255 inside)."""
    # Small shapes are as frequent as large ones: the logarithm of the radius is uniform.
    radius = size * 0.05 * math.exp(rng.random() * math.log(6.0))
    centre = rng.random(2) * (size - 1.1 * radius) + 0.55 * radius
    corners = _corners(cls, float(rng.random()) * math.tau, 0.4 + 0.12 * float(rng.random())) * radius + centre
    left, top = np.clip(np.floor(corners.min(0)), 0, size - 1).astype(int).tolist()
    right, bottom = np.clip(np.ceil(corners.max(0)), 1, size).astype(int).tolist()
    height, width = bottom - top, right - left
    fine = np.zeros((height * _FINE, width * _FINE), np.uint8)
    points = np.rint((corners - (left, top)) * _FINE * 16).astype(np.int32)
    cv2.fillPoly(fine, [points], (255,), lineType=cv2.LINE_8, shift=4)
    blocks = fine.reshape(height, _FINE, width, _FINE).sum(axis=(1, 3), dtype=np.uint32)
    return (slice(top, bottom), slice(left, right)), (blocks // (_FINE * _FINE)).astype(np.uint8)


def _fill(rng: np.random.Generator, under: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """What a shape is filled with, (h, w, 3) uint8; clearly different from what lies under it."""
    height, width = alpha.shape
    inside = alpha > 127
    mean = under[inside].astype(np.int64).mean(axis=0) if inside.any() else np.zeros(3)
    first = _colour(rng)
    for _ in range(8):
        if np.abs(first - mean).sum() >= 150:
            break
        first = _colour(rng)
    style = int(rng.integers(4))
    near = np.clip(first + rng.integers(-70, 71, 3), 0, 255)
    if style == 0:
        return np.broadcast_to(first.astype(np.uint8), under.shape)
    if style == 1:
        return _blend(first, near, _ramp(rng, height, width))
    period = int(rng.integers(3, 11))
    y, x = np.ogrid[0:height, 0:width]
    a, b = rng.integers(-2, 3, 2).tolist()
    stripes = ((a * x + (b or 1) * y) // period) % 2 if style == 2 else (x // period + y // period) % 2
    return _blend(first, near, stripes.astype(np.int32) * 256)
