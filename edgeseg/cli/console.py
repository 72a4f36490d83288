"""What people see: tables, lines, errors, how an export goes on and how it ended, and what is written as JSON."""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from edgeseg import store, terminal
from edgeseg.errors import EdgesegError, printable
from edgeseg.resources import cache_root

if TYPE_CHECKING:
    from edgeseg.export.job import ExportResult
    from edgeseg.export.run import Event
    from edgeseg.progress import Progress


def _line(message: str) -> str:
    return printable(" ".join(str(message).split()))


def error(message: str) -> None:
    """What went wrong, on standard error: one line, which a terminal shows in whole words."""
    _told("error:", "\033[1;31m", message)


def warn(message: str) -> None:
    """A warning on standard error."""
    _told("warning:", "\033[33m", message)


def note(message: str) -> None:
    """One line on standard error that is neither a warning nor a result."""
    _told("", "", message)


def _told(kind: str, colour: str, message: str) -> None:
    room = terminal.width_of(sys.stderr)
    text = terminal.flowing(f"{kind} {_line(message)}".strip(), room and room - 2)  # a terminal writes ^C before it
    if kind and terminal.colours(sys.stderr):
        text = f"{colour}{kind}\033[0m{text[len(kind) :]}"
    print(text, file=sys.stderr, flush=True)


def inferred(manifest: Any) -> None:
    """Say what was guessed about a file that another tool wrote."""
    if manifest.notes and manifest.notes[0].startswith("manifest inferred"):
        for text in manifest.notes:
            note(text)


def say(message: str, *, to: IO[str] | None = None) -> None:
    """Lines for people."""
    stream, lines = to or sys.stdout, printable(message.replace("\r", " ")).split("\n")
    print("\n".join(terminal.flowing(line, terminal.width_of(stream)) for line in lines), file=stream, flush=True)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, to: IO[str] | None = None) -> None:
    """Print a table that fits the terminal; elsewhere one line a row. Columns of numbers are set to the right."""
    stream, title, columns = to or sys.stdout, printable(title), [printable(c) for c in columns]
    places = [_places([row[k] for row in rows]) for k in range(len(columns))]
    cells = [[_cell(v, places[k]) for k, v in enumerate(row)] for row in rows]
    right = [bool(rows) and all(isinstance(r[k], int | float) or r[k] is None for r in rows) for k in range(len(columns))]
    if title:
        print(terminal.flowing(title, terminal.width_of(stream)), file=stream)
    bold, plain = ("\033[1m", "\033[0m") if terminal.colours(stream) else ("", "")
    for n, (head, body) in enumerate(terminal.table(columns, cells, right, terminal.width_of(stream))):
        lines = [*([""] if n else []), *(f"{bold}{line}{plain}" for line in head), *body]
        print("\n".join(lines), file=stream)
    stream.flush()


def _cell(value: Any, places: int) -> str:
    if value is None or (isinstance(value, float) and value != value):
        return "-"
    return f"{value:.{places}f}" if isinstance(value, float) else _line(str(value))


def _places(values: Sequence[Any]) -> int:
    """Decimal places with which every float of a column shows four significant digits, or all that it has."""
    shown = (f"{v:.4g}" for v in values if isinstance(v, float) and abs(v) < 1e4)
    return max((len(text.partition(".")[2]) for text in shown if "e" not in text), default=0)


def progress(label: str, total: int | None = None) -> AbstractContextManager[Progress]:
    """Progress of one long job; see ``edgeseg.progress.progress``."""
    from edgeseg.progress import progress as made  # a cold start on a board does without

    return made(label, total)


