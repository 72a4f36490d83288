"""Ending early: Ctrl-C and SIGTERM alike, never in the middle of a file."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Stopping:
    """While this is entered, SIGINT and SIGTERM raise KeyboardInterrupt inside ``allowed`` only.

    One that comes elsewhere, where files are written and completed, is remembered: the next ``allowed`` raises it, and
    ``asked`` is True.
    """

    def __init__(self) -> None:
        self.asked = False
        self._allowed = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stopping:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            self._before = {s: signal.signal(s, self._stop) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """What is done inside may be broken off with KeyboardInterrupt."""
        self._allowed = True
        try:
            if self.asked:
                raise KeyboardInterrupt
            yield
        finally:
            self._allowed = False

    def _stop(self, *_: object) -> None:
        self.asked = True
        if self._allowed:
            self._allowed = False  # a second signal does not break off what the first one has to complete
            raise KeyboardInterrupt
