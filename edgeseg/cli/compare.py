"""``edgeseg validate A B C --reference MODEL``: several models side by side, each in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseg.cli import console
from edgeseg.resources import new_folder

if TYPE_CHECKING:
    from edgeseg.cluster.driver import Cluster
    from edgeseg.evaluate.parity import Verdict
    from edgeseg.running.open import Opened

FIGURES = ("box AP", "mask AP", "agreement", "missing, extra", "mask IoU", "score shift")
HEADER = ("model", "format", "size", *FIGURES, "max score", "max box px", "ms", "parts at")


def compare_models(
    files: Sequence[str],
    reference: str,
    data: str | None,
    *,
    split: str,
    limit: int | None,
    size: tuple[int, int] | None,
    threads: int | None,
    device: str | None,
    input: str | None,
    html: str | None,
    json: str | None,
    cluster: Cluster | None = None,
) -> int:
    """Compare, print the table, write JSON and HTML; the exit code: 1 when a model parts from the reference, else 0.

    The reference runs at the size of each model. ``data`` is a dataset, with labels or without, or a folder of pictures.
    """
    from edgeseg.data.dataset import pictures
    from edgeseg.evaluate.parity import compare
    from edgeseg.evaluate.truth import truth_if_any
    from edgeseg.evaluate.validate import class_order
    from edgeseg.model import Model
    from edgeseg.report.sections import write_comparison

    to = console.people(json)
    with ExitStack() as stack:
        bar = stack.enter_context(console.progress(f"comparing {len(files)} models with {reference}"))
        first = Model(reference, threads=threads)
        chosen = data or first.default_data()
        images, dataset = pictures(chosen, split)
        images = images[:limit]
        truth = None if dataset is None else truth_if_any(dataset.for_task(first.opened.manifest.task), split, images)
        if dataset is not None and truth is not None:
            for text in (*truth.warnings, *class_order(first.opened.manifest.names, truth.names, dataset.yaml)[1]):
                console.warn(text)
        where = chosen if dataset is None else f"{dataset.yaml.name} ({split})"
        subject = first.opened.on(device).sized(size)
        others, failed = _opened(files, threads, stack, input)
        if cluster is None:
            verdicts = compare(subject, others, images, truth, progress=bar.update)
        else:
            more: dict[str, Any] = {"threads": threads, "input": input, "progress": bar.update}
            verdicts = cluster.compare(subject, others, images, truth, **more)
    verdicts = [*verdicts, *failed]
    page = Path(html) if html else new_folder("runs/validate") / "report.html"
    seen = max(v.fidelity.images for v in verdicts if v.fidelity is not None)
    with console.json_file(json) as stream:
        name = chosen if dataset is None else str(dataset.yaml)
        found = {"reference": reference, "dataset": name, "split": split, "images": seen, "report": str(page)}
        console.write_json(stream, {**found, "models": [v.to_dict() for v in verdicts]})
    if json != "-":
        _show(verdicts, "" if truth else f"{seen} images of {where} without labels: no average precision", to)
    if seen < len(images):
        console.warn(f"{len(images) - seen} of {len(images)} images of {where} cannot be read: left out")
    for v in verdicts:
        if v.error:
            console.error(v.error if str(v.path) in v.error else f"{v.path}: {v.error}")
    write_comparison(page, verdicts, reference, where, title="Cross-format validation")
    if json != "-":
        console.say(f"pictures of the worst disagreements: {page}", to=to)
    return 1 if any(v.diverges for v in verdicts) else 0


def _show(verdicts: Sequence[Verdict], without: str, to: Any) -> None:
    console.table("", HEADER, [row(v) for v in verdicts], to=to)
    for v in verdicts:
        if v.ap_difference:
            console.say(f"{v.path.name}: {differences(v)}", to=to)
    if without:
        console.say(without, to=to)


def _opened(
    files: Sequence[str], threads: int | None, stack: ExitStack, input: str | None
) -> tuple[list[Opened], list[Verdict]]:
    """Those that can be opened, and what is said of the others."""
    from edgeseg.errors import EdgesegError
    from edgeseg.evaluate.parity import Verdict

    others: list[Opened] = []
    failed: list[Verdict] = []
    for file in files:
        try:
            others.append(open_apart(file, threads, stack, input))
        except EdgesegError as e:
            failed.append(Verdict(Path(file), "", "", "", "", 0, error=str(e), diverges="opening"))
    return others, failed


def open_apart(file: str, threads: int | None, stack: ExitStack, input: str | None = None) -> Opened:
    """Open one model in a process of its own, which ends with ``stack``; a checkpoint in this one.

    Raises:
        EdgesegError: it cannot be opened.
    """
    from edgeseg.running.open import is_checkpoint, open_model

    network = is_checkpoint(file)
    opened = stack.enter_context(open_model(file, threads=threads, input=None if network else input, apart=not network))
    console.inferred(opened.manifest)
    return opened


def differences(v: Verdict) -> str:
    """How far AP is from the reference's, in words."""
    words = {"box": "box AP", "seg": "mask AP"}
    parts = []
    for kind, found in v.ap_difference.items():
        difference, low, high = (100 * d for d in found)
        parts.append(f"{words[kind]} {difference:+.2f} points ({low:+.2f} to {high:+.2f})")
    return ", ".join(parts) + ", 95 % interval over the images"


def row(v: Verdict) -> tuple[Any, ...]:
    """One line of the table; see ``HEADER``."""
    about = (str(v.path), v.title, console.size(v.size))
    if v.fidelity is None:
        return (*about, *[None] * 9, v.diverges)
    f, ap = v.fidelity, v.metrics
    figures = (*((ap.box.map, ap.seg.map) if ap else (None, None)), f.agreement, f.missing_extra, f.mask_iou, f.score_shift)
    speed = round(v.speed_ms.get("inference", 0.0), 1)
    largest = (f"{v.largest_score:.1e}", f"{v.largest_box:.2g}")
    return (*about, *map(console.rounded, figures), *largest, speed, v.diverges or "nowhere")
