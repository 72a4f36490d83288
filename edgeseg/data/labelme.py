"""Folders of labelme JSON, one file an image, read as if they were one COCO file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg.data.coco import MAX_PIXELS, CocoFile, read_json
from edgeseg.data.images import png_size
from edgeseg.errors import EdgesegError

HINT = "It must be labelme's: an object with shapes, imagePath, imageHeight and imageWidth"


def read_labelme(folders: Sequence[Path]) -> list[CocoFile]:
    """Read folders of labelme JSON files; all of them get the same categories, the labels in alphabetical order.

    Polygons, rectangles, circles and painted masks become objects; shapes of one ``group_id`` are parts of one object.
    Points and lines have no area: they are annotations without segmentation.

    Raises:
        EdgesegError: a folder without JSON, or a file that is not labelme's.
    """
    read = [(folder, _documents(folder)) for folder in folders]
    labels = sorted({str(s["label"]) for _, found in read for _, raw in found for s in raw["shapes"]})
    ids = {name: k for k, name in enumerate(labels)}
    result = []
    for folder, documents in read:
        images: dict[int, dict[str, Any]] = {}
        annotations: dict[int, list[dict[str, Any]]] = {}
        for key, (file, raw) in enumerate(documents):
            name = str(raw["imagePath"]).replace("\\", "/")
            # The path is relative to the JSON file, and was so on another machine perhaps: the name is what counts.
            beside = file.parent.relative_to(folder) / name.rsplit("/", 1)[-1]
            images[key] = {"file_name": beside.as_posix(), "height": raw.get("imageHeight"), "width": raw.get("imageWidth")}
            annotations[key] = _objects(raw["shapes"], f"{file.relative_to(folder)}#", ids)
            for a in annotations[key]:
                a["image_id"] = key
        result.append(CocoFile(folder, images, dict(enumerate(labels)), annotations, source=False))
    return result


def _documents(folder: Path) -> list[tuple[Path, Mapping[str, Any]]]:
    files = sorted(folder.rglob("*.json"))
    if not files:
        raise EdgesegError("no JSON files in this folder", path=folder, hint="Give a COCO JSON file, or a labelme folder")
    return [(file, _document(file)) for file in files]


def _document(file: Path) -> Mapping[str, Any]:
    raw = read_json(file, HINT)
    good = isinstance(raw, dict) and isinstance(raw.get("shapes"), list) and isinstance(raw.get("imagePath"), str)
    if not good or not all(isinstance(s, dict) and isinstance(s.get("label"), str) for s in raw["shapes"]):
        raise EdgesegError("no labelme annotations", path=file, hint=HINT)
    return raw


def _objects(shapes: Sequence[Mapping[str, Any]], prefix: str, ids: Mapping[str, int]) -> list[dict[str, Any]]:
    groups: dict[Any, dict[str, Any]] = {}
    for number, shape in enumerate(shapes):
        group = shape.get("group_id")
        key = number if group is None else (str(group), shape["label"])
        a = groups.setdefault(
            key, {"id": f"{prefix}{number}", "category_id": ids[shape["label"]], "iscrowd": 0, "segmentation": []}
        )
        ring = _ring(shape)
        if ring is not None:
            a["segmentation"].append(ring.ravel().tolist())
        elif not a["segmentation"] and group is None:
            a["segmentation"] = None
    return list(groups.values())


def _ring(shape: Mapping[str, Any]) -> np.ndarray | None:
    """The outline of one shape (k, 2), None where it has none."""
    try:
        points = np.asarray(shape.get("points"), np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        return None
    kind = shape.get("shape_type") or "polygon"
    if kind == "polygon":
        return points
    if kind == "mask" and shape.get("mask") and len(points) == 2:
        return _painted(shape["mask"], points[0])
    if kind == "rectangle" and len(points) in (2, 4):
        (x1, y1), (x2, y2) = points.min(0), points.max(0)
        return points if len(points) == 4 else np.array(((x1, y1), (x2, y1), (x2, y2), (x1, y2)))
    if kind == "circle" and len(points) == 2:
        radius = float(np.hypot(*(points[1] - points[0])))
        count = max(12, min(360, math.ceil(2 * math.pi * radius / 2)))
        at = np.linspace(0, 2 * math.pi, count, endpoint=False)
        return points[0] + radius * np.stack((np.cos(at), np.sin(at)), 1)
    return None


def _painted(text: Any, corner: np.ndarray) -> np.ndarray | None:
    """The outline of a mask that labelme keeps as a PNG (base64) with the place of its top left pixel."""
    import base64

    import cv2

    from edgeseg.vision.outline import mask_outline

    try:
        data = base64.b64decode(text, validate=True)
        size = png_size(data)
        if size is None or size[0] * size[1] > MAX_PIXELS:
            return None
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    except (TypeError, ValueError, cv2.error):
        return None
    ring = None if image is None else mask_outline(image, tolerance=0.5)
    return None if ring is None else ring + np.rint(corner)
