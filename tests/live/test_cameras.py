"""Cameras: real servers on this machine that go away and come back, videos at their rate, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest

from edgeseg.errors import EdgesegError
from edgeseg.live.cameras import Camera, Capture, Csi, Recording, Wish, open_camera
from edgeseg.predict.sources import Frame, frames

ROOT = Path(__file__).resolve().parents[2]


def images(camera: Camera) -> Iterator[np.ndarray]:
    for item in camera:
        assert isinstance(item, Frame)
        yield item.image


def test_a_video_gives_every_frame(clip: Path) -> None:
    expected = [f.image for f in frames(clip) if isinstance(f, Frame)]
    found = list(images(open_camera(clip)))
    assert len(found) == len(expected) == 40
    assert all((a == b).all() for a, b in zip(found, expected))


def test_a_video_in_real_time_takes_its_time(clip: Path) -> None:
    camera = open_camera(str(clip), realtime=True)
    start = time.monotonic()
    assert camera.live and len(list(camera)) == 40
    assert 1.9 <= time.monotonic() - start < 5  # 39 intervals of 50 ms


def test_close_ends_a_wait(clip: Path) -> None:
    camera = open_camera(clip, realtime=True)
    threading.Timer(0.3, camera.close).start()
    start = time.monotonic()
    assert 0 < len(list(camera)) < 12
    assert time.monotonic() - start < 1.5


def test_an_iterator_and_a_folder(pictures: list[np.ndarray], tmp_path: Path) -> None:
    assert [(a == b).all() for a, b in zip(images(open_camera(iter(pictures))), pictures)] == [True] * 8
    for number, picture in enumerate(pictures[:3]):
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture)
    assert len(list(images(open_camera(tmp_path)))) == 3
    assert len(list(images(open_camera(f"{tmp_path}/[01].png")))) == 2


@pytest.mark.parametrize("kind", ["Mjpeg", "Rtsp"])
def test_a_stream_that_goes_away_is_opened_again(
    kind: str, servers: ModuleType, pictures: list[np.ndarray], until: Callable[..., bool]
) -> None:
    server = getattr(servers, kind)(pictures)
    camera = open_camera(server.url)
    said: list[str] = []
    camera.say = said.append
    seen: list[np.ndarray] = []

    def read() -> None:
        seen.extend(images(camera))

    thread = threading.Thread(target=read)
    thread.start()
    assert until(lambda: len(seen) >= 5) and camera.connected and camera.reconnects == 0
    server.stop()
    assert until(lambda: not camera.connected)
    before = len(seen)
    server.start()
    assert until(lambda: camera.connected)
    assert until(lambda: len(seen) >= before + 5) and camera.reconnects == 1
    camera.close()
    thread.join(15)
    server.stop()
    assert not thread.is_alive() and len(said) == 2 and "again" in said[0] and "there again" in said[1]
    # What came is what the server showed: JPEG takes a few grey levels at most.
    for image in (seen[0], seen[-1]):
        assert image.shape == (160, 160, 3)
        assert min(np.abs(image.astype(int) - p).mean() for p in pictures) < 8


def test_a_stream_that_is_not_there(servers: ModuleType, pictures: list[np.ndarray]) -> None:
    server = servers.Mjpeg(pictures)
    server.stop()
    with pytest.raises(EdgesegError, match="cannot be opened"):
        next(iter(open_camera(server.url)))


def test_passwords_are_not_shown() -> None:
    camera = open_camera("rtsp://me:secret@192.0.2.1:554/stream?x=1")
    assert isinstance(camera, Capture) and camera.name == "rtsp://192.0.2.1:554/stream?x=1"


def test_words_for_cameras() -> None:
    kinds = {"0": Capture, "/dev/video2": Capture, "csi": Csi, "csi:1": Csi, "http://192.0.2.1/a.mp4": Recording}
    for word, kind in {**kinds, "http://192.0.2.1/shot.jpg": Recording, "https://192.0.2.1/stream": Capture}.items():
        assert type(open_camera(word)) is kind, word
    assert [open_camera(w).name for w in ("0", "csi:1")] == ["/dev/video0", "csi:1"]
    wish = Wish((640, 480), 30.0, 2)
    assert open_camera("csi", wish=wish).live and open_camera("0", wish=wish).live


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        ("nothing.mp4", {}, "no such camera"),
        ("csi:x", {}, "no such camera"),
        ("{clip}", {"wish": Wish((640, 480))}, "V4L2 and CSI"),
        ("rtsp://192.0.2.1/x", {"wish": Wish(rate=5)}, "V4L2 and CSI"),
        ("0", {"realtime": True}, "live already"),
        ("{folder}", {"realtime": True}, "only a video"),
        (True, {}, "cannot read images"),
    ],
)
def test_what_is_refused(source: Any, options: dict[str, Any], words: str, clip: Path) -> None:
    if isinstance(source, str):
        source = source.format(clip=clip, folder=clip.parent)
    with pytest.raises(EdgesegError, match=words):
        list(open_camera(source, **options))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="V4L2 is Linux's")
def test_no_such_device() -> None:
    with pytest.raises(EdgesegError, match=r"/dev/video77.*cannot be opened.*--camera csi"):
        list(open_camera("77"))


def test_csi_without_picamera2_says_what_to_install() -> None:
    try:
        import picamera2  # noqa: F401
    except ImportError:
        with pytest.raises(EdgesegError, match="apt install python3-picamera2"):
            list(open_camera("csi"))
    else:
        pytest.skip("Picamera2 is installed here")


def test_gstreamer_where_opencv_has_none() -> None:
    if "GStreamer:                   NO" not in cv2.getBuildInformation():
        pytest.skip("this OpenCV has GStreamer")
    with pytest.raises(EdgesegError, match="without GStreamer"):
        open_camera("gst:videotestsrc num-buffers=3")


GST = """
import os
import subprocess
import sys
from edgeseg.live import open_camera

camera = open_camera("gst:videotestsrc num-buffers=15 ! video/x-raw,width=320,height=240,framerate=30/1")
for frame in camera:
    if camera.reconnects:
        camera.close()
print(frame.image.shape, frame.image[5, 5].tolist(), frame.image[5, 300].tolist(), camera.reconnects)
"""


def test_gstreamer_where_the_opencv_of_the_system_has_it() -> None:
    has = "import cv2; print('GStreamer:                   YES' in cv2.getBuildInformation())"
    python = Path("/usr/bin/python3")
    if not python.exists() or "True" not in done(python, has):
        pytest.skip("no OpenCV with GStreamer (apt install python3-opencv gstreamer1.0-plugins-base)")
    assert done(python, GST).split("\n")[-2] == "(240, 320, 3) [255, 255, 255] [255, 0, 0] 1"  # its bars: white ... blue


def done(python: Path, code: str) -> str:
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [str(python), "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environ, timeout=60).stdout
