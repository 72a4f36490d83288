"""What an export says while it runs and when it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from edgeseg.cli import console

if TYPE_CHECKING:
    from edgeseg.export.result import ExportResult
    from edgeseg.export.run import Event


@contextmanager
def shown_events() -> Iterator[Callable[[Event], None]]:
    """Show the events of an export: a live line for each step, notes and failures as lines between."""
    with console.steps() as line:

        def on_event(event: Event) -> None:
            if event.kind == "note":
                console.note(f"{event.step}: {event.text}" if event.step else event.text)
            elif event.kind == "failed":
                line(event.step, 1.0, "failed")
            elif event.kind == "gone":
                line(event.step, 1.0, "")
            elif event.kind in ("cached", "built"):
                line(event.step, 1.0, event.text or event.kind)
            else:
                line(event.step, min(event.done, 0.999), event.text)

        yield on_event


def summary(results: Sequence[ExportResult], to: IO[str]) -> None:
    """The table of an export, and a line for each failure and note."""
    rows = []
    for r in results:
        made = "failed" if not r.ok else "cached" if r.cached else "built"
        where = str(r.path) if r.path is not None else "-"
        rows.append(
            (
                r.format,
                r.precision,
                r.head,
                console.size(r.size) if r.ok else "-",
                round(r.seconds, 1),
                made,
                r.toolchain,
                where,
            )
        )
    if len(results) > 1 or results[0].ok:
        console.table("", ("format", "precision", "head", "size", "seconds", "how", "toolchain", "path"), rows, to=to)
    for r in results:
        for text in r.notes:
            console.say(f"{r.format}: {text}", to=to)
        if r.error is not None:
            log = f" (log: {r.log})" if r.log is not None else ""
            console.error(f"{r.format}: {r.error}{log}")
