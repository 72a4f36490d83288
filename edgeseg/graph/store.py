"""Files of the graph on disk: locks, hashes, copies that are whole or absent, scratch folders that outlive no crash."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from edgeseg.errors import EdgesegError
from edgeseg.resources import cache_root

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# A file that was written this recently may be written again within one tick of its clock: its hash is not remembered.
_SETTLED_S = 2.0
_LOCK_POLL_S = 0.5


@contextlib.contextmanager
def lock(name: str, *, wait: bool = True, stop: Callable[[], bool] | None = None) -> Iterator[bool]:
    """Hold the lock called ``name`` across processes and threads.

    The kernel drops the lock when its process ends, however it ends. Yields False, holding nothing, when another holds the
    lock and ``wait`` is off, or ``stop()`` became true while waiting.
    """
    from filelock import FileLock, Timeout

    held = FileLock(make_folder(cache_root() / "locks") / f"{name}.lock")
    while True:
        try:
            held.acquire(timeout=_LOCK_POLL_S if wait else 0, poll_interval=0.02)
            break
        except Timeout:
            if not wait or (stop is not None and stop()):
                yield False
                return
        except OSError as e:
            raise disk_error(e, Path(held.lock_file)) from e
    try:
        yield True
    finally:
        held.release()


def make_folder(folder: Path) -> Path:
    """Create a folder and those above it.

    Raises:
        EdgesegError: it cannot be created.
    """
    try:
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
        return EdgesegError("this place cannot be written to", path=path, hint="Name another folder: --out FOLDER")
    return EdgesegError(f"cannot be written ({e.strerror or e})", path=path)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content, hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """SHA-256 of plain data, independent of the order of keys, hex."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_files(files: Iterable[Path], base: Path) -> str:
    """SHA-256 over names (relative to ``base``) and contents of files, hex."""
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.relative_to(base).as_posix()}\0{sha256_file(file)}\n".encode())
    return digest.hexdigest()


def content_hash(path: Path) -> str:
    """SHA-256 of a file, or of all files below a folder. A file's hash is remembered by path, size and times of change.

    Raises:
        EdgesegError: it cannot be read.
    """
    try:
        if path.is_dir():
            return sha256_files((f for f in path.rglob("*") if f.is_file()), path)
        return _remembered_hash(path)
    except OSError as e:
        raise EdgesegError(f"cannot be read ({e.strerror or e})", path=path) from e


def _remembered_hash(path: Path) -> str:
    stat = path.stat()
    stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
    note = cache_root() / "hashes" / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(note.read_text())
        if known["stamp"] == stamp:
            return str(known["sha256"])
    value = sha256_file(path)
    if time.time() - stat.st_mtime > _SETTLED_S and time.time() - stat.st_ctime > _SETTLED_S:
        with contextlib.suppress(OSError, EdgesegError):
            make_folder(note.parent)
            write_atomically(note, json.dumps({"stamp": stamp, "sha256": value}))
    return value


def write_atomically(path: Path, text: str) -> None:
    """Write a small text file beside its place and rename it."""
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there and as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def put(source: Path, place: Path) -> None:
    """Copy a file or folder to ``place``, whole or not at all: copied beside it under a hidden name, then renamed.

    Copies, never hard links: what a person then does to the artifact in place must not reach the cache.

    Raises:
        EdgesegError: full disk or no permission; what was at ``place`` before is untouched.
    """
    beside = place.with_name(f".{place.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        make_folder(place.parent)
        if source.is_dir():
            shutil.copytree(source, beside)
        else:
            shutil.copyfile(source, beside)
        if place.is_dir() and not place.is_symlink():
            # A folder cannot be replaced in one call: the old one steps aside first.
            aside = place.with_name(f".{place.name}.{uuid.uuid4().hex[:8]}.old")
            os.rename(place, aside)
            os.rename(beside, place)
            shutil.rmtree(aside, ignore_errors=True)
        elif source.is_dir() and place.exists():
            raise EdgesegError("a file is where the folder must go", path=place, hint="Remove it, or name another folder")
        else:
            os.replace(beside, place)
    except OSError as e:
        remove(beside)
        raise disk_error(e, place) from e
    except shutil.Error as e:
        remove(beside)
        raise EdgesegError(f"cannot be copied ({e})", path=place) from e
    except BaseException:
        remove(beside)
        raise


def link_or_copy(source: Path, place: Path) -> None:
    """Give a converter its source in a folder of its own (many write beside what they read); linked where possible."""
    if source.is_dir():
        shutil.copytree(source, place, copy_function=_link)
    else:
        make_folder(place.parent)
        _link(str(source), str(place))


def _link(source: str, place: str) -> None:
    try:
        os.link(source, place)
    except OSError:
        shutil.copyfile(source, place)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder for one run under the cache, removed at the end. A lock marks it as alive: see ``sweep``."""
    name = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
    folder = cache_root() / "work" / name
    with lock(f"work-{name}"):
        make_folder(folder)
        try:
            yield folder
        finally:
            remove(folder)
    (cache_root() / "locks" / f"work-{name}.lock").unlink(missing_ok=True)


def sweep() -> list[str]:
    """Remove the scratch folders of runs that died; returns one sentence for each, none when all was clean."""
    said = []
    root = cache_root() / "work"
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        with lock(f"work-{folder.name}", wait=False) as free:
            if free and folder.is_dir():
                remove(folder)
                if not folder.name.startswith("dropped-"):
                    said.append(f"removed what an interrupted export had left ({folder})")
        if free:
            (cache_root() / "locks" / f"work-{folder.name}.lock").unlink(missing_ok=True)
    return said
