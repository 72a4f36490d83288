"""``edgeseg export``: a checkpoint in, artifacts out."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from edgeseg.cli import console
from edgeseg.cli.events import shown_events, summary
from edgeseg.cli.graph import split_list
from edgeseg.errors import EdgesegError
from edgeseg.registry import TYPES, own_options, targets

QUANT, SHAPE, RUN = "Precision", "Shape of the graph", "Running"


def with_declared(command: Callable[..., None]) -> Callable[..., None]:
    """The command with a flag for each option that a format declares (``[options]`` in its ``target.toml``)."""
    signature = inspect.signature(command, eval_str=True)
    known = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    for o in own_options().values():
        formats = ", ".join(t.name for t in targets().values() if o.name in t.own)
        bounds = f", {o.least} to {o.most}" if None not in (o.least, o.most) else ""
        usual: Any = str(o.default) if o.default is not None and o.type != "bool" else False
        flag = typer.Option(help=f"{o.help.rstrip('.')}{bounds} ({formats}).", show_default=usual, rich_help_panel=SHAPE)
        kind: Any = Annotated[TYPES[o.type][0] | None, flag]
        known.append(inspect.Parameter(o.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind))
    command.__signature__ = signature.replace(parameters=known)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in known}
    return command


@with_declared
def export(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            show_default=False,
            help="Checkpoint, or an artifact that others read (default: the newest trained one, else yolov8n-seg.pt).",
        ),
    ] = None,
    format: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            "-f",
            metavar="A,B",
            help="Formats, with commas or repeated; all for every one.",
            show_default="torchscript",
        ),
    ] = None,
    imgsz: Annotated[
        str | None,
        typer.Option(
            metavar="N[,N]",
            help="Input size in pixels: 640, or height,width.",
            show_default="as trained",
            rich_help_panel=SHAPE,
        ),
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Batch size.", show_default="1", rich_help_panel=SHAPE)] = None,
    dynamic: Annotated[
        bool | None, typer.Option(help="Any batch and image size.", show_default=False, rich_help_panel=SHAPE)
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(
            help="raw (ends at the convolutions), decoded (the common YOLOv8 tensors), or nms.",
            show_default="raw",
            rich_help_panel=SHAPE,
        ),
    ] = None,
    nms: Annotated[
        bool | None,
        typer.Option(help="Non-maximum suppression inside the graph.", show_default=False, rich_help_panel=SHAPE),
    ] = None,
    half: Annotated[
        bool | None, typer.Option(help="Half precision (FP16).", show_default=False, rich_help_panel=QUANT)
    ] = None,
    int8: Annotated[
        bool | None,
        typer.Option(
            help="8-bit integers, calibrated on the train split of --data.", show_default=False, rich_help_panel=QUANT
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="YAML", help="Dataset that calibrates INT8.", show_default="coco128-seg", rich_help_panel=QUANT
        ),
    ] = None,
    images: Annotated[
        int | None, typer.Option(help="Number of calibration images.", show_default="the recipe's", rich_help_panel=QUANT)
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Quantization recipe: a name of calib/, or a file.",
            show_default="int8",
            rich_help_panel=QUANT,
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the choice of calibration images.", rich_help_panel=QUANT)
    ] = None,
    decisions: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Take what INT8 needs decided from this file; where it is not there yet, write it.",
            show_default=False,
            rich_help_panel=QUANT,
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            metavar="POINTS",
            help="Search the cheapest mixed precision that loses at most so many points of AP.",
            show_default=False,
            rich_help_panel=QUANT,
        ),
    ] = None,
    split: Annotated[
        str, typer.Option(help="Split of --data on which --max-drop is measured.", rich_help_panel=QUANT)
    ] = "val",
    limit: Annotated[
        int | None,
        typer.Option(help="Measure --max-drop on the first so many images only.", show_default="all", rich_help_panel=QUANT),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Where artifacts go (for one format also a file).",
            show_default="beside the model",
            rich_help_panel=RUN,
        ),
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Install no toolchain.", rich_help_panel=RUN)] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Keep an artifact that the gate refuses.", rich_help_panel=RUN)
    ] = False,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Take nothing from the cache.", rich_help_panel=RUN)] = False,
    jobs: Annotated[
        int | None, typer.Option(help="Steps at once.", show_default="by cores and memory", rich_help_panel=RUN)
    ] = None,
    json: Annotated[
        str | None,
        typer.Option(
            metavar="[FILE]", help="Write the table as JSON ('-' or nothing: to standard output).", rich_help_panel=RUN
        ),
    ] = None,
    **own: Any,
) -> None:
    """Export a network to one or more formats.

    Independent formats are converted side by side, each in a process of its own, and taken from the cache when nothing
    changed. The exit code is 1 when any format failed; the others are there nevertheless.
    """
    from edgeseg.export.api import export as run
    from edgeseg.export.options import ExportOptions
    from edgeseg.running.open import newest_checkpoint, parse_imgsz

    options = ExportOptions.of(
        imgsz=parse_imgsz(imgsz),
        half=half,
        int8=int8,
        dynamic=dynamic,
        batch=batch,
        head=head,
        nms=nms,
        recipe=recipe,
        data=data,
        images=images,
        seed=seed,
        **{name: value for name, value in own.items() if value is not None},
    )
    to = console.people(json)
    source = model or newest_checkpoint()
    if max_drop is not None:
        if decisions is not None:
            raise EdgesegError("--decisions and --max-drop exclude each other", hint="The search decides for itself")
        from edgeseg.cli.mixed import export_mixed

        places, running = {"out": out, "json": json}, {"jobs": jobs, "offline": offline}
        code = export_mixed(
            source, split_list(format), options, max_drop, split=split, limit=limit, force=force, running=running, **places
        )
        raise typer.Exit(code)
    with shown_events() as on_event:
        results = run(
            source,
            split_list(format) or ["torchscript"],
            options,
            out=out,
            on_event=on_event,
            jobs=jobs,
            offline=offline,
            force=force,
            rebuild=rebuild,
            decisions=decisions,
        )
    with console.json_file(json) as stream:
        console.write_json(stream, {"model": str(source), "exports": [r.to_dict() for r in results]})
    summary(results, to)
    if json not in (None, "-"):
        console.say(f"JSON in {json}", to=to)
    failed = [r.error for r in results if r.error is not None]
    if failed:
        # Bad input that nothing could be made of is code 2, like everywhere; a failed branch among others is 1.
        raise typer.Exit(2 if len(failed) == len(results) and all(e.exit_code == 2 for e in failed) else 1)
