"""``export``: from a model and the formats asked for to artifacts beside it.

Naming rule: ``<stem>[_fp16|_int8][_decoded]<suffix>``. A format's own precision (the first that its ``target.toml`` lists)
and head have the bare name, so ``yolov8n-seg.onnx`` is fp32 and raw, ``yolov8n-seg_int8.tflite`` says what it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeseg import store
from edgeseg.errors import EdgesegError
from edgeseg.export import cache
from edgeseg.export.calibrate import choose_calibration
from edgeseg.export.job import ExportResult
from edgeseg.export.keeping import Kept
from edgeseg.export.options import ExportOptions
from edgeseg.export.performing import Outcome, Performer
from edgeseg.export.placing import check_place, place_parts
from edgeseg.export.plan import Plan, Step, check_recipe, make_plan
from edgeseg.export.run import STEM, Event, Run
from edgeseg.export.source import Source, boxes_only, end2end, find_source, given_of
from edgeseg.hashing import content_hash
from edgeseg.manifest import size_on_disk
from edgeseg.registry import NETWORK

if TYPE_CHECKING:
    from edgeseg.export.guard import Guard


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
    gate: bool = True,
    judge: str | os.PathLike[str] | None = None,
    decisions: str | os.PathLike[str] | None = None,
    performer: Performer | None = None,
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
        force: keep an artifact that the gate refuses or cannot judge (the reason becomes a note).
        rebuild: take nothing from the cache.
        gate: compare int8 artifacts with the float network before they are put in place; see ``edgeseg.export.guard``.
        judge: a folder of pictures, labelled or not, on which the gate judges; None: images of ``options.data`` that did not
            calibrate.
        decisions: a file with what was decided for int8: ranges, biases and steps are taken from it where it has them, and
            written into it where it has not.
        performer: where the steps run; None: on this machine.

    Returns:
        One result for each format, in the order asked for. A step that failed is a result with its ``error``: the others are
        there nevertheless.

    Raises:
        EdgesegError: nothing was begun: unknown format or option, no such source, no way from it to a format, no calibration
            images, or something that edgeseg did not write is where an artifact must go.
    """
    options = options or ExportOptions()
    found = find_source(source)
    found = end2end(found, options, force) if options.end2end else found
    found = boxes_only(found) if options.boxes_only else found
    plan = make_plan(formats, options, given_of(found, options))
    if judge is not None and not any(step.quantized for step in plan.steps):
        raise EdgesegError("judge gives pictures to the gate, and only int8 has one", hint="Leave it out, or add int8")
    places = _places(plan, found, out)
    left = [path for folder in {p.parent for p in places.values()} for path in store.sweep_folder(folder)]
    for place in places.values():
        check_place(place)
    results: dict[Step, ExportResult] = {}
    with ExitStack() as stack:

        def finish(outcome: Outcome) -> None:
            results[outcome.step] = _finish(outcome, places[outcome.step], run, guard, force)

        run = Run(plan, found.path, "", on_event=on_event, on_outcome=finish, jobs=jobs, offline=offline, rebuild=rebuild)
        run.performer = performer
        for note in plan.notes:
            run.emit(Event("note", text=note))
        for path in left:
            run.emit(Event("note", text=f"put in order what an interrupted export had left ({path})"))
        run.source_hash = content_hash(found.path)
        if decisions is not None:
            run.kept = Kept(Path(decisions).expanduser(), plan, run.source_hash)
        _calibrate(run, options, found)
        if run.calibration is not None:
            from edgeseg.quantize.recipe import Recipe

            check_recipe(plan.wanted, Recipe.from_dict(run.calibration.recipe))  # decisions or the network may bring it
        guard = stack.enter_context(_guard(run, options, found, judge)) if gate else None
        run.go()
        if run.kept is not None:
            run.kept.add(run.outcomes)
    return [results[step] for step in plan.wanted]


def _calibrate(run: Run, options: ExportOptions, source: Source) -> None:
    """Choose the images and the recipe of the steps that quantize; where that fails, those steps will."""
    if not any(step.quantized for step in run.plan.steps):
        return

    def tell(text: str) -> None:
        run.emit(Event("note", text=text))

    pictures = any(step.calibrated for step in run.plan.steps)
    run.calibration = run.kept.calibration(options) if run.kept is not None else None
    if run.calibration is not None:
        return
    try:
        run.calibration = choose_calibration(options, tell, pictures, source.path if source.format == NETWORK else None)
    except EdgesegError as e:
        if all(any(s.quantized for s in step.chain()) for step in run.plan.wanted):
            raise
        run.no_calibration = e  # what needs no images is made all the same


def _guard(
    run: Run, options: ExportOptions, source: Source, pictures: str | os.PathLike[str] | None
) -> AbstractContextManager[Guard | None]:
    if run.calibration is None:
        return nullcontext()
    from edgeseg.export.guard import Guard

    return Guard(source, options, run.calibration, run.emit, None if pictures is None else os.fspath(pictures))


def _finish(outcome: Outcome, place: Path, run: Run, guard: Guard | None, force: bool) -> ExportResult:
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
    result = replace(result, size=size_on_disk(entry.path), notes=entry.notes, key=entry.key)
    try:
        if guard is not None and any(s.quantized for s in step.chain()):
            judged = guard.judge(step, entry)
            result = replace(result, notes=(*result.notes, *judged.notes), gate=judged.verdict)
            if judged.error is not None and not force:
                raise judged.error
            if judged.error is not None:
                result = replace(result, notes=(*result.notes, f"kept by force: {judged.error}"))
        path, said = _put(entry, step, place)
        return replace(result, path=path, notes=(*result.notes, *said))
    except EdgesegError as e:
        run.emit(Event("failed", step.label, 1.0, str(e)))
        return replace(result, size=0, error=e)


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
