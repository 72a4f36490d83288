"""Files on disk: written whole or not at all, locked, hashed, and swept where a run was killed.

Whatever is written lies first under a hidden name beside its place, ``.<name>.<8 hex>.part``, held by a lock of the kernel,
and takes its name in one step. A lock ends with its process, so a ``.part`` that can be locked is what a killed run left.
A folder is exchanged with the one in its place in one step where the kernel can; elsewhere the old one steps aside as
``.<name>.<same 8 hex>.old``, which exists only after the new one is complete: ``sweep_folder`` brings either to its end.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from edgeseg.errors import EdgesegError
from edgeseg.kernel import exchange, flush, is_still, try_lock
from edgeseg.resources import cache_root

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_POLL_S = 0.02
_OURS = re.compile(r"\.(?P<name>.+)\.(?P<id>[0-9a-f]{8})\.(?P<kind>part|old)")
# Where a file system has no locks, a file that nobody wrote to for so long is taken for left behind.
_STALE_S = 86400.0
_BINARY, _CLOEXEC = getattr(os, "O_BINARY", 0), getattr(os, "O_CLOEXEC", 0)
_BUSY, _NONE = -1, -2


@contextmanager
def lock(name: str, *, wait: bool = True, stop: Callable[[], bool] | None = None) -> Iterator[bool]:
    """Hold the lock called ``name`` across processes and threads of everybody who uses this cache folder.

    The kernel drops the lock when its process ends, however it ends. Yields False, holding nothing, when another holds the
    lock and ``wait`` is off, or ``stop()`` became true while waiting. Where the file system has no locks, nobody waits.

    Raises:
        EdgesegError: the cache folder cannot be written to.
    """
    file = make_folder(cache_root() / "locks") / f"{name}.lock"
    while (fd := _hold(file)) == _BUSY:
        if not wait or (stop is not None and stop()):
            yield False
            return
        time.sleep(_POLL_S)
    if fd == _NONE:
        yield wait
        return
    try:
        yield True
    finally:
        # Unlinked while it is held: whoever waits for this file finds another one under its name, and starts again.
        with contextlib.suppress(OSError):
            file.unlink()
        os.close(fd)


def _hold(file: Path) -> int:
    """The descriptor that holds the lock, else ``_BUSY`` or ``_NONE`` (no locks here)."""
    while True:
        try:
            fd = os.open(file, os.O_RDWR | os.O_CREAT | _CLOEXEC, 0o600)
        except OSError as e:
            if os.name == "nt" and isinstance(e, PermissionError):
                return _BUSY  # there a file that is being removed cannot be opened
            raise disk_error(e, file) from e
        got = try_lock(fd)
        if got and is_still(file, fd):
            return fd
        os.close(fd)
        if not got:
            return _BUSY if got is False else _NONE


def make_folder(folder: Path) -> Path:
    """Create a folder and those above it; those of the cache for its owner alone, whatever the umask.

    Raises:
        EdgesegError: it cannot be created.
    """
    try:
        root = cache_root()
        if folder == root or root in folder.parents:
            missing = [p for p in (folder, *folder.parents) if (p == root or root in p.parents) and not p.exists()]
            root.parent.mkdir(parents=True, exist_ok=True)
            for one in reversed(missing):
                one.mkdir(mode=0o700, exist_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise disk_error(e, folder) from e
    return folder


def disk_error(e: OSError, path: Path) -> EdgesegError:
    """An ``OSError`` as a sentence; a full disk gets its own."""
    if e.errno in _FULL:
        hint = "Free some space, or name folders on another disk: --out for the artifacts, EDGESEG_HOME for the cache"
        return EdgesegError("the disk is full, nothing was written", path=path, hint=hint)
    if e.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return EdgesegError("this place cannot be written to", path=path, hint=_elsewhere(path))
    return EdgesegError(f"cannot be written ({e.strerror or e})", path=path, hint=_elsewhere(path))


def _elsewhere(path: Path) -> str:
    """What to type where a place cannot be written to."""
    ours = cache_root() in (path, *path.parents)
    return "Name another cache folder: EDGESEG_HOME=FOLDER" if ours else "Name another folder: --out FOLDER"


def read_bounded(path: Path, limit: int, hint: str = "") -> bytes:
    """A file's bytes, where it has no more than ``limit`` of them: what is too large is not read at all.

    Raises:
        EdgesegError: no file (a folder, a device, a pipe), or a larger one.
        OSError: as reading does.
    """
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise EdgesegError("this is no file", path=path, hint=hint)
    if about.st_size > limit:
        raise EdgesegError(f"{about.st_size / 1e6:.1f} MB are too much for such a file", path=path, hint=hint)
    with open(path, "rb") as f:
        # What grows meanwhile is not followed.
        return f.read(limit)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there and as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def write_atomically(path: Path, text: str) -> None:
    """Replace a small text file as a whole, UTF-8.

    Raises:
        OSError: from the file system; what was there before is untouched.
    """
    with writing(path) as file:
        file.write(text.encode())


@contextmanager
def writing(path: Path, *, durable: bool = False) -> Iterator[IO[bytes]]:
    """A binary file to fill, open for reading too, that takes the name ``path`` at the end in one step.

    After an exception nothing of it is left, and what was there before still is. A link is followed. What a killed run left
    of the same file is removed. A device or a pipe, as a shell makes them, is written into and never replaced.

    Args:
        path: the file; its folder exists.
        durable: written to the disk itself before it takes its name, so that a power cut cannot leave it empty.

    Raises:
        OSError: from the file system.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        with open(path, "wb") as pipe:
            yield pipe
        return
    place = Path(os.path.realpath(path))
    _sweep(place.parent, place.name)
    part, fd = _new_part(place, folder=False)
    try:
        with os.fdopen(fd, "w+b") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
            if os.name == "nt":  # there an open file cannot be renamed
                file.close()
            os.replace(part, place)
    except BaseException:
        remove(part)
        raise
    if durable:
        flush(place.parent)


