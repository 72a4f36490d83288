"""The thread that gives results to sinks: one that fails is reported and left out, and the others go on."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from edgeseg.errors import EdgesegError
from edgeseg.live.belt import Belt
from edgeseg.live.sinks import unwritten
from edgeseg.predict.result import Result

ROOM = 4
"""Results that may wait for a slow sink; then inference waits, and a live camera drops frames."""


class Sink(Protocol):
    """Where results go."""

    def put(self, result: Result) -> None:
        """Take one result; called from one thread, in order.

        Raises:
            EdgesegError, OSError: it cannot be written.
        """

    def close(self) -> None:
        """Complete what was written."""


class Outlet:
    """Gives every result to every sink, in order, in a thread of its own.

    Args:
        sinks: where results go; none at all is fine.
        say: told of a sink that fails.

    Attributes:
        failure: of the last sink, once none is left: then nothing more is taken.
    """

    def __init__(self, sinks: Sequence[Sink], say: Callable[[str], None]) -> None:
        self._sinks, self._say = list(sinks), say
        self.failure: Exception | None = None
        self._belt: Belt[Result] = Belt(ROOM, broken=lambda: self.failure is not None)
        self._thread = threading.Thread(target=self._work, name="edgeseg-output", daemon=True)
        self._thread.start()

    def put(self, result: Result) -> bool:
        """Hand a result over, waiting for slow sinks; False once no sink is left."""
        return self.failure is None and self._belt.put(result)

    def finish(self) -> None:
        """Write what waits, and complete every sink."""
        self._belt.end()
        self._thread.join()

    def _work(self) -> None:
        while (result := self._belt.take()) is not None:
            for sink in list(self._sinks):
                try:
                    sink.put(result)
                except Exception as e:  # a sink is anybody's code
                    self._leave_out(sink, e)
                    with contextlib.suppress(Exception):  # what failed once need not be completed
                        sink.close()
        for sink in list(self._sinks):
            try:
                sink.close()
            except Exception as e:
                self._leave_out(sink, e)

    def _leave_out(self, sink: Sink, e: Exception) -> None:
        self._sinks.remove(sink)
        if self._sinks:
            self._say(f"{type(sink).__name__} is left out from now on: {_reason(e)}")
        else:
            self.failure = e


def _reason(e: Exception) -> str:
    if isinstance(e, OSError):
        return unwritten(e)
    return str(e) if isinstance(e, EdgesegError) else f"{type(e).__name__}: {e}"
