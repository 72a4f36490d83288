"""Where a job runs: in a process of its own here, or wherever another performer sends it; and when it may begin.

A step may begin before what it is given is made: it imports, reads and traces meanwhile, and waits only then. Observing
keeps all cores busy, but a process that starts, or a converter that traces, uses one.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from edgeseg import store
from edgeseg.environments import python_env as children
from edgeseg.environments.forks import Child, Forks
from edgeseg.environments.process import Ended, run_process, total_mb
from edgeseg.environments.toolchains import CURRENT, interpreter_for, toolchain_of
from edgeseg.errors import EdgesegError, StepFailed
from edgeseg.export.cache import link_or_copy
from edgeseg.export.deciding import OWN
from edgeseg.export.job import STEM, Job
from edgeseg.registry import Target, target_by_name
from edgeseg.store import make_folder

if TYPE_CHECKING:
    from edgeseg.export.cache import Entry
    from edgeseg.export.plan import Step


JOB = "job.json"
WORKER = "edgeseg.export.worker"


@dataclass(frozen=True)
class Task:
    """One job, ready in a folder of its own.

    ``place`` holds what the job reads and where it writes: ``source/``, ``given/``, ``out/``, ``work/``, ``tmp/``. ``log``
    is the file for what the converter says. ``needs_mb`` is the memory to set aside, ``threads`` what it may use. ``waits``:
    whether the job waits for what it will be given; its time does not run then.
    """

    job: Job
    place: Path
    log: Path
    threads: int
    needs_mb: float
    offline: bool = False
    waits: Callable[[], bool] | None = None


class Performer(Protocol):
    """What runs jobs.

    ``cores`` are those of a machine, ``slots`` how many jobs run at once on all of them; None: as this machine allows.
    """

    cores: int | None
    slots: int | None

    def __call__(self, task: Task, progress: Callable[[float, str], None], cancelled: threading.Event) -> tuple[Ended, str]:
        """Run a job to its end; how it ended, and the toolchain that ran it. Its files are in ``task.place`` then.

        Raises:
            EdgesegError: the toolchain cannot be had.
        """


IMPORTS = ("torch", "torch.export._trace", "edgeseg.network.flow", "edgeseg.network.checkpoint", "edgeseg.quantize.decide")
"""What jobs import that read a network: most of their start."""


class Here:
    """Runs a job in a process on this machine."""

    cores: int | None = None
    slots: int | None = None

    def __init__(self) -> None:
        self._forks: Forks | None = None

    @contextmanager
    def ready(self, targets: Iterable[Target], folder: Path) -> Iterator[None]:
        """Be quick with jobs of these targets; ``folder`` lasts until they have ended."""
        if any(t.name in OWN for t in targets):
            self._forks = Forks(IMPORTS, children.python_env(store.make_folder(folder / "forks"), True))
        try:
            yield
        finally:
            if self._forks is not None:
                self._forks.close()
                self._forks = None

    def __call__(self, task: Task, progress: Callable[[float, str], None], cancelled: threading.Event) -> tuple[Ended, str]:
        """See ``Performer``."""
        target = target_of(task.job)
        python, used = interpreter_for(toolchain_of(target), offline=task.offline, say=progress)
        file = task.place / JOB
        file.write_text(task.job.to_json(), encoding="utf-8")
        env = worker_env(task.place, used == CURRENT, task.threads) | ({"EDGESEG_OFFLINE": "1"} if task.offline else {})
        forks = self._forks if used == CURRENT else None

        def fork(stderr: IO[bytes]) -> Child | None:
            return None if forks is None else forks.start(WORKER, [str(file)], stderr=stderr, cwd=task.job.work, env=env)

        ended = run_process(
            children.command(python, WORKER, str(file)),
            log=task.log,
            cwd=task.job.work,
            env=env,
            timeout_s=target.timeout_s,
            memory_mb=min(target.memory_mb, 0.9 * total_mb()),
            on_progress=progress,
            cancelled=cancelled,
            waits=task.waits or (lambda: False),
            fork=fork,
        )
        return ended, used


def target_of(job: Job) -> Target:
    """The target of a job, one of the graph's own steps included."""
    return OWN.get(job.format) or target_by_name(job.format)


