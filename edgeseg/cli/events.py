"""What an export says while it runs and when it is done."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from edgeseg import store
from edgeseg.cli import console
from edgeseg.resources import cache_root

if TYPE_CHECKING:
    from edgeseg.export.result import ExportResult
    from edgeseg.export.run import Event


@contextlib.contextmanager
def shown_events() -> Iterator[Callable[[Event], None]]:
    """Show the events of an export: a live line for each step, notes and failures as lines between."""
    file = cache_root() / "durations.json"  # of each kind of step: converters say little of how far they are
    took, begun = _read(file), {}
    with console.steps() as line:

        def on_event(event: Event) -> None:
            if event.kind == "start":
                begun[event.step] = time.monotonic()
            elif event.kind == "built" and event.step in begun:
                took[event.step] = round(time.monotonic() - begun[event.step], 1)
                with contextlib.suppress(OSError):
                    store.write_atomically(file, json.dumps(took))
            if event.kind == "note":
                console.note(f"{event.step}: {event.text}" if event.step else event.text)
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


def made(r: ExportResult) -> tuple[str, float, str, str]:
    """Size, seconds, how and where, as tables of exports say it."""
    how = "failed" if not r.ok else "cached" if r.cached else "built"
    return console.size(r.size) if r.ok else "-", round(r.seconds, 1), how, str(r.path or "-")


def summary(results: Sequence[ExportResult], to: IO[str]) -> None:
    """The table of an export, and a line for each failure and note."""
    rows = []
    for r in results:
        size, seconds, how, where = made(r)
        rows.append((r.format, r.precision, r.head, size, seconds, how, r.toolchain, where))
    if len(results) > 1 or results[0].ok:
        console.table("", ("format", "precision", "head", "size", "seconds", "how", "toolchain", "path"), rows, to=to)
    for r in results:
        for text in r.notes:
            console.say(f"{r.format}: {text}", to=to)
        if r.error is not None:
            log = f" (log: {r.log})" if r.log is not None else ""
            console.error(f"{r.format}: {r.error}{log}")
