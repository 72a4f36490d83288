"""``edgeseg benchmark``: one network in every format, exported, validated and timed beside the float network."""

from __future__ import annotations

import json as codec
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeseg.cli import console, flags
from edgeseg.cli.flags import flag, word
from edgeseg.cli.graph import split_list
from edgeseg.runs import new_folder

if TYPE_CHECKING:
    from edgeseg.evaluate.parity import Verdict
    from edgeseg.export.result import ExportResult

HEADER = (
    "format",
    "precision",
    "MB",
    "box AP",
    "mask AP",
    "agreement",
    "missing, extra",
    "mask IoU",
    "score shift",
    "pre ms",
    "ms",
    "p95 ms",
    "post ms",
    "exported",
    "parts at",
)


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
    from edgeseg.running.open import newest_checkpoint

    to, sources = (
        console.people(json),
        expanded([*(models or []), *([model] if model else [])]) or [str(newest_checkpoint())],
    )
    if html and len(sources) > 1:
        raise EdgesegError("a page is for one model", hint="Leave --html out, or name one model")
    folder = cache(lambda: Path(out) if out else new_folder("runs/benchmark"))  # made once something is exported
    failed = 0
    with console.json_file(json) as stream, connect(ray) as cluster:
        for source in sources:
            try:
                done = _measured(
                    source,
                    data,
                    split_list(format),
                    {"imgsz": imgsz, "half": half, "int8": int8},
                    split=split,
                    limit=limit,
                    threads=threads,
                    folder=folder if len(sources) == 1 else partial(_below, folder, Path(source).stem),
                    running={"offline": offline, "performer": cluster},
                )
            except EdgesegError as e:
                if len(sources) == 1:
                    raise
                console.error(f"{source}: {e}" if source not in str(e) else str(e))
                failed += 1
                continue
            if len(sources) == 1:
                console.write_json(stream, done.to_dict())
            elif stream is not None:
                stream.write(codec.dumps(done.to_dict()) + "\n")
                stream.flush()
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


@dataclass(frozen=True)
class Measured:
    """One network in every format: ``made`` and ``verdicts`` belong together, format by format."""

    source: str
    dataset: Path
    split: str
    imgsz: list[int]
    reference: Verdict
    made: list[ExportResult]
    verdicts: list[Verdict]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        about = {"model": self.source, "dataset": str(self.dataset), "split": self.split, "imgsz": self.imgsz}
        rows = [{**v.to_dict(), "export": r.to_dict()} for r, v in zip(self.made, self.verdicts)]
        return {**about, "reference": self.reference.to_dict(), "formats": rows}


def _measured(
    source: str,
    data: str | None,
    formats: list[str],
    wish: dict[str, Any],
    *,
    split: str,
    limit: int | None,
    threads: int | None,
    folder: Callable[[], Path],
    running: dict[str, Any],
) -> Measured:
    """Export one network and measure what came of it."""
    from edgeseg.cli.compare import open_apart
    from edgeseg.cli.events import shown_events
    from edgeseg.data.dataset import load_dataset
    from edgeseg.errors import EdgesegError
    from edgeseg.evaluate.parity import Verdict, compare
    from edgeseg.evaluate.truth import truth_if_any
    from edgeseg.export.api import export
    from edgeseg.export.options import ExportOptions, precision_for
    from edgeseg.export.plan import ALL
    from edgeseg.model import Model
    from edgeseg.registry import target_by_name
    from edgeseg.running.open import parse_imgsz

    size, network = parse_imgsz(wish["imgsz"]), Model(source, threads=threads)
    chosen = data or network.default_data()
    dataset = load_dataset(chosen)
    images = dataset.images(split)[:limit]
    truth = truth_if_any(dataset.for_task(network.opened.manifest.task), split, images)
    formats, options = formats or [ALL], ExportOptions(**{**wish, "imgsz": size})
    if ALL in formats or all(precision_for(target_by_name(f), options) == "int8" for f in formats):
        options = replace(options, data=chosen)
    reference = network.opened.sized(size)
    with shown_events() as on_event:
        made = export(source, formats, options, out=folder(), on_event=on_event, **running)
    verdicts: list[Verdict | None] = []
    with ExitStack() as stack:
        others = []
        for r in made:
            failed = None
            try:
                if r.error is not None:
                    raise r.error
                others.append(open_apart(str(r.path), threads, stack))
            except EdgesegError as e:
                where = "opening" if r.ok else "export"
                path = r.path or Path(r.format)
                failed = Verdict(path, "", r.format, r.precision, r.head, r.size, error=str(e), diverges=where)
            verdicts.append(failed)
        with console.progress(f"measuring {len(others)} models") as bar:
            found = compare(reference, others, images, truth, progress=bar.update)
    measured = iter(found[len(found) - len(others) :])
    whole = [v or next(measured) for v in verdicts]
    return Measured(source, dataset.yaml, split, list(reference.manifest.imgsz), found[0], made, whole)


def _below(folder: Callable[[], Path], name: str) -> Path:
    return folder() / name


def write_page(file: Path, done: Measured) -> None:
    """The page with pictures of one network."""
    from edgeseg.report.sections import write_comparison

    verdicts, where = [done.reference, *done.verdicts], f"{done.dataset.name} ({done.split})"
    write_comparison(file, verdicts, done.source, where, title=f"Benchmark of {Path(done.source).name}")


def _show(done: Measured, to: Any, title: str) -> None:
    """The table, the float network first, and what the converters noted."""
    rows = [row(done.reference, "", "reference")]
    for r, v in zip(done.made, done.verdicts):
        how = "failed" if not r.ok else "cached" if r.cached else f"in {r.seconds:.1f} s"
        rows.append(row(v, how))
    console.table(title, HEADER, rows, to=to)
    for r in done.made:
        for text in r.notes:
            console.say(f"{r.format}: {text}", to=to)


def row(v: Verdict, exported: str, parts: str = "nowhere") -> tuple[Any, ...]:
    """One line of the table; see ``HEADER``."""
    from edgeseg.registry import target_by_path

    target = target_by_path(v.path)
    kit = " kit" if target is not None and target.is_kit(v.path) else ""  # its figures are not the format's own
    about = (v.format + kit, v.precision, round(v.size / 1e6, 2) if v.size else None)
    if v.fidelity is None:
        return (*about, *[None] * 10, exported, f"{v.diverges}: {v.error}")
    f, ap = v.fidelity, v.metrics
    figures = (*((ap.box.map, ap.seg.map) if ap else (None, None)), f.agreement, f.missing_extra, f.mask_iou, f.score_shift)
    ms = (v.speed_ms["preprocess"], v.speed_ms["inference"], v.p95_ms["inference"], v.speed_ms["postprocess"])
    return (
        *about,
        *map(console.rounded, figures),
        *(round(x, 1) for x in ms),
        exported,
        v.diverges or parts,
    )
