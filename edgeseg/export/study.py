"""Measurements that processes and machines share: an Optuna study, in which a trial is one mixed precision.

Any number of workers ask the same study what is known, and measure what is not. A trial whose worker fell silent is taken
up again by another. The study knows nothing of how something is measured.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import platform
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from edgeseg.errors import EdgesegError
from edgeseg.export.search import Islands, Key, Measured, key_of
from edgeseg.store import make_folder

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

Measure = Callable[[Islands], Measured]
BEAT = 2.0
"""Seconds between two signs of life of a worker."""
SILENCE = 30.0
"""Seconds without one after which it is taken for dead."""
INTEGERS = 8


class Study:
    """One search's measurements.

    Args:
        storage: a journal file (made if it is not there), or the URL of a database that SQLAlchemy knows.
        name: of the study in it: workers with the same name share it.
        stages: what may be taken out of 8 bits.
        bits: what it may get instead.

    Raises:
        EdgesegError: the storage cannot be opened.
    """

    def __init__(self, storage: str | Path, name: str, stages: Sequence[str], bits: Sequence[int]) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.stages, self.choices = tuple(stages), (INTEGERS, *bits)
        sampler = optuna.samplers.TPESampler(seed=0)
        try:
            self._study = optuna.create_study(
                storage=_opened(str(storage)),
                study_name=name,
                sampler=sampler,
                directions=["minimize"] * 4,
                load_if_exists=True,
            )
        except Exception as e:  # whatever a database's driver raises
            hint = "Give a file, or a URL such as sqlite:///study.db"
            raise EdgesegError(f"the study cannot be opened ({type(e).__name__}: {e})", path=storage, hint=hint) from e
        self.refused: dict[Key, str] = {}
        self._heard: dict[int, tuple[Any, float]] = {}

    def measured(self) -> tuple[Measured, ...]:
        """All that is known, in the order of the trials, each mixed precision once."""
        found: dict[Key, Measured] = {}
        for t in self._trials():
            if t.state.name == "COMPLETE" and "measured" in t.user_attrs:
                m = Measured.from_dict(t.user_attrs["measured"])
                found.setdefault(m.islands, m)
        return tuple(found.values())

    def find(self, islands: Islands) -> Measured | None:
        """What is known of one mixed precision; None: nothing, or that it cannot be made (``refused`` says why)."""
        return next((m for m in self.measured() if m.islands == key_of(islands)), None)

    def work(self, wanted: Sequence[Islands], measure: Measure) -> None:
        """Measure all that is wanted and not known, together with whoever else works on it; returns when all is known."""
        while remaining := [i for i in wanted if not self._done(i)]:
            busy = self._busy()
            free = [i for i in remaining if key_of(i) not in busy]
            if free:
                self._study.enqueue_trial(self._values(free[0]))
                self._take(measure)
            else:
                time.sleep(BEAT / 4)

    def explore(self, count: int, measure: Measure) -> None:
        """Let the engine choose what to measure next, until ``count`` mixed precisions are known or there are no more.

        Where it repeats itself, which it does soon among so few, one that is not known is drawn.
        """
        drawn = [dict(zip(self.stages, bits)) for bits in itertools.product(self.choices, repeat=len(self.stages))]
        random.Random(0).shuffle(drawn)
        while len(self.measured()) < count:
            before = len(self.measured())
            self._take(measure)
            if len(self.measured()) == before:
                fresh = next((i for i in map(self._islands, drawn) if not self._done(i)), None)
                if fresh is None:
                    return
                self.work([fresh], measure)

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _values(self, islands: Islands) -> dict[str, int]:
        return {stage: islands.get(stage, INTEGERS) for stage in self.stages}

    def _islands(self, values: Mapping[str, int]) -> dict[str, int]:
        return {stage: bits for stage, bits in values.items() if bits != INTEGERS}

    def _done(self, islands: Islands) -> bool:
        for t in self._trials():
            if "refused" in t.user_attrs and key_of(self._islands(t.params)) == key_of(islands):
                self.refused[key_of(islands)] = t.user_attrs["refused"]
        return key_of(islands) in self.refused or self.find(islands) is not None

    def _busy(self) -> set[Key]:
        """What others measure just now; the trials of workers that fell silent are given up."""
        found = set()
        for t in self._trials():
            if t.state.name != "RUNNING":
                continue
            if self._silent(t):
                self._fail(t.number)
            elif len(t.params) == len(self.stages):
                found.add(key_of(self._islands(t.params)))
        return found

    def _silent(self, trial: FrozenTrial) -> bool:
        """Whether a trial's worker is gone: its process on this machine, or its beat by our own clock."""
        worker = trial.user_attrs.get("worker", "")
        host, _, pid = worker.rpartition(":")
        if pid and host == platform.node() and not psutil.pid_exists(int(pid)):
            return True
        beat, now = trial.user_attrs.get("beat"), time.monotonic()
        last, since = self._heard.setdefault(trial.number, (beat, now))
        if last != beat:
            self._heard[trial.number] = (beat, now)
            return False
        return now - since > SILENCE

    def _take(self, measure: Measure) -> None:
        """Ask for one trial, which may be one that somebody else put in the queue, and measure it."""
        trial = self._study.ask()
        trial.set_user_attr("worker", f"{platform.node()}:{os.getpid()}")
        islands = self._islands({s: trial.suggest_categorical(s, self.choices) for s in self.stages})
        if self._done(islands) or self._earlier(trial, islands):
            self._fail(trial.number)
            return
        try:
            with _beating(trial):
                m = measure(islands)
        except EdgesegError as e:
            if islands:  # a precision that the format cannot have is none to choose
                trial.set_user_attr("refused", e.what)
            self._fail(trial.number)
            if not islands:
                raise
            return
        except BaseException:
            self._fail(trial.number)
            raise
        trial.set_user_attr("measured", m.to_dict())
        self._study.tell(trial, [m.disagreement, m.drop, m.ms, float(m.size)], skip_if_finished=True)

    def _earlier(self, trial: Trial, islands: Islands) -> bool:
        """Whether another worker has begun the same: of two that began at once, the first goes on.

        What one began just before has no values yet: they are waited for, or neither would know of the other.
        """
        while True:
            before = [t for t in self._trials() if t.number < trial.number and t.state.name == "RUNNING"]
            alive = [t for t in before if not self._silent(t)]
            if all(len(t.params) == len(self.stages) for t in alive):
                return any(key_of(self._islands(t.params)) == key_of(islands) for t in alive)
            time.sleep(0.02)

    def _fail(self, number: int) -> None:
        from optuna.trial import TrialState

        self._study.tell(number, state=TrialState.FAIL, skip_if_finished=True)


def _opened(storage: str) -> Any:
    """What Optuna takes as storage."""
    if "://" in storage:
        return storage
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    make_folder(Path(storage).expanduser().absolute().parent)
    file = str(Path(storage).expanduser())
    # Links cannot be made everywhere (FAT, some network shares); a file that must not exist can.
    return JournalStorage(JournalFileBackend(file, lock_obj=JournalFileOpenLock(file)))


@contextlib.contextmanager
def _beating(trial: Trial) -> Iterator[None]:
    """Signs of life while something is measured."""
    over = threading.Event()

    def beat() -> None:
        number = 0
        while not over.wait(BEAT):
            number += 1
            with contextlib.suppress(Exception):  # a database that is away for a moment
                trial.set_user_attr("beat", number)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
