"""COCO JSON to YOLO labels: the masks must survive."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgeseg.data.coco import outline_of, read_coco
from edgeseg.data.convert import convert_coco, write_split
from edgeseg.data.dataset import load_dataset
from edgeseg.data.labels import read_label_file
from edgeseg.errors import EdgesegError
from edgeseg.vision import rle
from edgeseg.vision.outline import fill

SQUARE = [2.0, 2.0, 8.0, 2.0, 8.0, 8.0, 2.0, 8.0]
HOLE = np.ones((20, 30), bool)
HOLE[5:15, 5:15] = False
HOLE[:, 25] = False


def annotation(**values: Any) -> dict[str, Any]:
    return {"id": 1, "image_id": 1, "category_id": 7, "iscrowd": 0, "bbox": [2, 2, 6, 6], "segmentation": [SQUARE]} | values


def coco(tmp_path: Path, annotations: list[dict[str, Any]], name: str = "a.json", **values: Any) -> Path:
    body = {
        "images": [{"id": 1, "file_name": "sub/1.png", "height": 20, "width": 30}],
        "annotations": annotations,
        "categories": [{"id": 7, "name": "seven"}, {"id": 3, "name": "three"}],
    } | values
    (tmp_path / name).write_text(json.dumps(body))
    image = tmp_path / "pictures/sub/1.png"
    image.parent.mkdir(parents=True, exist_ok=True)
    cv2.imencode(".png", np.zeros((20, 30, 3), np.uint8))[1].tofile(image)
    return tmp_path / name


@pytest.mark.parametrize("counts", ["text", "list"])
def test_run_lengths_keep_parts_and_holes(counts: str) -> None:
    code: dict[str, Any] = rle.encode(HOLE)
    if counts == "list":
        code["counts"] = rle.from_text(code["counts"]).tolist()
    ring = outline_of({"segmentation": code}, 20, 30)
    assert ring is not None
    np.testing.assert_array_equal(fill([ring], (20, 30)), HOLE)


def test_parts_are_joined() -> None:
    other = [20.0, 2.0, 28.0, 2.0, 28.0, 8.0, 20.0, 8.0]
    ring = outline_of({"segmentation": [SQUARE, other]}, 20, 30)
    assert ring is not None
    expected = np.zeros((20, 30), bool)
    expected[2:8, 2:8] = expected[2:8, 20:28] = True
    np.testing.assert_array_equal(fill([ring], (20, 30)), expected)


def test_overlapping_parts_are_united() -> None:
    other = [5.0, 5.0, 12.0, 5.0, 12.0, 12.0, 5.0, 12.0]
    ring = outline_of({"segmentation": [SQUARE, other]}, 20, 30)
    assert ring is not None
    expected = np.zeros((20, 30), bool)
    expected[2:8, 2:8] = expected[5:12, 5:12] = True
    np.testing.assert_array_equal(fill([ring], (20, 30)), expected)


def test_a_whole_dataset(tmp_path: Path) -> None:
    file = coco(
        tmp_path,
        [
            annotation(),
            annotation(id=2, iscrowd=1, segmentation=rle.encode(HOLE)),
            annotation(id=3, category_id=3, segmentation=[[1.0, 1.0, 5.0, 1.0]]),
            annotation(id=4, category_id=3, segmentation=rle.encode(HOLE)),
            annotation(id=5, segmentation=[[1.0, 1.0, 5.0]]),
            annotation(id=6, segmentation={"size": [20, 30], "counts": [5]}),
        ],
    )
    seen: list[tuple[int, int]] = []
    done = convert_coco({"val": file}, {"val": tmp_path / "pictures"}, tmp_path / "out", lambda a, b: seen.append((a, b)))
    part = done.splits["val"]
    assert done.names == ("three", "seven") and seen == [(1, 1)]
    assert (part.images, part.objects) == (1, 2)
    assert part.left_out == {
        "crowds": ["2"],
        "objects without area": ["3"],
        "objects that cannot be read: a polygon is not a list of x, y, x, y, ...": ["5"],
        "objects that cannot be read: the runs do not add up to 20 x 30 pixels": ["6"],
    }
    assert done.yaml == tmp_path / "out/out.yaml"
    d = load_dataset(done.yaml)
    (image,) = d.images("val")
    labels = read_label_file(d.label_path(image), d.nc).labels
    assert [x.cls for x in labels] == [1, 0]
    np.testing.assert_allclose(labels[0].pixels((20, 30)).ravel(), SQUARE, atol=1e-4)
    found = d.annotations("val")
    assert found is not None and found.is_file() and not found.is_symlink()
    again = convert_coco({"val": file}, {"val": tmp_path / "pictures"}, tmp_path / "out")
    assert again == done and not list((tmp_path / "out").rglob(".*"))


def test_a_full_disk_leaves_the_old_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = read_coco(coco(tmp_path, [annotation()]))
    write_split(file, tmp_path / "labels", ("seven", "three"))
    before = (tmp_path / "labels/sub/1.txt").read_text()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edgeseg.data.convert.write_labels", full)
    with pytest.raises(EdgesegError, match="No space left"):
        write_split(file, tmp_path / "labels", ("three", "seven"))
    assert (tmp_path / "labels/sub/1.txt").read_text() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "labels", "pictures"]


def test_wrong_json(tmp_path: Path) -> None:
    with pytest.raises(EdgesegError, match="no such file"):
        read_coco(tmp_path / "none.json")
    bad = tmp_path / "bad.json"
    small = annotation(segmentation=[[0.1, 0.1, 0.6, 0.1, 0.6, 0.7]], bbox=[0.1, 0.1, 0.5, 0.6])
    shares = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [small], "categories": [{"id": 7, "name": "a"}]}
    for text, what in (
        ('{"images": [],\n "annotations": [}', r"bad\.json:2: no valid JSON"),
        ("[1, 2]", "no COCO annotations: the file: a list"),
        (json.dumps(shares), "multiply x by the width"),
        (json.dumps(shares | {"annotations": [annotation(segmentation=[], bbox=[0.1, 0.1, 0.5, 0.5])]}), "multiply x"),
        ('{"images": [], "annotations": []}', "'categories' is missing"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1}]}', "categories: 'name' is missing"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', "images: 'file_name' is missing"),
        (json.dumps({"images": [], "annotations": [annotation()], "categories": []}), "unknown category 7"),
    ):
        bad.write_text(text)
        with pytest.raises(EdgesegError, match=what) as caught:
            read_coco(bad)
        assert caught.value.hint


def test_contradictions(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    first = coco(tmp_path, [])
    other = coco(tmp_path, [], "b.json", categories=[{"id": 7, "name": "eight"}])
    cases: list[tuple[dict[str, Path], dict[str, Path], str]] = [
        ({}, {}, "no annotations to convert"),
        ({"train": first, "val": other}, {"train": pictures, "val": pictures}, "category 7 is 'eight' here and 'seven'"),
        ({"val": first}, {"val": tmp_path / "none"}, "image folder of split 'val' is missing"),
        ({"val": first}, {"val": tmp_path / "empty"}, "1 of 1 images are not in"),
        ({"val": coco(tmp_path, [], "c.json", categories=[])}, {"val": pictures}, "no categories"),
    ]
    (tmp_path / "empty").mkdir()
    for files, images, what in cases:
        with pytest.raises(EdgesegError, match=what):
            convert_coco(files, images, tmp_path / "out")
    evil = coco(tmp_path, [], "d.json", images=[{"id": 1, "file_name": "../1.png", "height": 20, "width": 30}])
    with pytest.raises(EdgesegError, match="leads out of the image folder"):
        convert_coco({"val": evil}, {"val": pictures}, tmp_path / "out")
    flat = coco(tmp_path, [], "e.json", images=[{"id": 1, "file_name": "sub/1.png"}])
    with pytest.raises(EdgesegError, match="no height and width"):
        write_split(read_coco(flat), tmp_path / "labels", ("seven", "three"))
    assert not (tmp_path / "out").exists()
    with pytest.raises(EdgesegError, match="categories seven, three are no classes"):
        write_split(read_coco(first), tmp_path / "labels", ("a",))


def test_real_annotations_keep_their_masks(shared: Path, tmp_path: Path) -> None:
    file = read_coco(shared / "data/coco100-seg/annotations/instances_val2017.json")
    worst = 1.0
    for image_id in list(file.images)[:10]:
        shape = (file.images[image_id]["height"], file.images[image_id]["width"])
        for a in file.annotations.get(image_id, ()):
            mask, ring = rle.decode(dict(a["segmentation"])), outline_of(a, *shape)
            assert ring is not None
            again = fill([ring], shape)
            worst = min(worst, (mask & again).sum() / (mask | again).sum())
    assert worst > 0.97
