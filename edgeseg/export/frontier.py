"""A page of what a search measured: a plot for each format, loss against time, and the figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path

from edgeseg.export.search import Found
from edgeseg.store import write_atomically

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _EDGE = 760, 380, 70, 50, 24
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 900px; padding: 0 1rem; color: #1c2530; }
table { border-collapse: collapse; } td, th { padding: .3rem .7rem; border-bottom: 1px solid #d9dfe6; text-align: right; }
td:first-child, th:first-child { text-align: left; }
svg { width: 100%; height: auto; } svg text { font: 12px system-ui; fill: #5a6673; }
.best td { font-weight: 600; } .off td { color: #8a95a1; }
"""
_HEADER = ("precision", "agreement", "box AP", "mask AP", "ms", "MB")


def write_page(path: Path, found: Mapping[str, Found], model: str) -> Path:
    """Write the page, with no file beside it.

    Args:
        path: the file, replaced if it exists.
        found: what was found, by the name of the format.
        model: what to call the network.
    """
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>edgeseg: mixed precisions</title>",
        f"<style>{_STYLE}</style><h1>Mixed precisions of {escape(model)}</h1>",
        "<p>Each point is an artifact that was made and measured; differences of AP are to float, in points. What the"
        " line joins is beaten by none in loss, time and size at once.</p>",
    ]
    for name, outcome in found.items():
        parts += [f"<h2>{escape(name)}</h2>", plot(outcome), _table(outcome)]
    write_atomically(path, "\n".join(parts) + "\n")
    return path


def plot(found: Found) -> str:
    """Loss against milliseconds as SVG; the area of a point is the size of its artifact."""
    factor = 100 if _shares(found) else 1
    points = sorted(((m, m.ms, factor * found.limits.loss(m)) for m in found.measured), key=lambda p: p[1])
    slowest = max((ms for _, ms, _ in points), default=0.0) * 1.08 or 1.0
    highest = max((loss for *_, loss in points), default=0.0) * 1.08 or 1.0
    floor = min(0.0, min((loss for *_, loss in points), default=0.0) * 1.08)
    largest = max((m.size for m, *_ in points), default=1)

    def place(ms: float, loss: float) -> tuple[float, float]:
        x = _LEFT + (_WIDTH - _LEFT - _EDGE) * ms / slowest
        return x, _EDGE + (_HEIGHT - _EDGE - _BOTTOM) * (1 - (loss - floor) / (highest - floor))

    shapes = [_axes(place, slowest, floor, highest, "disagreement, %" if _shares(found) else "AP lost, points")]
    best = found.frontier
    line = " ".join("{:.1f},{:.1f}".format(*place(ms, loss)) for m, ms, loss in points if m in best)
    shapes.append(f'<polyline points="{line}" fill="none" stroke="#0b6bcb" stroke-width="1.5"/>')
    for m, ms, loss in points:
        x, y = place(ms, loss)
        colour = "#1b7f3b" if m == found.best else "#0b6bcb" if m in best else "#b8c2cc"
        title = f"{m.title}: agreement {m.agreement:.3f}, {m.ms:.1f} ms, {m.size / 1e6:.2f} MB"
        radius = 9 * (m.size / largest) ** 0.5
        shapes.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{colour}" fill-opacity=".85">'
            f"<title>{escape(title)}</title></circle>"
        )
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">' + "\n".join(shapes) + "</svg>"


def _shares(found: Found) -> bool:
    return found.limits.max_drop is None or found.limits.min_agreement is not None


def _axes(at: Callable[[float, float], tuple[float, float]], ms: float, floor: float, loss: float, title: str) -> str:
    drawn = []
    for i in range(5):
        x, y = at(ms * i / 4, floor)
        drawn.append(f'<text x="{x:.0f}" y="{y + 18:.0f}" text-anchor="middle">{ms * i / 4:.3g}</text>')
        value = floor + (loss - floor) * i / 4
        x, y = at(0, value)
        drawn.append(f'<line x1="{x:.0f}" y1="{y:.0f}" x2="{_WIDTH - _EDGE}" y2="{y:.0f}" stroke="#e6eaee"/>')
        drawn.append(f'<text x="{x - 8:.0f}" y="{y + 4:.0f}" text-anchor="end">{value:.3g}</text>')
    drawn.append(f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 10}" text-anchor="middle">milliseconds</text>')
    drawn.append(f'<text transform="translate(16,{_HEIGHT / 2}) rotate(-90)" text-anchor="middle">{escape(title)}</text>')
    return "\n".join(drawn)


def _table(found: Found) -> str:
    rows = ["".join(f"<th>{h}</th>" for h in _HEADER)]
    kinds = [""]
    for m in sorted(found.measured, key=lambda m: m.ms):
        cells = (escape(m.title), f"{m.agreement:.3f}", f"{-m.box_drop:+.2f}", f"{-m.mask_drop:+.2f}", f"{m.ms:.1f}")
        rows.append("".join(f"<td>{c}</td>" for c in (*cells, f"{m.size / 1e6:.2f}")))
        kinds.append(" class=best" if m == found.best else "" if m in found.frontier else " class=off")
    return "<table>" + "".join(f"<tr{k}>{r}</tr>" for k, r in zip(kinds, rows)) + "</table>"
