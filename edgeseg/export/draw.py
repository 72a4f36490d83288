"""A plan drawn: as a tree for the terminal, as SVG for a page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from edgeseg.export.plan import Plan, Step
from edgeseg.registry import NETWORK

# Sizes in SVG units (pixels at 100 %).
_BOX_H, _ROW, _GAP, _MARGIN, _CHAR = 44, 60, 70, 20, 7.2
_STYLE = """
    text { font: 13px ui-sans-serif, system-ui, sans-serif; fill: #1b1f24 }
    .small { font-size: 11px; fill: #59636e }
    .edge { fill: none; stroke: #8c959f; stroke-width: 1.5 }
    .wanted { fill: #ddf4ff; stroke: #0969da }
    .between { fill: #f6f8fa; stroke: #8c959f; stroke-dasharray: 4 3 }
    .quantized { fill: #fff8c5; stroke: #9a6700 }
    .model { fill: #dafbe1; stroke: #1a7f37 }
"""


def plan_text(plan: Plan) -> str:
    """The plan as an indented tree. Steps that were not asked for, but are on the way, are marked ``(on the way)``."""
    lines = [_root_name(plan)]

    def add(step: Step | None, indent: str) -> None:
        readers = plan.readers(step)
        for i, reader in enumerate(readers):
            last = i == len(readers) - 1
            mark = "" if reader in plan.wanted else "  (on the way)"
            lines.append(f"{indent}{'└─' if last else '├─'} {reader.label}{mark}")
            add(reader, indent + ("   " if last else "│  "))

    add(None, "")
    return "\n".join(lines)


def plan_svg(plan: Plan) -> str:
    """The plan as an SVG picture from left to right: the model, then each step beside the one that it reads."""
    row, column = _places(plan)
    columns = max(column.values()) + 1
    widths = [max(_width(_title(plan, s), _detail(s)) for s, c in column.items() if c == i) for i in range(columns)]
    left = [_MARGIN + sum(widths[:i]) + i * _GAP for i in range(columns)]
    total_w = left[-1] + widths[-1] + _MARGIN
    total_h = 2 * _MARGIN + max(row.values()) * _ROW + _BOX_H
    edges, boxes = [], []
    for step, c in column.items():
        x, y, w = left[c], _MARGIN + row[step] * _ROW, widths[c]
        if step is not None:
            parent = step.source
            x0, y0 = left[column[parent]] + widths[column[parent]], _MARGIN + row[parent] * _ROW + _BOX_H / 2
            y1, bend = y + _BOX_H / 2, (x + x0) / 2
            edges.append(
                f'<path class="edge" d="M{x0:.1f},{y0:.1f} C{bend:.1f},{y0:.1f} {bend:.1f},{y1:.1f} {x:.1f},{y1:.1f}"/>'
            )
        boxes.append(
            f'<g><rect class="{_class(plan, step)}" x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{_BOX_H}" rx="8"/>'
            f'<text x="{x + 12:.1f}" y="{y + 19:.1f}">{escape(_title(plan, step))}</text>'
            f'<text class="small" x="{x + 12:.1f}" y="{y + 35:.1f}">{escape(_detail(step))}</text></g>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total_w:.0f} {total_h:.0f}" '
        f'width="{total_w:.0f}" height="{total_h:.0f}" role="img">\n'
        f"<title>Conversion graph</title>\n<style>{_STYLE}</style>\n"
        f'<rect width="100%" height="100%" fill="#ffffff"/>\n' + "\n".join([*edges, *boxes]) + "\n</svg>\n"
    )


def _places(plan: Plan) -> tuple[dict[Step | None, float], dict[Step | None, int]]:
    """Row and column of the model (None) and every step: leaves get rows of their own, others the middle of theirs."""
    row: dict[Step | None, float] = {}
    column: dict[Step | None, int] = {}
    free = 0

    def place(step: Step | None, depth: int) -> float:
        nonlocal free
        column[step] = depth
        readers: Sequence[Step] = plan.readers(step)
        if readers:
            rows = [place(reader, depth + 1) for reader in readers]
            row[step] = (rows[0] + rows[-1]) / 2
        else:
            row[step] = free
            free += 1
        return row[step]

    place(None, 0)
    return row, column


def _root_name(plan: Plan) -> str:
    source = plan.steps[0].source_format if plan.steps else NETWORK
    return "checkpoint" if source == NETWORK else source


def _title(plan: Plan, step: Step | None) -> str:
    return _root_name(plan) if step is None else step.target.title


def _detail(step: Step | None) -> str:
    if step is None:
        return "the model"
    height, width = step.imgsz
    extra = [f"{k}={v}" for k, v in step.options]
    return " ".join([step.precision, step.head, f"{width}x{height}", *extra])


def _class(plan: Plan, step: Step | None) -> str:
    if step is None:
        return "model"
    if step not in plan.wanted:
        return "between"
    return "quantized" if step.quantized else "wanted"


def _width(*texts: str) -> float:
    return 24 + _CHAR * max(len(t) for t in texts)
