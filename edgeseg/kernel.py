"""What is asked of the kernel: locks on open files, two names exchanged in one step, data on the disk itself, cores."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import sys
import time
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
