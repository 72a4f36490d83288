"""``--max-drop``: what the search of ``edgeseg.export.search`` measures, on real artifacts of one format."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeseg import store
from edgeseg.data.dataset import Dataset, load_dataset
from edgeseg.data.images import read_image
from edgeseg.errors import EdgesegError, StepFailed
from edgeseg.export import cache
from edgeseg.export.api import export
from edgeseg.export.calibrate import DEFAULT_DATA, DEFAULT_RECIPE, choose_calibration
from edgeseg.export.options import ExportOptions
from edgeseg.export.run import Event
from edgeseg.export.search import Found, Islands, Measured, Memory, cheapest, search, to_toml, with_islands
from edgeseg.export.source import find_source, trained_size
from edgeseg.hashing import content_hash, sha256_json
from edgeseg.quantize.flow import STAGES
from edgeseg.quantize.recipe import Correction, load_recipe
from edgeseg.registry import NETWORK, target_by_name
from edgeseg.resources import cache_root
from edgeseg.running.open import Opened, open_model

if TYPE_CHECKING:
    pass

#: Images for the order of the stages, and for the race of the candidates.
FEW = 8
AP = {"conf": 0.001, "iou": 0.7, "max_det": 300, "multi_label": True}
Say = Callable[[str], None]


class Mixed:
    """The search for one model and format.

    Args:
        source: the checkpoint.
        format: name of the format.
        options: the export's; ``recipe`` is where the search starts.
        max_drop: points of AP (0..100) that may be lost, of boxes and masks alike.
        split: where AP is measured.
        limit: only the first so many images of it.
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
        max_drop: float,
        *,
        split: str = "val",
        limit: int | None = None,
        on_event: Callable[[Event], None] | None = None,
        **running: Any,
    ) -> None:
        if not max_drop >= 0:
            raise EdgesegError(f"max_drop={max_drop} is no number of AP points", hint="Write --max-drop 0.5")
        self.target, self.origin = target_by_name(format), find_source(source)
        if options.end2end:
            raise EdgesegError("max_drop and end2end exclude each other", hint="The search is for the classic head")
        if self.origin.format != NETWORK:
            raise EdgesegError("the search starts from the network", path=source, hint="Give its checkpoint (.pt)")
        self.recipe = load_recipe(options.recipe or DEFAULT_RECIPE)
        if not self.recipe.calibrated or self.target.settings.get("weights_only", False):
            raise EdgesegError(
                f"{self.target.name} with the recipe {self.recipe.name} quantizes no activations to search among"
            )
        self.options = options if options.imgsz is not None else replace(options, imgsz=trained_size(self.origin.path))
        self.max_drop, self.split = max_drop, split
        self._emit, self.running = on_event or (lambda event: None), running
        self.dataset: Dataset = load_dataset(options.data or DEFAULT_DATA)
        self.images: Sequence[Path] = self.dataset.images(split)[:limit]
        self.memory = Memory(self.folder / "measured.json")

    @property
    def folder(self) -> Path:
        """Where this search keeps what it found: by model, format, images, recipe and options, and the code behind them."""
        o = {k: v for k, v in self.options.given().items() if k not in ("recipe", "data")}
        rows = [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in self.images]
        code = [cache.core_hash(True), cache.target_hash(self.target)]
        model = content_hash(self.origin.path)
        what = [model, self.target.name, o, self.recipe.to_dict(), rows, str(self.dataset.yaml), code]
        return cache_root() / "searches" / sha256_json(what)[:40]

    def go(self) -> Found:
        """Search; what was measured before is not measured again.

        Raises:
            EdgesegError: an artifact could not be made or run.
        """
        self.say(f"AP on {len(self.images)} images of {self.split}; measured before: {len(self.memory.known)}")
        order = self.memory.recall("order", self._order)
        self.say(f"most sensitive first: {', '.join(order)}")
        found = search(order, self._remembered, self.max_drop, say=self.say)
        if found.best is None or len(found.measured) == 1:
            return found
        # Times measured minutes apart compare the machine's moods: now all run image by image in turn.
        raced = self._race(found.measured)
        found = replace(found, measured=tuple(raced.get(m.islands, m) for m in found.measured))
        return replace(found, best=cheapest(found.measured, self.max_drop))

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

    def _remembered(self, islands: Islands) -> Measured | None:
        name = "islands " + (",".join(f"{k}={v}" for k, v in sorted(islands.items())) or "none")
        try:
            return Measured.from_dict(self.memory.recall(name, lambda: self._measure(islands).to_dict()))
        except EdgesegError as e:
            if not islands:
                raise
            self.say(f"{name}: {e.what}")  # a precision that the format cannot have is none to choose
            return None

    def _measure(self, islands: Islands) -> Measured:
        float_box, float_mask = self.memory.recall("float", self._float)
        options = replace(self.options, recipe=str(self.recipe_file(islands)) if islands else self.options.recipe)
        (result,) = export(
            self.origin.path,
            [self.target.name],
            options,
            out=self.folder / "artifacts",
            on_event=self._progress,
            gate=False,  # average precision judges here
            **self.running,
        )
        if result.error is not None or result.path is None:
            raise result.error or StepFailed(f"{self.target.name} was not made")
        path = self.folder / "artifacts" / (with_islands(self.recipe, islands).name + self.target.suffix)
        store.remove(path)
        result.path.rename(path)
        with open_model(path, apart=True) as opened:
            box, mask, ms = self._validated(opened)
        key = tuple(sorted(islands.items()))
        return Measured(key, float_box - box, float_mask - mask, ms, result.size, str(path))

    def _progress(self, event: Event) -> None:
        if event.kind in ("start", "progress"):
            self._emit(event)

    def _float(self) -> tuple[float, float]:
        with open_model(self.origin.path, apart=True) as network:
            return self._validated(network.sized(self.options.size))[:2]

    def _validated(self, opened: Opened) -> tuple[float, float, float]:
        """Box AP and mask AP in points, and median milliseconds of inference."""
        from edgeseg.evaluate.validate import validate

        timed = opened.pipeline(size=opened.manifest.imgsz, **AP)
        label = f"{self.target.name} search"
        result = validate(
            timed,
            self.dataset,
            self.split,
            images=self.images,
            progress=lambda done, total: self._emit(Event("progress", label, done / total, f"image {done} of {total}")),
        )
        points = [0.0 if np.isnan(m.map) else 100 * float(m.map) for m in (result.box, result.seg)]
        return points[0], points[1], round(result.speed_ms["inference"], 3)

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

    def _race(self, measured: Sequence[Measured]) -> dict[tuple[tuple[str, int], ...], Measured]:
        """The same measurements with times of runs in turn; those whose artifact is gone keep theirs."""
        with contextlib.ExitStack() as stack:
            runners = []
            for m in measured:
                if Path(m.path).exists():
                    opened = stack.enter_context(open_model(m.path, apart=True))
                    runners.append((m, opened.pipeline(size=opened.manifest.imgsz, **AP)))
            times: dict[tuple[tuple[str, int], ...], list[float]] = {m.islands: [] for m, _ in runners}
            for path in self.images[: 2 * FEW]:
                try:
                    image = read_image(path)
                except EdgesegError:
                    continue
                for m, runner in runners:
                    runner.raw(image)
                    times[m.islands].append(runner.speed["inference"])
            return {m.islands: replace(m, ms=round(float(np.median(times[m.islands])), 3)) for m, _ in runners}


def cheapest_options(source: str | Path, format: str, options: ExportOptions, max_drop: float, **more: Any) -> ExportOptions:
    """The options with the recipe of the cheapest mixed precision; see ``Mixed`` for the arguments.

    Raises:
        EdgesegError: none loses as little as that, or no int8 is asked for.
    """
    if not options.int8:
        raise EdgesegError("max_drop searches among INT8 precisions", hint="Add int8=True")
    mixed = Mixed(source, format, options, max_drop, **more)
    found = mixed.go()
    if found.best is None:
        raise nothing_fits(found, mixed.target.name, source)
    return replace(options, recipe=str(mixed.recipe_file(dict(found.best.islands))))


def nothing_fits(found: Found, format: str, source: str | Path) -> StepFailed:
    """What to say when no mixed precision is within the limit."""
    least = min(found.measured, key=lambda m: m.drop)
    return StepFailed(
        f"no mixed precision of {format} loses at most {found.max_drop:g} AP points: {least.title} loses {least.drop:.2f}",
        hint=f"Allow more, or train it for INT8: edgeseg train model={source} qat=true",
    )
