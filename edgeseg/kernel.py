"""What is asked of the kernel: locks on open files, two names exchanged in one step, data on the disk, cores, signals."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

_POLL_S = 0.02
_EXCHANGE = 2  # RENAME_EXCHANGE of linux/fs.h
_AT_FDCWD = -100
_CANNOT = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL, errno.EBADF)


def try_lock(fd: int) -> bool | None:
    """Lock an open file (or folder) for as long as it is open; False: another holds it, None: it cannot be locked."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        return None if e.errno in _NO_LOCKS else False
    return True


def wait_for_lock(fd: int) -> None:
    """Wait until an open file is ours alone; closing it gives the lock back. Where there are no locks, nobody waits."""
    while try_lock(fd) is False:
        time.sleep(_POLL_S)


def is_still(path: Path, fd: int) -> bool:
    """Whether the open file is still the one with this name."""
    try:
        there, here = os.lstat(path), os.fstat(fd)
    except OSError:
        return False
    return (there.st_ino, there.st_dev) == (here.st_ino, here.st_dev)


def exchange(a: Path, b: Path) -> bool:
    """Let two folders change their names in one step; False where the kernel or the file system cannot."""
    if sys.platform != "linux":
        return False
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT:
        return False
    raise OSError(number, os.strerror(number), str(b))


def flush(path: Path) -> None:
    """To the disk itself, as far as the system lets that be asked for."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def handled(handle: Callable[..., None], numbers: Iterable[int] = (signal.SIGINT, signal.SIGTERM)) -> Iterator[None]:
    """While this is entered, ``handle`` is called for these signals, with their number and the frame that runs.

    Only the main thread may ask for that; in any other nothing changes.
    """
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handle) for number in numbers} if main else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Stopping:
    """Ending early, never in the middle of a file: SIGINT and SIGTERM raise KeyboardInterrupt inside ``allowed`` only.

    One that comes elsewhere while this is entered, where files are written and completed, is remembered: the next
    ``allowed`` raises it, and ``asked`` is True.
    """

    def __init__(self) -> None:
        self.asked = False
        self._allowed = False
        self._handled = handled(self._stop)

    def __enter__(self) -> Stopping:
        self._handled.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._handled.__exit__(None, None, None)

    @contextlib.contextmanager
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
