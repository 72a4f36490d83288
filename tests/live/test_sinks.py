"""JSON lines, videos and events as they lie on the disk afterwards."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgeseg.errors import EdgesegError
from edgeseg.live import Events, JsonLines, Video
from edgeseg.live.sinks import AWAY_S
from edgeseg.predict.result import Result, results
from edgeseg.running.pipeline import Pipeline
from edgeseg.vision import rle
from edgeseg.vision.detections import Detections

ROOT = Path(__file__).resolve().parents[2]


def found(pipeline: Pipeline, pictures: list[np.ndarray]) -> list[Result]:
    """Results as a loop gives them."""
    kept = [r for r in results(pipeline, pictures) if isinstance(r, Result)]
    return [replace(r, number=i, time=i / 10, fps=10.0) for i, r in enumerate(kept)]


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_json_lines(pipeline: Pipeline, pictures: list[np.ndarray], tmp_path: Path) -> None:
    file, shown = tmp_path / "found.jsonl", found(pipeline, pictures)
    sink = JsonLines(str(file))
    for number in (0, 1, 5):
        sink.put(shown[number])
        assert file.read_bytes().endswith(b"\n"), "each line is there at once"
    sink.close()
    written = lines(file)
    assert [(e["frame"], e["time"], e["dropped"]) for e in written] == [(0, 0.0, 0), (1, 0.1, 0), (5, 0.5, 3)]
    assert set(written[0]["speed_ms"]) == {"preprocess", "inference", "postprocess", "masks"}
    for entry, result in zip(written, (shown[0], shown[1], shown[5])):
        assert len(entry["detections"]) == len(result) > 0
        masks = result.detections.masks
        assert masks is not None
        assert all((rle.decode(d["rle"]) == m).all() for d, m in zip(entry["detections"], masks))


def test_json_lines_are_appended_and_a_torn_one_is_removed(
    small: Pipeline, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    file, shown, said = tmp_path / "found.jsonl", found(small, pictures[:2]), []
    for _ in range(2):
        sink = JsonLines(str(file), said.append)
        sink.put(shown[0])
        sink.close()
    assert len(lines(file)) == 2 and not said
    with file.open("a") as stream:
        stream.write('{"time": 3')
    sink = JsonLines(str(file), said.append)
    sink.put(shown[1])
    sink.close()
    assert [e["frame"] for e in lines(file)] == [0, 0, 1] and len(said) == 1 and "10 bytes" in said[0]


def test_what_json_lines_refuse(tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("Dear diary")
    for place, words in (("diary.txt", "something else"), ("no/found.jsonl", "folder does not exist"), (".", "cannot be")):
        with pytest.raises(EdgesegError, match=words):
            JsonLines(str(tmp_path / place))
    assert (tmp_path / "diary.txt").read_text() == "Dear diary"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_said(small: Pipeline, pictures: list[np.ndarray]) -> None:
    sink = JsonLines("/dev/full")
    with pytest.raises(EdgesegError, match=r"the disk is full.*Free some space"):
        sink.put(found(small, pictures[:1])[0])


def test_a_line_that_finds_no_room_is_taken_back(tmp_path: Path) -> None:
    """The largest size of a file stands in for the disk: the kernel writes a part of the line, then refuses."""
    code = """
import resource, sys
import numpy as np
from edgeseg.errors import EdgesegError
from edgeseg.live import JsonLines
from edgeseg.predict.result import Result
from edgeseg.vision.detections import Detections
none = Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0), None, ("a",), (8, 8))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
sink = JsonLines(sys.argv[1])
try:
    for number in range(100):
        sink.put(Result(none, np.zeros((8, 8, 3), np.uint8), number=number))
except EdgesegError as e:
    print(number, e)
