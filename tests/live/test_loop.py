"""The loop: finds what ``predict`` finds, drops and counts, stops without losing anything, outlives a sink that fails."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edgeseg.errors import EdgesegError
from edgeseg.live import Loop, open_camera
from edgeseg.live.loop import temperature
from edgeseg.predict.result import Result, results
from edgeseg.running.pipeline import Pipeline

STATS = {
    *("frames", "dropped", "reconnects", "objects", "fps", "ms", "temperature", "uptime_s", "paused", "source", "model"),
    "state",
}


class Kept:
    """A sink that keeps results, slowly if asked to, and fails at the n-th if asked to."""

    def __init__(self, slow: float = 0, fails: int | None = None) -> None:
        self.results: list[Result] = []
        self.slow, self.fails, self.closed = slow, fails, 0

    def put(self, result: Result) -> None:
        if len(self.results) == self.fails:
            raise EdgesegError("the disk is full", path="found.jsonl")
        time.sleep(self.slow)
        self.results.append(result)

    def close(self) -> None:
        self.closed += 1


def in_thread(loop: Loop) -> threading.Thread:
    thread = threading.Thread(target=loop.run)
    thread.start()
    return thread


def test_the_same_detections_as_predict(pipeline: Pipeline, clip: Path) -> None:
    expected = [r for r in results(pipeline, str(clip)) if isinstance(r, Result)]
    loop, sink = Loop(pipeline, open_camera(clip), model="demo"), Kept()
    loop.sinks.append(sink)
    stats = loop.run()
    assert len(sink.results) == len(expected) == stats["frames"] == 40 and stats["dropped"] == 0
    assert sum(len(r) for r in expected) > 40
    for number, (mine, theirs) in enumerate(zip(sink.results, expected)):
        assert (mine.image == theirs.image).all()
        assert mine.detections.to_dicts(rle=True) == theirs.detections.to_dicts(rle=True)
        assert mine.number == number and mine.time == pytest.approx(number / 20)
    assert set(stats) == STATS and stats["state"] == "ended" and stats["model"] == "demo" and stats["source"] == str(clip)
    assert stats["objects"] == len(expected[-1]) and set(stats["ms"]) == {"preprocess", "inference", "postprocess"}
    assert json.loads(json.dumps(stats)) == stats and sink.closed == 1


def test_who_is_slow_misses_frames_and_they_are_counted(small: Pipeline, clip: Path) -> None:
    loop, sink = Loop(small, open_camera(clip, realtime=True)), Kept(slow=0.2)
    loop.sinks.append(sink)
    stats = loop.run()
    assert stats["dropped"] > 5 and stats["frames"] + stats["dropped"] == 40
    numbers = [r.number for r in sink.results]
    assert len(numbers) == stats["frames"] and numbers == sorted(set(numbers)) and numbers[-1] == 39
    assert all(abs((r.time or 0) - time.time()) < 60 for r in sink.results)


def test_a_slow_sink_of_a_recording_drops_nothing(small: Pipeline, clip: Path) -> None:
    loop, sink = Loop(small, open_camera(clip), frames=10), Kept(slow=0.05)
    loop.sinks.append(sink)
    assert loop.run()["dropped"] == 0 and [r.number for r in sink.results] == list(range(10))


def test_stop_writes_what_was_inferred(small: Pipeline, pictures: list[np.ndarray], until: Callable[..., bool]) -> None:
    def endless() -> Iterator[np.ndarray]:
        while True:
            yield from pictures

    loop, sink = Loop(small, open_camera(endless())), Kept(slow=0.02)
    loop.sinks.append(sink)
    thread = in_thread(loop)
    assert until(lambda: len(sink.results) >= 5)
    assert loop.stats()["state"] == "running" and loop.stats()["fps"] > 0
    loop.stop()
    thread.join(10)
    stats = loop.stats()
    assert not thread.is_alive() and stats["state"] == "ended" and sink.closed == 1
    assert [r.number for r in sink.results] == list(range(stats["frames"]))


def test_limits(small: Pipeline, clip: Path) -> None:
    loop = Loop(small, open_camera(clip), frames=7)
    assert [r.number for r in loop.results()] == list(range(7))
    start = time.monotonic()
    stats = Loop(small, open_camera(clip, realtime=True), seconds=0.5).run()
    assert 2 <= stats["frames"] <= 12 and time.monotonic() - start < 4


def test_pause_and_resume(small: Pipeline, clip: Path, until: Callable[..., bool]) -> None:
    loop, sink = Loop(small, open_camera(clip)), Kept(slow=0.02)
    loop.sinks.append(sink)
    thread = in_thread(loop)
    assert until(lambda: loop.stats()["frames"] >= 3)
    loop.pause()
    time.sleep(0.3)
    frames = loop.stats()["frames"]
    assert loop.paused and loop.stats()["state"] == "paused" and frames < 40
    time.sleep(0.3)
    assert loop.stats()["frames"] == frames
    loop.resume()
    thread.join(20)
    assert [r.number for r in sink.results] == list(range(40)), "a recording waits"


def test_a_paused_live_camera_goes_on_with_a_fresh_frame(small: Pipeline, clip: Path, until: Callable[..., bool]) -> None:
    loop, sink = Loop(small, open_camera(clip, realtime=True)), Kept()
    loop.sinks.append(sink)
    thread = in_thread(loop)
    assert until(lambda: loop.stats()["frames"] >= 3)
    loop.pause()
    time.sleep(0.6)
    resumed = time.time()
    loop.resume()
    thread.join(20)
    times = [r.time or 0 for r in sink.results]
    gap = max(range(1, len(times)), key=lambda i: times[i] - times[i - 1])
    assert times[gap] - times[gap - 1] > 0.5 and times[gap] >= resumed - 0.1
    assert loop.stats()["frames"] < 36


def test_a_sink_that_fails_is_left_out_and_the_others_go_on(small: Pipeline, clip: Path) -> None:
    said: list[str] = []
    loop, bad, good = Loop(small, open_camera(clip), say=said.append), Kept(fails=3), Kept()
    loop.sinks += [bad, good]
    assert loop.run()["frames"] == 40 and len(good.results) == 40 and len(bad.results) == 3
    assert said == ["Kept is left out from now on: found.jsonl: the disk is full"] and (bad.closed, good.closed) == (1, 1)


def test_the_only_sink_that_fails_ends_the_loop(small: Pipeline, clip: Path) -> None:
    loop, bad = Loop(small, open_camera(clip)), Kept(fails=3)
    loop.sinks.append(bad)
    with pytest.raises(EdgesegError, match="the disk is full"):
        loop.run()
    assert loop.stats()["frames"] < 20


def test_broken_pictures_are_said_and_left_out(small: Pipeline, pictures: list[np.ndarray], tmp_path: Path) -> None:
    import cv2

    cv2.imwrite(str(tmp_path / "a.png"), pictures[0])
    (tmp_path / "b.png").write_bytes(b"no picture")
    said: list[str] = []
    assert Loop(small, open_camera(tmp_path), say=said.append).run()["frames"] == 1
    assert len(said) == 1 and "b.png" in said[0]
    (tmp_path / "a.png").unlink()
    with pytest.raises(EdgesegError, match="none of 1 images"):
        Loop(small, open_camera(tmp_path)).run()


def test_a_camera_that_cannot_be_opened_is_an_error(small: Pipeline) -> None:
    with pytest.raises(EdgesegError, match="cannot be opened"):
        Loop(small, open_camera("/dev/nothing-here")).run()


def test_a_camera_that_never_answers_is_named_and_holds_nothing_up(small: Pipeline, monkeypatch: Any) -> None:
    def silent() -> Iterator[np.ndarray]:
        time.sleep(30)
        yield np.zeros((64, 64, 3), np.uint8)

    monkeypatch.setattr("edgeseg.live.loop.PATIENCE_S", 0.3)
    monkeypatch.setattr("edgeseg.live.loop._JOIN_S", 0.3)
    said: list[str] = []
    start = time.monotonic()
    stats = Loop(small, open_camera(silent()), seconds=1, say=said.append).run()
    assert stats["frames"] == 0 and said == ["generator: no frame in 0.3 s"] and time.monotonic() - start < 3


@pytest.mark.parametrize("kind", ["Mjpeg", "Rtsp"])
def test_a_stream_that_comes_back(
    kind: str, small: Pipeline, servers: ModuleType, pictures: list[np.ndarray], until: Callable[..., bool]
) -> None:
    server = getattr(servers, kind)(pictures)
    loop, sink = Loop(small, open_camera(server.url)), Kept()
    loop.sinks.append(sink)
    thread = in_thread(loop)
    assert until(lambda: len(sink.results) >= 5)
    server.stop()
    assert until(lambda: loop.stats()["state"] == "reconnecting")
    frames = loop.stats()["frames"]
    server.start()
    assert until(lambda: loop.stats()["frames"] > frames + 5)
    stats = loop.stats()
    assert stats["reconnects"] == 1 and stats["state"] == "running"
    loop.stop()
    thread.join(15)
    server.stop()
    assert not thread.is_alive() and len(sink.results) == loop.stats()["frames"]


def test_objects_keep_their_ids(pipeline: Pipeline, clip: Path) -> None:
    from edgeseg.vision.track import Tracker

    found = list(Loop(pipeline, open_camera(clip), tracker=Tracker()).results())
    ids = [set(np.asarray(r.ids).tolist()) for r in found]
    # Each picture is shown five times: from its second frame on, the same objects.
    assert all(ids[i + 3] and ids[i + 3] == ids[i + 4] for i in range(0, 40, 5))


def test_temperature_is_one_of_a_processor_or_none() -> None:
    found: Any = temperature()
    assert found is None or -40 < found < 130
