"""What the search of ``edgeseg.export.search`` measures, on real artifacts of one format, and where it writes that down."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeseg import store
from edgeseg.data.dataset import Dataset, load_dataset
from edgeseg.data.images import read_image
from edgeseg.errors import EdgesegError, StepFailed
from edgeseg.evaluate.fidelity import fidelity
from edgeseg.evaluate.validate import validate
from edgeseg.export import cache
from edgeseg.export.api import export
from edgeseg.export.calibrate import DEFAULT_DATA, DEFAULT_RECIPE, choose_calibration
from edgeseg.export.options import ExportOptions
from edgeseg.export.run import Event
from edgeseg.export.search import (
    Found,
    Islands,
    Key,
    Limits,
    Measured,
    Memory,
    cheapest,
    key_of,
    outline,
    search,
    to_toml,
    told,
    with_islands,
)
from edgeseg.export.source import find_source, trained_size
from edgeseg.hashing import content_hash, sha256_json
from edgeseg.quantize.flow import STAGES
from edgeseg.quantize.recipe import FLOAT, Correction, load_recipe
from edgeseg.registry import NETWORK, target_by_name
from edgeseg.resources import cache_root
from edgeseg.running.open import Opened, open_model
from edgeseg.running.pipeline import Pipeline
from edgeseg.vision.detections import Detections
from edgeseg.vision.postprocess import postprocess

if TYPE_CHECKING:
    from edgeseg.export.study import Study

#: Images for the order of the stages, and for the race of the candidates.
FEW = 8
AP: dict[str, Any] = {"conf": 0.001, "iou": 0.7, "max_det": 300, "multi_label": True}
Say = Callable[[str], None]


class Mixed:
    """The search for one model and format.

    Args:
        source: the checkpoint.
        format: name of the format.
        options: the export's; ``recipe`` is where the search starts.
        limits: what may be lost.
        split: where AP and agreement are measured.
        limit: only the first so many images of it.
        board: where milliseconds are measured in place of this machine: its name, and what gives the median milliseconds of
            inference of an artifact there.
        storage: a file or a database's URL, where other processes and machines join this search; None: a file of its own.
        on_event: told of progress.
        running: further arguments of ``export`` (``offline``, ``jobs``).

    Raises:
        EdgesegError: a format without int8, a recipe that quantizes no activations, an artifact as source.
    """

    def __init__(
        self,
        source: str | Path,
        format: str,
        options: ExportOptions,
        limits: Limits,
        *,
        split: str = "val",
        limit: int | None = None,
        storage: str | None = None,
        board: tuple[str, Callable[[Path], float]] | None = None,
        on_event: Callable[[Event], None] | None = None,
        **running: Any,
    ) -> None:
        self.board = board
        self.target, self.origin = target_by_name(format), find_source(source)
        if options.end2end or options.boxes_only:
            what = f"a search and {'end2end' if options.end2end else 'boxes_only'} exclude each other"
            raise EdgesegError(what, hint="The search is for the classic head of the whole network")
        if self.origin.format != NETWORK:
            raise EdgesegError("the search starts from the network", path=source, hint="Give its checkpoint (.pt)")
        self.recipe = load_recipe(options.recipe or DEFAULT_RECIPE)
        if not self.recipe.calibrated or self.target.settings.get("weights_only", False):
            raise EdgesegError(
                f"{self.target.name} with the recipe {self.recipe.name} quantizes no activations to search among"
            )
        self.options = options if options.imgsz is not None else replace(options, imgsz=trained_size(self.origin.path))
        self.limits, self.split, self.storage = limits, split, storage
        self._emit, self.running = on_event or (lambda event: None), running
        self.dataset: Dataset = load_dataset(options.data or DEFAULT_DATA)
        self.images: Sequence[Path] = self.dataset.images(split)[:limit]
        self.memory = Memory(self.folder / "measured.json")

    @property
    def folder(self) -> Path:
        """Where this search keeps what it found: by model, format, images, recipe and options, and the code behind them.

        The same on another machine that has the same things elsewhere.
        """
        o = {k: v for k, v in self.options.given().items() if k not in ("recipe", "data")}
        rows = [[p.name, p.stat().st_size] for p in self.images]
        code = [cache.core_hash(True), cache.target_hash(self.target)]
        model = content_hash(self.origin.path)
        what: list[Any] = [model, self.target.name, o, self.recipe.to_dict(), rows, self.dataset.names, code]
        what += [self.board[0]] if self.board else []
        return cache_root() / "searches" / sha256_json(what)[:40]

    def study(self) -> Study:
        """The study that this search writes to.

        Raises:
            EdgesegError: it cannot be opened, or Optuna is not installed.
        """
        try:
            from edgeseg.export.study import Study

            name = f"{self.origin.path.stem} {self.target.name} {self.folder.name[:12]}"
            return Study(self.storage or self.folder / "study.log", name, STAGES, (FLOAT, 16))
        except ModuleNotFoundError as e:
            raise EdgesegError(f"a search needs {e.name}", hint='pip install "edgeseg[export]"') from e

    def go(self, trials: int | None = None) -> Found:
        """Search; what was measured before, or is measured by somebody else just now, is not measured again.

        With limits, the cheapest within them is looked for. Without, what shows the frontier is measured, and up to
        ``trials`` in all are chosen by the engine.

        Raises:
            EdgesegError: an artifact could not be made or run.
        """
        study = self.study()
        self.say(f"AP on {len(self.images)} images of {self.split}; measured before: {len(study.measured())}")
        order = self.memory.recall("order", self._order)
        self.say(f"most sensitive first: {', '.join(order)}")
        if self.limits:
            found = search(order, lambda islands: self._obtain(study, islands), self.limits, say=self.say)
        else:
            wanted = outline(order)
            measure = self._counted(study, max(len(wanted), trials or 0))
            study.work(wanted, measure)
            if trials is not None:
                study.explore(trials, measure)
            found = Found(None, study.measured(), self.limits)
        for key, why in study.refused.items():
            self.say(f"{', '.join(f'{k}={v}' for k, v in key)}: {why}")
        if len(found.measured) == 1:
            return found
        # Times measured minutes apart compare the machine's moods: now all run image by image in turn.
        raced = self._race(found.measured)
        found = replace(found, measured=tuple(raced.get(m.islands, m) for m in found.measured))
        return replace(found, best=cheapest(found.measured, self.limits) if self.limits else None)

    def tell(self, on_event: Callable[[Event], None]) -> None:
        """Tell of progress to ``on_event`` from now on."""
        self._emit = on_event

    def say(self, text: str) -> None:
        """Tell a person."""
        self._emit(Event("note", f"{self.target.name} search", text=text))

    def recipe_file(self, islands: Islands) -> Path:
        """The recipe with these islands as a file, whose name says what it is."""
        made = with_islands(self.recipe, islands)
        file = store.make_folder(self.folder) / f"{made.name}.toml"
        store.write_atomically(file, to_toml(made))
        return file

    def _obtain(self, study: Study, islands: Islands) -> Measured | None:
        study.work([islands], self._measure)
        return study.find(islands)

    def _counted(self, study: Study, total: int) -> Callable[[Islands], Measured]:
        """Measures, and tells of it with its number and when the last one will be done."""
        start, made = time.monotonic(), 0

        def measure(islands: Islands) -> Measured:
            nonlocal made
            before = len(study.measured())
            self._emit(Event("progress", f"{self.target.name} search", min(before / total, 1.0), f"{before} of {total}"))
            m, made = self._measure(islands), made + 1
            number = len(study.measured()) + 1
            left = (time.monotonic() - start) / made * max(total - number, 0)
            self.say(f"{number} of {total}, {left / 60:.0f} min left: {told(m)}")
            return m

        return measure

    def _measure(self, islands: Islands) -> Measured:
        float_box, float_mask, _, expected = self._float
        options = replace(self.options, recipe=str(self.recipe_file(islands)) if islands else self.options.recipe)
        (result,) = export(
            self.origin.path,
            [self.target.name],
            options,
            out=self.folder / "artifacts" / with_islands(self.recipe, islands).name,  # others may write theirs meanwhile
            on_event=self._progress,
            gate=False,  # average precision judges here
            **self.running,
        )
        if result.error is not None or result.path is None:
            raise result.error or StepFailed(f"{self.target.name} was not made")
        with open_model(result.path, apart=True) as opened:
            box, mask, ms, found = self._validated(opened)
        ms = ms if self.board is None else self.board[1](result.path)
        agreed = fidelity(expected, found).agreement
        agreed = 1.0 if np.isnan(agreed) else agreed  # neither finds anything
        return Measured(key_of(islands), float_box - box, float_mask - mask, ms, result.size, str(result.path), agreed)

    def _progress(self, event: Event) -> None:
        if event.kind in ("start", "progress"):
            self._emit(event)
        elif event.kind != "note":  # of its many exports only what is measured is worth a line
            self._emit(replace(event, kind="gone"))

    @cached_property
    def _float(self) -> tuple[float, float, float, list[Detections]]:
        with open_model(self.origin.path, apart=True) as network:
            return self._validated(network.sized(self.options.size))

    def _validated(self, opened: Opened) -> tuple[float, float, float, list[Detections]]:
        """Box AP and mask AP in points, median milliseconds of inference, and what is found at the usual threshold."""
        timed = _Twofold(opened.pipeline(size=opened.manifest.imgsz, **AP))
        label = f"{self.target.name} measured"

        def shown(done: int, total: int) -> None:
            self._emit(Event("progress" if done < total else "gone", label, done / total, f"image {done} of {total}"))

        result = validate(
            timed,
            self.dataset,
            self.split,
            images=self.images,
            progress=shown,
        )
        points = [0.0 if np.isnan(m.map) else 100 * float(m.map) for m in (result.box, result.seg)]
        return points[0], points[1], round(result.speed_ms["inference"], 3), timed.found

    def _order(self) -> list[str]:
        """Stages by what quantizing each alone loses, in the simulation."""
        from edgeseg.evaluate.sensitivity import measure
        from edgeseg.export.guard import held_out
        from edgeseg.network.checkpoint import load_checkpoint
        from edgeseg.network.flow import network_flow
        from edgeseg.network.runtime import NetworkRuntime
        from edgeseg.quantize.decide import decide
        from edgeseg.quantize.sensitivity import stage_parts

        self.say("which stages are sensitive")
        network = load_checkpoint(self.origin.path)
        size, rules = self.options.size, replace(self.recipe, correction=Correction("none"))
        chosen = choose_calibration(self.options, lambda text: None)
        flow = network_flow(network, size)
        decisions = decide(flow, rules.without_equalization(), chosen.images[: 2 * FEW], size)
        judges, _ = held_out(self.dataset, chosen.images, FEW)
        manifest = replace(NetworkRuntime(network).manifest, imgsz=size)
        losses = measure(flow, decisions, stage_parts(flow), judges, manifest, detections=False)
        return [loss.part.name for loss in losses if loss.part.name in STAGES]

    def _race(self, measured: Sequence[Measured]) -> dict[Key, Measured]:
        """The same measurements with times of runs in turn; those whose artifact is gone keep theirs."""
        with contextlib.ExitStack() as stack:
            runners = []
            for m in measured:
                if Path(m.path).exists():
                    opened = stack.enter_context(open_model(m.path, apart=True))
                    runners.append((m, opened.pipeline(size=opened.manifest.imgsz, **AP)))
            times: dict[Key, list[float]] = {m.islands: [] for m, _ in runners}
            for path in self.images[: 2 * FEW]:
                try:
                    image = read_image(path)
                except EdgesegError:
                    continue
                for m, runner in runners:
                    runner.raw(image)
                    times[m.islands].append(runner.speed["inference"])
            return {m.islands: replace(m, ms=round(float(np.median(times[m.islands])), 3)) for m, _ in runners}


class _Twofold:
    """A pipeline for AP that keeps, from the same run, what it finds at the usual threshold."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline, self.manifest, self.found = pipeline, pipeline.manifest, list[Detections]()

    @property
    def speed(self) -> Mapping[str, float]:
        """Milliseconds of the last image."""
        return self.pipeline.speed

    def __call__(self, image: np.ndarray) -> Detections:
        """Detections for AP."""
        outputs, letterbox = self.pipeline.raw(image)
        self.found.append(postprocess(outputs, self.manifest, letterbox))
        return postprocess(outputs, self.manifest, letterbox, **AP)


def cheapest_options(source: str | Path, format: str, options: ExportOptions, limits: Limits, **more: Any) -> ExportOptions:
    """The options with the recipe of the cheapest mixed precision; see ``Mixed`` for the arguments.

    Raises:
        EdgesegError: none loses as little as that, or no int8 is asked for.
    """
    if not options.int8:
        raise EdgesegError("a search is among INT8 precisions", hint="Add int8=True")
    mixed = Mixed(source, format, options, limits, **more)
    found = mixed.go()
    if found.best is None:
        raise nothing_fits(found, mixed.target.name, source)
    return replace(options, recipe=str(mixed.recipe_file(dict(found.best.islands))))


def nothing_fits(found: Found, format: str, source: str | Path) -> StepFailed:
    """What to say when no mixed precision is within the limit."""
    least = min(found.measured, key=found.limits.loss)
    return StepFailed(
        f"no mixed precision of {format} {found.limits}: {told(least)}",
        hint=f"Allow more, or train it for INT8: edgeseg train model={source} qat=true",
    )
