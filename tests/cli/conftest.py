"""A command in a pseudo-terminal, and what a person sees there at the end."""

from __future__ import annotations

import os
import re
import select
import struct
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

_CODE = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])|\x1b\][^\x07]*\x07|\x1b.|\r|\n|\x08")


@dataclass(frozen=True)
class Seen:
    """What came of a command: its exit code, all that it wrote, and the lines that are left on the screen."""

    code: int
    raw: str
    lines: list[str]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


def _in_terminal(
    words: Sequence[object],
    cwd: Path,
    columns: int = 80,
    env: Mapping[str, str] | None = None,
    *,
    typed: Mapping[str, str] | None = None,
    module: bool = True,
) -> Seen:
    """Run edgeseg (without ``module``: Python) on a terminal; ``typed``: what to type as soon as a text was shown."""
    import pty
    from fcntl import ioctl
    from termios import TIOCSWINSZ

    command = [sys.executable, *(["-m", "edgeseg.cli"] if module else []), *map(str, words)]
    given = (
        {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR", "CI")} | {"TERM": "xterm"} | dict(env or {})
    )
    pid, master = pty.fork()
    if pid == 0:
        os.chdir(cwd)
        ioctl(0, TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
        os.execvpe(command[0], command, given)
    raw, waiting, end = b"", dict(typed or {}), time.monotonic() + 120
    while time.monotonic() < end and select.select([master], [], [], 60)[0]:
        try:
            raw += os.read(master, 65536)
        except OSError:  # all that had it open are gone
            break
        for text in [t for t in waiting if t.encode() in raw]:
            os.write(master, waiting.pop(text).encode())
    os.close(master)
    said = raw.decode(errors="replace")
    return Seen(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said, screen(said, columns))


@pytest.fixture
def in_terminal() -> Callable[..., Seen]:
    """Run a command on a terminal."""
    return _in_terminal


def screen(said: str, columns: int) -> list[str]:
    """The lines that a terminal shows after ``said``: it moves up and down, erases lines, and goes on below at its edge."""
    rows: dict[int, list[str]] = {}
    y = x = at = 0
    for found in [*_CODE.finditer(said), None]:
        for c in said[at : found.start() if found else len(said)]:
            if x >= columns:
                y, x = y + 1, 0
            row = rows.setdefault(y, [])
            row += " " * (x + 1 - len(row))
            row[x], x = c, x + 1
        if found is None:
            break
        at, n = found.end(), int(found[1]) if (found[1] or "").isdigit() else 1
        y += (found[0] == "\n") - (found[2] == "A") * n + (found[2] == "B") * n
        x = 0 if found[0] == "\r" else max(x - 1, 0) if found[0] == "\x08" else n - 1 if found[2] == "G" else x
        if found[2] == "K":
            rows[y] = [] if found[1] == "2" else rows.get(y, [])[:x]
    lines = ["".join(rows.get(i, [])).rstrip() for i in range(max(rows, default=-1) + 1)]
    return lines[: max((i + 1 for i, line in enumerate(lines) if line), default=0)]
