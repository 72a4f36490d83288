"""What the boards of a fleet reported: one table, one page, and lines for ``targets/boards.toml``."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeseg.boards import board_by_name
from edgeseg.errors import EdgesegError
from edgeseg.fleet.run import Row
from edgeseg.fleet.selftest import difference
from edgeseg.registry import target_by_name
from edgeseg.store import write_atomically

HEADER = (
    "board",
    "is",
    "model",
    "precision",
    "agreement",
    "missing, extra",
    "tensors differ by",
    "pre ms",
    "ms",
    "post ms",
    "p95 ms",
    "MB",
    "°C",
    "throttled",
    "result",
)
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1400px; padding: 0 1rem; color: #1c2530; }
table { border-collapse: collapse; margin: 1rem 0; } td, th { padding: .3rem .7rem; border-bottom: 1px solid #d9dfe6; }
td { text-align: right; font-variant-numeric: tabular-nums; } td.text, th { text-align: left; }
.bad { color: #b3261e; font-weight: 600; } .good { color: #1b7f3b; }
"""


def cells(row: Row) -> tuple[Any, ...]:
    """One line of the table; see ``HEADER``."""
    if row.report is None:
        return (row.job.host.name, row.job.host.board, row.job.bundle.name, *[None] * 11, f"{row.step}: {row.error}")
    return (*figures(row.report), result(row))


def figures(report: dict[str, Any]) -> tuple[Any, ...]:
    """What a report says, as far as ``throttled``."""
    model, ms, f = report["model"], report["ms"], report["fidelity"]
    hot = [t for t in report["temperature_c"] if t is not None]
    return (
        report["host"],
        report["board"] or report["machine"],
        model["path"],
        model["precision"],
        report["agreement"],
        f"{f['missing']}, {f['extra']} of {report['expected']}",
        difference(report),
        *(round(ms[k], 1) for k in ("preprocess", "inference", "postprocess", "p95")),
        report["memory_mb"],
        max(hot) if hot else None,
        report["throttled"] or "unknown",
    )


def result(row: Row) -> str:
    """The end of a row that has a report."""
    report = row.report or {}
    word = ("equal" if report["equal"] else "agrees") if report["passed"] else "DOES NOT AGREE"
    return word + (" (measured before)" if row.kept else "")


def write_page(path: Path, rows: Sequence[Row]) -> None:
    """One self-contained HTML file with the table."""
    head = "".join(f"<th>{html.escape(h)}</th>" for h in HEADER)
    lines = []
    for row in rows:
        *values, end = cells(row)
        texts = [f"<td class=text>{_text(v)}</td>" if isinstance(v, str) else f"<td>{_text(v)}</td>" for v in values]
        lines.append(f"<tr>{''.join(texts)}<td class='text {'good' if row.good else 'bad'}'>{_text(end)}</td></tr>")
    good = sum(row.good for row in rows)
    write_atomically(
        path,
        "<!doctype html><html lang=en><meta charset=utf-8><title>edgeseg: boards</title>"
        f"<style>{_STYLE}</style><h1>Boards</h1><p>{good} of {len(rows)} find what they must: agreement is 2 pairs /"
        " (expected + found) at score 0.25, against the machine that made the bundle. Milliseconds are medians an image,"
        " MB the largest resident memory.</p>"
        f"<table><tr>{head}</tr>{''.join(lines)}</table>",
    )


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return html.escape(f"{value:.4g}" if isinstance(value, float) else str(value))


def read_reports(out: Path) -> list[dict[str, Any]]:
    """All reports that earlier runs kept below ``out``.

    Raises:
        EdgesegError: there is none, or one cannot be read.
    """
    found = []
    for file in sorted(out.glob("*/*.json")):
        try:
            report = json.loads(file.read_text(encoding="utf-8"))
            figures(report)
            found.append(report)
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise EdgesegError(f"no report ({e})", path=file, hint="Remove it") from e
    if not found:
        raise EdgesegError("there are no reports here", path=out, hint="Make them with: edgeseg board run MODEL")
    return found


def measured_lines(reports: Sequence[dict[str, Any]]) -> str:
    """Lines for ``use`` in ``targets/boards.toml``, by board: what was measured and agreed."""
    by_kind: dict[str, list[str]] = {}
    for report in reports:
        if report["passed"]:
            by_kind.setdefault(report["kind"], []).append(_line(report))
    parts = [f"# [{kind}]\n" + "".join(f"  {line},\n" for line in lines) for kind, lines in by_kind.items()]
    return "\n".join(parts)


def _line(report: dict[str, Any]) -> str:
    model, board = report["model"], board_by_name(report["kind"])
    target = target_by_name(model["format"])
    known = [u.install for u in board.use if u.format == target.name]
    install = known[0] if known else f"pip install 'edgeseg[{target.extra}]'"
    hot = [t for t in report["temperature_c"] if t is not None]
    why = (
        f"{report['ms']['total']:.1f} ms an image, {report['memory_mb']:.0f} MB, agreement {report['agreement']:.3f}"
        f"{f', {max(hot):.0f} °C' if hot else ''} with {model['path']} on {report['board'] or report['machine']}"
    )
    words = {"format": target.name, "precision": model["precision"], "imgsz": max(model["imgsz"]), "install": install}
    values = [f"{k} = {json.dumps(v, ensure_ascii=False)}" for k, v in {**words, "why": why, "measured": True}.items()]
    return "{ " + ", ".join(values) + " }"
