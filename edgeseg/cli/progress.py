"""Progress with the time that is left: live lines on a terminal (drawn by rich), plain ones now and then elsewhere."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import IO, Any

from edgeseg.cli.terminal import shorten, wide, width_of
from edgeseg.errors import printable

EVERY_S = 10.0  # between two plain lines
_WINDOW_S = 30.0  # the time over which speed is measured


def drawn(stream: IO[str]) -> bool:
    """Whether live lines can be drawn there: on a terminal that can move its cursor, where rich is installed."""
    return stream.isatty() and os.environ.get("TERM") != "dumb" and find_spec("rich") is not None


def duration(seconds: float) -> str:
    """A rough time for people: ``40 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


@dataclass
class Pace:
    """How far a job is, never backwards, and how long it still takes at the speed of the last half minute."""

    begun: float = field(default_factory=time.monotonic)
    done: float = 0.0
    marks: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=500))

    def reached(self, done: float) -> None:
        """``done`` is a share, 0 to 1."""
        now = time.monotonic()
        if not self.marks or done > self.done:
            self.done = max(self.done, min(done, 1.0))
            self.marks.append((now, self.done))
        # Half a minute, or less where that is many steps: what was slow at the start no longer counts.
        while len(self.marks) > 2 and self.marks[1][0] < now - (_WINDOW_S if len(self.marks) < 12 else 2):
            self.marks.popleft()

    def left(self) -> float | None:
        """Seconds, or None before anything can be said. A job that stands still takes ever longer."""
        gained = self.done - self.marks[0][1] if self.marks else 0.0
        if gained <= 0 or (gained < 0.25 and len(self.marks) < 4):
            return None
        return (1 - self.done) * (time.monotonic() - self.marks[0][0]) / gained

    def time(self) -> str:
        """``12 s left``; as long as that is not known, ``for 3 s``."""
        left, took = self.left(), time.monotonic() - self.begun
        return f"{duration(left)} left" if left is not None else f"for {duration(took)}" if took >= 1 else ""


def words_of(name: str, count: str, time: str, what: str) -> str:
    """A line without a bar: ``name: 3 of 40, 12 s left, image.jpg``."""
    return printable(f"{name}: {', '.join(p for p in (count, time, what) if p)}")


