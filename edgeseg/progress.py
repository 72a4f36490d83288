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
from importlib.util import find_spec
from typing import Any

from edgeseg.errors import printable
from edgeseg.terminal import shortened, wide, width_of

EVERY_S = 10.0  # between two plain lines
_WINDOW_S = 30.0  # the time over which speed is measured


def duration(seconds: float) -> str:
    """A rough time for people: ``40 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


@dataclass
class Pace:
    """How far a job is, never backwards, and how long it still takes at the speed of the last half minute."""

    begun: float = field(default_factory=lambda: time.monotonic())
    done: float = 0.0
    usual: float = 0.0  # seconds that it took before, where that is known
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

    def time(self) -> str:
        """``12 s left``, ever longer while nothing moves; as long as nothing can be said, ``for 3 s``."""
        now, gained = time.monotonic(), self.done - self.marks[0][1] if self.marks else 0.0
        if gained > 0 and (gained >= 0.25 or len(self.marks) >= 4):
            return f"{duration((1 - self.done) * (now - self.marks[0][0]) / gained)} left"
        took = now - self.begun
        if self.usual and took < self.usual:
            return f"about {duration(self.usual - took)} left"
        return f"for {duration(took)}" if took >= 1 else ""


@dataclass
class Job:
    """What runs now: ``count`` says how far (``3 of 40``, ``12 %``), ``what`` with what."""

    name: str
    count: str = ""
    what: str = ""
    total: int | None = None
    pace: Pace = field(default_factory=Pace)
    said: float | None = None

    def text(self) -> str:
        """As a plain line: ``name: 3 of 40, 12 s left, image.jpg``."""
        return printable(f"{self.name}: {', '.join(p for p in (self.count, self.pace.time(), self.what) if p)}")

    def line(self, columns: int, bar: str) -> str:
        """As a live line in so many columns: name, bar, count, time, words; the bar and the words give way first."""
        name, fixed = shortened(self.name, max(12, columns // 2)), f"{self.count:>5}  {self.pace.time():<11}"
        spare = columns - wide(name) - wide(fixed) - 4
        if self.total != 0 and spare >= 8:
            size = min(24, max(8, spare - wide(self.what) - 2))
            full = round(size * self.pace.done)
            name, spare = f"{name}  {bar[0] * full}{bar[1] * (size - full)}", spare - size - 2
        what = self.what if wide(self.what) <= spare else f"{self.what[: spare - 3]}..." if spare >= 8 else ""
        return printable(f"{name}  {fixed}  {what}").rstrip()[:columns]


class _Shown:
    """The jobs that run now; all parts of a command share the one that is open."""

    now: _Shown | None = None

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self._lock, self._live = threading.Lock(), None
        if sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and find_spec("rich") is not None:
            from rich.console import Console
            from rich.live import Live

            # A stream of its own: what libraries write below Python can be kept away meanwhile, and this is still drawn.
            self._file = open(os.dup(sys.stderr.fileno()), "w", encoding=sys.stderr.encoding, errors="replace")  # noqa: SIM115
            more: dict[str, Any] = {"transient": True, "refresh_per_second": 5, "redirect_stdout": sys.stdout.isatty()}
            self._live = Live(get_renderable=self._text, console=Console(file=self._file), **more)

    @classmethod
    @contextmanager
    def shared(cls) -> Iterator[_Shown]:
        """The one that is open, or a new one; the jobs that are begun inside go when this is left."""
        outer = cls.now
        shown = cls.now = outer or cls()
        before = set(shown.jobs)
        if outer is None and shown._live is not None:
            shown._live.start()
        try:
            yield shown
        finally:
            for name in set(shown.jobs) - before:
                shown.jobs.pop(name, None)
            cls.now = outer
            if outer is None and shown._live is not None:
                shown._live.stop()
                shown._file.close()

    def update(
        self, name: str, share: float, count: str, what: str, total: int | None = None, begin: bool = True, usual: float = 0
    ) -> None:
        """How far a job is; ``begin``: a plain line says at once that it has begun; ``usual``: seconds that it takes."""
        with self._lock:
            job = self.jobs.setdefault(name, Job(name, total=total))
            if total != job.total or share < job.pace.done / 2:  # the same once more
                job.total, job.pace = total, Pace()
            job.count, job.what = count, what
            job.pace.usual = usual
            job.pace.reached(share)
            if job.said is None:
                job.said = -EVERY_S if begin else job.pace.begun
            if self._live is None and time.monotonic() - job.said >= EVERY_S:
                job.said = time.monotonic()
                print(job.text(), file=sys.stderr, flush=True)

    def end(self, name: str, words: str) -> None:
        """A job is done; with words a line says so, and how long it took."""
        with self._lock:
            job = self.jobs.pop(name, None)
            took = time.monotonic() - job.pace.begun if job else 0.0
            if words:
                print(
                    printable(f"{name}: {words}{f' in {duration(took)}' if took >= 1 else ''}"), file=sys.stderr, flush=True
                )

    def _text(self) -> Any:
        from rich.text import Text

        console, bar = self._live.console if self._live else None, "━╌" if "utf" in self._file.encoding.lower() else "#."
        columns, rows = (width_of(self._file) or 80) - 4, max(3, (console.height if console else 24) - 2)  # -4: ^C is echoed
        lines = [job.line(columns, bar) for job in list(self.jobs.values())]
        if len(lines) > rows:
            lines[rows - 1 :] = [f"and {len(lines) - rows + 1} more"]
        return Text("\n".join(lines), no_wrap=True, overflow="crop")


class Progress:
    """Progress of one long job; ``update`` is what jobs call with how many are done and, perhaps, of how many."""

    def __init__(self, label: str, total: int | None, shown: _Shown, unit: Callable[[int], str] = str) -> None:
        self.label, self.total, self.done, self._shown, self._unit = label, total, 0, shown, unit
        self._lock = threading.Lock()

    def update(self, done: int, total: int | None = None, what: str = "") -> None:
        """``done`` of ``total`` are finished."""
        self.done, self.total = done, total if total is not None else self.total
        count = f"{self._unit(done)} of {self._unit(self.total)}" if self.total else self._unit(done) if done else ""
        self._shown.update(
            self.label, done / (self.total or max(done, 1)) if self.total else 0, count, what, self.total or 0, False
        )

    def advance(self, more: int = 1) -> None:
        """So many more are done; several threads may say so."""
        with self._lock:
            self.update(self.done + more)


@contextmanager
def progress(label: str, total: int | None = None, done: int = 0, unit: Callable[[int], str] = str) -> Iterator[Progress]:
    """A live line on standard error with the time that is left; elsewhere than on a terminal, one every 10 seconds."""
    with _Shown.shared() as shown:
        job = Progress(label, total, shown, unit)
        job.update(done)
        yield job


@contextmanager
def steps() -> Iterator[Callable[..., None]]:
    """Live lines on standard error, one for each step that runs: yields ``line(name, done, words, usual=0)``.

    ``done`` goes from 0 to 1; ``usual`` is how many seconds the step took before, for one that says little of itself.

    A step that is done (1.0) leaves a line with how it ended and how long it took; one without words leaves none.
    Elsewhere than on a terminal a line is printed when a step begins and ends, and every 10 seconds.
    """
    with _Shown.shared() as shown:

        def line(name: str, done: float, words: str, usual: float = 0.0) -> None:
            if done >= 1:
                shown.end(name, words)
            else:
                shown.update(name, done, f"{100 * done:.0f} %", words, usual=usual)

        yield line
