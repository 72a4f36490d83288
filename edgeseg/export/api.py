"""``export``: from a model and the formats asked for to artifacts beside it.

Naming rule: ``<stem>[_fp16|_int8][_decoded]<suffix>``. A format's own precision (the first that its ``target.toml`` lists)
and head have the bare name, so ``yolov8n-seg.onnx`` is fp32 and raw, ``yolov8n-seg_int8.tflite`` says what it is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgeseg import store
from edgeseg.artifact import size_on_disk
from edgeseg.errors import EdgesegError, StepFailed
from edgeseg.export import cache
from edgeseg.export.calibrate import choose_calibration
from edgeseg.export.options import ExportOptions
from edgeseg.export.placing import check_place, place_parts
from edgeseg.export.plan import Given, Plan, Step, make_plan
from edgeseg.export.run import STEM, Event, Outcome, Run
from edgeseg.hashing import content_hash, sha256_json
from edgeseg.registry import CHECKPOINTS, NETWORK, target_by_path, targets
from edgeseg.resources import cache_root


@dataclass(frozen=True)
class ExportResult:
    """One format of an export.

    Attributes:
        format: name of the format.
        precision: ``fp32``, ``fp16`` or ``int8``.
        head: ``raw`` or ``decoded``.
        path: the artifact in its place; None when it failed.
        size: bytes, of the file or the whole folder.
        seconds: time of its step in this export (of the look-up, when cached).
        cached: whether it was taken from the cache.
        toolchain: ``current``, or the name of the toolchain whose environment made it.
        error: what went wrong, None when nothing did.
        log: log of the step, None when it did not run.
        notes: what the converter wants a person to know.
        key: key of the entry in the cache.
        gate: what the gate found of an int8 artifact (``GateVerdict.to_dict``), None when it did not run.
    """

    format: str
    precision: str
    head: str = "raw"
    path: Path | None = None
    size: int = 0
    seconds: float = 0.0
    cached: bool = False
    toolchain: str = ""
    error: EdgesegError | None = None
    log: Path | None = None
    notes: tuple[str, ...] = ()
    key: str = ""
    gate: Mapping[str, Any] | None = None

    @property
    def ok(self) -> bool:
        """Whether the artifact is in its place."""
        return self.error is None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for name in ("path", "log", "error"):
            values[name] = None if values[name] is None else str(values[name])
        return {**values, "notes": list(self.notes)}


class Refused(StepFailed):
    """What ``After`` raises to refuse an artifact with a verdict, which becomes ``ExportResult.gate``."""

    def __init__(self, what: str, *, verdict: Mapping[str, Any], hint: str = "") -> None:
        super().__init__(what, hint=hint)
        self.verdict = verdict


#: Looks at a finished artifact before it is put in place: ``result.path`` is then the cache's copy. It may return a changed
#: result (more notes); an ``EdgesegError`` that it raises refuses the artifact.
After = Callable[[ExportResult], ExportResult | None]


@dataclass(frozen=True)
class Source:
    """The model to export: its file or folder, what it is (``network`` or a format), its stem, and where artifacts go."""

    path: Path
    format: str
    stem: str
    home: Path


def export(
    source: str | os.PathLike[str],
    formats: Sequence[str],
    options: ExportOptions | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    on_event: Callable[[Event], None] | None = None,
    jobs: int | None = None,
    offline: bool = False,
    force: bool = False,
    rebuild: bool = False,
    after: After | None = None,
) -> list[ExportResult]:
    """Export a model to formats, sharing what their conversions share.

    Args:
        source: a checkpoint (``.pt``), a definition (``.yaml``), the well-known name of either, or an artifact that some of
            the formats read.
        formats: names or aliases of formats; ``all`` for every one.
        options: applied to all of them; an option that one does not take is an error.
        out: the folder for the artifacts, created if need be; for a single format also the artifact's own path. None: beside
            the source (for a downloaded one: here).
        on_event: called for every ``Event``, one at a time, from several threads.
        jobs: steps at once; None: by cores. Memory limits them further.
        offline: never install a toolchain; so does ``EDGESEG_OFFLINE=1``.
        force: keep an artifact that ``after`` refuses (its reason becomes a note).
        rebuild: take nothing from the cache.
        after: see ``After``; called in this thread for each artifact as soon as it is there.

    Returns:
        One result for each format, in the order asked for. A step that failed is a result with its ``error``: the others are
        there nevertheless.

    Raises:
        EdgesegError: nothing was begun: unknown format or option, no such source, no way from it to a format, no calibration
            images, or something that edgeseg did not write is where an artifact must go.
    """
    options = options or ExportOptions()
    found = find_source(source)
    plan = make_plan(formats, options, _given(found, options))
    places = _places(plan, found, out)
    left = [path for folder in {p.parent for p in places.values()} for path in store.sweep_folder(folder)]
    for place in places.values():
        check_place(place)
    results: dict[Step, ExportResult] = {}

    def finish(outcome: Outcome) -> None:
        results[outcome.step] = _finish(outcome, places[outcome.step], run, after, force)

    run = Run(plan, found.path, "", on_event=on_event, on_outcome=finish, jobs=jobs, offline=offline, rebuild=rebuild)
    for note in plan.notes:
        run.emit(Event("note", text=note))
    for path in left:
        run.emit(Event("note", text=f"put in order what an interrupted export had left ({path})"))
    run.source_hash = content_hash(found.path)
    if any(step.quantized for step in plan.steps):
        pictures = any(step.calibrated for step in plan.steps)
        checkpoint = found.path if found.format == NETWORK else None

        def tell(text: str) -> None:
            run.emit(Event("note", text=text))

        try:
            run.calibration = choose_calibration(options, tell, pictures, checkpoint)
        except EdgesegError as e:
            if all(any(s.quantized for s in step.chain()) for step in plan.wanted):
                raise
            run.no_calibration = e  # what needs no images is made all the same
    run.go()
    return [results[step] for step in plan.wanted]


def _finish(outcome: Outcome, place: Path, run: Run, after: After | None, force: bool) -> ExportResult:
    step, entry = outcome.step, outcome.entry
    result = ExportResult(
        step.format,
        step.precision,
        step.head,
        seconds=outcome.seconds,
        cached=outcome.cached,
        toolchain=outcome.toolchain,
        error=outcome.error,
        log=outcome.log,
    )
    if entry is None:
        return result
    result = replace(result, path=entry.path, size=size_on_disk(entry.path), notes=entry.notes, key=entry.key)
    try:
        if after is not None:
            try:
                result = after(result) or result
            except EdgesegError as e:
                result = replace(result, gate=getattr(e, "verdict", None))
                if not force:
                    raise
                result = replace(result, notes=(*result.notes, f"kept by force: {e}"))
        path, said = _put(entry, step, place)
        return replace(result, path=path, notes=(*result.notes, *said))
    except EdgesegError as e:
        run.emit(Event("failed", step.label, 1.0, str(e)))
        return replace(result, path=None, size=0, error=e)


def _put(entry: cache.Entry, step: Step, place: Path) -> tuple[Path, list[str]]:
    """Copy an entry's parts to their places; the main one last, after what belongs beside it."""
    stem, usual = place.name[: -len(step.target.suffix)], step.target.artifact_name(STEM)
    # A converter may have made something else than the usual artifact: it has its own ending then.
    where = {p: place if p.name == usual else place.with_name(stem + p.name[len(STEM) :]) for p in entry.parts()}
    said = place_parts(dict(reversed(where.items())))
    return where[entry.path], said