@contextmanager
def making(folder: Path, *, durable: bool = False) -> Iterator[Path]:
    """A hidden folder to fill that takes the name ``folder`` at the end in one step; what had it before is removed.

    After an exception nothing of it is left, and what was there before still is. A link is followed.

    Args:
        folder: the place; the folder above it exists.
        durable: as for ``writing``.

    Raises:
        OSError: from the file system, or because another process made ``folder`` at the same moment.
    """
    place = Path(os.path.realpath(folder))
    with staging(place) as part:
        yield part
        if durable:
            for file in (part, *part.rglob("*")):
                if not file.is_symlink():
                    flush(file)
        _place_folder(part, place)
    if durable:
        flush(place.parent)


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """A hidden folder beside ``folder`` that is gone at the end; what killed runs left of the same name is removed.

    Raises:
        OSError: from the file system.
    """
    _sweep(folder.parent, folder.name)
    part, fd = _new_part(folder, folder=True)
    try:
        yield part
    finally:
        remove(part)
        if fd >= 0:
            os.close(fd)


def put(source: Path, place: Path, *, keep: Iterable[Path] = ()) -> None:
    """Copy a file or folder to ``place``, whole or not at all; what is there is replaced.

    Copies, never hard links: what a person then does to the artifact in place must not reach the cache. ``keep`` are paths
    below ``place``, relative to it, that go over into the new folder.

    Raises:
        EdgesegError: full disk or no permission, or a folder is where a file must go, or the other way round; what was at
            ``place`` before is untouched.
    """
    if place.exists() and place.is_dir() != source.is_dir():
        there, comes = ("folder", "file") if place.is_dir() else ("file", "folder")
        what = f"a {there} is where the {comes} must go"
        raise EdgesegError(what, path=place, hint="Move it away, or name another folder with --out")
    try:
        make_folder(place.parent)
        if source.is_dir():
            with making(place, durable=True) as part:
                shutil.copytree(source, part, dirs_exist_ok=True)
                for one in keep:
                    _carry(place / one, part / one)
        else:
            with writing(place, durable=True) as file, open(source, "rb") as content:
                shutil.copyfileobj(content, file, 1 << 20)
    except OSError as e:
        raise disk_error(e, place) from e
    except shutil.Error as e:
        raise EdgesegError(f"cannot be copied ({e})", path=place) from e


