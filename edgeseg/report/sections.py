"""What ``edgeseg.evaluate.parity.compare`` found, as sections of a page: plain values that ``assets`` draws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg.evaluate.confusion import Confusion
from edgeseg.evaluate.metrics import AveragePrecision, Metrics
from edgeseg.evaluate.parity import Disagreement, Verdict
from edgeseg.evaluate.validate import STAGES, ValidationResult
from edgeseg.report.page import Section, here, write_page
from edgeseg.report.pictures import picture, restored
from edgeseg.running.open import Opened

PICTURES = 20
"""Pictures in one page."""
NOTE = (
    "Agreement counts pairs twice over all detections of both, at score 0.25; AP is the mean over IoU 0.50 to 0.95 by the"
    " COCO protocol. Small figures are 95 % intervals over the images. Milliseconds are medians an image."
)
Cell = Mapping[str, Any] | str | float | None
_COSTS = ({"key": "ms", "label": "milliseconds", "digits": 1}, {"key": "mb", "label": "MB", "digits": 2})
_APS = ({"key": "box", "label": "box AP", "digits": 4}, {"key": "seg", "label": "mask AP", "digits": 4})


def write_comparison(path: Path, verdicts: Sequence[Verdict], reference: str, dataset: str, *, title: str) -> Path:
    """Write a page of models beside their reference: what ``edgeseg.evaluate.parity.compare`` returned, the reference first.

    ``reference`` and ``dataset`` are what to call the reference and the images.
    """
    images = next((v.fidelity.images for v in verdicts if v.fidelity is not None), 0)
    about = [("Reference", reference), ("Images", f"{images} of {dataset}"), *here()]
    names = titles([v.path for v in verdicts])
    sections = [
        table(verdicts, names),
        plot(verdicts, names),
        *viewer(verdicts, names),
        *measured([(n, v.format, v.precision, v.metrics) for n, v in zip(names, verdicts) if v.metrics is not None]),
    ]
    return write_page(path, title, about, sections, note=NOTE)


def write_validation(
    path: Path, validated: Sequence[tuple[Opened, ValidationResult]], pictures: Sequence[Section] = ()
) -> Path:
    """Write a page of models, one at least, that were each measured by themselves on the same split.

    ``pictures`` are further sections.
    """
    first = validated[0][1]
    about = [("Images", f"{first.images} of {Path(first.dataset).name} ({first.split})"), ("Truth", first.truth), *here()]
    names = titles([opened.path for opened, _ in validated])
    rows, points, subjects = [], [], []
    for name, (opened, result) in zip(names, validated):
        m, aps, ms = opened.manifest, (result.box, result.seg), result.speed_ms
        figures = [number(getattr(ap, key)) for ap in aps for key in ("map", "map50", "map75")]
        times = [number(ms.get(stage)) for stage in STAGES]
        rows.append({"cells": [name, f"{m.format} {m.precision}", *figures, *times, opened.size / 1e6]})
        values = {"box": figures[0], "seg": figures[3], "ms": times[1], "mb": opened.size / 1e6}
        points.append(_point(name, m.format, m.precision, values))
        subjects.append((name, m.format, m.precision, result.metrics))
    labels = [f"{kind} {ap}" for kind in ("Box", "Mask") for ap in ("AP", "AP50", "AP75")]
    columns = [
        {"label": "Model", "text": True},
        {"label": "Format", "text": True},
        *({"label": label, "digits": 4} for label in labels),
        *({"label": f"{stage.capitalize()}, ms", "digits": 1} for stage in STAGES),
        {"label": "MB", "digits": 2},
    ]
    sections = [_models(columns, rows), *([_plane(points, _APS)] if len(points) > 1 else []), *pictures, *measured(subjects)]
    note = "AP is the mean over IoU 0.50 to 0.95 by the COCO protocol. Milliseconds are medians an image."
    return write_page(path, "Validation", about, sections, note=note)


def titles(paths: Sequence[Path]) -> list[str]:
    """The last part of each path; with the folder before it, then counted, where that is the same for two."""
    names = [p.name for p in paths]
    names = [n if names.count(n) == 1 else "/".join(p.parts[-2:]) for n, p in zip(names, paths)]
    return [n if names.count(n) == 1 else f"{n} #{names[: i + 1].count(n)}" for i, n in enumerate(names)]


_COLUMNS = (
    {"label": "Model", "text": True},
    {"label": "Format", "text": True},
    {"label": "Agreement, %", "digits": 1},
    {"label": "Box AP", "digits": 4},
    {"label": "Mask AP", "digits": 4},
    {"label": "Inference, ms", "digits": 1},
    {"label": "MB", "digits": 2},
    {"label": "Missing", "title": "Detections of the reference that this model does not have"},
    {"label": "Extra", "title": "Detections that the reference does not have"},
    {"label": "Parts at", "text": True, "words": True, "title": "The first stage at which it parts from the reference"},
    {"label": "p95, ms", "digits": 1, "title": "What 95 % of the images stay below"},
    {"label": "Box IoU", "digits": 4},
    {"label": "Mask IoU", "digits": 4},
    {"label": "Score shift", "digits": 4},
    {"label": "Largest score", "title": "The largest difference of score of a pair"},
    {"label": "Largest box, px", "title": "The largest difference of a box's edge of a pair, in pixels of the input"},
    {"label": "Tensors, dB", "text": True, "title": "Signal to noise of the output tensors by role"},
    {"label": "Head", "text": True},
)


def table(verdicts: Sequence[Verdict], names: Sequence[str]) -> Section:
    """All figures, a row a model."""
    rows = [{"cells": _cells(v, n), "mark": "first" if i == 0 else ""} for i, (v, n) in enumerate(zip(verdicts, names))]
    return _models(_COLUMNS, rows)


def _models(columns: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> Section:
    """Without the columns in which there is nothing."""
    used = [i for i in range(len(columns)) if any(r["cells"][i] not in (None, "") for r in rows)]
    kept = [{**r, "cells": [r["cells"][i] for i in used]} for r in rows]
    return {"kind": "table", "title": "Models", "columns": [columns[i] for i in used], "rows": kept}


def _cells(v: Verdict, name: str) -> list[Cell]:
    about: list[Cell] = [name, f"{v.format} {v.precision}".strip()]
    megabytes = v.size / 1e6 if v.size else None
    if v.fidelity is None:
        failed = {"text": f"{v.diverges}: {v.error}", "tone": "bad"}
        return [*about, *[None] * 4, megabytes, None, None, failed, *[None] * 7, v.head]
    f = v.fidelity
    low, high = (100 * x for x in f.agreement_range)
    agreed = {"value": number(100 * f.agreement), "small": f"{low:.1f} to {high:.1f}" if low < high else ""}
    noise = ", ".join(f"{role} {c.snr_db:.0f}" for role, c in v.tensors.items() if np.isfinite(c.snr_db))
    parts = {"text": v.diverges or "nowhere", "tone": "bad" if v.diverges else "good"}
    return [
        *about,
        agreed,
        _ap(v, "box"),
        _ap(v, "seg"),
        number(v.speed_ms.get("inference")),
        megabytes,
        {"value": f.missing, "small": f"of {f.reference}"},
        {"value": f.extra, "small": f"of {f.other}"},
        parts,
        number(v.p95_ms.get("inference")),
        *(number(x) for x in (f.box_iou, f.mask_iou, f.score_shift, v.largest_score, v.largest_box)),
        noise or ("equal" if v.tensors else "other head"),
        v.head,
    ]


def _ap(v: Verdict, kind: str) -> Cell:
    value = None if v.metrics is None else number(getattr(v.metrics, kind).map)
    if value is None or kind not in v.ap_difference:
        return value
    difference, low, high = (100 * d for d in v.ap_difference[kind])
    small = f"{difference:+.2f} ({low:+.2f} to {high:+.2f})" if low < high else "equal" if not difference else ""
    return {"value": value, "small": small}


def number(value: float | None) -> float | None:
    """A number that JSON knows: None in place of NaN and infinity."""
    return None if value is None or not math.isfinite(value) else round(float(value), 6)


def plot(verdicts: Sequence[Verdict], names: Sequence[str]) -> Section:
    """Accuracy against time and size."""
    points = []
    for v, name in zip(verdicts, names):
        if v.fidelity is None:
            continue
        aps = {} if v.metrics is None else {"box": v.metrics.box.map, "seg": v.metrics.seg.map}
        size = v.size / 1e6 if v.size else None
        values = {"agreement": 100 * v.fidelity.agreement, "ms": v.speed_ms.get("inference"), "mb": size, **aps}
        points.append(_point(name, v.format, v.precision, values))
    return _plane(points, ({"key": "agreement", "label": "agreement, %", "digits": 1, "most": 100}, *_APS))


def _point(name: str, format: str, precision: str, values: Mapping[str, float | None]) -> dict[str, Any]:
    known = {k: number(x) for k, x in values.items()}
    return {"name": name, "label": f"{format} {precision}", "group": format, "kind": precision, "values": known}


def _plane(points: Sequence[Mapping[str, Any]], ys: Sequence[Mapping[str, Any]]) -> Section:
    return {"kind": "plot", "title": "What accuracy costs", "points": points, "xs": _COSTS, "ys": ys}


def viewer(verdicts: Sequence[Verdict], names: Sequence[str]) -> list[Section]:
    """The pictures on which models differ most from the reference; no section where none does."""
    others = [i for i, v in enumerate(verdicts) if i and v.fidelity is not None]
    shown = [0, *others]
    orders: list[list[int]] = [[] for _ in shown]
    groups: dict[tuple[Path, bytes], dict[int, Disagreement]] = {}
    for rank in range(max((len(verdicts[i].worst) for i in others), default=0)):
        for m, i in enumerate(others, 1):
            if rank < len(verdicts[i].worst):
                one = verdicts[i].worst[rank]
                key = (one.image, one.reference.boxes.tobytes())  # at another size of input the reference finds other boxes
                if key in groups or len(groups) < PICTURES:
                    groups.setdefault(key, {})[m] = one
                    orders[m].append(list(groups).index(key))
    if not groups:
        return []
    pictures = []
    for (image, _), by_model in groups.items():
        first = next(iter(by_model.values()))
        told = [first.reference, *(by_model[m].other if m in by_model else None for m in range(1, len(shown)))]
        pictures.append(picture(image, [None if t is None else restored(t, first.names) for t in told]))
    orders[0] = list(range(len(pictures)))
    models = [{"name": names[i], "format": verdicts[i].format, "precision": verdicts[i].precision} for i in shown]
    most = max(range(1, len(shown)), key=lambda m: sum(w.badness for w in verdicts[shown[m]].worst))
    note = "The pictures on which the model on the right differs most from the reference, the worst first, at score 0.25."
    about = {"kind": "viewer", "title": "Where they differ", "note": note, "names": list(first.names)}
    return [{**about, "models": models, "pictures": pictures, "orders": orders, "right": most}]


Subject = tuple[str, str, str, Metrics]
"""A model's name, format, precision and metrics."""


