"""Folders of labelme JSON, read as one COCO file."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgeseg.data.cache import scan
from edgeseg.data.convert import convert_coco
from edgeseg.data.dataset import load_dataset
from edgeseg.data.labels import read_label_file
from edgeseg.errors import EdgesegError
from edgeseg.vision.outline import fill

SIZE = (40, 60)


def shape(label: str, kind: str, points: list[list[float]], **more: Any) -> dict[str, Any]:
    return {"label": label, "shape_type": kind, "points": points, "group_id": None, "flags": {}} | more


def annotate(folder: Path, name: str, shapes: list[Any], path: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    cv2.imencode(".jpg", np.zeros((*SIZE, 3), np.uint8))[1].tofile(folder / f"{name}.jpg")
    body = {"version": "5.5.0", "shapes": shapes, "imagePath": path or f"{name}.jpg", "imageData": None}
    (folder / f"{name}.json").write_text(json.dumps(body | {"imageHeight": SIZE[0], "imageWidth": SIZE[1]}))


def test_shapes_become_objects(tmp_path: Path) -> None:
    mask = np.zeros((10, 12), np.uint8)
    mask[2:8, 3:11] = 255
    painted = base64.b64encode(cv2.imencode(".png", mask)[1].tobytes()).decode()
    annotate(
        tmp_path / "train",
        "a",
        [
            shape("dog", "polygon", [[2, 2], [10, 2], [10, 10], [2, 10]]),
            shape("cat", "rectangle", [[30, 20], [20, 10]]),
            shape("cat", "circle", [[45, 20], [45, 28]]),
            shape("dog", "mask", [[5, 25], [17, 35]], mask=painted),
            shape("dog", "polygon", [[30, 30], [34, 30], [34, 34], [30, 34]], group_id=4),
            shape("dog", "polygon", [[40, 30], [44, 30], [44, 34], [40, 34]], group_id=4),
            shape("cat", "point", [[1, 1]]),
            shape("cat", "line", [[1, 1], [5, 5]]),
        ],
        "..\\pictures\\a.jpg",
    )
    annotate(tmp_path / "val", "b", [shape("bird", "polygon", [[2, 2], [10, 2], [10, 10]])])
    both = {s: tmp_path / s for s in ("train", "val")}
    done = convert_coco(both, {}, tmp_path / "out")
    assert done.names == ("bird", "cat", "dog")
    part = done.splits["train"]
    assert (part.images, part.objects) == (1, 5)
    assert part.left_out == {"objects that cannot be read: it has no segmentation": ["a.json#6", "a.json#7"]}
    labels = read_label_file(tmp_path / "out/labels/train/a.txt", 3).labels
    assert [x.cls for x in labels] == [2, 1, 1, 2, 2]
    areas = [int(fill([x.pixels(SIZE)], SIZE).sum()) for x in labels]
    assert areas[0] == 64 and areas[1] == 100 and abs(areas[2] - np.pi * 64) < 10 and areas[3:] == [48, 32]
    dataset = load_dataset(done.yaml)
    assert [scan(dataset, s, folder=tmp_path / "cache").instances for s in both] == [5, 1]


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"shapes": [1], "imagePath": "a.jpg"}', '{"shapes": [{}], "imagePath": "a.jpg"}', "{"]
)
def test_other_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(EdgesegError) as caught:
        convert_coco({"train": tmp_path}, {}, tmp_path / "out")
    assert caught.value.path == tmp_path / "a.json" and caught.value.hint


def test_a_folder_without_json(tmp_path: Path) -> None:
    with pytest.raises(EdgesegError, match="no JSON files in this folder"):
        convert_coco({"train": tmp_path}, {}, tmp_path / "out")


def test_a_painted_mask_that_claims_too_much(tmp_path: Path) -> None:
    data = bytearray(cv2.imencode(".png", np.zeros((4, 4), np.uint8))[1].tobytes())
    data[16:24] = (30_000).to_bytes(4, "big") * 2
    text = base64.b64encode(bytes(data)).decode()
    annotate(tmp_path / "train", "a", [shape("cat", "mask", [[0, 0], [4, 4]], mask=text)])
    assert convert_coco({"train": tmp_path / "train"}, {}, tmp_path / "out").splits["train"].objects == 0
