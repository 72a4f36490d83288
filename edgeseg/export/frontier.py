"""A page of what a search measured: a plot for each format, loss against time, and the figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgeseg.export.search import Found, Measured
from edgeseg.report import page
from edgeseg.report.page import Section

_NOTE = (
    "Each point is an artifact that was made and measured; differences of AP are to float, in points. Grey rows are"
    " beaten by another one in loss, time and size at once."
)
_COLUMNS = (
    {"label": "Precision", "text": True},
    {"label": "Agreement", "digits": 3},
    {"label": "Box AP", "digits": 2},
    {"label": "Mask AP", "digits": 2},
    {"label": "Milliseconds", "digits": 1},
    {"label": "MB", "digits": 2},
)


def write_page(path: Path, found: Mapping[str, Found], model: str) -> Path:
    """Write the page, with no file beside it.

    Args:
        path: the file, replaced if it exists.
        found: what was found, by the name of the format.
        model: what to call the network.
    """
    sections = [part for name, outcome in found.items() for part in (plot(outcome, name), table(outcome, name))]
    return page.write_page(path, f"Mixed precisions of {model}", page.here(), sections, note=_NOTE)


def plot(found: Found, name: str) -> Section:
    """Loss against milliseconds or size."""
    shares = found.limits.max_drop is None or found.limits.min_agreement is not None
    points = []
    for m in found.measured:
        values = {"loss": (100 if shares else 1) * found.limits.loss(m), "ms": m.ms, "mb": m.size / 1e6}
        kind = "mixed" if m.islands else "int8"
        points.append({"name": m.title, "group": name, "kind": kind, "values": values, "mark": m == found.best})
    ways = [{"key": "ms", "label": "milliseconds", "digits": 1}, {"key": "mb", "label": "MB", "digits": 2}]
    loss = {"key": "loss", "label": "disagreement, %" if shares else "AP lost, points", "digits": 2, "better": "low"}
    return {"kind": "plot", "title": name, "points": points, "xs": ways, "ys": [loss]}


def table(found: Found, name: str) -> Section:
    """The figures, the fastest first."""
    rows = [{"cells": _cells(m), "mark": _mark(m, found)} for m in sorted(found.measured, key=lambda m: m.ms)]
    return {"kind": "table", "title": f"{name}: figures", "columns": _COLUMNS, "rows": rows}


def _cells(m: Measured) -> list[str | float]:
    return [m.title, m.agreement, -m.box_drop, -m.mask_drop, m.ms, m.size / 1e6]


def _mark(m: Measured, found: Found) -> str:
    return "best" if m == found.best else "" if m in found.frontier else "off"
