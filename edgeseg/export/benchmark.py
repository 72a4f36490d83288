"""One network in every format, each exported, then validated and timed beside the float network: what a benchmark is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseg.data.dataset import load_dataset
from edgeseg.errors import EdgesegError
from edgeseg.evaluate.parity import Verdict, compare
from edgeseg.evaluate.truth import truth_if_any
from edgeseg.evaluate.validate import class_order
from edgeseg.export.api import export
from edgeseg.export.options import ExportOptions, precision_for
from edgeseg.export.plan import ALL
from edgeseg.registry import target_by_name, target_by_path
from edgeseg.running.open import Opened, open_model, parse_imgsz

if TYPE_CHECKING:
    from edgeseg.export.job import ExportResult

FIGURES = ("box AP", "mask AP", "agreement", "missing, extra", "mask IoU", "score shift")
HEADER = ("format", "precision", "MB", *FIGURES, "pre ms", "ms", "p95 ms", "post ms", "exported", "parts at")


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

    def table(self) -> list[tuple[Any, ...]]:
        """The lines of the table, the float network first; see ``HEADER``."""
        how = ("failed" if not r.ok else "cached" if r.cached else f"in {r.seconds:.1f} s" for r in self.made)
        return [row(self.reference, "", "reference"), *map(row, self.verdicts, how)]

    def rows(self) -> list[dict[str, Any]]:
        """The same as mappings, for ``pandas.DataFrame``; figures that could not be measured are None."""
        return [dict(zip(HEADER, line)) for line in self.table()]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows())

    def __str__(self) -> str:
        cells = [HEADER, *(["" if v is None else str(v) for v in line] for line in self.table())]
        widths = [max(map(len, column)) for column in zip(*cells)]
        return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)


@dataclass(frozen=True)
class Showing:
    """What is shown meanwhile: a context that gives the listener of an export, one that gives the progress of measuring
    (``update(done, total)``), and what hears of a model that is opened."""

    exporting: Callable[[], AbstractContextManager[Any]] = nullcontext
    measuring: Callable[[str], AbstractContextManager[Any]] = lambda text: nullcontext()
    opened: Callable[[Opened], object] = lambda opened: None


def measure(
    source: str,
    network: Opened,
    data: str,
    formats: Sequence[str],
    options: ExportOptions,
    *,
    folder: Callable[[], Path],
    split: str = "val",
    limit: int | None = None,
    threads: int | None = None,
    showing: Showing | None = None,
    running: dict[str, Any] | None = None,
) -> Measured:
    """Export one network and measure what came of it.

    Args:
        source: the network, or an artifact that others read; ``network`` is the same, opened.
        data: dataset YAML or name; calibrates too where all formats are int8.
        formats: their names; none: all.
        folder: gives where the artifacts go; called once they are made.
        limit: only the first so many images of ``split``.
        running: of ``edgeseg.export.api.export``.

    Raises:
        EdgesegError: the dataset or an option is wrong. A format that fails keeps its line with the reason.
    """
    dataset, showing = load_dataset(data), showing or Showing()
    images = dataset.images(split)[:limit]
    truth = truth_if_any(dataset.for_task(network.manifest.task), split, images)
    if truth is not None:
        class_order(network.manifest.names, truth.names, dataset.yaml)  # an error before any work
    formats = list(formats) or [ALL]
    if ALL in formats or all(precision_for(target_by_name(f), options) == "int8" for f in formats):
        options = replace(options, data=data)
    reference = network.sized(parse_imgsz(options.imgsz))
    with showing.exporting() as on_event:
        heard = {} if on_event is None else {"on_event": on_event}
        made = export(source, formats, options, out=folder(), **heard, **(running or {}))
    verdicts: list[Verdict | None] = []
    with ExitStack() as stack:
        others = []
        for r in made:
            failed = None
            try:
                if r.error is not None:
                    raise r.error
                others.append(stack.enter_context(open_model(str(r.path), threads=threads, apart=True)))
                showing.opened(others[-1])
            except EdgesegError as e:
                where = "opening" if r.ok else "export"
                path = r.path or Path(r.format)
                failed = Verdict(path, "", r.format, r.precision, r.head, r.size, error=str(e), diverges=where)
            verdicts.append(failed)
        with showing.measuring(f"measuring {len(others)} models") as bar:
            found = compare(reference, others, images, truth, progress=None if bar is None else bar.update)
    measured = iter(found[len(found) - len(others) :])
    whole = [v or next(measured) for v in verdicts]
    return Measured(source, dataset.yaml, split, list(reference.manifest.imgsz), found[0], made, whole)


def row(v: Verdict, exported: str, parts: str = "nowhere") -> tuple[Any, ...]:
    """One line of the table; see ``HEADER``."""
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
        *(round(float(x), 4) + 0.0 if isinstance(x, float) else x for x in figures),
        *(round(x, 1) for x in ms),
        exported,
        v.diverges or parts,
    )
