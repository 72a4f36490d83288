"""``edgeseg export``: a checkpoint in, artifacts out."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeseg.cli import console, flags
from edgeseg.cli.flags import QUANT, flag, split_list, word
from edgeseg.errors import EdgesegError
from edgeseg.registry import TYPES, own_options, targets

if TYPE_CHECKING:
    from edgeseg.export.job import ExportResult
    from edgeseg.export.options import ExportOptions

SHAPE, RUN = "Shape of the graph", "Running"


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
    models: Annotated[
        list[str] | None,
        word("Checkpoints, or artifacts that others read; globs (default: the newest trained one).", "[MODEL]..."),
    ] = None,
    model: Annotated[str | None, typer.Option(hidden=True)] = None,
    format: Annotated[
        list[str] | None,
        flag("Formats, with commas or repeated; all for every one.", "torchscript", "--format", "-f", metavar="A,B"),
    ] = None,
    imgsz: Annotated[
        str | None, flag("Input size in pixels: 640, or height,width.", "as trained", metavar="N[,N]", panel=SHAPE)
    ] = None,
    batch: Annotated[int | None, flag("Batch size.", "1", panel=SHAPE)] = None,
    dynamic: Annotated[bool | None, flag("Any batch and image size.", False, panel=SHAPE)] = None,
    head: Annotated[
        str | None, flag("raw (up to the convolutions), decoded (common tensors), or nms.", "raw", panel=SHAPE)
    ] = None,
    nms: Annotated[bool | None, flag("Non-maximum suppression inside the graph.", False, panel=SHAPE)] = None,
    end2end: Annotated[
        bool | None, flag("The head that needs no suppression, of a network that has one (YOLO26).", False, panel=SHAPE)
    ] = None,
    boxes_only: Annotated[
        bool | None, flag("Leave the masks out, for tools that read detectors; decoded.", False, panel=SHAPE)
    ] = None,
    reader: Annotated[
        str | None,
        flag("What will run it: frigate, deepstream.", False, "--for", metavar="READER", panel=SHAPE),
    ] = None,
    board: Annotated[
        str | None,
        flag("Format, precision and size as recommended for it: pi5, pi4 ...", False, metavar="NAME", panel=SHAPE),
    ] = None,
    half: flags.Half = None,
    int8: flags.Int8 = None,
    data: Annotated[str | None, flag("Dataset that calibrates INT8.", "coco128-seg", metavar="YAML", panel=QUANT)] = None,
    images: Annotated[int | None, flag("Number of calibration images.", "the recipe's", panel=QUANT)] = None,
    recipe: flags.Recipe = None,
    seed: Annotated[int | None, flag("Seed of the choice of calibration images.", panel=QUANT)] = None,
    decisions: Annotated[
        str | None,
        flag(
            "Take what INT8 needs decided from this file; write it where it is not there yet.",
            False,
            metavar="FILE",
            panel=QUANT,
        ),
    ] = None,
    judge: Annotated[
        str | None,
        flag("Pictures, labelled or not, that judge INT8.", "held-out ones of --data", metavar="FOLDER", panel=QUANT),
    ] = None,
    max_drop: flags.MaxDrop = None,
    min_agreement: flags.MinAgreement = None,
    split: Annotated[str, flag("Split of --data on which a search measures.", panel=QUANT)] = "val",
    limit: Annotated[int | None, flag("A search measures on the first so many images only.", "all", panel=QUANT)] = None,
    storage: flags.Storage = None,
    out: Annotated[
        str | None, flag("Where artifacts go (for one format also a file).", "beside the model", metavar="FOLDER", panel=RUN)
    ] = None,
    offline: flags.Offline = False,
    force: Annotated[bool, flag("Keep an artifact that the gate refuses.", True, "--force", panel=RUN)] = False,
    rebuild: Annotated[bool, flag("Take nothing from the cache.", True, "--rebuild", panel=RUN)] = False,
    jobs: Annotated[int | None, flag("Steps at once.", "by cores and memory", panel=RUN)] = None,
    ray: flags.Ray = None,
    json: flags.Json = None,
    **own: Any,
) -> None:
    """Export networks to one or more formats.

    Independent formats are converted side by side, each in a process of its own, and taken from the cache when nothing
    changed. The exit code is 1 when any format failed; the others are there nevertheless.
    """
    from edgeseg.cli.many import expanded, export_many
    from edgeseg.cluster import connect
    from edgeseg.export.api import export as run
    from edgeseg.export.options import ExportOptions
    from edgeseg.running.open import newest_checkpoint, parse_imgsz

    shape = {"imgsz": parse_imgsz(imgsz), "dynamic": dynamic, "batch": batch, "boxes_only": boxes_only}
    ending = {"head": head, "nms": nms, "end2end": end2end}
    numbers = {"half": half, "int8": int8, "recipe": recipe, "data": data, "images": images, "seed": seed}
    declared = {name: value for name, value in own.items() if value is not None}
    options = ExportOptions.of(**shape, **ending, **numbers, **declared)
    formats, options, said = _for(reader, board, split_list(format), options)
    sources = expanded([*(models or []), *([model] if model else [])]) or [str(newest_checkpoint())]
    running: dict[str, Any] = {"jobs": jobs, "offline": offline}
    with connect(ray) as running["performer"]:
        if max_drop is not None or min_agreement is not None:
            _one_search(sources, decisions, reader)
            from edgeseg.cli.mixed import export_mixed
            from edgeseg.export.search import Limits

            places: dict[str, Any] = {"out": out, "json": json, "judge": judge, "storage": storage}
            limits = Limits(max_drop, min_agreement)
            measured: dict[str, Any] = {"split": split, "limit": limit}
            code = export_mixed(sources[0], formats, options, limits, force=force, running=running, **places, **measured)
            raise typer.Exit(code)

        beside: list[Any] = []

        def one(source: str, on_event: Any) -> list[ExportResult]:
            how: dict[str, Any] = {"force": force, "rebuild": rebuild, "decisions": decisions, "judge": judge, **running}
            made = run(source, formats or ["torchscript"], options, out=out, on_event=on_event, **how)
            if reader is not None:
                from edgeseg.ecosystem.readers import write_beside

                beside.extend(write_beside(reader, r.path) for r in made if r.path is not None)
            return made

        if len(sources) > 1:
            code = export_many(sources, one, running["performer"], out=out, json=json)
        else:
            with console.shown_events() as on_event:
                results = one(sources[0], on_event)
            code = _shown(sources[0], results, json)
    _show_beside(beside, console.people(json))
    if said and code == 0:
        console.say(said, to=console.people(json))
    raise typer.Exit(code)


def _for(
    reader: str | None, board: str | None, formats: list[str], options: ExportOptions
) -> tuple[list[str], ExportOptions, str]:
    """The formats and options for a reader or a board, and what to say of it at the end."""
    if reader is not None:
        from edgeseg.ecosystem.readers import for_reader

        formats, options = for_reader(reader, formats, options)
    if board is None:
        return formats, options, ""
    from edgeseg.boards import board_by_name
    from edgeseg.fleet.ready import recommended

    use, options = recommended(board_by_name(board), formats, options)
    said = f"on the board: {use.install}; what else is recommended: edgeseg doctor --board {board}"
    return [use.format], options, said


def _one_search(sources: list[str], decisions: str | None, reader: str | None) -> None:
    """Refuse what a search excludes."""
    if decisions is not None or reader is not None or len(sources) > 1:
        named = "--for" if reader is not None else "--decisions" if decisions is not None else ""
        what = f"{named} excludes a search" if named else "a search is for one model"
        raise EdgesegError(what, hint="A search decides for itself, for each model anew")


def _show_beside(written: list[Any], to: Any) -> None:
    """What a reader needs to be told, and where that lies."""
    for texts, stay in written:
        *_, (name, text) = texts.items()
        console.say(f"beside it: {', '.join(texts)}\n\n{name}:\n{text}", to=to)
        for path in stay:
            console.warn(f"{path} says something else and stays as it is")


def _shown(source: str, results: list[ExportResult], json: str | None) -> int:
    """Show and write down what was made of one model; the exit code."""
    to = console.people(json)
    console.as_json(json, {"model": source, "exports": [r.to_dict() for r in results]})
    console.export_table(results, to)
    if json not in (None, "-"):
        console.say(f"JSON in {json}", to=to)
    failed = [r.error for r in results if r.error is not None]
    # Bad input that nothing could be made of is code 2, like everywhere; a failed branch among others is 1.
    return 0 if not failed else 2 if len(failed) == len(results) and all(e.exit_code == 2 for e in failed) else 1