"""
    file = tmp_path / "found.jsonl"
    command = [sys.executable, "-c", code, str(file)]
    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    number = int(told.split()[0])
    assert "the disk is full" in told and number > 3
    assert [e["frame"] for e in lines(file)] == list(range(number)) and 800 < file.stat().st_size <= 1000
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1000


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_a_video_has_every_frame(suffix: str, small: Pipeline, pictures: list[np.ndarray], tmp_path: Path) -> None:
    shown, file = found(small, pictures), tmp_path / f"seen{suffix}"
    sink = Video(str(file))
    for result in shown:
        sink.put(result)
    sink.close()
    seen = frames_of(file)
    assert len(seen) == len(shown) and sink.files == [file]
    assert all(np.abs(a.astype(int) - r.plot()).mean() < 12 for a, r in zip(seen, shown))
    assert cv2.VideoCapture(str(file)).get(cv2.CAP_PROP_FPS) == pytest.approx(10)


def test_a_video_of_a_live_camera_plays_at_the_rate_of_the_results(
    small: Pipeline, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    sink = Video(str(tmp_path / "seen.mp4"), measured=True)
    for number, result in enumerate(found(small, pictures * 2)):
        sink.put(replace(result, number=6 * number, time=1e9 + number / 5, fps=30.0))
    sink.close()
    assert len(frames_of(tmp_path / "seen.mp4")) == 16
    assert cv2.VideoCapture(str(tmp_path / "seen.mp4")).get(cv2.CAP_PROP_FPS) == pytest.approx(5, rel=0.01)
    few = Video(str(tmp_path / "few.mp4"), measured=True)
    few.put(found(small, pictures[:1])[0])
    few.close()
    assert len(frames_of(tmp_path / "few.mp4")) == 1


def test_a_video_that_is_there_stays_and_another_size_is_another_file(
    small: Pipeline, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    file = tmp_path / "seen.mp4"
    file.write_bytes(b"holidays")
    sink = Video(str(file))
    for result in found(small, [*pictures[:3], cv2.resize(pictures[0], (96, 64))]):
        sink.put(result)
    sink.close()
    assert file.read_bytes() == b"holidays"
    assert [len(frames_of(tmp_path / f"seen-{n}.mp4")) for n in (2, 3)] == [3, 1]


def test_what_a_video_refuses(tmp_path: Path) -> None:
    for place, words in (("seen.jpg", "suffix"), ("no/seen.mp4", "folder does not exist")):
        with pytest.raises(EdgesegError, match=words):
            Video(str(tmp_path / place))


def frames_of(file: Path) -> list[np.ndarray]:
    capture, seen = cv2.VideoCapture(str(file)), []
    while (read := capture.read())[0]:
        seen.append(read[1])
    return seen


def at(time: float, *classes: int) -> Result:
    n = len(classes)
    there = Detections(
        np.tile(np.array([1, 1, 9, 9]), (n, 1)), np.full(n, 0.5), np.array(classes, int), None, ("cat", "big dog"), (16, 16)
    )
    return Result(there, np.full((16, 16, 3), 90, np.uint8), number=0, time=time)


def test_events(tmp_path: Path) -> None:
    sink = Events(str(tmp_path / "events"))
    sink.put(at(0.0))
    sink.put(at(1.0, 0, 0))  # two cats: one event
    sink.put(at(2.0, 0, 1))  # a dog too
    sink.put(at(3.0))
    sink.put(at(3.0 + AWAY_S - 1.5, 0))  # the cat was away for a moment: none
    sink.put(at(2.0 + AWAY_S + 0.1))  # the dog has left, the cat not yet
    sink.put(at(20.0))  # the cat too
    sink.put(at(21.0, 1))
    sink.close()
    names = sorted(p.name for p in (tmp_path / "events").iterdir())
    events = ["000001.000s-cat-appears", "000002.000s-big_dog-appears", "000007.100s-big_dog-leaves"]
    events += ["000020.000s-cat-leaves", "000021.000s-big_dog-appears"]
    assert names == sorted(f"{e}{s}" for e in events for s in (".jpg", ".json")) and sink.count == 5
    told = json.loads((tmp_path / "events" / "000002.000s-big_dog-appears.json").read_text())
    assert (told["event"], told["class"], told["time"], len(told["detections"])) == ("appears", "big dog", 2.0, 2)
    picture = cv2.imread(str(tmp_path / "events" / told["picture"]))
    assert picture is not None and picture.shape == (16, 16, 3)


def test_events_of_a_live_camera_are_named_by_the_clock_and_none_is_overwritten(tmp_path: Path) -> None:
    for _ in range(2):
        Events(str(tmp_path)).put(at(1_795_717_056.25, 0))
    stem = "20261126T181736.250Z-cat-appears"
    assert sorted(os.listdir(tmp_path)) == sorted(f"{stem}{s}" for s in (".jpg", ".json", "-2.jpg", "-2.json"))
