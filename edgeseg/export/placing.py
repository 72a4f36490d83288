"""Artifacts in their place: what edgeseg wrote is replaced, what it did not write stays, or the export says no.

What was written where is recorded in the cache, ``placed/<hash of the place>.json``: the names and SHA-256 of its files.
Where the record is lost, an artifact is known as ours by the manifest in it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import re
from collections.abc import Mapping
from pathlib import Path

from edgeseg import store
from edgeseg.errors import EdgesegError
from edgeseg.hashing import sha256_file
from edgeseg.manifest import read_sidecar
from edgeseg.resources import cache_root

# The key and the start of ``Manifest.to_json`` as ZIP, protobuf, JSON and YAML hold them: quotes escaped, lengths between.
_MANIFEST = re.compile(rb'edgeseg.{0,80}?\{\\*"schema\\*":', re.DOTALL)
_HINT = "Move it away, or name another folder with --out"

Record = dict[str, list[str]]


def check_place(place: Path) -> None:
    """See that nobody else's file or folder is where an artifact will go.

    Raises:
        EdgesegError: there is one.
    """
    if not os.path.lexists(place) or _is_empty(place):
        return
    if not any((place / name if name else place).is_file() for name in _read(place)) and not _has_manifest(place):
        kind = "folder" if place.is_dir() else "file"
        raise EdgesegError(f"this {kind} is in the way, and edgeseg did not write it", path=place, hint=_HINT)


def place_parts(where: Mapping[Path, Path]) -> list[str]:
    """Copy artifacts and what belongs beside them to their places, each whole or not at all, in this order.

    Files of a person inside the folder of an artifact go over into the new one.

    Args:
        where: file or folder in the cache -> its place.

    Returns:
        A sentence for each file of ours that somebody had changed, and that was replaced.

    Raises:
        EdgesegError: something of somebody else is in the way, the disk is full, or there is no permission.
    """
    said = []
    with contextlib.ExitStack() as stack:
        for place in sorted(where.values()):
            stack.enter_context(store.lock(f"place-{_key(place)}"))
        for place in where.values():
            store.recover(place)
            check_place(place)
        for part, place in where.items():
            before, new = _read(place), _record(part)
            keep, changed = _strangers(place, before, new)
            said += [f"{file} had been changed since edgeseg wrote it: replaced" for file in changed]
            # Whatever happens between the two, the record names what is there.
            _write(place, {n: [*new.get(n, []), *before.get(n, [])] for n in {**before, **new}})
            store.put(part, place, keep=keep)
            _write(place, new)
    return said


def _strangers(place: Path, before: Record, new: Record) -> tuple[list[Path], list[Path]]:
    """What lies in the folder and is not ours, relative to it; and files of ours that were changed.

    Raises:
        EdgesegError: a file that edgeseg did not write has the name of a new one.
    """
    if place.is_file():
        return [], [place] if before and sha256_file(place) not in before.get("", ()) else []
    kept: list[Path] = []
    changed: list[Path] = []
    for path in sorted(place.rglob("*")):
        name = path.relative_to(place).as_posix()
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()) and not any(n.startswith(f"{name}/") for n in new):
                kept.append(Path(name))
        elif name in new:
            if before and name not in before:
                raise EdgesegError("this file is in the way, and edgeseg did not write it", path=path, hint=_HINT)
            if before and path.is_file() and sha256_file(path) not in before[name]:
                changed.append(path)
        elif path.is_symlink() or name not in before or sha256_file(path) not in before[name]:
            kept.append(Path(name))
    return kept, changed


def _record(path: Path) -> Record:
    if path.is_file():
        return {"": [sha256_file(path)]}
    files = (f for f in path.rglob("*") if f.is_file())
    return {f.relative_to(path).as_posix(): [sha256_file(f)] for f in files}


def _is_empty(path: Path) -> bool:
    """An empty file or folder, or a link to nothing: nothing is lost with it."""
    try:
        return not any(path.iterdir()) if path.is_dir() else path.stat().st_size == 0 and path.is_file()
    except FileNotFoundError:
        return True
    except OSError:
        return False


def _has_manifest(path: Path) -> bool:
    """Whether the manifest of an artifact is in a file, anywhere below a folder, or beside it."""
    with contextlib.suppress(OSError, EdgesegError):
        if "edgeseg" in read_sidecar(path):
            return True
    files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
    for file in files:
        with contextlib.suppress(OSError, ValueError), open(file, "rb") as f:
            content = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
            if _MANIFEST.search(content):
                return True
    return False


def _key(place: Path) -> str:
    return hashlib.sha256(os.path.realpath(place).encode(errors="surrogateescape")).hexdigest()[:24]


def _file(place: Path) -> Path:
    return cache_root() / "placed" / f"{_key(place)}.json"


def _read(place: Path) -> Record:
    """What was written there, {} where that is not known."""
    try:
        raw = json.loads(_file(place).read_text(encoding="utf-8"))
        return {str(name): [str(d) for d in digests] for name, digests in raw["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _write(place: Path, record: Record) -> None:
    file = _file(place)
    store.make_folder(file.parent)
    try:
        store.write_atomically(file, json.dumps({"place": os.path.realpath(place), "files": record}))
    except OSError as e:
        raise store.disk_error(e, file) from e
