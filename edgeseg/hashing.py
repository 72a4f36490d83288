"""SHA-256 of files, folders and plain data."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edgeseg.errors import EdgesegError
from edgeseg.resources import cache_root
from edgeseg.store import make_folder, write_atomically

# A file that was written this recently may be written again within one tick of its clock: its hash is not remembered.
_SETTLED_S = 2.0


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
