"""``edgeseg search``: which mixed precisions are worth having, measured on real artifacts."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from edgeseg.cli import console, flags
from edgeseg.cli.flags import QUANT, RESULTS, flag, split_list
from edgeseg.errors import EdgesegError


def search(
    model: flags.ModelWord = None,
    format: Annotated[list[str] | None, flag("Formats, with commas.", "tflite", "--format", "-f", metavar="A,B")] = None,
    data: flags.Data = None,
    imgsz: Annotated[str | None, flag("Input size in pixels.", "as trained", metavar="N[,N]")] = None,
    recipe: flags.Recipe = None,
    images: Annotated[int | None, flag("Number of calibration images.", "the recipe's", panel=QUANT)] = None,
    split: flags.Split = "val",
    limit: flags.Limit = None,
    max_drop: flags.MaxDrop = None,
    min_agreement: flags.MinAgreement = None,
    trials: Annotated[
        int | None, flag("Measure so many: the obvious ones in any case, more as the engine chooses.", "the obvious ones")
    ] = None,
    storage: flags.Storage = None,
    board: Annotated[
        str | None, flag("Milliseconds are those of this board (edgeseg board add).", "this machine", metavar="NAME")
    ] = None,
    html: Annotated[str | None, flag("Write a page with the plot.", False, metavar="FILE", panel=RESULTS)] = None,
    offline: flags.Offline = False,
    ray: flags.Ray = None,
    json: flags.Json = None,
) -> None:
    """Measure mixed precisions of a network and show which are worth having: agreement, AP, milliseconds, size.

    Started again, it goes on where it was; started several times with one --storage, also on other machines, the work is
    shared. With a limit it looks for the cheapest within it. The exit code is 1 when nothing is.
    """
    from edgeseg.cli.mixed import report, table
    from edgeseg.cluster import connect
    from edgeseg.export.frontier import write_page
    from edgeseg.export.mixed import Mixed, nothing_fits
    from edgeseg.export.options import ExportOptions
    from edgeseg.export.search import Found, Limits
    from edgeseg.running.open import newest_checkpoint, parse_imgsz

    if trials is not None and trials < 1:
        raise EdgesegError(f"trials={trials} is no whole number above 0")
    source = str(model or newest_checkpoint())
    options = ExportOptions.of(imgsz=parse_imgsz(imgsz), int8=True, data=data, recipe=recipe, images=images)
    limits, to = Limits(max_drop, min_agreement), console.people(json)
    if limits and trials is not None:
        raise EdgesegError("--trials is for a search without limits", hint="Leave out --max-drop and --min-agreement")
    more: dict[str, Any] = {"split": split, "limit": limit, "storage": storage, "offline": offline}
    if board:
        from edgeseg.cli.board import milliseconds_on

        more["board"] = (board, milliseconds_on(board))
    outcomes: list[tuple[Mixed, Found]] = []
    with connect(ray) as more["performer"]:
        searched = [Mixed(source, f, options, limits, **more) for f in split_list(format) or ["tflite"]]
        for mixed in searched:
            with console.shown_events() as on_event:
                mixed.tell(on_event)
                outcomes.append((mixed, mixed.go(trials)))
    failed = 0
    for mixed, found in outcomes:
        name = mixed.target.name
        table(found, name, to)
        if found.best is not None:
            words = ["edgeseg", "export", source, "--int8", "-f", name]
            words += ["--recipe", str(mixed.recipe_file(dict(found.best.islands)))]
            console.note(f"the cheapest: {shlex.join(words)}")
        elif limits:
            failed += 1
            console.error(str(nothing_fits(found, name, source)))
    console.as_json(json, {"model": source, "searches": [report(f, m.target.name) for m, f in outcomes]})
    if html:
        path = write_page(Path(html), {m.target.name: f for m, f in outcomes}, source)
        console.note(f"written: {path}")
    if failed:
        raise typer.Exit(1)
