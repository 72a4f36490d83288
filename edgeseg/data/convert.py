"""Annotations of other tools become YOLO polygon labels and a dataset YAML."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from edgeseg.data.coco import CocoFile, box_of, outline_of, read_coco, short
from edgeseg.data.labelme import read_labelme
from edgeseg.data.labels import Label, write_labels
from edgeseg.data.merging import Merge
from edgeseg.data.placing import claimed
from edgeseg.data.planned import Entry, Plan, plan
from edgeseg.errors import EdgesegError
from edgeseg.store import making
from edgeseg.vision.outline import ring_area

Progress = Callable[[int, int], object]

CROWDS = "crowds"
EMPTY = "objects without area"
REPEATED = "repeated objects"
UNREADABLE = "objects that cannot be read"


@dataclass(frozen=True)
class Converted:
    """What one split became: images and objects that were written, and the names (file names, annotation ids) of what was
    not (``left_out``) or was mended (``notes``), by reason."""

    images: int
    objects: int
    left_out: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Conversion:
    """What ``convert_coco`` wrote: the YAML file and what each split became. ``unused`` names root categories left out."""

    yaml: Path
    names: tuple[str, ...]
    splits: Mapping[str, Converted] = field(default_factory=dict)
    unused: tuple[str, ...] = ()


def _labels(
    made: Plan, entry: Entry, index: Mapping[str, int], crowds: bool
) -> tuple[list[Label], list[Mapping[str, Any]], bool]:
    """The labels of one image, its annotations in pixels of the picture, and whether any of these was changed."""
    height, width = entry.frame
    labels: list[Label] = []
    kept: list[Mapping[str, Any]] = []
    seen: set[tuple[int, bytes]] = set()
    changed = False
    for a in made.coco.annotations.get(entry.key, ()):
        name = short(a.get("id"))
        if a.get("iscrowd") and not crowds:
            made.leave(CROWDS, name)
            if entry.frame == entry.size:
                kept.append(a)
            continue
        try:
            ring = outline_of(a, height, width)
        except ValueError as e:
            made.leave(f"{UNREADABLE}: {e}", name)
            continue
        if ring is None:
            made.leave(EMPTY, name)
            continue
        cls = index[made.coco.categories[int(a["category_id"])]]
        polygon = np.clip(ring / (width, height), 0, 1).astype(np.float32)
        key = (cls, np.rint(polygon * 1e6).tobytes())
        if key in seen:
            made.leave(REPEATED, name)
            continue
        seen.add(key)
        labels.append(Label(cls, polygon))
        mended = _annotation(a, entry, ring)
        changed |= mended is not a
        kept.append(mended)
    return labels, kept, changed


def _annotation(a: Mapping[str, Any], entry: Entry, ring: np.ndarray) -> Mapping[str, Any]:
    """An annotation in pixels of the picture, with the box that validation needs; the same object where nothing changes."""
    good = box_of(a.get("bbox")) is not None
    if entry.frame == entry.size and good and not a.get("iscrowd"):
        return a
    new: dict[str, Any] = {**a, "iscrowd": 0}
    if entry.frame != entry.size:
        ring = ring * (entry.size[1] / entry.frame[1], entry.size[0] / entry.frame[0])
        new |= {"segmentation": [ring.ravel().tolist()], "area": abs(ring_area(ring))}
        good = False
    if not good:
        (x1, y1), (x2, y2) = ring.min(0).tolist(), ring.max(0).tolist()
        new["bbox"] = [x1, y1, x2 - x1, y2 - y1]
    return new


def write_split(coco: CocoFile, folder: Path, names: Sequence[str]) -> Converted:
    """Write the label files of one COCO file into ``folder``, which is made complete beside and then renamed.

    The images need not be there: the sizes that the file states are believed. A folder that exists is replaced. Categories
    become indices of ``names``, the dataset's classes.

    Raises:
        EdgesegError: a category that ``names`` lacks, a file name that leads out of the folder, or a full disk.
    """
    made = Plan("", coco, folder)
    for key, image in coco.images.items():
        try:
            size = claimed(image)
        except ValueError:
            size = None
        if size is None:
            what = f"image {image['file_name']} has no height and width"
            raise EdgesegError(what, path=coco.path, hint="Add them to `images`")
        made.entries.append(Entry(key, _inside(str(image["file_name"]), coco.path), size, size))
    index = _index(coco, names)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with making(folder) as part:
            objects, _, _ = _write(made, part, index, False, None)
    except OSError as e:
        raise _unwritten(e, folder) from e
    return Converted(len(made.entries), objects, made.left_out, made.notes)


def _index(coco: CocoFile, names: Sequence[str]) -> dict[str, int]:
    index = {n: i for i, n in enumerate(names)}
    used = {int(a["category_id"]) for found in coco.annotations.values() for a in found}
    lacking = [n for k, n in coco.categories.items() if n not in index and (k in used or k not in coco.root_categories)]
    if lacking:
        what = f"the categories {', '.join(lacking[:5])} are no classes of the dataset"
        raise EdgesegError(what, path=coco.path, hint="Correct names")
    return index


def _write(
    made: Plan, folder: Path, index: Mapping[str, int], crowds: bool, progress: Progress | None
) -> tuple[int, list[Mapping[str, Any]], bool]:
    """Label files into ``folder``: how many objects, the annotations that belong to them, whether any was changed."""
    objects, changed = 0, False
    every: list[Mapping[str, Any]] = []
    for done, entry in enumerate(made.entries, 1):
        labels, kept, mended = _labels(made, entry, index, crowds)
        objects, changed = objects + len(labels), changed or mended
        every += kept
        file = (folder / entry.file).with_suffix(".txt")
        file.parent.mkdir(parents=True, exist_ok=True)
        write_labels(file, labels)
        if progress:
            progress(done, len(made.entries))
    return objects, every, changed


def _inside(name: str, path: Path) -> Path:
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or not parts.name:
        raise EdgesegError(f"the file name {name!r} leads out of the image folder", path=path, hint="Correct file_name")
    return Path(*parts.parts)


def _unwritten(e: OSError, path: Path) -> EdgesegError:
    return EdgesegError(f"cannot be written ({e.strerror or e})", path=path, hint="Make room, or write elsewhere")


def convert_coco(
    annotations: Mapping[str, str | os.PathLike[str]],
    images: Mapping[str, str | os.PathLike[str]],
    output: str | os.PathLike[str],
    progress: Progress | None = None,
    *,
    crowds: bool = False,
) -> Conversion:
    """Make a YOLO dataset from COCO JSON files, or from folders of labelme JSON.

    ``output`` becomes ``images/<split>`` (a link to the image folder, a copy where links are not allowed),
    ``labels/<split>``, ``annotations/instances_<split>.json`` (the exact masks for validation; a copy where nothing was left
    out or mended), ``<split>.txt`` (a list, where the image folder holds other images too, such as those of another split)
    and, last, ``<name of output>.yaml``. Categories become classes 0, 1, 2, ... in the order of their ids.

    Everything is checked before the first write. In a folder that is there already, new splits are added (classes keep
    their numbers, new ones follow); a split that is there stays as it is: converting it again to the same is nothing to do,
    to anything else an error.

    Args:
        annotations: COCO JSON file, or folder of labelme JSON files, by split (``train``, ``val``, ``test``).
        images: image folder by split; not needed where labelme's images lie beside their JSON.
        output: the dataset's folder.
        progress: called with (done, total) over the images of each split.
        crowds: annotations with ``iscrowd`` 1 become objects too (CVAT marks painted masks so).

    Raises:
        EdgesegError: something cannot be read or written, files contradict each other or what is there already.
    """
    output = Path(output)
    if not annotations:
        raise EdgesegError("no annotations to convert", hint="Give at least one COCO JSON file")
    files = _read(annotations, images)
    names, unused = _names(list(files.values()))
    plans = [plan(coco, Path(images.get(s) or annotations[s]), s) for s, coco in files.items()]
    merge = Merge(output, names, plans)
    done = {}
    try:
        with merge.staged() as stage:
            for made in plans:
                labels = stage / "labels" / made.split
                labels.mkdir(parents=True)
                index = _index(made.coco, merge.names)
                objects, kept, changed = _write(made, labels, index, crowds, progress)
                _write_json(made, kept, changed or crowds, stage / "annotations" / f"instances_{made.split}.json")
                done[made.split] = Converted(len(made.entries), objects, made.left_out, made.notes)
            merge.place(stage)
    except OSError as e:
        raise _unwritten(e, output) from e
    return Conversion(merge.yaml, merge.names, done, unused)


def _read(
    annotations: Mapping[str, str | os.PathLike[str]], images: Mapping[str, str | os.PathLike[str]]
) -> dict[str, CocoFile]:
    folders = {s: Path(p) for s, p in annotations.items() if Path(p).is_dir()}
    labelme = dict(zip(folders, read_labelme(list(folders.values()))))
    missing = [s for s in annotations if s not in folders and not images.get(s)]
    if missing:
        raise EdgesegError(f"split {missing[0]!r} has no image folder", hint="Give it with --images")
    return {s: labelme[s] if s in labelme else read_coco(p) for s, p in annotations.items()}


def _write_json(made: Plan, annotations: Iterable[Mapping[str, Any]], changed: bool, file: Path) -> None:
    """The annotations of what was written; the file itself where that is the same."""
    file.parent.mkdir(exist_ok=True)
    coco = made.coco
    same = all(e.file.as_posix() == coco.images[e.key]["file_name"] and claimed(coco.images[e.key]) for e in made.entries)
    if coco.source and same and not changed and not made.notes and set(made.left_out) <= {CROWDS}:
        shutil.copyfile(coco.path, file)
        return
    images = [
        {**coco.images[e.key], "id": e.key, "file_name": e.file.as_posix(), "height": e.size[0], "width": e.size[1]}
        for e in made.entries
    ]
    body = {
        "images": images,
        "annotations": list(annotations),
        "categories": [{"id": k, "name": n} for k, n in coco.categories.items()],
    }
    file.write_text(json.dumps(body), encoding="utf-8")


def _names(files: Sequence[CocoFile]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The classes in the order of their ids, and root categories (Roboflow writes one) that no annotation uses."""
    categories: dict[int, str] = {}
    for coco in files:
        for key, name in coco.categories.items():
            if categories.setdefault(key, name) != name:
                what = f"category {key} is {name!r} here and {categories[key]!r} in {files[0].path}"
                raise EdgesegError(what, path=coco.path, hint="All splits need the same categories")
    used = {int(a["category_id"]) for coco in files for found in coco.annotations.values() for a in found}
    roots = sorted({k for coco in files for k in coco.root_categories} - used)
    names = tuple(categories[k] for k in sorted(categories) if k not in roots)
    if not names or len(set(names)) != len(names):
        what = "two categories have the same name" if names else "there are no categories"
        raise EdgesegError(what, path=files[0].path, hint="Correct `categories`")
    return names, tuple(categories[k] for k in roots)
