"""``edgeseg validate``: average precision and speed of any model on a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeseg.cli import console, flags
from edgeseg.cli.flags import flag, word
from edgeseg.cli.predict import check_detection
from edgeseg.errors import EdgesegError

if TYPE_CHECKING:
    from edgeseg.evaluate.validate import ValidationResult
    from edgeseg.model import Model

SPEED = ("preprocess", "inference", "postprocess")


def validate(
    models: Annotated[
        list[str] | None, word("Checkpoints or artifacts (default: the newest trained one).", "[MODEL]...")
    ] = None,
    model: Annotated[str | None, typer.Option(hidden=True)] = None,
    data: flags.Data = None,
    split: flags.Split = "val",
    conf: flags.Conf = 0.001,
    iou: flags.Iou = 0.7,
    max_det: flags.MaxDet = 300,
    imgsz: flags.AnySize = None,
    agnostic_nms: flags.AgnosticNms = False,
    rect: flags.Rect = False,
    save_json: Annotated[bool, flag("Detections as a COCO results file.", True, "--save-json", panel="Results")] = False,
    plots: Annotated[bool, flag("Curves and confusion as PNG files.", True, "--plots", panel="Results")] = False,
    out: Annotated[str | None, flag("Where those two go.", "runs/validate/expN", metavar="FOLDER", panel="Results")] = None,
    project: flags.Project = "",
    name: flags.RunName = "exp",
    exist_ok: flags.ExistOk = False,
    per_class: Annotated[bool, flag("One more table, with a row per class.", True, "--per-class", panel="Results")] = False,
    json: flags.Json = None,
    reference: Annotated[
        str | None, flag("Put the models side by side with this one: tensors, detections, masks.", False, metavar="MODEL")
    ] = None,
    html: Annotated[
        str | None,
        flag("The page to look at.", "with --reference, in runs/validate", metavar="FILE", panel="Results"),
    ] = None,
    limit: flags.Limit = None,
    threads: flags.Threads = None,
    input: flags.Input = None,
    device: flags.Device = None,
    ray: flags.Ray = None,
) -> None:
    """Measure box and mask average precision (COCO protocol) and the speed of each model.

    Of several, one that fails is left out with its reason, and the exit code is 1.
    """
    from edgeseg.cluster import connect
    from edgeseg.model import Model
    from edgeseg.running.open import newest_checkpoint, parse_imgsz

    check_detection(conf, iou, max_det)
    size = parse_imgsz(imgsz)
    to = console.people(json)
    files = [*(models or []), *([model] if model else [])] or [newest_checkpoint()]
    written: dict[str, Any] = {"save_json": save_json, "plots": plots, "agnostic_nms": agnostic_nms, "rect": rect}
    _check(written, reference, out, html)
    if reference is not None:
        from edgeseg.cli.compare import compare_models

        more: dict[str, Any] = {"split": split, "limit": limit, "size": size, "threads": threads, "device": device}
        with connect(ray) as cluster:
            code = compare_models(files, reference, data, input=input, html=html, json=json, cluster=cluster, **more)
        raise typer.Exit(code)
    summary: list[dict[str, Any]] = []
    done: list[tuple[Model, ValidationResult]] = []
    with connect(ray) as cluster:
        for file in files:
            given: dict[str, Any] = {"split": split, "limit": limit, "imgsz": size, "device": device}
            given |= {"project": project or "runs/validate", "name": name, "exist_ok": exist_ok}
            if out:  # the folder itself; of several models one in it each
                place = Path(out) / Path(file).stem if len(files) > 1 else Path(out)
                given |= {"project": place.parent, "name": place.name, "exist_ok": True}
            given |= {"conf": conf, "iou": iou, "max_det": max_det, "cluster": cluster}
            try:
                one, result = _measured(Model(file, threads=threads, input=input), file, data, given | written)
            except EdgesegError as e:
                if len(files) == 1:
                    raise
                console.error(str(e) if file in str(e) else f"{file}: {e}")
                continue
            summary.append(report(one, result))
            done += [(one, result)] if html else []
    if not summary:
        raise typer.Exit(1)
    with console.json_file(json) as stream:
        console.write_json(stream, summary[0] if len(files) == 1 else {"models": summary})
    if json != "-":
        _show(summary, per_class, f"{result.inventory}", to)
    if html:
        write_page(Path(html), done, size, split)
    if json != "-":
        for kind, where in (("page", html), ("JSON", json), ("saved", result.save_dir)):
            if where:
                console.say(f"{kind} in {where}", to=to)
    if len(summary) < len(files):
        raise typer.Exit(1)


def _measured(model: Model, file: str, data: str | None, given: dict[str, Any]) -> tuple[Model, ValidationResult]:
    """One model and what was measured of it; what people must know of that is said."""
    with console.progress(f"validating {file}") as bar:
        console.inferred(model.opened.manifest)
        result = model.validate(data or model.default_data(), progress=bar.update, **given)
    for path, reason in result.skipped:
        console.warn(f"{path}: {reason}; skipped")
    for warning in result.warnings:
        console.warn(f"{file}: {warning}")
    return model, result


def _check(written: dict[str, Any], reference: str | None, out: str | None, html: str | None) -> None:
    """Refuse what excludes each other, and a page that cannot be written."""
    console.check_place(html, "--html", b"<")
    if reference is not None and any(written.values()):
        asked = ", ".join(k.replace("_", "-") for k, v in written.items() if v)
        raise EdgesegError(f"{asked}: not where models are put side by side", hint="Leave --reference out")
    if out and not (written["save_json"] or written["plots"]):
        raise EdgesegError("nothing is written into --out", hint="Add --save-json or --plots")


def _show(summary: list[dict[str, Any]], per_class: bool, inventory: str, to: Any) -> None:
    """The tables, and what they were measured on."""
    console.table("", HEADER, [row(d) for d in summary], to=to)
    for d in summary if per_class else ():
        rows = list(zip(d["names"], d["metrics"]["box"]["maps"], d["metrics"]["seg"]["maps"]))
        console.table(f"\n{d['path']}", ("class", "box AP", "mask AP"), rows, to=to)
    first = summary[0]
    skip = f", {len(first['skipped'])} skipped" if first["skipped"] else ""
    where = f"{first['images']} images of {first['dataset']} ({first['split']}){skip}"
    console.say(f"{where}; AP is the mean over IoU 0.50 to 0.95", to=to)
    truth = first["truth"] if first["truth"] == "labels" else f"annotations in {first['truth']}"
    console.say(f"truth: {truth}; {inventory}", to=to)


def write_page(path: Path, done: list[tuple[Model, ValidationResult]], size: tuple[int, int] | None, split: str) -> None:
    """The page of models that were measured, with the pictures on which they are wrong most often."""
    from edgeseg.data.dataset import load_dataset
    from edgeseg.report.sections import write_validation
    from edgeseg.view.mistakes import mistakes

    where = done[0][1].dataset
    beside = [(m.opened.sized(size), result) for m, result in done if result.dataset == where]
    pictures = mistakes([m for m, _ in beside], [r.metrics for _, r in beside], load_dataset(where), split)
    write_validation(path, beside, pictures)


TIMES = ("pre ms", "inference ms", "post ms")
HEADER = ("model", "format", "size", "box AP", "AP50", "AP75", "mask AP", "mask AP50", "mask AP75", *TIMES)


def row(d: dict[str, Any]) -> tuple[Any, ...]:
    """One line of the table, from a report; see ``HEADER``."""
    box, seg, speed = d["metrics"]["box"], d["metrics"]["seg"], d["speed_ms"]
    ap = [m[k] if m[k] is None else round(m[k], 4) for m in (box, seg) for k in ("map", "map50", "map75")]
    return d["path"], d["title"], console.size(d["size"]), *ap, *(round(float(speed[k]), 1) for k in SPEED)


def report(model: Any, result: Any) -> dict[str, Any]:
    """Everything that the table shows, and more, as plain values: ``metrics.box.map``, ``speed_ms.inference`` and so on."""
    opened, m = model.opened, model.opened.manifest
    about = {"path": str(opened.path), "title": opened.title, "format": m.format, "precision": m.precision, "head": m.head}
    return {**about, "imgsz": list(m.imgsz), "size": opened.size, "names": list(m.names), **result.to_dict()}