def steps() -> AbstractContextManager[Callable[..., None]]:
    """Progress of several jobs, one line each; see ``edgeseg.progress.steps``."""
    from edgeseg.progress import steps as made

    return made()


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
        EdgesegError: it cannot be written there.
    """
    _check_json(path)
    if path is None:
        yield None
    elif path == "-":
        yield sys.stdout
        sys.stdout.flush()
    else:
        with store.writing(Path(path)) as file:
            stream = io.TextIOWrapper(file, encoding="utf-8", newline="\n")
            yield stream
            stream.detach()  # what is in it goes into the file, which stays open


def _check_json(path: str | None) -> None:
    if path not in (None, "-") and not Path(path).parent.is_dir():
        raise EdgesegError("its folder does not exist", path=path, hint=f"mkdir -p {Path(path).parent}")
    check_place(path, "--json", b"{[")


def check_place(path: str | None, option: str, begins: bytes) -> None:
    """Refuse a place where the file that an option names cannot go, or where one of another kind would be lost.

    ``begins``: every such file begins with one of these characters. ``-`` and None are no places.
    """
    if path is None or path == "-":
        return
    file = Path(path)
    if file.is_dir():
        raise EdgesegError("this is a folder", path=path, hint=f"{option} needs a file")
    special = file.exists() and not file.is_file()
    if not os.access(file if special else file.parent, os.W_OK) and (special or file.parent.is_dir()):
        raise EdgesegError("this place cannot be written to", path=path, hint="Name a file in another folder")
    if file.is_file() and file.stat().st_size:
        with open(file, "rb") as f:
            alike = f.read(1) in begins
        if not alike:
            raise EdgesegError("another file is there, which would be lost", path=path, hint=f"Name a new file for {option}")


def as_json(path: str | None, value: Any) -> None:
    """Write one value where ``--json`` says; see ``json_file``."""
    with json_file(path) as stream:
        write_json(stream, value)


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
    """The stream for tables and words: standard error while JSON goes to standard output.

    Raises:
        EdgesegError: JSON cannot be written there, which is said before any work.
    """
    _check_json(json_path)
    return sys.stderr if json_path == "-" else sys.stdout


@contextmanager
def shown_events() -> Iterator[Callable[[Event], None]]:
    """Show the events of an export: a live line for each step, notes and failures as lines between."""
    file = cache_root() / "durations.json"  # of each kind of step: converters say little of how far they are
    took, begun = _read(file), {}
    with steps() as line:

        def on_event(event: Event) -> None:
            if event.kind == "start":
                begun[event.step] = time.monotonic()
            elif event.kind == "built" and event.step in begun:
                took[event.step] = round(time.monotonic() - begun[event.step], 1)
                with suppress(OSError):
                    store.write_atomically(file, json.dumps(took))
            if event.kind == "note":
                note(f"{event.step}: {event.text}" if event.step else event.text)
            elif event.kind == "failed":
                line(event.step, 1.0, "failed")
            elif event.kind == "gone":
                line(event.step, 1.0, "")
            elif event.kind in ("cached", "built"):
                line(event.step, 1.0, event.text or event.kind)
            else:
                line(event.step, min(event.done, 0.999), event.text, took.get(event.step, 0.0))

        yield on_event


def _read(file: Path) -> dict[str, float]:
    try:
        return {str(k): float(v) for k, v in json.loads(file.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def export_row(r: ExportResult) -> tuple[str, float, str, str]:
    """Size, seconds, how and where, as tables of exports say it."""
    how = "failed" if not r.ok else "cached" if r.cached else "built"
    return size(r.size) if r.ok else "-", round(r.seconds, 1), how, str(r.path or "-")


def export_table(results: Sequence[ExportResult], to: IO[str]) -> None:
    """The table of an export, and a line for each failure and note."""
    rows = []
    for r in results:
        size, seconds, how, where = export_row(r)
        rows.append((r.format, r.precision, r.head, size, seconds, how, r.toolchain, where))
    if len(results) > 1 or results[0].ok:
        table("", ("format", "precision", "head", "size", "seconds", "how", "toolchain", "path"), rows, to=to)
    for r in results:
        for text in r.notes:
            say(f"{r.format}: {text}", to=to)
        if r.error is not None:
            log = f" (log: {r.log})" if r.log is not None else ""
            error(f"{r.format}: {r.error}{log}")
