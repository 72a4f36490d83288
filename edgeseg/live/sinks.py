"""Where the results of a loop go: JSON lines, a video, pictures of events. MQTT and the page have modules of their own."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO

from edgeseg.errors import EdgesegError
from edgeseg.predict.result import Result, write_image
from edgeseg.predict.writer import Writer
from edgeseg.store import make_folder, write_atomically

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CONTAINERS = frozenset({".avi", ".mkv", ".mov", ".mp4"})
AWAY_S = 5.0
"""A class has left when it was not seen for so long; coming back within it is no event."""
FREE_BYTES = 20_000_000
"""With less free space a video is not gone on with: OpenCV would not say that the disk is full."""
_HELD = 10


class Record:
    """Results as plain values, for JSON."""

    def __init__(self) -> None:
        self._count = 0

    def line(self, result: Result) -> str:
        """``time``, ``dropped`` (frames lost before this one), and what ``Result.to_dict`` gives, in one line of JSON."""
        number = self._count if result.number is None else result.number
        head = {"time": None if result.time is None else round(result.time, 3), "dropped": number - self._count}
        self._count += 1
        return json.dumps(head | result.to_dict(), separators=(",", ":"))


class JsonLines:
    """One JSON object a line, one line a result, each written whole and at once; a file is appended to.

    Args:
        place: a file, or ``-`` for standard output.
        say: told what was done to a file that was cut off.

    Raises:
        EdgesegError: its folder does not exist, it cannot be written, or what is in the file is no JSON line.
    """

    def __init__(self, place: str, say: Callable[[str], None] = lambda sentence: None) -> None:
        self._record, self._place = Record(), place
        self._fd = 1 if place == "-" else _appended(Path(place), say)
        self._regular = stat.S_ISREG(os.fstat(self._fd).st_mode)

    def put(self, result: Result) -> None:
        """Write one line.

        Raises:
            EdgesegError: the disk is full; what was written of the line is taken back.
        """
        line = f"{self._record.line(result)}\n".encode()
        start, done = os.fstat(self._fd).st_size, 0
        try:
            while done < len(line):
                done += os.write(self._fd, line[done:])
        except OSError as e:
            if self._regular and done:
                os.ftruncate(self._fd, start)
            if isinstance(e, BrokenPipeError):
                raise
            hint = "Free some space, or give --json a file on another disk"
            raise EdgesegError(unwritten(e), path=self._place, hint=hint) from e

    def close(self) -> None:
        """Close the file; standard output stays open."""
        if self._fd > 1:
            os.close(self._fd)


def unwritten(e: OSError) -> str:
    """What an error of the file system means."""
    return "the disk is full" if e.errno in _FULL else f"it cannot be written ({(e.strerror or str(e)).lower()})"


def _appended(file: Path, say: Callable[[str], None]) -> int:
    if not file.parent.is_dir():
        raise EdgesegError("its folder does not exist", path=file, hint=f"mkdir -p {file.parent}")
    try:
        fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0), 0o666)
    except OSError as e:
        raise EdgesegError(unwritten(e), path=file, hint="Name another file") from e
    if not stat.S_ISREG(os.fstat(fd).st_mode) or not (size := os.fstat(fd).st_size):
        return fd
    with file.open("rb") as content:
        strange, whole = content.read(1) != b"{", _whole_lines(content, size)
    if strange:
        os.close(fd)
        raise EdgesegError("there is something else than JSON lines in this file", path=file, hint="Name another file")
    if whole < size:
        os.ftruncate(fd, whole)
        say(f"{file}: its last line was cut off and is removed ({size - whole} bytes)")
    return fd


def _whole_lines(content: IO[bytes], size: int) -> int:
    """Bytes up to the end of the last whole line."""
    end = size
    while end > 0:
        start = max(0, end - (1 << 16))
        content.seek(start)
        found = content.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


class Video:
    """One annotated video. A file of that name stays: ours gets ``-2``, ``-3`` ..., and so does each new size of frames.

    Args:
        place: the file; its suffix says which container: an .mp4 can be read once it is closed, an .mkv or .avi always.
        measured: play it at the rate at which the first results came, in place of the camera's: with dropped frames it would
            be too fast.

    Attributes:
        files: what was begun.

    Raises:
        EdgesegError: no container has this suffix, or its folder does not exist.
    """

    def __init__(self, place: str, *, measured: bool = False) -> None:
        path = Path(place)
        if path.suffix.lower() not in CONTAINERS:
            raise EdgesegError(f"no video has the suffix {path.suffix!r}", path=path, hint="Use .mp4, .mkv or .avi")
        if not path.parent.is_dir():
            raise EdgesegError("its folder does not exist", path=path, hint=f"mkdir -p {path.parent}")
        self._place, self._rate, self._waiting = path, 0.0, measured
        self._held: list[Result] = []
        self._shape: tuple[int, ...] = ()
        self._writer = Writer(lambda: path.parent)
        self.files: list[Path] = []

    def put(self, result: Result) -> None:
        """Draw and write one frame.

        Raises:
            EdgesegError: the disk is full, or the video cannot be written.
        """
        self._held.append(result)
        if not self._waiting or len(self._held) >= _HELD:
            self._release()

    def close(self) -> None:
        """Complete the file."""
        with self._writer:
            self._release()

    def _release(self) -> None:
        if self._waiting and self._held:
            self._rate, self._waiting = _rate(self._held), False
        for result in self._held:
            self._write(result)
        self._held.clear()

    def _write(self, result: Result) -> None:
        if shutil.disk_usage(self._place.parent).free < FREE_BYTES:
            hint = "Free some space, or give --video a file on another disk"
            raise EdgesegError("the disk is full", path=self._place, hint=hint)
        if result.image.shape != self._shape:
            self._shape = result.image.shape
            self.files.append(free_place(self._place))
        name = self.files[-1].name
        self._writer.write(replace(result, path=name, name=name, fps=self._rate or result.fps))


def _rate(results: list[Result]) -> float:
    """Frames a second at which results came; 0 where that cannot be told."""
    times = [r.time for r in results if r.time is not None]
    span = times[-1] - times[0] if len(times) > 1 else 0.0
    return min(240.0, (len(times) - 1) / span) if span > 0 else 0.0


def free_place(path: Path) -> Path:
    """``path``, or where that exists the same with ``-2``, ``-3`` ... before its suffix."""
    number, place = 2, path
    while os.path.lexists(place):
        place, number = path.with_name(f"{path.stem}-{number}{path.suffix}"), number + 1
    return place


class Events:
    """A picture and a JSON file each time that a class appears or leaves.

    A class appears with the first frame that shows it, and has left when no frame of the last ``AWAY_S`` seconds did: what
    flickers, or hides for a moment, makes no events. The picture of leaving is the frame at which that was clear.

    Raises:
        EdgesegError: the folder cannot be made.
    """

    def __init__(self, folder: str) -> None:
        self._folder = make_folder(Path(folder))
        self._seen: dict[str, float] = {}
        self.count = 0

    def put(self, result: Result) -> None:
        """Write the events of one result.

        Raises:
            EdgesegError, OSError: they cannot be written.
        """
        now = time.time() if result.time is None else result.time
        there = {result.names[int(c)] for c in result.detections.classes}
        for name in sorted(there):
            if name not in self._seen:
                self._event(result, name, "appears", now)
            self._seen[name] = now
        for name in [n for n, last in self._seen.items() if n not in there and now - last > AWAY_S]:
            del self._seen[name]
            self._event(result, name, "leaves", now)

    def close(self) -> None:
        """Nothing is open."""

    def _event(self, result: Result, name: str, kind: str, now: float) -> None:
        """``TIME-CLASS-KIND.jpg`` and ``.json``; TIME is UTC, of a recording seconds from its beginning."""
        day = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now))
        stamp = f"{day}.{int(now % 1 * 1000):03d}Z" if now > 1e9 else f"{now:010.3f}s"
        plain = "".join(c if c.isalnum() or c in "-_" else "_" for c in name)
        file = free_place(self._folder / f"{stamp}-{plain}-{kind}.json")
        picture = file.with_suffix(".jpg")
        entry = {"event": kind, "class": name, "picture": picture.name, "time": round(now, 3), **result.to_dict()}
        write_image(picture, result.plot())
        write_atomically(file, json.dumps(entry, indent=1) + "\n")
        self.count += 1
