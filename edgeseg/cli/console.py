"""What people see: tables, progress, errors. rich is imported only when something is drawn on a terminal."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from edgeseg.errors import EdgesegError, printable


def colours(stream: IO[str]) -> bool:
    """Whether ``stream`` is a terminal that wants colours."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _drawn(stream: IO[str]) -> bool:
    """Whether rich draws there: on a terminal, where it is installed."""
    return stream.isatty() and find_spec("rich") is not None


def _line(message: str) -> str:
    return printable(" ".join(str(message).split()))


def error(message: str) -> None:
    """One red line on standard error."""
    text = _line(message)
    red, plain = ("\033[1;31m", "\033[0m") if colours(sys.stderr) else ("", "")
    print(f"{red}error:{plain} {text}", file=sys.stderr, flush=True)


def warn(message: str) -> None:
    """One yellow line on standard error."""
    yellow, plain = ("\033[33m", "\033[0m") if colours(sys.stderr) else ("", "")
    print(f"{yellow}warning:{plain} {_line(message)}", file=sys.stderr, flush=True)


def note(message: str) -> None:
    """One line on standard error that is neither a warning nor a result."""
    print(_line(message), file=sys.stderr, flush=True)


def inferred(manifest: Any) -> None:
    """Say what was guessed about a file that another tool wrote."""
    if manifest.notes and manifest.notes[0].startswith("manifest inferred"):
        for text in manifest.notes:
            note(text)


def say(message: str, *, to: IO[str] | None = None) -> None:
    """One line for people."""
    print(printable(message.replace("\r", " ")), file=to or sys.stdout, flush=True)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, to: IO[str] | None = None) -> None:
    """Print a table: drawn on a terminal, aligned plain text elsewhere. Columns of numbers are set to the right."""
    stream, title, columns = to or sys.stdout, printable(title), [printable(c) for c in columns]
    places = [_places([row[k] for row in rows]) for k in range(len(columns))]
    cells = [[_cell(v, places[k]) for k, v in enumerate(row)] for row in rows]
    right = [bool(rows) and all(isinstance(r[k], int | float) or r[k] is None for r in rows) for k in range(len(columns))]
    if _drawn(stream):
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        drawn = Table(title=escape(title) or None, box=SIMPLE_HEAD, title_justify="left", header_style="bold")
        for name, is_right in zip(columns, right):
            drawn.add_column(name, justify="right" if is_right else "left", overflow="fold")
        for row in cells:
            drawn.add_row(*(escape(c) for c in row))
        Console(file=stream).print(drawn)
        return
    widths = [max(len(r[k]) for r in [list(columns), *cells]) for k in range(len(columns))]
    if title:
        print(title, file=stream)
    for row in [list(columns), *cells]:
        padded = (c.rjust(w) if is_right else c.ljust(w) for c, w, is_right in zip(row, widths, right))
        print("  ".join(padded).rstrip(), file=stream)
    stream.flush()


def _cell(value: Any, places: int) -> str:
    if value is None or (isinstance(value, float) and value != value):
        return "-"
    return f"{value:.{places}f}" if isinstance(value, float) else _line(str(value))


def _places(values: Sequence[Any]) -> int:
    """Decimal places with which every float of a column shows four significant digits, or all that it has."""
    shown = (f"{v:.4g}" for v in values if isinstance(v, float) and abs(v) < 1e4)
    return max((len(text.partition(".")[2]) for text in shown if "e" not in text), default=0)


class Progress:
    """Progress of one long job; ``update`` is what jobs call with how many are done and, perhaps, of how many."""

    def __init__(self, draw: Any, total: int | None) -> None:
        self._draw, self.total, self.done = draw, total, 0

    def update(self, done: int, total: int | None = None, what: str = "") -> None:
        """``done`` of ``total`` are finished."""
        self.done, self.total = done, total if total is not None else self.total
        self._draw(self.done, self.total, what)

    def advance(self, what: str = "") -> None:
        """One more is done."""
        self.update(self.done + 1, what=what)


@contextmanager
def progress(label: str, total: int | None = None) -> Iterator[Progress]:
    """A bar on standard error: rich on a terminal, else a plain line now and then (every 10 seconds at most)."""
    if not _drawn(sys.stderr):
        last = time.monotonic()

        def plain(done: int, total: int | None, what: str) -> None:
            nonlocal last
            if time.monotonic() - last >= 10:
                last = time.monotonic()
                print(f"{label}: {done}{f' of {total}' if total else ''} {what}".rstrip(), file=sys.stderr, flush=True)

        yield Progress(plain, total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[what]}"),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total, what="")
        yield Progress(lambda done, total, what: bar.update(task, completed=done, total=total, what=what[-40:]), total)


def size(n: int) -> str:
    """Bytes for people: ``3.4 MB`` (powers of ten)."""
    if n < 1000:
        return f"{n} B"
    return f"{n / 1e3:.1f} kB" if n < 1_000_000 else f"{n / 1e6:.1f} MB"


def rounded(value: Any, digits: int = 4) -> Any:
    """A figure for a cell of a table: floats rounded, anything else as it is."""
    return round(float(value), digits) + 0.0 if isinstance(value, float) else value


@contextmanager
def json_file(path: str | None) -> Iterator[IO[str] | None]:
    """Open the file that ``--json`` names, written beside and renamed at the end; ``-`` is standard output, None nothing.

    Raises:
        EdgesegError: its folder does not exist.
    """
    if path is None:
        yield None
    elif path == "-":
        yield sys.stdout
        sys.stdout.flush()
    else:
        file = Path(path)
        if not file.parent.is_dir():
            raise EdgesegError("its folder does not exist", path=path, hint=f"mkdir -p {file.parent}")
        if file.is_dir():
            raise EdgesegError("this is a folder", path=path, hint="--json needs a file")
        scratch = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            with scratch.open("w", encoding="utf-8") as stream:
                yield stream
            scratch.replace(file)
        finally:
            scratch.unlink(missing_ok=True)


def write_json(stream: IO[str] | None, value: Any) -> None:
    """Write ``value`` where ``json_file`` leads; NaN becomes null, as JSON has none."""
    if stream is not None:
        json.dump(_finite(value), stream, indent=1, default=str)
        stream.write("\n")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value


def people(json_path: str | None) -> IO[str]:
    """The stream for tables and words: standard error while JSON goes to standard output."""
    return sys.stderr if json_path == "-" else sys.stdout


@contextmanager
def steps() -> Iterator[Callable[[str, float, str], None]]:
    """Live lines on standard error, one a step: yields ``line(name, done, words)`` with ``done`` from 0 to 1.

    On a terminal each step has a bar; elsewhere a line is printed when a step begins or ends, and every 10 seconds.
    """
    if not _drawn(sys.stderr):
        last: dict[str, float] = {}

        def plain(name: str, done: float, words: str) -> None:
            if name not in last or done >= 1 or time.monotonic() - last[name] >= 10:
                last[name] = time.monotonic()
                print(f"{name}: {100 * done:.0f} % {words}".rstrip(), file=sys.stderr, flush=True)

        yield plain
        return
    from rich.console import Console
    from rich.progress import BarColumn, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[words]}"),
    )
    tasks: dict[str, TaskID] = {}
    with Bar(*columns, console=Console(stderr=True)) as bar:

        def draw(name: str, done: float, words: str) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=1.0, words="")
            bar.update(tasks[name], completed=done, words=words)

        yield draw
