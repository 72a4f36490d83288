"""``edgeseg benchmark``: one network in every format, exported, validated and timed beside the float network."""

from __future__ import annotations

import json as codec
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from edgeseg.cli import console, flags
from edgeseg.cli.flags import flag, split_list, word
from edgeseg.resources import new_folder

if TYPE_CHECKING:
    from edgeseg.export.benchmark import Measured


def benchmark(
    models: Annotated[
        list[str] | None, word("Checkpoints, or artifacts that others read; globs (default: the newest one).", "[MODEL]...")
    ] = None,
    model: Annotated[str | None, typer.Option(hidden=True)] = None,
    data: flags.Data = None,
    format: Annotated[
        list[str] | None, flag("Formats, with commas or repeated.", "all", "--format", "-f", metavar="A,B")
    ] = None,
    imgsz: Annotated[str | None, flag("Input size: 640, or height,width.", "640", metavar="N[,N]")] = None,
    half: flags.Half = None,
    int8: flags.Int8 = None,
    split: flags.Split = "val",
    limit: flags.Limit = None,
    threads: flags.Threads = None,
    out: Annotated[str | None, flag("Where artifacts go.", "runs/benchmark", metavar="FOLDER")] = None,
    offline: flags.Offline = False,
    json: flags.Json = None,
    html: Annotated[str | None, flag("Write a page with pictures too.", False, metavar="FILE")] = None,
    ray: flags.Ray = None,
) -> None:
    """Export to every format, then measure size, accuracy, fidelity to the float network and speed of each.

    All models see each image in turn, each in a process of its own, so that they are timed under the same load. A format
    that fails keeps its row with the reason, and the exit code is 1.
    """
    from edgeseg.cli.many import expanded
    from edgeseg.cluster import connect
    from edgeseg.errors import EdgesegError
    from edgeseg.export.benchmark import Showing, measure
    from edgeseg.export.options import ExportOptions
    from edgeseg.model import Model
    from edgeseg.running.open import newest_checkpoint, parse_imgsz

    to = console.people(json)
    console.check_place(html, "--html", b"<")
    sources = expanded([*(models or []), *([model] if model else [])]) or [str(newest_checkpoint())]
    if html and len(sources) > 1:
        raise EdgesegError("a page is for one model", hint="Leave --html out, or name one model")
    folder = cache(lambda: Path(out) if out else new_folder("runs/benchmark"))  # made once something is exported
    showing = Showing(console.shown_events, console.progress, lambda opened: console.inferred(opened.manifest))
    how: dict[str, Any] = {"split": split, "limit": limit, "threads": threads, "showing": showing}
    failed = 0
    with console.json_file(json) as stream, connect(ray) as cluster:
        how["running"] = {"offline": offline, "performer": cluster}
        for source in sources:
            try:
                options = ExportOptions(imgsz=parse_imgsz(imgsz), half=half, int8=int8)
                network = Model(source, threads=threads)
                chosen = data or network.default_data()
                place = folder if len(sources) == 1 else partial(_below, folder, Path(source).stem)
                done = measure(source, network.opened, chosen, split_list(format), options, folder=place, **how)
            except EdgesegError as e:
                if len(sources) == 1:
                    raise
                console.error(f"{source}: {e}" if source not in str(e) else str(e))
                failed += 1
                continue
            _write(stream, done, len(sources) == 1)
            if html:
                write_page(Path(html), done)
            if json != "-":
                _show(done, to, source if len(sources) > 1 else "")
            for v in done.verdicts:
                if v.error:
                    console.error(f"{v.format}: {v.error}")
            failed += any(v.error for v in done.verdicts)
    if failed:
        raise typer.Exit(1)


def _below(folder: Callable[[], Path], name: str) -> Path:
    return folder() / name


def _write(stream: IO[str] | None, done: Measured, alone: bool) -> None:
    """What was measured as JSON: of one network among several a line."""
    if alone:
        console.write_json(stream, done.to_dict())
    elif stream is not None:
        stream.write(codec.dumps(done.to_dict()) + "\n")
        stream.flush()


def write_page(file: Path, done: Measured) -> None:
    """The page with pictures of one network."""
    from edgeseg.report.sections import write_comparison

    verdicts, where = [done.reference, *done.verdicts], f"{done.dataset.name} ({done.split})"
    write_comparison(file, verdicts, done.source, where, title=f"Benchmark of {Path(done.source).name}")


def _show(done: Measured, to: Any, title: str) -> None:
    """The table, the float network first, and what the converters noted."""
    from edgeseg.export.benchmark import HEADER

    console.table(title, HEADER, done.table(), to=to)
    for r in done.made:
        for text in r.notes:
            console.say(f"{r.format}: {text}", to=to)