def measured(subjects: Sequence[Subject]) -> list[Section]:
    """What is known where there are labels: AP by class, precision over recall, and what is taken for what."""
    if not subjects:
        return []
    mixed = [(name, m.confusion) for name, _, _, m in subjects if m.confusion is not None]
    return [classes(subjects), curves(subjects), *([mixups(mixed)] if mixed else [])]


def classes(subjects: Sequence[Subject]) -> Section:
    """AP of each class that occurs, a column a model."""
    options = []
    for kind, label in (("box", "boxes"), ("seg", "masks")):
        maps = [getattr(m, kind).maps for *_, m in subjects]
        known = [i for i in range(len(subjects[0][3].names)) if any(i < len(a) and np.isfinite(a[i]) for a in maps)]
        rows = [{"cells": [subjects[0][3].names[i], *(number(a[i]) for a in maps)]} for i in known]
        columns = [{"label": "Class", "text": True}, *({"label": name, "digits": 3} for name, *_ in subjects)]
        if rows:
            section = {"kind": "table", "title": f"AP of {label} by class", "columns": columns, "rows": rows}
            options.append({"label": label, "section": section})
    return {"kind": "choice", "title": "AP by class", "label": "Of", "options": options}


def curves(subjects: Sequence[Subject]) -> Section:
    """Precision over recall at IoU 0.50, in thousandths, of every class and their mean (-1)."""
    models = []
    for name, format, precision, m in subjects:
        of = {kind: _thousandths(getattr(m, kind)) for kind in ("box", "seg")}
        models.append({"name": name, "group": format, "kind": precision, **{k: v for k, v in of.items() if v}})
    return {"kind": "curves", "title": "Precision and recall", "names": list(subjects[0][3].names), "models": models}


def _thousandths(ap: AveragePrecision) -> dict[str, list[int]]:
    known = np.flatnonzero(np.isfinite(ap.curves).all(axis=1))
    if not len(known):
        return {}
    lines = {"-1": ap.curves[known].mean(axis=0), **{str(i): ap.curves[i] for i in known.tolist()}}
    return {key: np.rint(1000 * line).astype(int).tolist() for key, line in lines.items()}


def mixups(mixed: Sequence[tuple[str, Confusion]]) -> Section:
    """Confusion matrices, one a model."""
    first = mixed[0][1]
    options = []
    for name, one in mixed:
        entries = [[int(i), int(j), int(one.matrix[i, j])] for i, j in np.argwhere(one.matrix)]
        options.append({"label": name, "section": {"kind": "confusion", "names": list(one.names), "entries": entries}})
    note = (
        f"Boxes at score {first.conf:g} or more, paired at IoU {first.iou:g} or more with what is there, best score first."
    )
    return {"kind": "choice", "title": "What is taken for what", "note": note, "label": "Model", "options": options}
