"""The gate at the end of an export: opens what is to be compared, chooses the images, remembers what was found."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg import store
from edgeseg.data.dataset import Dataset, load_dataset, pictures
from edgeseg.errors import EdgesegError, StepFailed
from edgeseg.evaluate.gate import SLOWER, GateVerdict, judge
from edgeseg.export import cache
from edgeseg.export.calibrate import DEFAULT_DATA, DEFAULT_RECIPE, Calibration
from edgeseg.export.options import ExportOptions
from edgeseg.export.plan import Given, Step, make_plan, why_not
from edgeseg.export.run import Event, Run
from edgeseg.export.source import Source, given_of
from edgeseg.hashing import content_hash, sha256_file, sha256_files, sha256_json
from edgeseg.manifest import Manifest
from edgeseg.quantize.recipe import load_recipe
from edgeseg.registry import NETWORK, Target, targets
from edgeseg.resources import PACKAGE, cache_root
from edgeseg.running.open import Opened, has_runtime, open_model

#: What decides a verdict beside the artifact and the images.
_CODE = ("evaluate/gate.py", "evaluate/fidelity.py", "evaluate/tensors.py", "vision")


@dataclass(frozen=True)
class Judged:
    """What the gate found: the verdict as plain data, lines for people, and why the artifact must not be used, if so."""

    verdict: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    error: EdgesegError | None = None


class Guard:
    """Lets int8 artifacts pass that are still their float network. Leave the ``with`` block to end the models' processes.

    Args:
        source: the model that is exported.
        options: the export's options; ``data`` and ``recipe`` count here.
        calibration: what the quantized steps were given.
        on_event: told of progress.
        folder: of pictures that judge, labelled or not, or a dataset; None: images of ``data`` that did not calibrate.

    Raises:
        EdgesegError: no picture is in the folder.
    """

    def __init__(
        self,
        source: Source,
        options: ExportOptions,
        calibration: Calibration,
        on_event: Callable[[Event], None],
        folder: str | None = None,
    ) -> None:
        self.source, self.options, self.calibration, self._emit = source, options, calibration, on_event
        self.folder, self.pictures = folder, pictures(folder)[0] if folder is not None else []
        self.recipe = load_recipe(options.recipe or DEFAULT_RECIPE)
        self._stack = ExitStack()
        self._references: dict[str, Opened] = {}
        self._twins: dict[tuple[str, str], Opened | None] = {}
        self._seen: dict[str, float] = {}
        self._images: dict[bool, tuple[list[Path], str]] = {}

    def __enter__(self) -> Guard:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def judge(self, step: Step, entry: cache.Entry) -> Judged:
        """Judge the finished artifact of a step."""
        try:
            why = _unrunnable(step.target, entry.path)
            if why:
                raise EdgesegError(why)
            verdict = self._verdict(step, entry)
        except EdgesegError as e:
            what = f"the gate could not run: {e.what}. {e.hint or self._by_hand()}"
            hint = "--force keeps the artifact unjudged"
            return Judged({"passed": None, "error": e.what}, error=StepFailed(what, hint=hint))
        if verdict.passed:
            lines = (verdict.summary(), verdict.speed() + self._faster(verdict))
            return Judged(verdict.to_dict(), tuple(filter(None, lines)))
        return Judged(verdict.to_dict(), error=StepFailed(f"INT8 lost too much: {verdict.blame()}", hint=self._hint(step)))

    def _faster(self, verdict: GateVerdict) -> str:
        """Where INT8 is slower than float: the fastest INT8 among those of this export before, if it is faster."""
        title, ms = next(iter(verdict.speed_ms.items()))
        best = min(self._seen, key=lambda t: self._seen[t], default="")
        self._seen[title] = ms
        slow = verdict.ratio is not None and verdict.ratio > SLOWER
        return f", {best} ({self._seen[best]:.1f} ms)" if slow and best and self._seen[best] < ms else ""

    def _by_hand(self) -> str:
        return f"Where it runs, try: edgeseg validate ARTIFACT --reference {self.source.path} data=YOUR.yaml"

    def _hint(self, step: Step) -> str:
        recipe, data = self.recipe, self.options.data or DEFAULT_DATA
        words = [f"images={2 * max(recipe.images, self.options.images or 0)}"]
        if recipe.name == DEFAULT_RECIPE and not why_not(step, load_recipe("int8-accurate")):
            words.insert(0, "--recipe int8-accurate")
        words.append(f"or see where it is lost: edgeseg sensitivity {self.source.path} data={data}")
        return f"Try {', '.join(words)}. --force keeps it"

    def _verdict(self, step: Step, entry: cache.Entry) -> GateVerdict:
        target = step.target
        images, where = self._held_out(any(s.calibrated for s in step.chain()))
        rows = [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in images]
        state = [entry.key, rows, where, self.recipe.gate.to_dict(), _code_hash(target)]
        note = cache_root() / "gates" / f"{sha256_json(state)[:40]}.json"
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return GateVerdict.from_dict(json.loads(note.read_text(encoding="utf-8")))
        label = f"{step.label} gate"
        self._emit(Event("progress", label, 0.0, "opening"))
        with open_model(entry.path, apart=True) as subject:
            verdict = judge(
                self._reference(subject.manifest.head),
                subject,
                images,
                self.recipe.gate,
                others=self._float(target, subject.manifest),
                where=where,
                progress=lambda done, total: self._emit(Event("progress", label, done / total, f"image {done} of {total}")),
            )
        self._emit(Event("built", label, 1.0, "passed" if verdict.passed else "refused"))
        store.make_folder(note.parent)
        store.write_atomically(note, json.dumps(verdict.to_dict()))
        return verdict

    def _held_out(self, calibrated: bool) -> tuple[list[Path], str]:
        """The images that judge, and which they are in words."""
        if calibrated not in self._images:
            used, most = self.calibration.images if calibrated else (), self.recipe.gate.images
            if self.folder is not None:
                self._images[calibrated] = of_pictures(self.pictures, self.folder, used, most)
            else:
                self._images[calibrated] = held_out(load_dataset(self.options.data or DEFAULT_DATA), used, most)
        return self._images[calibrated]

    def _reference(self, head: str) -> Opened:
        """The float network in a process of its own: the checkpoint, or the artifact that was exported from."""
        source = self.source
        if source.format != NETWORK:
            head = ""
        if head not in self._references:
            opened = open_model(source.path, head=head or "raw", apart=True)
            self._references[head] = self._stack.enter_context(opened)
        subject = self._references[head]
        if subject.manifest.precision == "int8":
            raise EdgesegError(
                "the model that was exported is quantized itself, there is no float network to compare with",
                hint="Export from the checkpoint (.pt)",
            )
        return subject

    def _float(self, target: Target, manifest: Manifest) -> list[Opened]:
        """Float artifacts of the same network that lie in the cache: of the same format, and one other at most."""
        # What needs no module of its own is no runtime for use, but a slow stand-in for one.
        order = [target, *(t for t in targets().values() if t.name != target.name and t.modules)]
        found: list[Opened] = []
        for t in order:
            key = (t.name, manifest.head)
            if key not in self._twins:
                self._twins[key] = self._twin(t, manifest)
            twin = self._twins[key]
            if twin is not None:
                found.append(twin)
            if len(found) == 2:
                break
        return found

    def _twin(self, target: Target, manifest: Manifest) -> Opened | None:
        if not has_runtime(target) or manifest.head not in target.heads or "fp32" not in target.precisions:
            return None
        source = self.source
        batch = self.options.batch if "batch" in target.options else None
        wanted = ExportOptions(imgsz=self.options.imgsz, head=manifest.head, batch=batch)
        given = given_of(source, wanted) if source.format == NETWORK else Given(source.format, "fp32", manifest.head)
        try:
            plan = make_plan([target.name], wanted, given)
            run = Run(plan, source.path, content_hash(source.path))
            entry, _ = cache.read(run.key(plan.wanted[0]))
            if entry is None:
                return None
            return self._stack.enter_context(open_model(entry.path, apart=True))
        except EdgesegError:
            return None  # only speed is compared with it


def held_out(dataset: Dataset, calibrated: Iterable[Path], most: int) -> tuple[list[Path], str]:
    """At most ``most`` images that calibrated nothing, spread evenly over val, else over train, and which they are in words.

    Images with the same content as one that calibrated do not count.

    Raises:
        EdgesegError: there are none.
    """
    for split in ("val", "train"):
        chosen = _spread(_fresh(dataset.images(split), calibrated), most) if split in dataset.splits else []
        if chosen:
            if split == "val":
                return chosen, f"{_count(chosen)} of val"
            return chosen, f"{_count(chosen)} of train that did not calibrate, as there are none of val"
    raise EdgesegError(
        "every image of the dataset calibrates: none is left to judge by", path=dataset.yaml, hint="Add a val split"
    )


def of_pictures(found: Iterable[Path], place: str, calibrated: Iterable[Path], most: int) -> tuple[list[Path], str]:
    """As ``held_out``, of pictures that somebody gave for it, and four times as many.

    Raises:
        EdgesegError: there are none.
    """
    chosen = _spread(_fresh(found, calibrated), 4 * most)
    if not chosen:
        raise EdgesegError("every picture in it calibrates: none is left to judge by", path=place)
    return chosen, f"{_count(chosen)} of {place}"


def _fresh(paths: Iterable[Path], calibrated: Iterable[Path]) -> list[Path]:
    """Those that did not calibrate, by place and by content."""
    used = {p.resolve() for p in calibrated}
    sizes: dict[int, list[Path]] = {}
    for p in used:
        sizes.setdefault(p.stat().st_size, []).append(p)

    def fresh(path: Path) -> bool:
        if not path.is_file() or path.resolve() in used:
            return False
        twins = sizes.get(path.stat().st_size, [])
        return not twins or sha256_file(path) not in {sha256_file(t) for t in twins}

    return [p for p in paths if fresh(p)]


def _spread(pool: list[Path], most: int) -> list[Path]:
    """At most ``most`` of them, spread evenly."""
    if not pool:
        return []
    return [pool[i] for i in np.unique(np.linspace(0, len(pool) - 1, min(most, len(pool))).round().astype(int))]


def _count(images: list[Path]) -> str:
    return f"{len(images)} image" + ("s" if len(images) > 1 else "")


def _unrunnable(target: Target, path: Path) -> str:
    """Why the artifact cannot be run here or in a toolchain, empty when it can."""
    if not target.missing_modules(path):
        return ""
    if not target.is_kit(path) and has_runtime(target):
        return ""
    missing, extra = ", ".join(target.missing_modules(path)), target.kit_extra if target.is_kit(path) else target.extra
    command = f'pip install "edgeseg[{extra}]", or ' if extra else ""
    return f"{target.title} needs {missing} to run here; {command}edgeseg toolchain install {target.name}"


def _code_hash(target: Target) -> str:
    parts = [PACKAGE / p for p in _CODE]
    own = sha256_files([f for p in parts for f in (p.rglob("*.py") if p.is_dir() else [p])], PACKAGE)
    return own + sha256_files(target.folder.glob("runtime.py"), target.folder)
