"""COCO JSON annotations become YOLO polygon labels and a dataset YAML."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml

from edgeseg.data.folders import made_beside
from edgeseg.data.labels import Label, write_labels
from edgeseg.vision.outline import fill, join, mask_outline
from edgeseg.errors import EdgesegError
from edgeseg.vision import rle

Progress = Callable[[int, int], object]


@dataclass(frozen=True)
class CocoFile:
    """A COCO JSON file of instances: ``images`` by id, ``categories`` (id -> name), ``annotations`` by image id."""

    path: Path
    images: Mapping[int, Mapping[str, Any]]
    categories: Mapping[int, str]
    annotations: Mapping[int, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True)
class Converted:
    """What one split became. ``crowds`` and ``empty`` count the annotations that were left out, and why.

    ``skipped`` holds (annotation id, reason) of those that could not be read.
    """

    images: int
    objects: int
    crowds: int = 0
    empty: int = 0
    skipped: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True)
class Conversion:
    """What ``convert_coco`` wrote: the YAML file and what each split became."""

    yaml: Path
    names: tuple[str, ...]
    splits: Mapping[str, Converted] = field(default_factory=dict)


def read_coco(path: str | os.PathLike[str]) -> CocoFile:
    """Read a COCO JSON file of instances.

    Raises:
        EdgesegError: no such file, no JSON, or not COCO's structure (says which part).
    """
    path = Path(path)
    hint = "It must be COCO instances: an object with images, annotations and categories"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise EdgesegError("no such file", path=path, hint="Check the path") from e
    except json.JSONDecodeError as e:
        raise EdgesegError(f"no valid JSON ({e.msg})", path=path, line=e.lineno, hint=hint) from e
    except (OSError, UnicodeDecodeError) as e:
        raise EdgesegError(f"cannot be read ({e})", path=path, hint=hint) from e
    part = "the file"
    try:
        for part in ("images", "annotations", "categories"):
            if not isinstance(raw[part], list):
                raise TypeError("no list")
        part = "categories"
        categories = {int(c["id"]): str(c["name"]) for c in raw["categories"]}
        part = "images"
        images = {int(i["id"]): {**i, "file_name": str(i["file_name"])} for i in raw["images"]}
        part = "annotations"
        annotations: dict[int, list[Mapping[str, Any]]] = {}
        for a in raw["annotations"]:
            if int(a["category_id"]) not in categories:
                raise ValueError(f"annotation {a.get('id')} has the unknown category {a['category_id']}")
            annotations.setdefault(int(a["image_id"]), []).append(a)
    except (KeyError, TypeError, ValueError) as e:
        what = f"{e} is missing" if isinstance(e, KeyError) else str(e)
        raise EdgesegError(f"no COCO annotations: {part}: {what}", path=path, hint=hint) from e
    return CocoFile(path, images, categories, annotations)


def outline_of(annotation: Mapping[str, Any], height: int, width: int) -> np.ndarray | None:
    """The outline of one COCO annotation as one ring, (k, 2) float64 in pixels, or None when it covers nothing.

    Polygons of several parts are joined by bridges of no width (overlapping parts are united first); holes of run-length
    masks stay holes.

    Raises:
        ValueError: ``segmentation`` is neither polygons nor run lengths.
    """
    value = annotation.get("segmentation")
    if isinstance(value, Mapping):
        return mask_outline(rle.decode(dict(value)), tolerance=0.5)
    if not isinstance(value, list):
        raise ValueError("it has no segmentation")
    rings = []
    for part in value:
        flat = np.asarray(part, np.float64)
        if flat.ndim != 1 or len(flat) % 2 or not np.isfinite(flat).all():
            raise ValueError("a polygon is not a list of x, y, x, y, ...")
        ring = np.clip(flat.reshape(-1, 2), 0, (width, height))
        if len(ring) >= 3 and (np.ptp(ring, axis=0) > 0).all():
            rings.append(ring)
    if not rings:
        return None
    if len(rings) > 1 and _overlap(rings, height, width):
        return mask_outline(fill(rings, (height, width)), tolerance=0.5)
    return join(rings)


def _overlap(rings: Sequence[np.ndarray], height: int, width: int) -> bool:
    boxes = [(*r.min(0), *r.max(0)) for r in rings]
    for k, (x1, y1, x2, y2) in enumerate(boxes):
        for j, (u1, v1, u2, v2) in enumerate(boxes[:k]):
            if x1 < u2 and u1 < x2 and y1 < v2 and v1 < y2:
                both = fill([rings[k]], (height, width)) & fill([rings[j]], (height, width))
                if both.any():
                    return True
    return False


def write_split(coco: CocoFile, folder: Path, names: Sequence[str], progress: Progress | None = None) -> Converted:
    """Write the label files of one COCO file into ``folder``, which is made complete beside and then renamed.

    Args:
        coco: what ``read_coco`` returned.
        folder: the new folder; one that exists is replaced.
        names: the dataset's classes; categories become their indices by name.
        progress: called with (done, total).

    Raises:
        EdgesegError: a category that ``names`` lacks, a file name that leads out of the folder, or a full disk.
    """
    index = {n: i for i, n in enumerate(names)}
    lacking = [n for n in coco.categories.values() if n not in index]
    if lacking:
        raise EdgesegError(
            f"the categories {', '.join(lacking[:5])} are no classes of the dataset", path=coco.path, hint="Correct names"
        )
    objects = crowds = empty = 0
    skipped: list[tuple[int, str]] = []
    try:
        with made_beside(folder) as part:
            for done, (image_id, image) in enumerate(coco.images.items(), 1):
                height, width = _size(image, coco.path)
                labels = []
                for a in coco.annotations.get(image_id, ()):
                    if a.get("iscrowd"):
                        crowds += 1
                        continue
                    try:
                        ring = outline_of(a, height, width)
                    except (ValueError, TypeError, KeyError) as e:
                        skipped.append((int(a.get("id", 0)), str(e)))
                        continue
                    if ring is None:
                        empty += 1
                        continue
                    polygon = np.clip(ring / (width, height), 0, 1).astype(np.float32)
                    labels.append(Label(index[coco.categories[int(a["category_id"])]], polygon))
                objects += len(labels)
                file = part / _inside(str(image["file_name"]), coco.path).with_suffix(".txt")
                file.parent.mkdir(parents=True, exist_ok=True)
                write_labels(file, labels)
                if progress:
                    progress(done, len(coco.images))
    except OSError as e:
        raise EdgesegError(
            f"cannot be written ({e.strerror or e})", path=folder, hint="Make room, or write elsewhere"
        ) from e
    return Converted(len(coco.images), objects, crowds, empty, tuple(skipped))


def _size(image: Mapping[str, Any], path: Path) -> tuple[int, int]:
    try:
        height, width = int(image["height"]), int(image["width"])
    except (KeyError, TypeError, ValueError):
        height = width = 0
    if height <= 0 or width <= 0:
        raise EdgesegError(f"image {image['file_name']} has no height and width", path=path, hint="Add them to `images`")
    return height, width


def _inside(name: str, path: Path) -> Path:
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or not parts.name:
        raise EdgesegError(f"the file name {name!r} leads out of the image folder", path=path, hint="Correct file_name")
    return Path(*parts.parts)


def convert_coco(
    annotations: Mapping[str, str | os.PathLike[str]],
    images: Mapping[str, str | os.PathLike[str]],
    output: str | os.PathLike[str],
    progress: Progress | None = None,
) -> Conversion:
    """Make a YOLO dataset from COCO JSON files.

    ``output`` becomes ``images/<split>`` (a link to the image folder, a copy where links are not allowed),
    ``labels/<split>``, ``annotations/instances_<split>.json`` (a copy, so that validation has the exact masks) and, last,
    ``<name of output>.yaml``. Categories become classes 0, 1, 2, ... in the order of their ids.

    Args:
        annotations: COCO JSON file by split (``train``, ``val``, ``test``).
        images: image folder by split.
        output: the dataset's folder.
        progress: called with (done, total) over the images of each split.

    Raises:
        EdgesegError: something cannot be read or written, files contradict each other, or images are missing.
    """
    output = Path(output)
    files = {split: read_coco(path) for split, path in annotations.items()}
    if not files:
        raise EdgesegError("no annotations to convert", hint="Give at least one COCO JSON file")
    names = _names(list(files.values()))
    for split, coco in files.items():
        _check_images(coco, Path(images.get(split, "")), split)
    done = {}
    for split, coco in files.items():
        done[split] = write_split(coco, output / "labels" / split, names, progress)
        try:
            _link(Path(images[split]), output / "images" / split)
            (output / "annotations").mkdir(exist_ok=True)
            target = output / "annotations" / f"instances_{split}.json"
            if coco.path.resolve() != target.resolve():
                shutil.copyfile(coco.path, target)
        except OSError as e:
            raise EdgesegError(
                f"cannot be written ({e.strerror or e})", path=output, hint="Make room, or write elsewhere"
            ) from e
    file = output / f"{output.resolve().name}.yaml"
    body: dict[str, Any] = {"path": ".", **{s: f"images/{s}" for s in files}, "names": dict(enumerate(names))}
    part = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        part.write_text(yaml.safe_dump(body, sort_keys=False, allow_unicode=True), encoding="utf-8")
        os.replace(part, file)
    except OSError as e:
        raise EdgesegError(f"cannot be written ({e.strerror or e})", path=file, hint="Make room, or write elsewhere") from e
    return Conversion(file, names, done)


def _names(files: Sequence[CocoFile]) -> tuple[str, ...]:
    categories: dict[int, str] = {}
    for coco in files:
        for key, name in coco.categories.items():
            if categories.setdefault(key, name) != name:
                raise EdgesegError(
                    f"category {key} is {name!r} here and {categories[key]!r} in {files[0].path}",
                    path=coco.path,
                    hint="All splits need the same categories",
                )
    names = tuple(categories[k] for k in sorted(categories))
    if not names or len(set(names)) != len(names):
        what = "two categories have the same name" if names else "there are no categories"
        raise EdgesegError(what, path=files[0].path, hint="Correct `categories`")
    return names


def _check_images(coco: CocoFile, folder: Path, split: str) -> None:
    if not folder.is_dir():
        raise EdgesegError(f"the image folder of split {split!r} is missing", path=folder, hint="Give it with --images")
    names = [str(i["file_name"]) for i in coco.images.values()]
    missing = [n for n in names if not (folder / _inside(n, coco.path)).is_file()]
    if missing:
        raise EdgesegError(
            f"{len(missing)} of {len(names)} images are not in {folder} (the first: {missing[0]})",
            path=coco.path,
            hint="Give the folder that file_name is relative to with --images",
        )


def _link(folder: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and target.resolve() == folder.resolve():
        return
    if target.is_symlink():
        target.unlink()
    if target.exists():
        raise EdgesegError(
            "there is another image folder already", path=target, hint="Choose an empty folder for the output"
        )
    try:
        target.symlink_to(folder.resolve(), target_is_directory=True)
    except OSError:
        shutil.copytree(folder, target)
