"""The loop: one thread captures, the caller's infers, a third one writes."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseg.errors import EdgesegError
from edgeseg.live.belt import Belt
from edgeseg.live.cameras import Camera
from edgeseg.live.outlet import Outlet, Sink
from edgeseg.predict.result import Result, predict_frame
from edgeseg.predict.sources import Frame, Unreadable

if TYPE_CHECKING:
    from edgeseg.running.pipeline import Pipeline

WINDOW_S = 5.0
"""Over so many seconds the frame rate is taken."""
AHEAD = 2
"""Frames of a recording that may wait for inference; of a live camera it is one, the newest."""
PATIENCE_S = 10.0
"""Who waits so long for the first frame is told so: some drivers never answer."""
_POLL_S, _JOIN_S = 0.05, 2.0


@dataclass(frozen=True)
class Captured:
    """A frame, numbered in the order of capture, and when it was captured (see ``Result.time``)."""

    frame: Frame
    number: int
    time: float


class Loop:
    """Runs a model on a camera, once. Every method but ``run`` and ``results`` may be called by any thread.

    Args:
        pipeline: the model; used by the thread that calls ``run`` or iterates ``results``.
        camera: see ``open_camera``.
        model: its name, for people.
        tracker: an ``edgeseg.vision.track.Tracker``, which gives objects their ids.
        frames: end after so many results. seconds: end after so long.
        say: told what people should know (a camera lost, a sink that fails), one sentence at a time.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        camera: Camera,
        *,
        model: str = "",
        tracker: Any = None,
        frames: int | None = None,
        seconds: float | None = None,
        say: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self.pipeline, self.camera, self.model, self.tracker = pipeline, camera, model, tracker
        self.sinks: list[Sink] = []
        self._most, self._seconds, self._say = frames, seconds, say
        self._stopping = self._paused = self._ended = self._impatient = False
        self._belt: Belt[Captured] = Belt(1 if camera.live else AHEAD, newest=camera.live, broken=self._over)
        self._frames, self._unreadable, self._last = 0, 0, ""
        self._result: Result | None = None
        self._failure: Exception | None = None
        self._start = self._end = time.monotonic()
        self._times: deque[float] = deque(maxlen=1000)

    @property
    def paused(self) -> bool:
        """Whether frames are left alone for now."""
        return self._paused

    def pause(self) -> None:
        """Leave frames alone until ``resume``: a recording waits, what a live camera sees meanwhile is not counted."""
        self._paused = True

    def resume(self) -> None:
        """Go on after ``pause``."""
        self._paused = False

    def stop(self) -> None:
        """End: what was captured is still inferred and written. Sets flags only, so signal handlers may call it."""
        self._stopping = True
        self.camera.close()

    def stats(self) -> dict[str, Any]:
        """Figures of now, plain values for JSON.

        ``frames`` (inferred), ``dropped`` (captured, never inferred), ``reconnects``, ``objects`` (of the last frame),
        ``fps`` (over the last seconds), ``ms`` (of the last frame: ``preprocess``, ``inference``, ``postprocess``),
        ``temperature`` (degrees Celsius, or None), ``uptime_s``, ``paused``, ``source``, ``model``, and ``state``:
        ``running``, ``reconnecting``, ``paused`` or ``ended``.
        """
        result = self._result
        return {
            "frames": self._frames,
            "dropped": self._belt.lost,
            "reconnects": self.camera.reconnects,
            "objects": 0 if result is None else len(result),
            "fps": round(self._fps(), 2),
            "ms": {} if result is None else {k: round(float(v), 3) for k, v in result.speed.items()},
            "temperature": temperature(),
            "uptime_s": round((self._end if self._ended else time.monotonic()) - self._start, 1),
            "paused": self._paused,
            "source": self.camera.name,
            "model": self.model,
            "state": self._state(),
        }

    def _state(self) -> str:
        if self._ended:
            return "ended"
        if self._paused:
            return "paused"
        return "running" if self.camera.connected else "reconnecting"

    def _fps(self) -> float:
        now = self._end if self._ended else time.monotonic()
        recent = [t for t in tuple(self._times) if now - t <= WINDOW_S]
        return (len(recent) - 1) / (now - recent[0]) if len(recent) > 1 and now > recent[0] else 0.0

    def run(self) -> dict[str, Any]:
        """Give every result to ``sinks`` until the camera ends, ``stop`` is called, or a limit is reached.

        Returns:
            ``stats`` at the end.

        Raises:
            EdgesegError: the camera cannot be opened, no frame could be read, or no sink is left. An exception of the last
                sink is raised as it is.
        """
        outlet = Outlet(self.sinks, self._say)
        try:
            for result in self.results():
                if not outlet.put(result):
                    break
        except Exception:  # a KeyboardInterrupt waits for no sink
            outlet.finish()
            raise
        outlet.finish()
        if outlet.failure is not None:
            raise outlet.failure
        return self.stats()

    def results(self) -> Iterator[Result]:
        """Results one by one, for whoever handles them in person; ``sinks`` get nothing."""
        self._start = time.monotonic()
        thread = threading.Thread(target=self._capture, name="edgeseg-capture", daemon=True)
        thread.start()
        try:
            while (captured := self._next()) is not None:
                result = self._infer(captured)
                self._result, self._frames = result, self._frames + 1
                self._times.append(time.monotonic())
                yield result
                if self._frames == self._most:
                    break
        finally:
            self.stop()
            self._belt.end()
            thread.join(_JOIN_S)  # one that waits for a dead camera is left behind
            self._end, self._ended = time.monotonic(), True
        if self._failure is not None:
            raise self._failure
        if not self._frames and self._unreadable:
            raise EdgesegError(f"none of {self._unreadable} images could be read: {self._last}", path=self.camera.name)

    def _infer(self, captured: Captured) -> Result:
        result = replace(predict_frame(self.pipeline, captured.frame), number=captured.number, time=captured.time)
        return result if self.tracker is None else result.tracked(self.tracker)

    def _next(self) -> Captured | None:
        """The next frame to infer; None at the end."""
        while self._paused and not self._over():
            if self.camera.live:
                self._belt.clear()
            time.sleep(_POLL_S)
        return self._belt.take()

    def _over(self) -> bool:
        """Whether nothing more is to be captured."""
        took = time.monotonic() - self._start
        if self._seconds is not None and took >= self._seconds:
            self.stop()
        if took >= PATIENCE_S and not self._frames and not self._impatient:
            self._impatient = True
            self._say(f"{self.camera.name}: no frame in {PATIENCE_S:g} s")
        return self._stopping

    def _capture(self) -> None:
        self.camera.say = self._say
        number = 0
        try:
            for item in self.camera:
                if self._over():
                    break
                if isinstance(item, Unreadable):
                    self._unreadable, self._last = self._unreadable + 1, item.reason
                    self._say(f"{item.path}: {item.reason}; skipped")
                elif not (self._paused and self.camera.live):
                    if not self._belt.put(Captured(item, number, self._time(item))):
                        break
                    number += 1
        except Exception as e:  # raised again by the thread that infers
            self._failure = e
        finally:
            self._belt.end()

    def _time(self, frame: Frame) -> float:
        recorded = not self.camera.live and frame.number is not None and frame.fps
        return frame.number / frame.fps if recorded and frame.number is not None and frame.fps else time.time()


def temperature() -> float | None:
    """Degrees Celsius of the processor, as Linux tells them; None where it does not."""
    found: float | None = None
    for zone in sorted(Path("/sys/class/thermal").glob("thermal_zone*")):
        try:
            kind, value = (zone / "type").read_text(), int((zone / "temp").read_text()) / 1000
        except (OSError, ValueError):
            continue
        if "cpu" in kind.lower():
            return value
        found = value if found is None else found
    return found
