"""``edgeseg run``: the loop of a product: a camera, a model, and where its results go, until it is told to stop."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

from edgeseg.cli import console, flags, light
from edgeseg.cli.flags import RESULTS, flag, word
from edgeseg.errors import EdgesegError
from edgeseg.kernel import handled

if TYPE_CHECKING:
    from edgeseg.live.cameras import Camera
    from edgeseg.live.loop import Loop
    from edgeseg.live.sinks import Video

STATUS_S = 3.0
ONE_S = 0.5  # signals closer together are one: timeout(1) sends its own to the process and to its group
CLEAR = "\r\033[K"
FAINT = 0.1
"""Detections down to this score carry on the objects that a tracker knows; ``--conf`` is what begins one."""
CAMERA, LIMITS = "Camera", "Limits"


def run(
    words: Annotated[list[str] | None, word("The model (default: the newest trained one).", "MODEL")] = None,
    camera: Annotated[
        str, flag("0, /dev/video0, csi:0, gst:PIPELINE, rtsp://..., http://..., a video, a folder.", panel=CAMERA)
    ] = "0",
    size: Annotated[str | None, flag("Size of its frames.", "its own", metavar="WIDTHxHEIGHT", panel=CAMERA)] = None,
    rate: Annotated[float | None, flag("Frames a second that it gives.", "its own", panel=CAMERA)] = None,
    buffer: Annotated[int | None, flag("Frames that its driver holds.", "its own", panel=CAMERA)] = None,
    realtime: Annotated[
        bool, flag("A video plays at its rate, and drops frames as a camera does.", True, "--realtime", panel=CAMERA)
    ] = False,
    conf: flags.Conf = 0.25,
    iou: flags.Iou = 0.7,
    max_det: flags.MaxDet = 300,
    classes: Annotated[str | None, flag("Only these: names or numbers, with commas.", panel="Detection")] = None,
    imgsz: flags.AnySize = None,
    track: Annotated[bool, flag("Give each object an id that stays.", True, "--track", panel="Detection")] = False,
    json: Annotated[
        str | None, flag("Append one line of JSON a frame ('-': standard output).", metavar="FILE", panel=RESULTS)
    ] = None,
    video: Annotated[str | None, flag("Write what is seen, drawn (.mp4, .mkv).", metavar="FILE", panel=RESULTS)] = None,
    mqtt: Annotated[
        str | None, flag("Publish the same lines: mqtt://HOST:1883/TOPIC.", metavar="URL", panel=RESULTS)
    ] = None,
    events: Annotated[str | None, flag("A picture when a class appears or leaves.", metavar="FOLDER", panel=RESULTS)] = None,
    page: Annotated[
        str | None,
        flag("A live page, on this machine alone or at HOST.", metavar="[HOST:]PORT", panel=RESULTS),
    ] = None,
    seconds: Annotated[float | None, flag("End after so long.", False, panel=LIMITS)] = None,
    frames: Annotated[int | None, flag("End after so many results.", False, panel=LIMITS)] = None,
    input: flags.Input = None,
    device: flags.Device = None,
    threads: flags.Threads = None,
) -> None:
    """Run a model on a camera until it ends, or is told to stop.

    SIGTERM and Ctrl-C end it cleanly, with exit code 0: what was captured is inferred and written, files are completed. A
    second signal ends it at once, with 130. Under systemd it says when it is ready, alive and stopping (Type=notify,
    WatchdogSec=30). A camera that is lost is opened again.
    """
    with light.starting():
        from edgeseg.cli.predict import check_detection
        from edgeseg.live.cameras import Wish, open_camera
        from edgeseg.live.loop import Loop
        from edgeseg.live.notify import Service
        from edgeseg.predict.result import class_ids
        from edgeseg.predict.sources import newest_checkpoint
        from edgeseg.running.open import open_model, parse_imgsz

        check_detection(conf, iou, max_det)
        _check(words or [], rate, buffer, seconds, frames)
        # Looked at first: opening a model takes a while, and a typing error should not.
        source = open_camera(camera, wish=Wish(_size(size), rate, buffer), realtime=realtime)
    masks = any(x is not None for x in (json, video, mqtt, events, page))
    with _Signals() as signals:
        with light.starting():
            opened = open_model((words or [newest_checkpoint()])[0], threads=threads, input=input)
            opened = opened.on(device).sized(parse_imgsz(imgsz))
        console.inferred(opened.manifest)
        wanted = class_ids(classes, opened.manifest.names)
        lowest = min(conf, FAINT) if track else conf
        pipeline = opened.pipeline(conf=lowest, iou=iou, max_det=max_det, masks=masks, classes=wanted)
        tracker = _tracker(conf) if track else None
        title = f"{opened.path.name} ({opened.title})"
        loop = Loop(pipeline, source, model=title, tracker=tracker, frames=frames, seconds=seconds, say=_note)
        film = _sinks(loop, source, json=json, video=video, mqtt=mqtt, events=events, page=page)
        service = Service(loop)
        service.start()
        signals.loop = loop
        try:
            with _status(loop):
                stats = loop.run()
        finally:
            service.end()
        _summary(stats, json, [str(f) for f in film.files] if film else [], console.people(json))


def _check(words: list[str], rate: float | None, buffer: int | None, seconds: float | None, frames: int | None) -> None:
    if len(words) > 1:
        raise EdgesegError(f"{len(words)} words where one model belongs", hint="edgeseg run MODEL --camera 0")
    for name, value in (("rate", rate), ("buffer", buffer), ("seconds", seconds), ("frames", frames)):
        if value is not None and not 0 < value < 1e9:
            raise EdgesegError(f"{name} {value:g} is no number above 0")


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = text.lower().replace(",", "x").split("x")
    if len(parts) != 2 or not all(p.strip().isdigit() and int(p) > 0 for p in parts):
        raise EdgesegError(f"size {text!r} is no size", hint="Write width and height: --size 1280x720")
    return int(parts[0]), int(parts[1])


def _tracker(conf: float) -> Any:
    from edgeseg.vision.track import Tracker

    return Tracker(high=conf)


def _note(sentence: str) -> None:
    """One line on standard error, in place of the line of figures on a terminal."""
    if sys.stderr.isatty():
        print(CLEAR, end="", file=sys.stderr)
    console.note(sentence)


def _sinks(
    loop: Loop,
    source: Camera,
    *,
    json: str | None,
    video: str | None,
    mqtt: str | None,
    events: str | None,
    page: str | None,
) -> Video | None:
    """Give the loop its sinks; the video among them."""
    from edgeseg.live.sinks import Events, JsonLines, Video

    # What only looks at words comes first: a typing error leaves nothing behind.
    address = None if page is None else _address(page)
    film = None if video is None else Video(video, measured=source.live)
    if mqtt is not None:
        from edgeseg.live.mqtt import Mqtt

        loop.sinks.append(Mqtt(mqtt, _note))
    if film is not None:
        loop.sinks.append(film)
    if json is not None:
        loop.sinks.append(JsonLines(json, _note))
    if events is not None:
        loop.sinks.append(Events(events))
    if address is not None:
        from edgeseg.live.page import Page

        # A service keeps its address: the token is given from outside, not in a word that all processes can read.
        shown = Page(loop, host=address[0], port=address[1], token=os.environ.get("EDGESEG_PAGE_TOKEN"))
        shown.start()
        _note(f"live page: {shown.url}")
        loop.sinks.append(shown)
    return film


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isdigit() or int(port) > 65535:
        raise EdgesegError(f"page {text!r} is no address", hint="Write a port, or host and port: --page 0.0.0.0:8080")
    return host.strip("[]") or "127.0.0.1", int(port)


class _Signals:
    """The first signal asks the loop to stop, or breaks off what comes before it; a second one raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.loop: Loop | None = None
        self._asked: float | None = None
        numbers = (getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP"))
        self._handled = handled(
            self._stop, [n for n in numbers if n is not None and signal.getsignal(n) is not signal.SIG_IGN]
        )

    def __enter__(self) -> _Signals:
        self._handled.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        self._handled.__exit__(None, None, None)
        early = kind is KeyboardInterrupt and self.loop is None
        if early:
            _note("stopped before the first frame")
        return early

    def _stop(self, *_: object) -> None:
        now = time.monotonic()
        if self._asked is not None and now - self._asked < ONE_S:
            return
        first, self._asked = self._asked is None, now
        if self.loop is None or not first:
            raise KeyboardInterrupt
        self.loop.stop()


@contextmanager
def _status(loop: Loop) -> Iterator[None]:
    """A line of figures every few seconds, where standard error is a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from edgeseg.live.notify import status

    over = threading.Event()

    def work() -> None:
        while not over.wait(STATUS_S):
            print(f"{CLEAR}{status(loop.stats())}", end="", file=sys.stderr, flush=True)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        print(CLEAR, end="", file=sys.stderr, flush=True)


def _summary(stats: dict[str, Any], json: str | None, films: list[str], to: Any) -> None:
    took = stats["uptime_s"]
    rate = f" ({stats['frames'] / took:.1f} a second)" if took else ""
    console.say(
        f"{stats['model']} on {stats['source']}: {stats['frames']} frames in {took:g} s{rate}, "
        f"{stats['dropped']} dropped, {stats['reconnects']} reconnects",
        to=to,
    )
    for place in [*films, *([json] if json not in (None, "-") else [])]:
        console.say(f"written: {place}", to=to)
