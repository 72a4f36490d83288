"""What prediction gives, under the names that people know from other YOLO tools."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

import edgeseg
from edgeseg import YOLO, EdgesegError, Model
from edgeseg.porting import followed
from edgeseg.predict.result import Result
from edgeseg.predict.views import Names
from edgeseg.vision.detections import Detections
from edgeseg.vision.track import Tracker


def found() -> Result:
    masks = np.zeros((2, 40, 60), bool)
    masks[0, 5:20, 10:30] = masks[1, 22:30, 31:50] = True
    boxes = np.array([[10, 5, 30, 20], [31, 22, 50, 30]], np.float32)
    detections = Detections(boxes, np.array([0.9, 0.5]), np.array([1, 0]), masks, ("a/b", "c"), (40, 60))
    return Result(detections, np.full((40, 60, 3), 90, np.uint8), "x/y.png", "y.png")


def test_the_views_are_what_the_names_say() -> None:
    r = found()
    assert edgeseg.YOLO is Model is YOLO
    assert r.boxes.xywh.tolist() == [[20, 12.5, 20, 15], [40.5, 26, 19, 8]]
    assert np.allclose(r.boxes.xyxyn[0], [10 / 60, 5 / 40, 30 / 60, 20 / 40]) and r.boxes.cls.tolist() == [1, 0]
    assert r.boxes[1].conf.tolist() == [0.5] and [len(b) for b in r.boxes] == [1, 1] and r.boxes.shape == (2, 6)
    assert r.masks is not None and r.masks[0].data.sum() == 300 and r.masks.data.shape == (2, 40, 60)
    for ring, box in zip(r.masks.xy, r.boxes.xyxy):
        assert [*ring.min(0), *ring.max(0)] == box.tolist()
    assert np.allclose(r.masks.xyn[0].max(0), [0.5, 0.5])
    assert len(r[1]) == 1 and [len(part) for part in r] == [1, 1] and r[r.boxes.conf > 0.8].verbose() == "1 c"
    assert r[:0].masks is None and r[:0].boxes.data.shape == (0, 6) and r[:0].summary() == []


def test_arrays_answer_to_the_words_of_tensors() -> None:
    import torch

    boxes = found().boxes
    for array in (
        boxes.xyxy,
        boxes.xywh,
        boxes.xyxyn,
        boxes.conf,
        boxes.cls,
        boxes.data,
        boxes[0].xyxy[0],
        found().masks.data,
    ):
        plain = array.cpu().numpy()
        assert type(plain) is np.ndarray and plain.flags.writeable and np.array_equal(plain, np.asarray(array))
        assert np.array_equal(array.detach().clone().to("cuda").numpy(), plain) and array.numel() == plain.size
    assert boxes.cls.int().tolist() == [1, 0] and boxes.cls.long().dtype == np.int64 and boxes.conf.bool().dtype == bool
    assert boxes.conf.to(torch.float64).dtype == np.float64 == boxes.conf.to(dtype=np.float64).dtype
    assert boxes.conf.to(torch.device("cpu"), non_blocking=True) is not None and boxes.conf.half().dtype == np.float16
    (score,) = boxes[1].conf  # one number, as a tensor without dimensions
    assert int(boxes[0].cls) == int(boxes[0].cls[0]) == 1 and float(boxes[1].conf) == 0.5 == score.cpu().numpy().item()
    assert f"{boxes[1].conf[0]:.2f}" == "0.50" and round(score, 1) == 0.5 and found().names[int(boxes.cls[0])] == "c"
    assert [c.item() for c in boxes.cls] == [1, 0] and set(boxes.cls) == {0.0, 1.0} and boxes.conf.max().item() > 0.8
    x1, y1, x2, y2 = map(int, boxes[0].xyxy[0])
    assert (x1, y1, x2, y2) == (10, 5, 30, 20) and torch.as_tensor(boxes.xyxy.clone()).shape == (2, 4)
    mask = found().masks.data[0].cpu().numpy()
    assert (
        mask.dtype == np.uint8
        and cv2.resize(mask, (120, 80)).sum() == 4 * 300
        and found().image[mask.astype(bool)].shape == (300, 3)
    )
    with pytest.raises(ValueError, match="read-only"):
        boxes.xyxy[0] = 0
    with pytest.raises(AttributeError, match="as_tensor"):
        boxes.xyxy.softmax()
    with pytest.raises(TypeError, match="no hash"):
        hash(boxes.xyxy)
    r = found()
    assert r.cuda() is r and r.boxes.cuda() is not None and r.obb is r.probs is r.keypoints is None


def test_ids_go_with_their_detections() -> None:
    tracker = Tracker()
    r = found().tracked(tracker)
    assert r.boxes.is_track and r.boxes.id.tolist() == [1, 2] and r.boxes.data.shape == (2, 7)
    assert r.boxes.data[:, 4].tolist() == [1, 2] and r.boxes[1].id.tolist() == [2] and r[[False, True]].ids.tolist() == [2]
    assert [int(b.id[0]) for b in r.boxes] == [1, 2] and r[:0].boxes.data.shape == (0, 7)
    assert [d["id"] for d in r.to_dict()["detections"]] == [1, 2] and r.summary()[1]["track_id"] == 2
    assert r.to_csv().splitlines()[0] == "name,class,confidence,box,track_id,segments"
    assert not np.array_equal(r.plot(), found().plot()) and found().boxes.id is None and "id" not in found().to_dict()
    elsewhere = replace(found(), detections=found().detections[1])
    assert elsewhere.tracked(tracker).ids.tolist() == [2] and len(replace(found(), ids=None)[:0].tracked(tracker)) == 0


def test_a_further_video_begins_with_new_ids() -> None:
    films = [replace(found(), path=f"{film}.mp4", number=i) for film in "ab" for i in range(3)]
    assert [r.ids.tolist() for r in followed(iter(films), Tracker())] == [[1, 2]] * 3 + [[3, 4]] * 3
    pictures = [replace(found(), path=f"{i}.png") for i in range(3)]
    assert [r.ids.tolist() for r in followed(iter(pictures), Tracker())] == [[1, 2]] * 3


def test_names_are_a_mapping_that_equals_a_tuple() -> None:
    names = Names(("a", "b"))
    assert names == ("a", "b") and dict(names.items()) == {0: "a", 1: "b"} and list(names.keys()) == [0, 1]
    assert names.get(1) == "b" and names.get(2) is None and names.get(-1, "x") == "x" and list(names.values()) == ["a", "b"]
    assert names == {0: "a", 1: "b"} == {**names} and names != ("b", "a") and names.index("b") == 1 and "a" not in names


def test_a_result_is_written_as_they_know_it(tmp_path: Path) -> None:
    r = found()
    row = r.summary(normalize=True)[0]
    assert (
        row["name"] == "c"
        and row["class"] == 1
        and row["box"] == pytest.approx({"x1": 1 / 6, "y1": 0.125, "x2": 0.5, "y2": 0.5}, abs=1e-5)
    )
    assert json.loads(r.to_json())[1]["box"] == {"x1": 31.0, "y1": 22.0, "x2": 50.0, "y2": 30.0}
    lines = r.to_csv().splitlines()
    assert lines[0] == "name,class,confidence,box,segments" and len(lines) == 3
    crops = r.save_crop(tmp_path)
    assert [p.relative_to(tmp_path).as_posix() for p in crops] == ["c/y-1.jpg", "a_b/y-2.jpg"]
    assert cv2.imread(str(crops[0])).shape == (15, 20, 3)
    file = r.save_txt(tmp_path / "new" / "y.txt", save_conf=True)
    assert r.save_txt(file) == file and len(file.read_text().splitlines()) == 4
    assert "data:image/jpeg;base64," in r._repr_html_() and "1 a/b" in r._repr_html_()
    plain = r.plot(labels=False, boxes=False, masks=False)
    assert np.array_equal(plain, r.image) and not np.array_equal(r.plot(), r.plot(conf=False))
    assert r.plot(line_width=4, masks=False, labels=False).sum() != r.plot(masks=False, labels=False).sum()


def test_without_pillow_a_result_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(EdgesegError, match="Pillow is not installed"):
        found().show()


def test_plot_does_what_it_is_told(tmp_path: Path) -> None:
    r = found()
    by_class, by_object = r.plot(labels=False), r.plot(labels=False, color_mode="instance")
    assert not np.array_equal(by_class, by_object) and np.array_equal(by_object, r.plot(labels=False, color_mode="instance"))
    same = replace(r, detections=Detections(r.detections.boxes, r.boxes.conf, np.zeros(2), None, ("a",), (40, 60)))
    colours = {tuple(same.plot(labels=False, color_mode="instance")[y, x].tolist()) for x, y in ((10, 5), (31, 22))}
    assert len(colours) == 2 and len({tuple(same.plot(labels=False)[y, x].tolist()) for x, y in ((10, 5), (31, 22))}) == 1
    assert np.array_equal(r.plot(line_width=1.6), r.plot(line_width=2)) and r.plot(kpt_radius=5, probs=True).shape == (
        40,
        60,
        3,
    )
    drawn = r.plot(save=True, filename=tmp_path / "a.png")
    assert np.array_equal(cv2.imread(str(tmp_path / "a.png")), drawn)
    for wrong in ({"font_size": 9}, {"color_mode": "rainbow"}, {"txt_color": (0, 0, 0)}):
        with pytest.raises(EdgesegError, match="plot cannot do"):
            r.plot(**wrong)


def test_a_result_prints_itself_in_one_line_and_saves_into_a_new_folder(tmp_path: Path) -> None:
    result = found()
    assert (
        repr(result)
        == f"Result({result.path or result.name}: {result.verbose()}; {result.image.shape[1]}x{result.image.shape[0]})"
    )
    assert result.save(tmp_path / "new" / "a.png").is_file()


def test_without_a_display_show_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("PIL")
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(EdgesegError, match="no display"):
        found().show()
