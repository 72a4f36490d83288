"""What models find in a picture, as the page gets it: as the pipeline finds it, kept within a bound, failures told."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgeseg.data.dataset import Dataset
from edgeseg.data.images import read_image
from edgeseg.data.labels import read_label_file
from edgeseg.errors import EdgesegError
from edgeseg.view.gallery import LOWEST, Subject, together
from edgeseg.view.labels import labels_if_any


def shown(data: bytes) -> dict[str, Any]:
    return json.loads(data)


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


def test_a_picture_has_what_the_pipeline_finds_at_any_score(gallery: Any, network: Any, shapes: Dataset) -> None:
    one = gallery()
    assert one.lowest == LOWEST < 0.25
    found = 0
    with network() as opened:
        for index, path in enumerate(shapes.images("val")[:4]):
            picture = shown(one.of(index))
            image = read_image(path)
            assert (picture["name"], picture["height"], picture["width"]) == (path.name, *image.shape[:2])
            for conf in (LOWEST, 0.25, 0.6):
                expected = opened.pipeline(conf=conf)(image)
                got = [d for d in picture["found"][0] if d["score"] >= conf]
                assert [d["class"] for d in got] == expected.classes.tolist()
                np.testing.assert_allclose([d["score"] for d in got], expected.scores, atol=1e-4)
                np.testing.assert_allclose([d["box"] for d in got], expected.boxes, atol=0.06)
                found += len(got)
            assert all(d["rings"] for d in picture["found"][0])
            assert set(picture["about"][0]["ms"]) == {"preprocess", "inference", "postprocess"}
            assert picture["about"][0]["ms"]["inference"] > 0
    assert found > 10
    one.close()


def test_labels_are_one_more_model(gallery: Any, shapes: Dataset) -> None:
    one = gallery()
    assert [m["name"] for m in one.about()] == ["demo-seg.pt", "labels"] and one.about()[0]["format"] == "PyTorch fp32"
    path = shapes.images("val")[0]
    labels = read_label_file(shapes.label_path(path), shapes.nc).labels
    objects = shown(one.of(0))["found"][1]
    assert len(objects) == len(labels) > 0
    for label, object_ in zip(labels, objects):
        assert one.names[object_["class"]] == shapes.names[label.cls] and object_["score"] == 1
        points = label.pixels((160, 160))
        np.testing.assert_allclose(object_["box"], [*points.min(0), *points.max(0)], atol=0.06)
        np.testing.assert_allclose(np.reshape(object_["rings"][0], (-1, 2)), points, atol=0.06)
    own = shown(one.of_file(png(read_image(path)), "mine.png"))
    assert own["found"][1] is None and own["about"][1] == {"note": "not in the data"}
    assert own["found"][0] == shown(one.of(0))["found"][0]
    one.close()


def test_coco_annotations_count_and_crowds_do_not(shapes: Dataset, tmp_path: Path) -> None:
    images = shapes.images("val")[:2]
    square = {"bbox": [10, 20, 30, 40], "area": 1200, "segmentation": [[10, 20, 40, 20, 40, 60, 10, 60]]}
    ring = {"bbox": [0, 0, 2, 160], "area": 320, "segmentation": {"size": [160, 160], "counts": [0, 320, 25280]}}
    crowd = {"bbox": [0, 0, 160, 160], "area": 1, "segmentation": {"size": [160, 160], "counts": [0, 25600]}}
    file = tmp_path / "instances.json"
    notes = [
        {"id": 1, "image_id": 1, "category_id": 7, "iscrowd": 0, **square},
        {"id": 2, "image_id": 1, "category_id": 7, "iscrowd": 1, **crowd},
    ]
    notes.append({"id": 3, "image_id": 2, "category_id": 7, "iscrowd": 0, **ring})
    known = [{"id": i + 1, "file_name": p.name, "width": 160, "height": 160} for i, p in enumerate(images)]
    content = {"images": known, "annotations": notes, "categories": [{"id": 7, "name": shapes.names[1]}]}
    file.write_text(json.dumps(content))
    labels = labels_if_any(replace(shapes, annotation_files={"val": file}), "val", images)
    assert labels is not None
    (found,) = labels.of(images[0], (160, 160), np.arange(9) + 5)
    assert found == {
        "class": 6,
        "score": 1,
        "box": [10, 20, 40, 60],
        "rings": [[10, 20, 40, 20, 40, 60, 10, 60]],
        "pair": -1,
    }
    (found,) = labels.of(images[1], (160, 160), np.arange(9))
    assert sorted(zip(found["rings"][0][::2], found["rings"][0][1::2])) == [(0, 0), (0, 160), (2, 0), (2, 160)]


def test_a_wrong_label_file_is_told_with_its_picture(
    shapes: Dataset, gallery: Any, monkeypatch: Any, tmp_path: Path
) -> None:
    one = gallery()
    wrong = tmp_path / "wrong.txt"
    wrong.write_text("99 0 0 1 0 1 1\n")
    right = type(shapes).label_path
    monkeypatch.setattr(type(shapes), "label_path", lambda s, i: wrong if i == shapes.images("val")[1] else right(s, i))
    assert shown(one.of(0))["about"][1] == {}
    broken = shown(one.of(1))
    assert "wrong.txt:1" in broken["about"][1]["error"] and broken["found"][1] is None and broken["found"][0] is not None
    one.close()


def test_no_labels_at_all(shapes: Dataset, tmp_path: Path) -> None:
    assert labels_if_any(shapes, "val", [tmp_path / "a.jpg"]) is None


def test_results_are_kept_within_a_bound_and_the_oldest_goes_first(gallery: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(gallery().of(0))
    one = gallery(keep=3 * size)
    looked: list[int] = []
    look = Subject.look
    monkeypatch.setattr(Subject, "look", lambda self, image: looked.append(1) or look(self, image))
    for index in range(12):
        one.of(index)
        assert one._bytes == sum(map(len, one._kept.values())) <= max(3 * size, len(one.of(index)))
    assert len(looked) == 12 and 1 <= len(one._kept) <= 6
    newest = one.of(11)
    assert one.of(11) is newest and len(looked) == 12
    one.of(0)
    assert len(looked) == 13 and list(one._kept)[-1] == 0
    with pytest.raises(IndexError):
        one.of(12)
    one.close()


def test_a_model_whose_process_ended_is_opened_again(gallery: Any, network: Any, remote: Callable[[], Any]) -> None:
    one = gallery(network, remote)
    before = shown(one.of(0))
    assert len(before["found"][1]) == len(before["found"][0]) > 0
    one.subjects[1]._opened.runtime._child.kill()
    failed = shown(one.of(1))
    assert "the process that ran it ended (signal 9)" in failed["about"][1]["error"] and failed["found"][1] is None
    assert failed["found"][0] and "error" not in failed["about"][0]
    after = shown(one.of(2))
    assert "error" not in after["about"][1] and len(after["found"][1]) == len(after["found"][0])
    one.close()


def test_a_network_of_any_size_runs_at_that_of_the_others(gallery: Any, network: Any, remote: Any) -> None:
    one = gallery(network, remote)
    assert [s.manifest.imgsz for s in one.subjects] == [(160, 160), (160, 160)]
    picture = shown(one.of(0))
    np.testing.assert_allclose(*([d["box"] for d in picture["found"][m]] for m in (0, 1)), atol=0.11)
    one.close()


def test_a_large_picture_is_shown_smaller_in_its_own_coordinates(gallery: Any, shapes: Dataset) -> None:
    one = gallery()
    large = cv2.resize(read_image(shapes.images("val")[0]), (2400, 2400))
    picture = shown(one.of_file(png(large), "large\x1b.png"))
    assert (picture["width"], picture["height"], picture["name"]) == (2400, 2400, "large\\x1b.png")
    import base64

    stored = cv2.imdecode(np.frombuffer(base64.b64decode(picture["src"].partition(",")[2]), np.uint8), cv2.IMREAD_COLOR)
    assert stored.shape == (1600, 1600, 3)
    assert max(max(d["box"]) for d in picture["found"][0]) > 300
    one.close()


def test_what_is_no_picture_is_refused(gallery: Any) -> None:
    one = gallery()
    for data, words in ((b"", "empty"), (b"hello", "not a readable image"), (b"\xff\xd8\xff\xe0", "cut off")):
        with pytest.raises(EdgesegError, match=words):
            one.of_file(data, "mine.jpg")
    one.close()


def test_names_of_several_models() -> None:
    names, numbers = together([("cat", "dog"), ("dog", "cat"), ("dog", "cow", "cat"), ("class0", "class1"), ("cat", "dog")])
    assert names == ("cat", "dog", "cow")
    assert [n.tolist() for n in numbers] == [[0, 1], [1, 0], [1, 2, 0], [0, 1], [0, 1]]
    assert together([("a", "a"), ("a", "a")])[1][1].tolist() == [0, 1]


def test_pictures_are_called_by_their_path_below_what_they_share(gallery: Any, tmp_path: Path) -> None:
    one = gallery()
    one.images = [tmp_path / "a" / "1.jpg", tmp_path / "b" / "<i>\x07.jpg"]
    assert one.listed() == ["a/1.jpg", "b/<i>\\x07.jpg"]
    one.images = [tmp_path / "a" / "1.jpg"]
    assert one.listed() == ["1.jpg"]
    one.images = []
    assert one.listed() == []
    one.close()


def test_models_of_one_name_are_called_by_their_path(gallery: Any, network: Any) -> None:
    one = gallery(network, network, labels=False)
    assert [m["name"] for m in one.about()] == [str(one.subjects[0].path)] * 2
    one.close()
