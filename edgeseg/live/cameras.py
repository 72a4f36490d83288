"""Where the frames of a loop come from: cameras, streams, recordings, pictures, iterators.

A camera that is lost is opened again, for ever, waiting longer each time; only the first opening may fail.
"""

from __future__ import annotations

import re
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2

from edgeseg.errors import EdgesegError
from edgeseg.predict.sources import IMAGES, STREAMS, VIDEOS, Frame, Unreadable, frames

WAITS_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
TIMEOUT_MS = 10_000
HINT = "Give 0, /dev/video0, csi:0, gst:PIPELINE, rtsp://..., http://..., a video, a folder or a picture"
_POLL_S = 0.1


@dataclass(frozen=True)
class Wish:
    """What a camera is asked for: ``size`` (width, height) in pixels, ``rate`` in frames a second, ``buffer`` in frames."""

    size: tuple[int, int] | None = None
    rate: float | None = None
    buffer: int | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing is asked for."""
        return self.size is None and self.rate is None and self.buffer is None


class Camera(ABC):
    """A source of frames. One thread iterates over it, once; ``close`` may be called from any other.

    Attributes:
        name: for people; passwords of addresses are left out.
        live: frames get stale: whoever comes late takes the newest one, and the rest is dropped.
        connected: False while it is being opened again.
        reconnects: how often it came back.
        say: told what people should know, one sentence at a time.
    """

    def __init__(self, name: str, *, live: bool) -> None:
        self.name, self.live = name, live
        self.connected, self.reconnects = True, 0
        self.say: Callable[[str], None] = lambda sentence: None
        self.closing = False

    def close(self) -> None:
        """End soon: after the frame that is being read."""
        self.closing = True

    @abstractmethod
    def __iter__(self) -> Iterator[Frame | Unreadable]:
        """Frames, each uint8 BGR (H, W, 3).

        Raises:
            EdgesegError: it cannot be opened, or holds nothing.
        """

    def rest(self, seconds: float) -> None:
        """Sleep so long, or until ``close``."""
        until = time.monotonic() + seconds
        while not self.closing and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _POLL_S))


class Recording(Camera):
    """Videos, pictures, folders, globs or an iterator of arrays, as ``edgeseg.predict.sources.frames`` reads them.

    Every frame by default; with ``realtime`` a video plays at its rate, and who comes late misses frames, as of a camera.
    """

    def __init__(self, source: Any, *, realtime: bool = False) -> None:
        named = isinstance(source, str | Path | int)
        super().__init__(str(source) if named else type(source).__name__, live=realtime)
        self._source = source

    def __iter__(self) -> Iterator[Frame | Unreadable]:
        start = time.monotonic()
        for item in frames(self._source):
            if self.live and isinstance(item, Frame) and item.number is not None and item.fps:
                if item.number == 0:
                    start = time.monotonic()
                self.rest(start + item.number / item.fps - time.monotonic())
            if self.closing:
                return
            yield item


class Capture(Camera):
    """A camera or a stream that OpenCV reads; opened again when it ends."""

    def __init__(self, what: int | str, backend: int, name: str, *, wish: Wish, hint: str, timeouts: bool = False) -> None:
        super().__init__(name, live=True)
        self._what, self._backend, self._wish, self._hint = what, backend, wish, hint
        self._limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, TIMEOUT_MS]
        self._timeouts = timeouts

    def __iter__(self) -> Iterator[Frame | Unreadable]:
        capture = self._opened()
        if not capture.isOpened():
            raise EdgesegError("it cannot be opened", path=self.name, hint=self._hint)
        if not self._wish.empty and (given := self._misses(capture)):
            self.say(f"{self.name} gives {given}, not what it was asked for")
        got = 0
        try:
            while not self.closing:
                good, image = capture.read()
                if good and image is not None:
                    got += 1
                    self._back()
                    yield self._frame(image, capture)
                elif not got:
                    raise EdgesegError("not one frame could be read from it", path=self.name, hint=self._hint)
                else:
                    capture.release()
                    capture = self._again()
        finally:
            capture.release()

    def _frame(self, image: Any, capture: cv2.VideoCapture) -> Frame:
        fps = capture.get(cv2.CAP_PROP_FPS)
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if image.ndim == 2 else image
        return Frame(image, self.name, "camera.mp4", None, float(fps) if 0 < fps < 1000 else self._wish.rate)

    def _opened(self) -> cv2.VideoCapture:
        if self._timeouts:
            return cv2.VideoCapture(self._what, self._backend, self._limits)
        capture = cv2.VideoCapture(self._what, self._backend)
        if capture.isOpened() and not self._wish.empty:
            self._ask(capture)
            if self._misses(capture):  # what many USB cameras can do only as JPEG
                capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
                self._ask(capture)
        return capture

    def _ask(self, capture: cv2.VideoCapture) -> None:
        wish = self._wish
        width, height = wish.size or (None, None)
        for prop, value in (
            (cv2.CAP_PROP_FRAME_WIDTH, width),
            (cv2.CAP_PROP_FRAME_HEIGHT, height),
            (cv2.CAP_PROP_FPS, wish.rate),
            (cv2.CAP_PROP_BUFFERSIZE, wish.buffer),
        ):
            if value is not None:
                capture.set(prop, value)

    def _misses(self, capture: cv2.VideoCapture) -> str:
        """What the camera gives in place of what it was asked for; "" where that is the same."""
        width, height = (round(capture.get(p)) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        fps, wish = capture.get(cv2.CAP_PROP_FPS), self._wish
        same = wish.size in (None, (width, height)) and (wish.rate is None or abs(fps - wish.rate) < 0.5)
        return "" if same else f"{width}x{height} at {fps:g} frames a second"

    def _again(self) -> cv2.VideoCapture:
        """Open it again, waiting longer each time; the last attempt where the loop ended meanwhile."""
        self.connected = False
        self.say(f"{self.name}: no more frames; opening it again")
        waits = iter(WAITS_S)
        while True:
            self.rest(next(waits, WAITS_S[-1]))
            capture = cv2.VideoCapture() if self.closing else self._opened()
            if self.closing or (capture.isOpened() and capture.grab()):
                return capture
            capture.release()

    def _back(self) -> None:
        if not self.connected:
            self.connected = True
            self.reconnects += 1
            self.say(f"{self.name}: there again")


class Csi(Camera):
    """A camera of the CSI connector, by Picamera2 (libcamera)."""

    def __init__(self, number: int, wish: Wish) -> None:
        super().__init__(f"csi:{number}", live=True)
        self._number, self._wish = number, wish

    def __iter__(self) -> Iterator[Frame | Unreadable]:
        camera = self._opened()
        try:
            while not self.closing:
                yield Frame(camera.capture_array("main"), self.name, "camera.mp4", None, self._wish.rate or 30.0)
        finally:
            camera.stop()
            camera.close()

    def _opened(self) -> Any:
        try:
            from picamera2 import Picamera2
        except ImportError as e:
            hint = "sudo apt install python3-picamera2, and a Python environment made with --system-site-packages"
            raise EdgesegError("CSI cameras are read by Picamera2, which is not installed", hint=hint) from e
        there = len(Picamera2.global_camera_info())
        if self._number >= there:
            raise EdgesegError(f"libcamera sees {there} cameras", path=self.name, hint="Try: rpicam-hello --list-cameras")
        try:
            camera = Picamera2(self._number)
            # What libcamera calls RGB888 lies in memory as blue, green, red.
            main = {"format": "RGB888", "size": self._wish.size or (1280, 720)}
            wanted: dict[str, Any] = {} if self._wish.buffer is None else {"buffer_count": self._wish.buffer}
            controls = {"FrameRate": self._wish.rate or 30.0}
            camera.configure(camera.create_video_configuration(main=main, controls=controls, **wanted))
            camera.start()
        except (RuntimeError, OSError, ValueError, IndexError) as e:
            raise EdgesegError(f"it cannot be opened ({e})", path=self.name, hint="Is another program using it?") from e
        return camera


def open_camera(source: Any, *, wish: Wish | None = None, realtime: bool = False) -> Camera:
    """The camera that ``source`` names; nothing is opened before the first frame is asked for.

    Args:
        source: a V4L2 camera (``0``, ``/dev/video0``), ``csi`` or ``csi:0`` (Picamera2), ``gst:PIPELINE`` (where OpenCV has
            GStreamer), a stream (``rtsp://``, ``http://``), or what ``edgeseg.predict.sources.frames`` takes: a video, a
            folder, an iterator of arrays ...
        wish: size, rate and buffer, for those that can be asked: V4L2 and CSI.
        realtime: a video plays at its rate.

    Raises:
        EdgesegError: no such source, or an option that it does not know.
    """
    wish = wish or Wish()
    text = str(source) if isinstance(source, str | Path | int) and not isinstance(source, bool) else ""
    camera = _camera(text, wish) if text else None
    if camera is not None and realtime:
        raise EdgesegError(f"{camera.name} is live already", hint="--realtime is for videos")
    askable = isinstance(camera, Csi) or text.isdigit() or text.startswith("/dev/")
    if not askable and not wish.empty:
        what = "size, rate and buffer are asked of V4L2 and CSI cameras only"
        raise EdgesegError(what, path=text or None, hint="Leave --size, --rate and --buffer out")
    if camera is not None:
        return camera
    if realtime and not (text and Path(text).suffix.lower() in VIDEOS):
        raise EdgesegError("only a video has a rate to play at", path=text or None, hint="Leave --realtime out")
    if text and not _is_address(text) and not any(c in text for c in "*?[") and not Path(text).expanduser().exists():
        raise EdgesegError("no such camera, file or folder", path=text, hint=HINT)
    return Recording(source, realtime=realtime)


def _camera(text: str, wish: Wish) -> Camera | None:
    """The live camera that a word names; None where it names files."""
    if text.isdigit() or text.startswith("/dev/"):
        backend = cv2.CAP_V4L2 if sys.platform.startswith("linux") else cv2.CAP_ANY
        name = f"/dev/video{text}" if text.isdigit() else text
        hint = "Check that it is plugged in and not in use: v4l2-ctl --list-devices. CSI cameras: --camera csi"
        return Capture(int(text) if text.isdigit() else text, backend, name, wish=wish, hint=hint)
    if re.fullmatch(r"csi(:\d+)?", text):
        return Csi(int(text[4:] or 0), wish)
    if text.startswith("gst:"):
        return _gstreamer(text[4:].strip(), wish)
    if _is_address(text) and (Path(urlsplit(text).path).suffix.lower() not in VIDEOS | IMAGES or text.startswith(STREAMS)):
        hint = "Check the address, and that this machine reaches it"
        return Capture(text, cv2.CAP_FFMPEG, _without_password(text), wish=wish, hint=hint, timeouts=True)
    return None


def _gstreamer(pipeline: str, wish: Wish) -> Camera:
    if not re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()):
        hint = "Use the OpenCV of the system (sudo apt install python3-opencv), or --camera rtsp://... or /dev/video0"
        raise EdgesegError("this OpenCV was built without GStreamer, as those of pip are", hint=hint)
    if "appsink" not in pipeline:
        pipeline += " ! videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1"
    hint = "Try it with gst-launch-1.0, ending in fakesink"
    return Capture(pipeline, cv2.CAP_GSTREAMER, f"gst:{pipeline}", wish=wish, hint=hint)


def _is_address(text: str) -> bool:
    return text.startswith(("http://", "https://", *STREAMS))


def _without_password(address: str) -> str:
    parts = urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