def _places(plan: Plan, source: Source, out: str | os.PathLike[str] | None) -> dict[Step, Path]:
    folder = source.home if out is None else Path(out).expanduser()
    if out is not None and len(plan.wanted) == 1:
        target = plan.wanted[0].target
        if folder.name.lower().endswith(target.suffix.lower()) and folder.name.lower() != target.suffix.lower():
            return {plan.wanted[0]: folder}
    if folder.exists() and not folder.is_dir():
        raise EdgesegError("this is a file, and artifacts go into a folder", path=folder, hint="Give --out a folder")
    return {step: folder / artifact_name(source.stem, step) for step in plan.wanted}


def artifact_name(stem: str, step: Step) -> str:
    """The file or folder name of a step's artifact, by the rule at the top of this module."""
    target = step.target
    precision = "" if step.precision == target.precisions[0] else f"_{step.precision}"
    usual = "raw" if "raw" in target.heads else target.heads[0]
    return target.artifact_name(f"{stem}{precision}" + ("" if step.head == usual else f"_{step.head}"))


def find_source(source: str | os.PathLike[str]) -> Source:
    """What ``source`` is and where it lies. A well-known name that is not on disk is left to ``edgeseg.network``.

    Raises:
        EdgesegError: there is no such model, or its suffix is unknown.
    """
    path = Path(source).expanduser()
    if path.exists():
        if path.suffix.lower() in CHECKPOINTS:
            return Source(path, NETWORK, path.stem, path.parent)
        target = target_by_path(path)
        if target is None:
            known = ", ".join((*CHECKPOINTS[:1], ".yaml", *(t.suffix for t in targets().values())))
            raise EdgesegError("no known kind of model has this suffix", path=path, hint=f"Known: {known}")
        return Source(path, target.name, target.stem(path), path.parent)
    if path.suffix.lower() not in ("", *CHECKPOINTS):
        raise EdgesegError(
            "no such file or folder", path=path, hint="Check the path, or export it from its checkpoint (.pt)"
        )
    return Source(_well_known(os.fspath(source)), NETWORK, path.stem if path.suffix else path.name, Path.cwd())


