"""One self-contained HTML file of a cross-format validation: the figures, and pictures of the worst disagreements."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from edgeseg.data.images import read_image
from edgeseg.evaluate.fidelity import Fidelity
from edgeseg.evaluate.parity import Disagreement, Verdict
from edgeseg.store import write_atomically
from edgeseg.vision.draw import draw

_WIDTH = 560  # pixels of one picture: two beside each other on a laptop
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1240px; padding: 0 1rem; color: #1c2530; }
table { border-collapse: collapse; margin: 1rem 0; } td, th { padding: .3rem .7rem; border-bottom: 1px solid #d9dfe6; }
td { text-align: right; font-variant-numeric: tabular-nums; } td:first-child, th:first-child, td.text { text-align: left; }
.bad { color: #b3261e; font-weight: 600; } .good { color: #1b7f3b; }
figure { display: inline-block; margin: .5rem .5rem 0 0; }
figcaption { color: #5a6673; font-size: 13px; } h2 { margin-top: 2.2rem; } img { border-radius: 6px; max-width: 100%; }
"""
_HEADER = (
    "model",
    "format",
    "head",
    "box AP",
    "mask AP",
    "agreement",
    "missing, extra",
    "box IoU",
    "mask IoU",
    "score shift",
    "largest score",
    "largest box px",
    "tensors (SNR dB)",
    "inference ms",
    "parts at",
)


def write_html(path: Path, verdicts: Sequence[Verdict], reference: str, dataset: str) -> Path:
    """Write the report.

    Args:
        path: the file, replaced if it exists.
        verdicts: what ``edgeseg.evaluate.parity.compare`` returned.
        reference: what to call the reference.
        dataset: what to call the images.
    """
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>edgeseg: cross-format validation</title>",
        f"<style>{_STYLE}</style><h1>Cross-format validation</h1>",
        f"<p>Against <b>{_text(reference)}</b> on <b>{_text(dataset)}</b>. ",
        "Agreement (pairs counted twice over all detections of both, with its 95 % interval), IoU and score shift at score ",
        "0.25; AP by the COCO protocol, in brackets its difference to the reference in points, with its 95 % interval.</p>",
        _table(verdicts),
    ]
    for verdict in verdicts:
        if verdict.worst:
            parts.append(f"<h2>{_text(verdict.path.name)}: where it differs most</h2>")
            parts.extend(_pair(w, reference, verdict.path.name) for w in verdict.worst)
    write_atomically(path, "".join(parts))
    return path


def _table(verdicts: Sequence[Verdict]) -> str:
    head = "".join(f"<th>{_text(h)}</th>" for h in _HEADER)
    return f"<table><tr>{head}</tr>{''.join(_row(v) for v in verdicts)}</table>"


def _row(v: Verdict) -> str:
    about = [v.path.name, f"{v.format} {v.precision}", v.head]
    if v.error or v.fidelity is None:
        cells = "".join(f"<td class=text>{_text(a)}</td>" for a in about)
        return f"<tr>{cells}<td class='text bad' colspan={len(_HEADER) - 3}>{_text(v.error)}</td></tr>"
    f = v.fidelity
    tensors = ", ".join(f"{role} {c.snr_db:.0f}" for role, c in v.tensors.items() if np.isfinite(c.snr_db))
    figures = [
        *(_ap(v, kind) for kind in (("box", "seg") if v.metrics else ())),
        *(() if v.metrics else ("", "")),
        _with_range(f),
        f.missing_extra,
        f"{f.box_iou:.4f}",
        f"{f.mask_iou:.4f}",
        f"{f.score_shift:+.4f}",
        f"{v.largest_score:.1e}",
        f"{v.largest_box:.2g}",
        tensors or ("equal" if v.tensors else "other head"),
        f"{v.speed_ms.get('inference', float('nan')):.1f}",
    ]
    mark = f"<td class='text bad'>{_text(v.diverges)}</td>" if v.diverges else "<td class='text good'>nowhere</td>"
    return f"<tr>{''.join(f'<td>{_text(c)}</td>' for c in [*about, *figures])}{mark}</tr>"


def _ap(v: Verdict, kind: str) -> str:
    text = f"{getattr(v.metrics, kind).map:.4f}"
    if kind not in v.ap_difference:
        return text
    difference, low, high = (100 * d for d in v.ap_difference[kind])
    return f"{text} ({difference:+.2f}; {low:+.2f} to {high:+.2f})"


def _with_range(f: Fidelity) -> str:
    low, high = f.agreement_range
    return f"{f.agreement:.1%}" + ("" if math.isnan(low) else f" ({100 * low:.1f} to {100 * high:.1f})")


def _pair(w: Disagreement, reference: str, other: str) -> str:
    image = read_image(w.image)
    shown = ((reference, w.reference), (other, w.other))
    figures = [_figure(draw(image, found), f"{name}: {len(found)} detections") for name, found in shown]
    return f"<h3>{_text(w.image.name)}</h3><div>{''.join(figures)}</div>"


def _figure(picture: np.ndarray, caption: str) -> str:
    height = max(1, round(picture.shape[0] * _WIDTH / picture.shape[1]))
    small = cv2.resize(picture, (_WIDTH, height), interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 85])
    source = base64.b64encode(data.tobytes()).decode()
    return f"<figure><img alt='' src='data:image/jpeg;base64,{source}'><figcaption>{_text(caption)}</figcaption></figure>"


def _text(value: object) -> str:
    return html.escape(str(value))
