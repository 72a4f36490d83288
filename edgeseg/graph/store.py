"""Files of the graph on disk: remembered hashes, scratch folders that outlive no crash, and all of ``edgeseg.store``."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from edgeseg.errors import EdgesegError
from edgeseg.resources import cache_root
from edgeseg.store import (
    disk_error,
    lock,
    make_folder,
    put,
    recover,
    remove,
    sha256_file,
    sha256_files,
    sha256_json,
    sweep_folder,
    write_atomically,
)

__all__ = [
    "content_hash",
    "disk_error",
    "link_or_copy",
    "lock",
    "make_folder",
    "put",
    "recover",
    "remove",
    "scratch",
    "sha256_file",
    "sha256_files",
    "sha256_json",
    "sweep",
    "sweep_folder",
    "write_atomically",
]

# A file that was written this recently may be written again within one tick of its clock: its hash is not remembered.
_SETTLED_S = 2.0
# Folders of the cache with small files that are written anew now and then.
_NOTES = ("hashes", "networks", "calibrations", "gates", "labels", "placed", "datasets", "weights")


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


def sweep() -> list[str]:
    """Remove what runs that died left in the cache; returns one sentence for each scratch folder of an export."""
    said = []
    root = cache_root() / "work"
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        with lock(f"work-{folder.name}", wait=False) as free:
            if free and folder.is_dir():
                remove(folder)
                if not folder.name.startswith("dropped-"):
                    said.append(f"removed what an interrupted export had left ({folder})")
    for name in _NOTES:
        sweep_folder(cache_root() / name)
    locks = cache_root() / "locks"
    for file in locks.glob("*.lock") if locks.is_dir() else []:
        with lock(file.name.removesuffix(".lock"), wait=False):
            pass  # a lock that nobody holds is gone when it is given back
    return said