def worker_env(place: Path, current: bool, threads: int) -> dict[str, str]:
    """The environment variables of a worker; its temporary files go into ``place``."""
    env = children.python_env(place, current)
    env["TMPDIR"] = str(store.make_folder(place / "tmp"))
    env.setdefault("OMP_NUM_THREADS", str(threads))
    return env


@dataclass(frozen=True)
class Outcome:
    """How one step ended: with an ``entry`` of the cache or an ``error``. ``seconds`` are those of this run."""

    step: Step
    entry: Entry | None = None
    error: EdgesegError | None = None
    log: Path | None = None
    seconds: float = 0.0
    cached: bool = False
    toolchain: str = ""


def needs_mb(step: Step) -> float:
    """Memory to set aside for a step: ``[settings] needs_mb`` of its target, else a quarter of its limit."""
    return float(step.target.settings.get("needs_mb", step.target.memory_mb / 4))


@dataclass(frozen=True)
class Awaited:
    """What a running step waits for: what ``step`` makes, to be laid into ``folder``; ``stop`` ends the waiting step."""

    step: Step
    folder: Path
    stop: threading.Event = field(default_factory=threading.Event)
    arrived: threading.Event = field(default_factory=threading.Event)

    @property
    def path(self) -> Path:
        """Where it will be."""
        return self.folder / self.step.target.artifact_name(STEM)

    def waits(self) -> bool:
        """Whether it has not come yet."""
        return not self.arrived.is_set()

    def hand(self, entry: Entry | None) -> None:
        """Lay it there, whole or not at all; None: there will be nothing."""
        try:
            if entry is None:
                self.stop.set()
                return
            for part in sorted(entry.parts(), key=lambda p: p == entry.path):  # what is waited for comes last
                place = make_folder(self.folder) / f"{part.name}.part"
                link_or_copy(part, place)
                os.replace(place, self.folder / part.name)
            self.arrived.set()
        except OSError:
            self.stop.set()


class Early:
    """Who waits for what in one run, and how each step ended."""

    def __init__(self) -> None:
        self.outcomes: dict[Step, Outcome] = {}
        self._waiting: list[Awaited] = []
        self._lock = threading.Lock()
        self._cancelled = False

    def may(self, step: Step, sources: Collection[Step], running: Collection[Step], jobs: int) -> bool:
        """Whether a step may begin now, of ``sources`` only what it is given not being there.

        That must be under way already, so that it does not wait for a place or for memory, and one place stays for others.
        """
        missing = [s for s in sources if s not in self.outcomes]
        waiting = sum(s.given is not None and s.given not in self.outcomes for s in running)
        return missing == [step.given] and step.given in running and waiting + 1 < jobs

    def expect(self, step: Step | None, folder: Path) -> Awaited | None:
        """Have what ``step`` makes laid into ``folder`` once it is made; None: it is made, or is no step."""
        with self._lock:
            if step is None or step in self.outcomes:
                return None
            self._waiting.append(awaited := Awaited(step, folder))
            if self._cancelled:
                awaited.stop.set()
            return awaited

    def ended(self, outcome: Outcome) -> None:
        """A step has ended: those that wait for it go on."""
        with self._lock:
            self.outcomes[outcome.step] = outcome
            due = [a for a in self._waiting if a.step is outcome.step]
        for awaited in due:
            awaited.hand(outcome.entry)

    def check(self, step: Step, awaited: Awaited | None) -> None:
        """Raises ``StepFailed`` where what ``step`` waited for was never made."""
        failed = None if awaited is None or not awaited.waits() else self.outcomes.get(awaited.step)
        if failed is not None and failed.error is not None:
            raise not_made(step, failed)

    def cancel(self) -> None:
        """End every wait."""
        with self._lock:
            self._cancelled = True
            for awaited in self._waiting:
                awaited.stop.set()


def not_made(step: Step, failed: Outcome) -> StepFailed:
    """The error of a step one of whose sources failed."""
    why = f"{step.label} was not made: {failed.step.label}, which it reads, failed ({failed.error})"
    return StepFailed(why, path=failed.log)
