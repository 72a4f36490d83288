"""``edgeseg export --int8 --max-drop`` or ``--min-agreement``: search, show what was measured, export the cheapest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import IO, TYPE_CHECKING, Any

from edgeseg.cli import console
from edgeseg.errors import EdgesegError

if TYPE_CHECKING:
    from edgeseg.export.job import ExportResult
    from edgeseg.export.options import ExportOptions
    from edgeseg.export.search import Found, Limits

HEADER = ("precision", "agreement", "box AP", "mask AP", "ms", "size", "")


def export_mixed(
    source: str,
    formats: Sequence[str],
    options: ExportOptions,
    limits: Limits,
    *,
    split: str,
    limit: int | None,
    storage: str | None,
    out: str | None,
    force: bool,
    judge: str | None,
    running: Mapping[str, Any],
    json: str | None,
) -> int:
    """Search for each format in turn and export what was found; the exit code: 1 when nothing fits or an export failed.

    Raises:
        EdgesegError: limits without int8, and whatever ``edgeseg.export.mixed.Mixed`` refuses.
    """
    from edgeseg.export.api import export
    from edgeseg.export.mixed import Mixed, nothing_fits

    if not options.int8:
        raise EdgesegError("--max-drop and --min-agreement search among INT8 precisions", hint="Add --int8")
    to = console.people(json)
    results: list[ExportResult] = []
    searches: list[dict[str, Any]] = []
    failed: list[EdgesegError] = []
    searched = [Mixed(source, f, options, limits, split=split, limit=limit, storage=storage, **running) for f in formats]
    for mixed in searched:
        name = mixed.target.name
        with console.shown_events() as on_event:
            mixed.tell(on_event)
            found = mixed.go()
        searches.append(report(found, name))
        table(found, name, to)
        if found.best is None:
            failed.append(nothing_fits(found, name, source))
            continue
        chosen = replace(options, recipe=str(mixed.recipe_file(dict(found.best.islands))))
        with console.shown_events() as on_event:
            results += export(source, [name], chosen, out=out, on_event=on_event, force=force, judge=judge, **running)
    console.as_json(json, {"model": source, "exports": [r.to_dict() for r in results], "searches": searches})
    if results:
        console.export_table(results, to)
    for e in failed:
        console.error(str(e))
    return 1 if failed or any(r.error is not None for r in results) else 0


def report(found: Found, format: str) -> dict[str, Any]:
    """Everything that was measured, as plain values."""
    return {
        "format": format,
        "max_drop": found.limits.max_drop,
        "min_agreement": found.limits.min_agreement,
        "best": None if found.best is None else found.best.to_dict(),
        "frontier": [m.to_dict() for m in found.frontier],
        "measured": [m.to_dict() for m in found.measured],
    }


def table(found: Found, format: str, to: IO[str]) -> None:
    """What was measured, the fastest first; agreement with float, and differences to it in points of AP."""
    rows = []
    for m in sorted(found.measured, key=lambda m: m.ms):
        words = ["chosen"] if m == found.best else []
        words += ["frontier"] if m in found.frontier else []
        words += [] if found.limits.allow(m) else ["too much"]
        drops = (f"{-m.box_drop:+.2f}", f"{-m.mask_drop:+.2f}")
        rows.append((m.title, f"{m.agreement:.3f}", *drops, round(m.ms, 1), console.size(m.size), ", ".join(words)))
    wanted = f"; wanted is what {found.limits}" if found.limits else ""
    console.table(f"{format}: against float, AP in points{wanted}", HEADER, rows, to=to)
