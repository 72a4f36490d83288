"""What one thread hands to another: bounded, in order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
_POLL_S = 0.2


class Belt(Generic[T]):
    """Items between two threads, ``room`` at most.

    Args:
        room: how many may wait.
        newest: a full belt loses its oldest item to the newest one; else ``put`` waits until there is room.
        broken: asked now and then by whoever waits: True ends the waiting.

    Attributes:
        lost: items that newer ones replaced.
    """

    def __init__(self, room: int, *, newest: bool = False, broken: Callable[[], bool] = lambda: False) -> None:
        self._room, self._newest, self._broken = room, newest, broken
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self.lost = 0

    def put(self, item: T) -> bool:
        """Lay an item down; False where nobody takes it any more."""
        with self._changed:
            while not self._newest and self._full() and not self._ended and not self._broken():
                self._changed.wait(_POLL_S)
            if self._ended or (self._full() and not self._newest):
                return False
            if self._full():
                self._items.popleft()
                self.lost += 1
            self._items.append(item)
            self._changed.notify_all()
            return True

    def _full(self) -> bool:
        return len(self._items) >= self._room

    def take(self) -> T | None:
        """The oldest item; None once the belt has ended or is broken, and nothing is left on it."""
        with self._changed:
            while not self._items:
                if self._ended or self._broken():
                    return None
                self._changed.wait(_POLL_S)
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def end(self) -> None:
        """No more items; those that wait are still taken."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def clear(self) -> None:
        """Lose what waits."""
        with self._changed:
            self.lost += len(self._items)
            self._items.clear()
            self._changed.notify_all()
