"""The generator of shapes: the same every time, and its labels tell the truth."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeseg.data.dataset import Dataset, load_dataset
from edgeseg.data.labels import read_label_file
from edgeseg.data.shapes import SHAPE_NAMES, make_shapes, shapes_image
from edgeseg.errors import EdgesegError
from edgeseg.vision import rle
from edgeseg.vision.outline import fill


def test_same_seed_same_pixels() -> None:
    first, labels = shapes_image(5, 64)
    again, same = shapes_image(5, 64)
    other, _ = shapes_image(6, 64)
    assert first.shape == (64, 64, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert [x.polygon.tolist() for x in labels] == [x.polygon.tolist() for x in same]
    assert (first != other).any()


PIXELS, CLASSES = "f8b7bfabc6d7d2ff", ["triangle", "square", "triangle"]


def test_the_pixels_are_those_of_the_first_machine() -> None:
    """If this fails, results of the demo are no longer comparable: raise the generator's version, then renew the figure."""
    image, labels = shapes_image([0, 1, 2], 320)
    assert hashlib.sha256(image.tobytes()).hexdigest()[:16] == PIXELS
    assert [SHAPE_NAMES[x.cls] for x in labels] == CLASSES


def test_labels_are_inside_and_varied() -> None:
    seen: set[int] = set()
    counts = set()
    for seed in range(30):
        _, labels = shapes_image(seed, 160)
        counts.add(len(labels))
        seen |= {x.cls for x in labels}
        for label in labels:
            assert label.polygon.min() >= 0 and label.polygon.max() <= 1
            assert fill([label.pixels((160, 160))], (160, 160)).sum() >= 14
    assert seen == {0, 1, 2, 3} and min(counts) >= 1 and max(counts) <= 6 and len(counts) >= 4


def test_the_set_on_disk_agrees_with_itself(shapes_dataset: Dataset) -> None:
    assert shapes_dataset.names == SHAPE_NAMES
    assert (len(shapes_dataset.images("train")), len(shapes_dataset.images("val"))) == (6, 4)
    for split in ("train", "val"):
        file = shapes_dataset.annotations(split)
        assert file is not None
        coco = json.loads(file.read_text())
        names = {c["id"]: c["name"] for c in coco["categories"]}
        for entry, path in zip(coco["images"], shapes_dataset.images(split)):
            assert entry["file_name"] == path.name and cv2.imread(str(path)).shape == (96, 96, 3)
            labels = read_label_file(shapes_dataset.label_path(path), 4).labels
            objects = [a for a in coco["annotations"] if a["image_id"] == entry["id"]]
            assert [names[a["category_id"]] for a in objects] == [SHAPE_NAMES[x.cls] for x in labels]
            covered = np.zeros((96, 96), int)
            for a, label in zip(objects, labels):
                mask = rle.decode(a["segmentation"])
                covered += mask
                x, y, w, h = a["bbox"]
                assert a["area"] == mask.sum() and mask[y : y + h, x : x + w].sum() == mask.sum()
                outline = fill([label.pixels((96, 96))], (96, 96))
                assert (outline & mask).sum() / (outline | mask).sum() > 0.8
            assert covered.max() <= 1  # what is hidden belongs to the shape in front only


def test_a_complete_set_is_used_again_and_another_one_replaces_it(tmp_path: Path) -> None:
    root = tmp_path / "s"
    file = make_shapes(root, train=2, val=1, size=64)
    stamp = (root / "images/train/000000.png").stat().st_mtime_ns
    assert make_shapes(root, train=2, val=1, size=64) == file
    assert (root / "images/train/000000.png").stat().st_mtime_ns == stamp
    first = (root / "images/train/000001.png").read_bytes()
    make_shapes(root, train=3, val=0, size=64)
    assert len(load_dataset(file).images("train")) == 3
    assert (root / "images/train/000001.png").read_bytes() == first  # depends on seed, split and number alone
    (root / "images/train/000002.png").unlink()
    make_shapes(root, train=3, val=0, size=64)
    assert len(load_dataset(file).images("train")) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_jpeg(tmp_path: Path) -> None:
    d = load_dataset(make_shapes(tmp_path / "s", train=0, val=2, size=64, suffix=".jpg"))
    assert [p.name for p in d.images("val")] == ["000000.jpg", "000001.jpg"]


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(EdgesegError, match="holds other files"):
        make_shapes(tmp_path, train=1, val=1, size=64)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(EdgesegError, match="cannot be written"):
        make_shapes(tmp_path / "mine.txt" / "below", train=1, val=1, size=64)
