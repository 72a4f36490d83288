"""What the boards of a fleet reported: one table, one page, and lines for ``targets/boards.toml``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeseg.boards import board_by_name
from edgeseg.errors import EdgesegError
from edgeseg.fleet.run import Row
from edgeseg.fleet.selftest import difference
from edgeseg.registry import target_by_name
from edgeseg.report import page

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
_NOTE = (
    "Agreement is 2 pairs / (expected + found) at score 0.25, against the machine that made the bundle. Milliseconds are"
    " medians an image, MB the largest resident memory."
)


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
    lines = []
    for row in rows:
        *values, end = cells(row)
        lines.append({"cells": [*values, {"text": end, "tone": "good" if row.good else "bad"}]})
    texts = [any(isinstance(line["cells"][i], str) for line in lines) for i in range(len(HEADER) - 1)]
    columns = [{"label": h, "text": text} for h, text in zip(HEADER, (*texts, True))]
    columns[-1]["words"] = True
    table = {"kind": "table", "title": "", "columns": columns, "rows": lines}
    good = f"{sum(row.good for row in rows)} of {len(rows)} find what they must"
    page.write_page(path, "Boards", [("Result", good), *page.here()], [table], note=_NOTE)


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
