"""Pictures, videos, labels, JSON: what a run leaves behind."""

from __future__ import annotations

import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeseg.errors import EdgesegError
from edgeseg.predict.result import Result
from edgeseg.predict.writer import Writer
from edgeseg.resources import new_folder
from edgeseg.vision import rle
from edgeseg.vision.detections import Detections
from edgeseg.vision.outline import fill


def result(name: str = "a.png", number: int | None = None, path: str = "", shape: tuple[int, int] = (32, 48)) -> Result:
    mask = np.zeros((1, *shape), bool)
    mask[0, 4:20, 5:30] = True
    found = Detections(np.array([[5, 4, 30, 20]], np.float32), np.array([0.5]), np.array([0]), mask, ("cat",), shape)
    image = np.full((*shape, 3), 90, np.uint8)
    return Result(found, image, path or name, name, number, None if number is None else 10.0, {"inference": 1.0})


def test_run_folders_are_numbered(tmp_path: Path) -> None:
    made = [new_folder(tmp_path / "predict") for _ in range(3)]
    assert [m.name for m in made] == ["exp", "exp2", "exp3"] and all(m.is_dir() for m in made)


def test_pictures_and_labels(tmp_path: Path) -> None:
    with Writer(lambda: tmp_path, labels=True) as writer:
        for name in ("a.png", "a.png", "b.jp2", "c"):
            writer.write(result(name))
    assert sorted(p.name for p in tmp_path.glob("*.*")) == ["a-2.png", "a.png", "b.png", "c.png"]
    lines = (tmp_path / "labels/a-2.txt").read_text().splitlines()
    assert len(lines) == 1 and lines[0].startswith("0 ") and all(0 <= float(v) <= 1 for v in lines[0].split()[1:])


def test_labels_give_the_mask_back(tmp_path: Path) -> None:
    with Writer(lambda: tmp_path, pictures=False, labels=True) as writer:
        writer.write(result("a.png"))
    cls, *points = (tmp_path / "labels/a.txt").read_text().split()
    ring = np.array(points, float).reshape(-1, 2) * (48, 32)
    masks = result().detections.masks
    assert masks is not None and cls == "0"
    np.testing.assert_array_equal(fill([ring], (32, 48)), masks[0])


@pytest.mark.parametrize("pictures", [True, False])
def test_no_two_inputs_share_a_file(tmp_path: Path, pictures: bool) -> None:
    text = io.StringIO()
    with Writer(lambda: tmp_path, pictures=pictures, labels=True, document=text) as writer:
        for name in ("a.jpg", "a.png", "A.bmp", "a-2.png", "v_1.png"):
            writer.write(result(name, path=f"x/{name}"))
        for source in ("x/v.mp4", "y/v.avi", "x/w.mp4", "y/w.mp4"):
            for number in range(2):
                writer.write(result(f"{Path(source).stem}.mp4", number, source))
        writer.write(result("w_1.png"))
        writer.write(result("w.png"))
        writer.finish({"count": 1})
    labels = {p.stem for p in (tmp_path / "labels").iterdir()}
    frames = {f"{v}_{n}" for v in ("v-2", "v-3", "w", "w-2") for n in range(2)}
    assert labels == {"a", "a-2", "A-3", "a-2-2", "v_1", "w_1-2", "w-3"} | frames
    saved = [i["saved"] for i in json.loads(text.getvalue())["images"]]
    assert saved[:5] == ["a.jpg", "a-2.png", "A-3.bmp", "a-2-2.png", "v_1.png"]
    assert saved[5:13:2] == ["v-2.mp4", "v-3.mp4", "w.mp4", "w-2.mp4"] and saved[13:] == ["w_1-2.png", "w-3.png"]
    if pictures:
        assert {p.name for p in tmp_path.iterdir() if p.is_file()} == set(saved)


def test_the_document_holds_the_masks() -> None:
    masks = result().detections.masks
    assert masks is not None
    for polygons in (False, True):
        text = io.StringIO()
        with Writer(lambda: Path("never"), pictures=False, document=text, polygons=polygons) as writer:
            writer.write(result())
            writer.finish({"count": 1})
        (found,) = json.loads(text.getvalue())["images"][0]["detections"]
        assert ("rle" in found, "polygons" in found) == (not polygons, polygons)
        again = fill([np.array(r) for r in found["polygons"]], (32, 48)) if polygons else rle.decode(found["rle"])
        np.testing.assert_array_equal(again, masks[0])


def test_the_source_is_never_overwritten(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4, 3), np.uint8))
    before = (tmp_path / "a.png").read_bytes()
    with Writer(lambda: tmp_path) as writer, pytest.raises(EdgesegError, match="its own source"):
        writer.write(result("a.png", path=str(tmp_path / "a.png")))
    assert (tmp_path / "a.png").read_bytes() == before


def test_videos_become_videos(tmp_path: Path) -> None:
    with Writer(lambda: tmp_path) as writer:
        for source in ("x/v.mp4", "y/v.mp4"):
            for number in range(3):
                writer.write(result("v.mp4", number, source))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["v-2.mp4", "v.mp4"] and writer.written == 2
    capture = cv2.VideoCapture(str(tmp_path / "v-2.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 3


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_document_is_json(count: int) -> None:
    text = io.StringIO()
    with Writer(lambda: Path("never"), pictures=False, document=text) as writer:
        for k in range(count):
            writer.write(result(f"{k}.png"))
        writer.finish({"count": count, "skipped": []})
    found = json.loads(text.getvalue())
    assert found["count"] == count == len(found["images"]) and writer.folder is None


def test_a_picture_is_whole_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EdgesegError, match="cannot be written"):
        result().save(tmp_path / "file/a.png")
    if Path("/dev/full").exists():
        (tmp_path / "full.png").symlink_to("/dev/full")
        with pytest.raises(EdgesegError, match="no space"):
            result().save(tmp_path / "full.png")
