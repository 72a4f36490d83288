"""Run a plan: what is cached is taken, the rest is built, each step in a process of its own, independent ones at once."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgeseg import kernel, store
from edgeseg.environments.process import Ended, available_mb
from edgeseg.environments.toolchains import toolchain_of
from edgeseg.errors import EdgesegError, StepFailed
from edgeseg.export import cache
from edgeseg.export.cache import link_or_copy, scratch, sweep
from edgeseg.export.calibrate import Calibration
from edgeseg.export.deciding import OBSERVATION
from edgeseg.export.job import STEM, Job
from edgeseg.export.keeping import Kept
from edgeseg.export.performing import Awaited, Early, Here, Outcome, Performer, Task, needs_mb, not_made
from edgeseg.export.plan import Plan, Step
from edgeseg.export.shared import building
from edgeseg.export.worker import RESULT
from edgeseg.registry import NETWORK
from edgeseg.resources import cache_root

_LOGS_KEPT = 200
# A converter that ran out of disk often says so in words of its own; this little space says it for them.
_NO_SPACE = 1 << 20


@dataclass(frozen=True)
class Event:
    """Something that happened during an export, for whoever shows it.

    ``kind`` is ``start``, ``progress`` (``done`` from 0 to 1), ``cached``, ``built``, ``failed``, ``gone`` (nothing to say
    of its end), or ``note`` (``step`` may be empty: it concerns the whole export). ``step`` is the step's label.
    """

    kind: str
    step: str = ""
    done: float = 0.0
    text: str = ""


@dataclass
class Run:
    """One run of a plan on one model.

    Args:
        plan: the steps.
        source: the model: a checkpoint, or an artifact of ``plan``'s source format.
        source_hash: SHA-256 of its content.
        calibration: needed if any step is quantized. no_calibration: why there is none: those steps fail.
        on_event: called for every event, one at a time.
        on_outcome: called in the thread of ``go`` as soon as a step that was asked for has ended.
        jobs: steps at once; None: half the cores, at least two where there are two.
        offline: install no toolchain.
        rebuild: take nothing from the cache.
        kept: decisions that are there already.
        performer: where the jobs run; None: here. What depends on this machine runs here in any case.
    """

    plan: Plan
    source: Path
    source_hash: str
    calibration: Calibration | None = None
    on_event: Callable[[Event], None] | None = None
    on_outcome: Callable[[Outcome], None] | None = None
    jobs: int | None = None
    offline: bool = False
    rebuild: bool = False
    no_calibration: EdgesegError | None = None
    kept: Kept | None = None
    performer: Performer | None = None
    _here: Here = field(default_factory=Here, init=False)
    _early: Early = field(default_factory=Early, init=False)
    _keys: dict[Step, str] = field(default_factory=dict, init=False)
    _cancelled: threading.Event = field(default_factory=threading.Event, init=False)
    _emitting: threading.Lock = field(default_factory=threading.Lock, init=False)

    @property
    def outcomes(self) -> dict[Step, Outcome]:
        """How each step ended that has."""
        return self._early.outcomes

    def go(self) -> dict[Step, Outcome]:
        """Run all steps that are needed and return how each ended. A failed step ends its branch only."""
        for said in sweep():
            self.emit(Event("note", text=said))
        required: dict[Step, None] = {}
        for step in self.plan.wanted:
            self._need(step, required)
        if required:
            with scratch() as folder, self._here.ready((s.target for s in required if not self.performer), folder):
                self._schedule([s for s in self.plan.steps if s in required], folder)
            cache.prune()
            _prune_logs()
        return self.outcomes

    def emit(self, event: Event) -> None:
        """Pass an event on; steps run in threads, listeners hear one at a time."""
        if self.on_event is not None:
            with self._emitting:
                self.on_event(event)

    def key(self, step: Step) -> str:
        """The cache key of a step: everything that decides the content of its artifact."""
        if step not in self._keys:
            toolchain = toolchain_of(step.target)
            here = not toolchain.unmet()
            calibration = self._calibration(step)
            self._keys[step] = cache.make_key(
                {
                    "kept": self.kept and self.kept.key(step),
                    "source": self.source_hash if step.source is None else self.key(step.source),
                    "given": [self.key(s) for s in self.sources(step) if s is not step.source],
                    "format": [step.source_format if step.source is None else step.source.format, step.format],
                    "job": [step.precision, step.head, step.imgsz, step.batch, step.options],
                    "calibration": calibration and calibration.key(),
                    "target": cache.target_hash(step.target),
                    "pins": [toolchain.id, toolchain.versions() if here else toolchain.id],
                    "core": cache.core_hash(step.quantized),
                    **_machine(step),
                    **_embedded(step),
                }
            )
        return self._keys[step]

    def _need(self, step: Step, required: dict[Step, None]) -> None:
        if step in self.outcomes or step in required:
            return
        start = time.monotonic()
        if step.quantized and self.no_calibration is not None:
            self._ended(Outcome(step, error=self.no_calibration))
            return
        try:
            key = self.key(step)
        except EdgesegError as e:
            self._ended(Outcome(step, error=e))
            return
        entry = None
        if not self.rebuild:
            # A step that another process is building right now counts as missing: its turn comes when the lock is free.
            with store.lock(f"key-{key}", wait=False) as free:
                entry = self._cached(step, key) if free else None
        if entry is not None:
            self._ended(Outcome(step, entry, seconds=time.monotonic() - start, cached=True, toolchain=entry.toolchain))
            return
        for source in self.sources(step):
            self._need(source, required)
        required[step] = None

    def sources(self, step: Step) -> tuple[Step, ...]:
        """The steps that it reads in this run: decisions that need no images need no observation."""
        if self.kept is not None and self.kept.find(step) is not None:
            return ()
        unseen = self.calibration is not None and not self.calibration.observes
        return tuple(s for s in step.sources if not (unseen and s.target is OBSERVATION))

    def _cached(self, step: Step, key: str) -> cache.Entry | None:
        entry, problem = cache.read(key)
        if problem:
            self.emit(Event("note", step.label, text=problem))
        return entry

    def _ended(self, outcome: Outcome) -> None:
        self._early.ended(outcome)
        kind = "failed" if outcome.error is not None else "cached" if outcome.cached else "built"
        self.emit(Event(kind, outcome.step.label, 1.0, str(outcome.error or "")))
        if outcome.step in self.plan.wanted and self.on_outcome is not None:
            self.on_outcome(outcome)

    def _schedule(self, pending: list[Step], folder: Path) -> None:
        elsewhere, here = self.performer, max(2, kernel.cores() // 2) if kernel.cores() > 1 else 1
        jobs = self.jobs or (elsewhere and elsewhere.slots) or here
        budget = available_mb() if elsewhere is None else math.inf
        own = (elsewhere and elsewhere.cores) or kernel.cores()  # of one machine, and how many jobs share them
        beside = min(jobs, max(2, own // 2) if own > 1 else 1)
        running: dict[Future[Outcome], Step] = {}
        with ThreadPoolExecutor(max_workers=jobs, thread_name_prefix="edgeseg-step") as pool:
            try:
                while pending or running:
                    # What others wait for goes first.
                    for step in sorted(pending, key=lambda s: not any(s in self.sources(t) for t in pending)):
                        sources = [self.outcomes.get(s) for s in self.sources(step)]
                        failed = next((s for s in sources if s is not None and s.error is not None), None)
                        if failed is not None:
                            pending.remove(step)
                            self._ended(Outcome(step, error=not_made(step, failed), log=failed.log))
                            continue
                        early = elsewhere is None and self._early.may(step, self.sources(step), running.values(), beside)
                        if None in sources and not early:
                            continue
                        reserved = sum(needs_mb(s) for s in running.values())
                        if len(running) >= jobs or (running and reserved + needs_mb(step) > budget):
                            continue
                        pending.remove(step)
                        ready = sum(all(k in self.outcomes for k in self.sources(s)) for s in pending)
                        threads = max(1, own // min(beside, ready + len(running) + 1))
                        threads = own if step.target.settings.get("all_cores") else threads
                        running[pool.submit(self._step, step, folder, threads)] = step
                    done, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
                    for future in done:
                        del running[future]
                        self._ended(future.result())
            except BaseException:
                self._cancelled.set()
                self._early.cancel()
                raise

    def _step(self, step: Step, folder: Path, threads: int) -> Outcome:
        """Build one step, or take what another process has built meanwhile. Never raises."""
        start = time.monotonic()
        key = self.key(step)
        stamp = time.strftime("%Y%m%d-%H%M%S")
        name = f"{stamp}-{step.format}-{step.precision}-{key[:8]}-{os.getpid()}.log"
        log = cache_root() / "logs" / name
        try:
            store.make_folder(log.parent)
            with store.lock(f"key-{key}", stop=self._cancelled.is_set) as held:
                if not held:
                    raise StepFailed(f"{step.label} was stopped")
                entry = None if self.rebuild else self._cached(step, key)
                if entry is None:
                    with building(key, self._cancelled.is_set) as ours:
                        entry = None if ours else self._cached(step, key)
                        if entry is None:
                            self.emit(Event("start", step.label))
                            entry = self._build(step, key, folder, log, threads)
                            return Outcome(step, entry, None, log, time.monotonic() - start, False, entry.toolchain)
            return Outcome(step, entry, seconds=time.monotonic() - start, cached=True, toolchain=entry.toolchain)
        except EdgesegError as e:
            error = e
        except OSError as e:
            error = store.disk_error(e, Path(e.filename) if e.filename else folder)
        except Exception as e:
            # A fault of ours must not take the other branches down with it.
            error = StepFailed(f"{step.label}: {type(e).__name__}: {e}", path=log)
        return Outcome(step, error=error, log=log if log.is_file() else None, seconds=time.monotonic() - start)

    def _build(self, step: Step, key: str, folder: Path, log: Path, threads: int) -> cache.Entry:
        def progress(done: float, words: str) -> None:
            self.emit(Event("progress", step.label, done, words))

        start = time.monotonic()
        known = None if self.kept is None else self.kept.find(step)
        if known is not None:
            from edgeseg.quantize.carried import save

            output = store.make_folder(folder / f"{step.format}-{key[:12]}" / "out") / step.target.artifact_name(STEM)
            save(output, [known])
            return cache.write(key, output.parent, output.name, what={"step": step.label})
        place = store.make_folder(folder / f"{step.format}-{key[:12]}")
        try:
            awaited = self._early.expect(step.given if step.given in self.sources(step) else None, place / "given")
            job = self._job(step, place, awaited)
            task = Task(job, place, log, threads, needs_mb(step), self.offline, awaited.waits if awaited else None)
            perform = self._here if self.performer is None or _machine(step) else self.performer
            ended, used = perform(task, progress, self._cancelled if awaited is None else awaited.stop)
            self._early.check(step, awaited)
            output = _result(step, ended, place, log)
            # What convert left beside its artifact under other names is no part of it.
            for other in output.parent.iterdir():
                if not other.name.startswith(output.name):
                    store.remove(other)
            return cache.write(
                key,
                output.parent,
                output.name,
                seconds=time.monotonic() - start,
                toolchain=used,
                notes=ended.notes,
                what={"step": step.label, "imgsz": step.imgsz, "source": self.source.name, "peak_mb": round(ended.peak_mb)},
            )
        finally:
            store.remove(place)

    def _calibration(self, step: Step) -> Calibration | None:
        if self.calibration is None or not step.quantized:
            return None
        if step.target is OBSERVATION:
            return self.calibration.observation()
        return self.calibration if step.calibrated else replace(self.calibration, images=(), info=None)

    def _entry(self, step: Step, source: Step | None, folder: Path) -> Path | None:
        """The artifact of a source of ``step`` with all its parts, linked into ``folder``."""
        outcome = self.outcomes.get(source) if source in self.sources(step) else None
        if outcome is None or outcome.entry is None:
            return None
        for part in outcome.entry.parts():
            link_or_copy(part, folder / part.name)
        return folder / outcome.entry.artifact

    def _job(self, step: Step, place: Path, awaited: Awaited | None) -> Job:
        path, source_format = self._entry(step, step.source, place / "source"), step.source_format
        if path is not None and step.source is not None:
            source_format = step.source.format
        elif source_format != NETWORK:
            path = place / "source" / self.source.name
            link_or_copy(self.source.resolve(), path)
        given = self._entry(step, step.given, place / "given") if awaited is None else awaited.path
        calibration = self._calibration(step)
        out, work = store.make_folder(place / "out"), store.make_folder(place / "work")
        return Job(
            format=step.format,
            source=path or self.source.resolve(),
            source_format=source_format,
            output=out / step.target.artifact_name(STEM),
            work=work,
            precision=step.precision,
            head=step.head,
            imgsz=step.imgsz,
            batch=step.batch,
            options=dict(step.options),
            recipe=None if calibration is None else calibration.recipe,
            calibration=() if calibration is None else calibration.images,
            calibration_info=None if calibration is None else calibration.info,
            given=given,
            early=awaited is not None,
        )


def _result(step: Step, ended: Ended, place: Path, log: Path) -> Path:
    """The artifact that the worker wrote, or the error that it ended with."""
    if ended.reason and not ended.stopped and _is_full(place, log):
        raise store.disk_error(OSError(errno.ENOSPC, "No space left on device"), place.parent)
    if ended.reason:
        raise StepFailed(f"{step.label} {ended.reason}", path=log, hint="The log has the rest")
    try:
        result = json.loads((place / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        result = {}
    if "output" in result:
        return Path(result["output"])
    if "error" in result:
        raise EdgesegError(**result["error"])
    if result.get("full") or _is_full(place, log):
        raise store.disk_error(OSError(errno.ENOSPC, "No space left on device"), place.parent)
    why = result.get("failed", f"ended with exit code {ended.code} and no result")
    hint = 'Install it: pip install "edgeseg[export]"' if why.startswith("ModuleNotFoundError") else "The log has the rest"
    raise StepFailed(f"{step.label} failed: {why}", path=log, hint=hint)


def _is_full(place: Path, log: Path) -> bool:
    """Whether a converter failed for want of space; native code says so in its own words, or aborts."""
    with contextlib.suppress(OSError):
        return shutil.disk_usage(place).free < _NO_SPACE or b"No space left on device" in log.read_bytes()[-20_000:]
    return False


def _machine(step: Step) -> dict[str, Any]:
    """What of this machine decides what a step makes: ``facts()`` in a target's ``machine.py``, where there is one.

    An artifact that fits one GPU only, or a tool that may be installed tomorrow, must not be taken from the cache by path
    and options alone. The file imports nothing heavy: it runs in this process.
    """
    if not (step.target.folder / "machine.py").is_file():
        return {}
    return {"machine": step.target.load("machine").facts()}


def _embedded(step: Step) -> dict[str, Any]:
    """Hashes of the folders of edgeseg that the step's own options put into its artifact."""
    folders = {name: step.target.own[name].embeds for name, _ in step.options if name in step.target.own}
    return {f"embeds {name}": cache.folder_hash(folder) for name, folder in folders.items() if folder}


def _prune_logs() -> None:
    with contextlib.suppress(OSError):
        logs = sorted((cache_root() / "logs").glob("2*.log"), key=lambda f: f.stat().st_mtime)
        for file in logs[:-_LOGS_KEPT]:
            file.unlink(missing_ok=True)