def _carry(source: Path, place: Path) -> None:
    """The same file in another folder: linked, for nothing of it may be lost on the way; copied where links are unknown."""
    if source.is_dir() and not source.is_symlink():
        place.mkdir(parents=True, exist_ok=True)
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, place, follow_symlinks=False)
    except FileExistsError:
        raise
    except (OSError, NotImplementedError):
        shutil.copy2(source, place, follow_symlinks=False)


def _new_part(place: Path, *, folder: bool) -> tuple[Path, int]:
    """A new hidden file or folder beside ``place`` and the descriptor whose lock says that it is being written (or -1)."""
    for left in range(99, -1, -1):
        part = place.with_name(f".{place.name}.{os.urandom(4).hex()}.part")
        try:
            if folder:
                part.mkdir()
                fd = _open_folder(part)
                if fd < 0:
                    return part, fd
            else:
                fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | _BINARY | _CLOEXEC, 0o666)
        except (FileExistsError, FileNotFoundError):
            if not left or not place.parent.is_dir():  # in /proc nothing can be made, though it is there
                raise
            continue
        # Swept by another process between the making and the lock: once more under another name.
        if try_lock(fd) is not False and is_still(part, fd):
            return part, fd
        os.close(fd)
    raise FileExistsError(errno.EEXIST, "no free name beside it", str(place))


def _open_folder(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) if hasattr(os, "O_DIRECTORY") else -1


def _place_folder(part: Path, place: Path) -> None:
    if not place.exists():
        os.rename(part, place)
    elif not exchange(part, place):
        old = part.with_name(part.name.removesuffix(".part") + ".old")
        try:
            os.rename(place, old)
            os.rename(part, place)
        finally:
            if not os.path.lexists(place):
                os.rename(old, place)
            remove(old)


def _settle(part: Path, old: Path, place: Path) -> None:
    """Bring a replacement in two steps to its end, wherever it stopped. ``old`` exists only after ``part`` was complete."""
    if not os.path.lexists(old):
        return
    if not os.path.lexists(place):
        os.rename(part if os.path.lexists(part) else old, place)
    if not os.path.lexists(part):
        remove(old)


def sweep_folder(folder: Path) -> list[Path]:
    """Remove the hidden files and folders that killed runs left in ``folder``, and give artifacts their place back.

    Only names as this module makes them, and only those that no process holds. Returns what was removed or moved.
    """
    return _sweep(folder, None)


def recover(place: Path) -> bool:
    """Whether ``place`` is there, given back its name if a run was killed while it replaced it."""
    if not place.exists():
        place = Path(os.path.realpath(place))
        _sweep(place.parent, place.name)
    return place.exists()


def _sweep(folder: Path, name: str | None) -> list[Path]:
    found: dict[tuple[str, str], dict[str, Path]] = {}
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    for each in names:
        match = _OURS.fullmatch(each) if each.startswith(".") else None
        if match is not None and name in (None, match["name"]):
            found.setdefault((match["name"], match["id"]), {})[match["kind"]] = folder / each
    swept: list[Path] = []
    for (its, _), kinds in found.items():
        with contextlib.suppress(OSError):
            swept += _sweep_one(kinds.get("part"), kinds.get("old"), folder / its)
    return swept


def _sweep_one(part: Path | None, old: Path | None, place: Path) -> list[Path]:
    first = part or old
    if first is None:
        return []
    with _claimed(first) as free:
        if not free:
            return []
        if old is None:
            remove(first)
        else:
            _settle(part or old.with_name(f"{old.name.removesuffix('.old')}.part"), old, place)
    return [p for p in (part, old) if p is not None and not os.path.lexists(p)]


@contextmanager
def _claimed(path: Path) -> Iterator[bool]:
    """Whether what has this name is written by nobody any more; locked by us meanwhile."""
    flags = os.O_RDONLY | _BINARY | _CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        fd = os.open(path, flags)
    except OSError:
        yield os.name == "nt" and _is_stale(path)  # there folders cannot be opened
        return
    try:
        got = try_lock(fd)
        yield is_still(path, fd) and (_is_stale(path) if got is None else got)
    finally:
        os.close(fd)


def _is_stale(path: Path) -> bool:
    try:
        return time.time() - os.lstat(path).st_mtime > _STALE_S
    except OSError:
        return False
