"""What a dataset says is in its images, as COCO annotations: from its JSON file, else from the YOLO labels."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeseg.data.coco import box_of, is_segmentation, number_of, read_coco, rle_size, short
from edgeseg.data.dataset import Dataset
from edgeseg.data.inventory import Inventory
from edgeseg.data.labels import Label, read_label_file
from edgeseg.errors import EdgesegError


@dataclass(frozen=True)
class Truth:
    """Objects by image; category ids are class indices + 1.

    ``source`` is the JSON file, or None for YOLO labels. One of ``annotations`` (COCO dicts by image file) and ``labels`` is
    filled. ``inventory`` counts what there is (crowds are no objects), ``warnings`` are for people. ``image_ids``, and
    ``category_ids`` by class (None: it has none), are the JSON file's own.
    """

    names: tuple[str, ...]
    source: Path | None = None
    annotations: Mapping[Path, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    labels: Mapping[Path, Sequence[Label]] = field(default_factory=dict)
    inventory: Inventory = field(default_factory=Inventory)
    warnings: tuple[str, ...] = ()
    image_ids: Mapping[Path, Any] = field(default_factory=dict)
    category_ids: tuple[int | None, ...] = ()

    def of(self, image: Path, shape: tuple[int, int]) -> list[dict[str, Any]]:
        """COCO annotations of one image without ``id`` and ``image_id``.

        Args:
            image: a path that the truth was loaded for.
            shape: (height, width) of the image in pixels, by which labels in 0..1 are scaled.
        """
        if self.source is not None:
            annotations = [dict(a) for a in self.annotations.get(image, ())]
            for a in annotations:
                value = a.get("segmentation")
                # What it claims is compared before anything of that size is made.
                if isinstance(value, Mapping) and rle_size(value) != tuple(shape):
                    raise EdgesegError(
                        f"run lengths of {image.name} are not of its {shape[0]}x{shape[1]} pixels",
                        path=self.source,
                        hint="Export the annotations again at the images' sizes, or write `annotations: false`",
                    )
            return annotations
        found = []
        for label in self.labels.get(image, ()):
            points = label.pixels(shape)
            (x1, y1), (x2, y2) = points.min(0).tolist(), points.max(0).tolist()
            found.append(
                {
                    "category_id": label.cls + 1,
                    "iscrowd": 0,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "segmentation": [points.ravel().tolist()],
                }
            )
        return found


def truth_if_any(dataset: Dataset, split: str, images: Sequence[Path]) -> Truth | None:
    """As ``load_truth``; None where nobody labelled these images: no annotations, no label file with a word in it."""
    files = (dataset.label_path(image) for image in images)
    if dataset.annotations(split) is None and not any(f.is_file() and f.stat().st_size for f in files):
        return None
    return load_truth(dataset, split, images)


def load_truth(dataset: Dataset, split: str, images: Sequence[Path] | None = None) -> Truth:
    """Load what is in the images of a split: every label file is read and checked here, before a network runs.

    Args:
        dataset: its COCO annotations are used where it has some, else its YOLO labels.
        split: the name of the split.
        images: the images that are evaluated (default: all of the split).

    Raises:
        EdgesegError: a bad label or JSON file, categories that are no classes, images that the JSON file does not know,
            or no object at all.
    """
    images = dataset.images(split) if images is None else images
    file = dataset.annotations(split)
    if file is not None:
        return _from_coco(file, dataset, images)
    files = {image: read_label_file(dataset.label_path(image), dataset.nc, dataset.boxes) for image in images}
    labels = {image: f.labels for image, f in files.items()}
    counts = Inventory(
        len(images),
        sum(len(x) for x in labels.values()),
        sum(not x for x in labels.values()),
        sum(f.repeated for f in files.values()),
        sum(f.flat for f in files.values()),
    ).with_orphans(dataset, images)
    if not counts.objects:
        first = dataset.label_path(images[0]) if images else dataset.yaml
        near = f"; {counts.orphans[0]} belongs to no image" if counts.orphans else ""
        raise EdgesegError(
            f"none of the {len(images)} images of split {split!r} has labels{near}",
            path=first,
            hint="Labels lie in `labels` beside `images`, one .txt file an image",
        )
    return Truth(dataset.names, labels=labels, inventory=counts, warnings=(*dataset.warnings, *counts.warnings()))


def _from_coco(file: Path, dataset: Dataset, images: Sequence[Path]) -> Truth:
    coco = read_coco(file)
    index = {n: i for i, n in enumerate(dataset.names)}
    if len(index) != len(dataset.names):
        raise EdgesegError("two classes have the same name", path=dataset.yaml, hint="COCO categories are found by name")
    by_name = {i["file_name"]: key for key, i in coco.images.items()}
    by_last: dict[str, list[int]] = {}
    for name, key in by_name.items():
        by_last.setdefault(name.replace("\\", "/").rsplit("/", 1)[-1], []).append(key)
    found: dict[Path, list[Mapping[str, Any]]] = {}
    ids: dict[Path, Any] = {}
    unknown: list[Path] = []
    foreign: set[str] = set()
    for image in images:
        keys = by_last.get(image.name, [])
        if len(keys) > 1:  # the same file name in several folders
            keys = [by_name[n] for n in by_name if image.as_posix().endswith("/" + n.lstrip("./"))]
        if len(keys) != 1:
            unknown.append(image)
            continue
        ids[image] = coco.images[keys[0]]["id"]
        kept: list[Mapping[str, Any]] = []
        for a in coco.annotations.get(keys[0], ()):
            name = coco.categories[int(a["category_id"])]
            if name in index:
                kept.append(_annotation(a, index[name] + 1, file, dataset.boxes))
            else:
                foreign.add(name)
        found[image] = kept
    if unknown:
        raise EdgesegError(
            f"{len(unknown)} of {len(images)} images are not in the annotations (the first: {unknown[0].name})",
            path=file,
            hint=f"Correct `annotations` in {dataset.yaml}, or write `annotations: false` to use the labels",
        )
    if foreign:
        raise EdgesegError(
            f"the categories {', '.join(sorted(foreign)[:5])} are no classes of the dataset",
            path=file,
            hint=f"Correct `names` in {dataset.yaml}: categories are found by name",
        )
    objects = {image: sum(not a["iscrowd"] for a in kept) for image, kept in found.items()}
    counts = Inventory(len(images), sum(objects.values()), sum(not n for n in objects.values()))
    warnings = (*dataset.warnings, *_disagreement(file, dataset, objects))
    numbers = {name: key for key, name in coco.categories.items()}
    own = tuple(map(numbers.get, dataset.names))
    return Truth(dataset.names, file, found, {}, counts, warnings, ids, own)


def _disagreement(file: Path, dataset: Dataset, objects: Mapping[Path, int]) -> tuple[str, ...]:
    """Whether there are label files that hold another number of objects than the JSON: training would learn from those."""
    rows: dict[Path, int] = {}
    for image in objects:
        with contextlib.suppress(OSError):
            rows[image] = sum(bool(line.strip()) for line in dataset.label_path(image).read_bytes().splitlines())
    other = sum(rows.get(image, 0) != n for image, n in objects.items())
    if not rows or not other:
        return ()
    counts = f"{sum(objects.values())} objects there, {sum(rows.values())} in the label files"
    return (f"the truth is {file.name}, not the label files: {counts}, {other} images differ",)


def _annotation(a: Mapping[str, Any], category: int, file: Path, boxes: bool) -> dict[str, Any]:
    segmentation = a.get("segmentation")
    if not segmentation and not boxes:
        raise EdgesegError(
            f"annotation {short(a.get('id'))} has no segmentation",
            path=file,
            hint="Segmentation needs masks; a detector (yolov8n.pt) does not",
        )
    if not boxes and not is_segmentation(segmentation):
        what = f"the segmentation of annotation {short(a.get('id'))} is neither polygons nor run lengths of its image"
        raise EdgesegError(what, path=file, hint="A polygon is x, y, x, y, ... in pixels")
    bbox, area = box_of(a.get("bbox")), number_of(a.get("area"))
    if bbox is None:
        what = f"annotation {short(a.get('id'))} has no bbox of 4 numbers"
        raise EdgesegError(what, path=file, hint="It is x, y, width, height")
    return {
        "category_id": category,
        "iscrowd": int(bool(a.get("iscrowd", 0))),
        "bbox": bbox,
        "area": bbox[2] * bbox[3] if area is None else area,
        **({} if boxes else {"segmentation": segmentation}),
    }
