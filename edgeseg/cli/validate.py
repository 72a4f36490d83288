"""``edgeseg validate``: average precision and speed of any model on a dataset."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from edgeseg.cli import console
from edgeseg.cli.predict import check_detection

SPEED = ("preprocess", "inference", "postprocess")


def validate(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...", show_default=False, help="Checkpoints or artifacts (default: the newest trained one)."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", show_default=False, hidden=True, help="The model, if not the first word.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="YAML", help="Dataset YAML or name.", show_default="the model's own, else coco128-seg"),
    ] = None,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "val",
    conf: Annotated[float, typer.Option(help="Lowest score that counts.", rich_help_panel="Detection")] = 0.001,
    iou: Annotated[
        float, typer.Option(help="Overlap above which NMS drops the lower score.", rich_help_panel="Detection")
    ] = 0.7,
    max_det: Annotated[int, typer.Option(help="Most detections per image.", rich_help_panel="Detection")] = 300,
    imgsz: Annotated[
        str | None,
        typer.Option(help="Input size: 640 or height,width. For models that take any size.", rich_help_panel="Detection"),
    ] = None,
    per_class: Annotated[
        bool, typer.Option("--per-class", help="One more table, with a row per class.", rich_help_panel="Results")
    ] = False,
    json: Annotated[
        str | None,
        typer.Option(
            metavar="[FILE]",
            help="Write everything as JSON ('-' or nothing: to standard output).",
            rich_help_panel="Results",
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Put the models side by side with this one: tensors, detections, masks.",
            show_default=False,
        ),
    ] = None,
    html: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Where the page with pictures goes (with --reference).",
            show_default="runs/validate",
            rich_help_panel="Results",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many images.", show_default="all")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of the runtime.")] = None,
    input: Annotated[
        str | None,
        typer.Option(metavar="WORDS", help="Of another tool's file: bgr, 0..255, or bgr,0..255.", show_default="rgb,0..1"),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, or cuda:0 where it can run there.", show_default="cpu")] = None,
) -> None:
    """Measure box and mask average precision (COCO protocol) and the speed of each model."""
    from edgeseg.model import Model
    from edgeseg.running.open import newest_checkpoint, parse_imgsz

    check_detection(conf, iou, max_det)
    size = parse_imgsz(imgsz)
    to = console.people(json)
    files = [*(models or []), *([model] if model else [])] or [newest_checkpoint()]
    if reference is not None:
        from edgeseg.cli.compare import compare_models

        raise typer.Exit(
            compare_models(
                files,
                reference,
                data,
                split=split,
                limit=limit,
                size=size,
                threads=threads,
                device=device,
                input=input,
                html=html,
                json=json,
            )
        )
    summary: list[dict[str, Any]] = []
    for file in files:
        one = Model(file, threads=threads, input=input)
        console.inferred(one.opened.manifest)
        chosen = data or one.default_data()
        with console.progress(f"validating {file}") as bar:
            result = one.validate(
                chosen, split=split, conf=conf, iou=iou, max_det=max_det, imgsz=size, limit=limit, progress=bar.update,
                device=device,
                input=input,
            )  # fmt: skip
        for path, reason in result.skipped:
            console.warn(f"{path}: {reason}; skipped")
        for warning in result.warnings:
            console.warn(f"{file}: {warning}")
        summary.append(report(one, result))
    with console.json_file(json) as stream:
        console.write_json(stream, summary[0] if len(summary) == 1 else {"models": summary})
    if json == "-":
        return
    console.table("", HEADER, [row(d) for d in summary], to=to)
    if per_class:
        for d in summary:
            rows = list(zip(d["names"], d["metrics"]["box"]["maps"], d["metrics"]["seg"]["maps"]))
            console.table(f"\n{d['path']}", ("class", "box AP", "mask AP"), rows, to=to)
    first = summary[0]
    skip = f", {len(first['skipped'])} skipped" if first["skipped"] else ""
    console.say(
        f"{first['images']} images of {first['dataset']} ({split}){skip}; AP is the mean over IoU 0.50 to 0.95", to=to
    )
    truth = first["truth"] if first["truth"] == "labels" else f"annotations in {first['truth']}"
    console.say(f"truth: {truth}; {result.inventory}", to=to)
    if json:
        console.say(f"JSON in {json}", to=to)


HEADER = (
    "model",
    "format",
    "size",
    "box AP",
    "AP50",
    "AP75",
    "mask AP",
    "AP50",
    "AP75",
    "pre ms",
    "inference ms",
    "post ms",
)


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
