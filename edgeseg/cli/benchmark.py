"""``edgeseg benchmark``: one network in every format, exported, validated and timed beside the float network."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeseg.cli import console
from edgeseg.cli.graph import split_list

if TYPE_CHECKING:
    from edgeseg.evaluate.parity import Verdict
    from edgeseg.export.result import ExportResult

HEADER = (
    "format",
    "precision",
    "MB",
    "box AP",
    "mask AP",
    "matched",
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
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            show_default=False,
            help="Checkpoint, or an artifact that others read (default: the newest trained one, else yolov8n-seg.pt).",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="YAML", help="Dataset YAML or name.", show_default="the model's own, else coco128-seg"),
    ] = None,
    format: Annotated[
        list[str] | None,
        typer.Option("--format", "-f", metavar="A,B", help="Formats, with commas or repeated.", show_default="all"),
    ] = None,
    imgsz: Annotated[
        str | None, typer.Option(metavar="N[,N]", help="Input size: 640, or height,width.", show_default="640")
    ] = None,
    half: Annotated[bool | None, typer.Option(help="Half precision (FP16).", show_default=False)] = None,
    int8: Annotated[
        bool | None, typer.Option(help="8-bit integers, calibrated on the train split of --data.", show_default=False)
    ] = None,
    split: Annotated[str, typer.Option(help="Split to measure on: train, val or test.")] = "val",
    limit: Annotated[int | None, typer.Option(help="Only the first so many images.", show_default="all")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of each runtime.")] = None,
    out: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Where artifacts go.", show_default="runs/benchmark")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Install no toolchain.")] = False,
    json: Annotated[
        str | None, typer.Option(metavar="[FILE]", help="Write the table as JSON ('-' or nothing: to standard output).")
    ] = None,
    html: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write a page with pictures too.", show_default=False)
    ] = None,
) -> None:
    """Export to every format, then measure size, accuracy, fidelity to the float network and speed of each.

    All models see each image in turn, each in a process of its own, so that they are timed under the same load. A format
    that fails keeps its row with the reason, and the exit code is 1.
    """
    from edgeseg.cli.compare import open_apart
    from edgeseg.cli.events import shown_events
    from edgeseg.data.dataset import load_dataset
    from edgeseg.errors import EdgesegError
    from edgeseg.evaluate.parity import Verdict, compare
    from edgeseg.evaluate.pictures import write_html
    from edgeseg.evaluate.truth import truth_if_any
    from edgeseg.export.api import export
    from edgeseg.export.options import ExportOptions, precision_for
    from edgeseg.export.plan import ALL
    from edgeseg.model import Model
    from edgeseg.predict.writer import next_run
    from edgeseg.registry import target_by_name
    from edgeseg.running.open import newest_checkpoint, parse_imgsz

    to, source, size = console.people(json), model or newest_checkpoint(), parse_imgsz(imgsz)
    network = Model(source, threads=threads)
    chosen = data or network.default_data()
    dataset = load_dataset(chosen)
    images = dataset.images(split)[:limit]
    truth = truth_if_any(dataset, split, images)
    formats, options = split_list(format) or [ALL], ExportOptions(imgsz=size, half=half, int8=int8)
    if ALL in formats or all(precision_for(target_by_name(f), options) == "int8" for f in formats):
        options = replace(options, data=chosen)
    reference = network.opened.sized(size)
    folder = Path(out) if out else next_run("benchmark")
    with shown_events() as on_event:
        made = export(source, formats, options, out=folder, on_event=on_event, offline=offline)
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
    with console.json_file(json) as stream:
        about = {"model": str(source), "dataset": str(dataset.yaml), "split": split, "imgsz": list(reference.manifest.imgsz)}
        rows = [{**v.to_dict(), "export": r.to_dict()} for r, v in zip(made, whole)]
        console.write_json(stream, {**about, "reference": found[0].to_dict(), "formats": rows})
    if html:
        write_html(Path(html), [found[0], *whole], str(source), f"{dataset.yaml.name} ({split})")
    if json != "-":
        _show(found[0], made, whole, to)
    for v in whole:
        if v.error:
            console.error(f"{v.format}: {v.error}")
    if any(v.error for v in whole):
        raise typer.Exit(1)


def _show(reference: Verdict, made: list[ExportResult], verdicts: list[Verdict], to: Any) -> None:
    """The table, the float network first, and what the converters noted."""
    rows = [row(reference, "", "reference")]
    for r, v in zip(made, verdicts):
        how = "failed" if not r.ok else "cached" if r.cached else f"in {r.seconds:.1f} s"
        rows.append(row(v, how))
    console.table("", HEADER, rows, to=to)
    for r in made:
        for text in r.notes:
            console.say(f"{r.format}: {text}", to=to)


def row(v: Verdict, exported: str, parts: str = "nowhere") -> tuple[Any, ...]:
    """One line of the table; see ``HEADER``."""
    from edgeseg.registry import target_by_path

    target = target_by_path(v.path)
    kit = " kit" if target is not None and target.is_kit(v.path) else ""  # its figures are not the format's own
    about = (v.format + kit, v.precision, round(v.size / 1e6, 2) if v.size else None)
    if v.fidelity is None:
        return (*about, *[None] * 9, exported, f"{v.diverges}: {v.error}")
    f, ap = v.fidelity, v.metrics
    figures = (*((ap.box.map, ap.seg.map) if ap else (None, None)), f.matched, f.mask_iou, f.score_shift)
    ms = (v.speed_ms["preprocess"], v.speed_ms["inference"], v.p95_ms["inference"], v.speed_ms["postprocess"])
    return (
        *about,
        *(x if x is None else round(float(x), 4) for x in figures),
        *(round(x, 1) for x in ms),
        exported,
        v.diverges or parts,
    )