def _well_known(name: str) -> Path:
    from edgeseg.network.definition import builtin_definition

    if Path(name).suffix.lower() in (".yaml", ".yml"):
        definition = builtin_definition(name)
        if definition is None:
            raise EdgesegError("no such definition", path=name, hint="Built in: yolov8n-seg.yaml (n, s, m, l, x)")
        return definition
    # Downloaded before: found without the import of torch that `edgeseg.network.checkpoint` brings.
    weights = cache_root() / "weights" / f"{name.removesuffix('.pt')}.pt"
    if Path(name).name == name and weights.is_file():
        return weights
    from edgeseg.network.checkpoint import find_checkpoint

    return find_checkpoint(name)


def trained_size(path: Path) -> tuple[int, int]:
    """(height, width) that a network was trained at; 640 by 640 where it does not say. Remembered while the file stays.

    A file that is no checkpoint, or a machine without torch, is left to the step that reads it: it says what is wrong.
    """
    usual = ExportOptions().size
    if not zipfile.is_zipfile(path) or importlib.util.find_spec("torch") is None:
        return usual
    stat = path.stat()
    state = [str(path.resolve()), stat.st_size, stat.st_mtime_ns]
    note = cache_root() / "networks" / f"{sha256_json(state)[:32]}.json"
    with contextlib.suppress(OSError, ValueError, TypeError):
        height, width = json.loads(note.read_text(encoding="utf-8"))
        return int(height), int(width)
    from edgeseg.network.checkpoint import load_checkpoint
    from edgeseg.network.runtime import trained_imgsz

    try:
        size = trained_imgsz(load_checkpoint(path), usual[0])
    except EdgesegError:
        return usual
    store.make_folder(note.parent)
    store.write_atomically(note, json.dumps(size))
    return size


def _given(source: Source, options: ExportOptions) -> Given:
    """What the plan starts from. An artifact has its size, batch and head already: asking for others is an error."""
    if source.format == NETWORK:
        return Given() if options.imgsz is not None else Given(usual=trained_size(source.path))
    from edgeseg.running.open import open_model

    with open_model(source.path) as opened:
        manifest = opened.manifest
    fixed: dict[str, Any] = {"head": manifest.head}
    if not manifest.dynamic:
        fixed.update(imgsz=manifest.imgsz, batch=manifest.batch)
    for name, value in fixed.items():
        asked = getattr(options, name)
        if asked is not None and asked != value:
            raise EdgesegError(
                f"this artifact was exported with {name}={value}, not {asked}",
                path=source.path,
                hint="Export from the checkpoint (.pt) to change it",
            )
    return Given(source.format, manifest.precision, **fixed)
