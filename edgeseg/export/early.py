"""Steps that begin before what they are given is made: they import, read and trace meanwhile, and wait only then.

Observing keeps all cores busy, but a process that starts, or a converter that traces, uses one.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgeseg.errors import StepFailed
from edgeseg.export import scratch
from edgeseg.export.job import STEM
from edgeseg.store import make_folder

if TYPE_CHECKING:
    from edgeseg.export.cache import Entry
    from edgeseg.export.plan import Step
    from edgeseg.export.run import Outcome


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
                scratch.link_or_copy(part, place)
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
