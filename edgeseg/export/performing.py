"""Where a job runs: in a process of its own here, or wherever another performer sends it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from edgeseg import store
from edgeseg.environments import python_env as children
from edgeseg.environments.forks import Child, Forks
from edgeseg.environments.process import Ended, run_process, total_mb
from edgeseg.environments.toolchains import CURRENT, interpreter_for, toolchain_of
from edgeseg.export.deciding import OWN
from edgeseg.export.job import Job
from edgeseg.registry import Target, target_by_name

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