def line_of(name: str, share: float | None, count: str, time: str, what: str, columns: int, bar: str = "━╌") -> str:
    """A live line in so many columns: name, bar, count, time, words; the bar and the words give way first."""
    fixed = f"{count:>5}  {time:<11}"
    name = _name(name, max(12, columns // 2))
    spare = columns - wide(name) - wide(fixed) - 4
    if share is not None and spare >= 8:
        size = min(24, max(8, spare - wide(what) - 2))
        full = round(size * share)
        name, spare = f"{name}  {bar[0] * full}{bar[1] * (size - full)}", spare - size - 2
    what = what if wide(what) <= spare else (what[: max(spare - 3, 0)] + "..." if spare >= 8 else "")
    return printable(f"{name}  {fixed}  {what}").rstrip()[:columns]


def _name(words: str, columns: int) -> str:
    """A name in which only the paths give way."""
    over = wide(words) - columns
    if over > 0:
        parts = words.split(" ")
        longest = max(range(len(parts)), key=lambda k: wide(parts[k]))
        parts[longest] = shorten(parts[longest], max(8, wide(parts[longest]) - over))
        words = " ".join(parts)
    return words if wide(words) <= columns else words[: max(columns - 3, 1)] + "..."


class _Live:
    """The live lines of what runs now, below everything that is printed meanwhile; all jobs of the command share them."""

    now: _Live | None = None

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        # A stream of its own: what a library writes below Python can be kept away meanwhile, and this is still drawn.
        self._file = open(os.dup(sys.stderr.fileno()), "w", encoding=sys.stderr.encoding, errors="replace")  # noqa: SIM115
        self._console = Console(file=self._file)
        self._jobs: dict[str, Callable[[int], str]] = {}
        more: dict[str, Any] = {"transient": True, "refresh_per_second": 5, "redirect_stdout": sys.stdout.isatty()}
        self._live = Live(get_renderable=self._text, console=self._console, **more)

    def _text(self) -> Any:
        from rich.text import Text

        columns, rows = (width_of(sys.__stderr__ or sys.stderr) or 80) - 4, max(3, self._console.size.height - 2)
        lines = [job(columns) for job in list(self._jobs.values())]
        more = len(lines) - rows
        if more > 0:
            lines[rows - 1 :] = [f"and {more + 1} more"]
        return Text("\n".join(lines), no_wrap=True, overflow="crop")

    @classmethod
    @contextmanager
    def shared(cls) -> Iterator[_Live]:
        """The lines that are there, or new ones, which go when this is left; so do those of the jobs begun inside."""
        outer = cls.now
        live = outer or cls()
        before = set(live._jobs)
        if outer is None:
            cls.now = live
            live._live.start()
        try:
            yield live
        finally:
            for name in set(live._jobs) - before:
                live.forget(name)
            if outer is None:
                cls.now = None
                live._live.stop()
                live._file.close()

    def show(self, name: str, job: Callable[[int], str]) -> None:
        self._jobs[name] = job

    def forget(self, name: str) -> None:
        self._jobs.pop(name, None)


class Progress:
    """Progress of one long job; ``update`` is what jobs call with how many are done and, perhaps, of how many."""

    def __init__(self, label: str, total: int | None, tell: Callable[[], None] = lambda: None) -> None:
        self.label, self.total, self.done, self.what = label, total, 0, ""
        self._tell, self._pace = tell, Pace()

    def update(self, done: int, total: int | None = None, what: str = "") -> None:
        """``done`` of ``total`` are finished."""
        if total is not None and total != self.total:
            self.total, self._pace = total, Pace()
        self.done, self.what = done, what
        self._pace.reached(done / max(self.total or 0, done, 1) if self.total else 0.0)
        self._tell()

    def advance(self, what: str = "") -> None:
        """One more is done."""
        self.update(self.done + 1, what=what)

    def count(self) -> str:
        """``3 of 40``, or what is known."""
        return f"{self.done} of {self.total}" if self.total else str(self.done) if self.done else ""

    def words(self) -> str:
        """The job as a plain line."""
        return words_of(self.label, self.count(), self._pace.time(), self.what)

    def line(self, columns: int) -> str:
        """The job as a live line."""
        share = self._pace.done if self.total else None
        return line_of(self.label, share, self.count(), self._pace.time(), self.what, columns, _bar())


def _bar() -> str:
    return "━╌" if "utf" in (getattr(sys.__stderr__, "encoding", None) or "").lower() else "#."


@contextmanager
def progress(label: str, total: int | None = None) -> Iterator[Progress]:
    """A live line on standard error with the time that is left; elsewhere than on a terminal, one every 10 seconds."""
    if drawn(sys.stderr):
        with _Live.shared() as live:
            job = Progress(label, total)
            live.show(label, job.line)
            yield job
        return
    last = time.monotonic()

    def plain() -> None:
        nonlocal last
        if time.monotonic() - last >= EVERY_S:
            last = time.monotonic()
            print(job.words(), file=sys.stderr, flush=True)

    job = Progress(label, total, plain)
    yield job


@contextmanager
def steps() -> Iterator[Callable[[str, float, str], None]]:
    """Live lines on standard error, one for each step that runs: yields ``line(name, done, words)``, ``done`` from 0 to 1.

    A step that is done (1.0) leaves a line with how it ended and how long it took; one without words leaves none.
    Elsewhere than on a terminal a line is printed when a step begins and ends, and every 10 seconds.
    """
    paces: dict[str, Pace] = {}
    said: dict[str, tuple[float, str]] = {}
    lock = threading.Lock()

    def ended(name: str, words: str) -> None:
        pace = paces.pop(name, None)
        took = time.monotonic() - pace.begun if pace else 0.0
        if words:
            print(printable(f"{name}: {words}{f' in {duration(took)}' if took >= 1 else ''}"), file=sys.stderr, flush=True)

    if not drawn(sys.stderr):

        def plain(name: str, done: float, words: str) -> None:
            with lock:
                if done >= 1:
                    said.pop(name, None)
                    ended(name, words)
                    return
                paces.setdefault(name, Pace()).reached(done)
                if name not in said or time.monotonic() - said[name][0] >= EVERY_S:
                    said[name] = (time.monotonic(), words)
                    line = words_of(name, f"{100 * paces[name].done:.0f} %", paces[name].time(), words)
                    print(line, file=sys.stderr, flush=True)

        yield plain
        return
    with _Live.shared() as live:

        def draw(name: str, done: float, words: str) -> None:
            with lock:
                if done >= 1:
                    live.forget(name)
                    ended(name, words)
                    return
                pace = paces.setdefault(name, Pace())
                pace.reached(done)
                live.show(name, partial(_step_line, name, pace, words))

        yield draw


def _step_line(name: str, pace: Pace, words: str, columns: int) -> str:
    return line_of(name, pace.done, f"{100 * pace.done:.0f} %", pace.time(), words, columns, _bar())
