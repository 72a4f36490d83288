"""What a split holds is counted and said: nothing becomes background in silence."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeseg.data.cache import scan
from edgeseg.data.dataset import Dataset, load_dataset
from edgeseg.data.inventory import Inventory, orphan_labels
from edgeseg.errors import EdgesegError
from edgeseg.evaluate.truth import load_truth

ROW = "0 0.1 0.1 0.5 0.1 0.5 0.5\n"


def dataset(folder: Path, labels: dict[str, str], images: int = 3, inside: str = "images") -> Dataset:
    for place in (folder / inside, folder / inside.replace("images", "labels")):
        place.mkdir(parents=True, exist_ok=True)
    for i in range(images):
        cv2.imwrite(str(folder / inside / f"{i}.png"), np.full((20, 30, 3), 50 * i, np.uint8))
    for name, text in labels.items():
        (folder / inside.replace("images", "labels") / name).write_text(text)
    (folder / "data.yaml").write_text(f"path: .\ntrain: {inside}\nval: {inside}\nnames: [cat, dog]\n")
    return load_dataset(folder / "data.yaml")


def test_labels_under_other_names_are_named(tmp_path: Path) -> None:
    d = dataset(tmp_path, {"0.txt": ROW, "1.png.txt": ROW, "2.png.txt": ROW, "classes.txt": "cat\ndog\n"})
    truth = load_truth(d, "val")
    assert str(truth.inventory) == "3 images, 1 object, 2 without labels"
    assert [p.name for p in truth.inventory.orphans] == ["1.png.txt", "2.png.txt"]
    assert "2 label files belong to no image" in truth.warnings[0] and "1.png.txt" in truth.warnings[0]
    counts = scan(d, "train", folder=tmp_path / "cache").inventory.with_orphans(d, d.images("train"))
    assert counts == truth.inventory


def test_labels_beside_the_images(tmp_path: Path) -> None:
    d = dataset(tmp_path, {"0.txt": ROW, "1.png.txt": ROW, "train.txt": "x", "README.txt": "x"}, inside="pictures")
    assert [p.name for p in orphan_labels(d, d.images("val"))] == ["1.png.txt"]


def test_an_image_of_another_split_owns_its_label(tmp_path: Path) -> None:
    d = dataset(tmp_path, {f"{i}.txt": ROW for i in range(3)})
    assert orphan_labels(d, d.images("val")[:1]) == ()


def test_left_out_rows_are_counted_and_kept_in_the_cache(tmp_path: Path) -> None:
    d = dataset(tmp_path, {"0.txt": ROW + ROW, "1.txt": "1 0.5 0.5 0.5 0.5 0.5 0.5\n" + ROW})
    for again in (False, True):
        found = scan(d, "train", folder=tmp_path / "cache")
        assert found.reused == 3 * again
        assert found.inventory == Inventory(3, 2, 1, 1, 1)
    assert str(found.inventory).endswith("1 repeated row left out, 1 row without area left out")
    assert load_truth(d, "val").inventory == found.inventory


def test_no_labels_at_all_names_what_lies_there(tmp_path: Path) -> None:
    d = dataset(tmp_path, {"0.png.txt": ROW})
    with pytest.raises(EdgesegError, match=r"none of the 3 images .*0\.png\.txt belongs to no image"):
        load_truth(d, "val")


def test_json_and_labels_that_differ_are_said(tmp_path: Path) -> None:
    import json

    d = dataset(tmp_path, {"0.txt": ROW + ROW.replace("0.1", "0.2"), "1.txt": ROW})
    body = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 30, "height": 20} for i in range(3)],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1, "bbox": [1, 1, 9, 9], "segmentation": [[1, 1, 10, 1, 10, 10]]}
            for i in (0, 1)
        ],
    }
    (tmp_path / "val.json").write_text(json.dumps(body))
    (tmp_path / "data.yaml").write_text((tmp_path / "data.yaml").read_text() + "annotations: {val: val.json}\n")
    d = load_dataset(tmp_path / "data.yaml")
    truth = load_truth(d, "val")
    assert truth.warnings == (
        "the truth is val.json, not the label files: 2 objects there, 3 in the label files, 1 images differ",
    )
    assert truth.inventory == Inventory(3, 2, 1)
    (tmp_path / "labels" / "0.txt").write_text(ROW)
    assert load_truth(d, "val").warnings == ()
