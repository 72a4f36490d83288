"""Artifacts that were made before, by what made them.

One folder an entry, ``artifacts/<key>/``: ``entry.json`` and the artifact under ``data/``. An entry is written in scratch
and renamed into place, and its files are checked by size and SHA-256 whenever it is read.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from edgeseg.errors import EdgesegError
from edgeseg.export.shared import shared
from edgeseg.hashing import sha256_file, sha256_files, sha256_json
from edgeseg.registry import Target
from edgeseg.resources import PACKAGE, cache_root
from edgeseg.store import disk_error, lock, make_folder, remove, sweep_folder

SCHEMA = 1
#: Beyond this the entries used longest ago are removed; ``EDGESEG_CACHE_GB`` overrides it.
LIMIT_GB = 20.0
# Another process may be reading an entry that was used this recently.
_IN_USE_S = 3600.0
# What decides how a network becomes tensors; the rest of edgeseg does not reach into an artifact.
_CORE = ("network", "manifest.py", "export/job.py", "export/describe.py")
_CORE_QUANTIZED = ("quantize", "vision", "data")


@dataclass(frozen=True)
class Entry:
    """One cached artifact. ``files`` maps paths below ``data/`` to (bytes, SHA-256); ``artifact`` is the main one's name."""

    key: str
    artifact: str
    files: Mapping[str, tuple[int, str]]
    seconds: float = 0.0
    toolchain: str = ""
    notes: tuple[str, ...] = ()
    what: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where the entry lies."""
        return entry_folder(self.key)

    @property
    def path(self) -> Path:
        """The artifact itself: a file or a folder."""
        return self.folder / "data" / self.artifact

    def parts(self) -> list[Path]:
        """The artifact and what belongs beside it (a sidecar)."""
        return sorted((self.folder / "data").iterdir(), key=lambda p: p.name != self.artifact)


def artifacts_root() -> Path:
    """The folder of all entries."""
    return cache_root() / "artifacts"


def entry_folder(key: str) -> Path:
    """Where the entry of ``key`` lies, or will."""
    return artifacts_root() / key


def read(key: str) -> tuple[Entry | None, str]:
    """The entry of ``key``, or None; the second value says why a damaged one was dropped, else it is empty."""
    folder = entry_folder(key)
    if not folder.is_dir() and not _fetched(key):
        return None, ""
    problem = ""
    try:
        raw = json.loads((folder / "entry.json").read_text(encoding="utf-8"))
        if raw.pop("schema") != SCHEMA:
            problem = "was written by another version"
        else:
            files = {name: (int(size), str(digest)) for name, (size, digest) in raw.pop("files").items()}
            entry = Entry(key=key, files=files, notes=tuple(raw.pop("notes")), **raw)
            problem = _damage(folder / "data", files)
            if not problem and entry.artifact not in {name.partition("/")[0] for name in files}:
                problem = "names another file than it has"
    except (OSError, ValueError, KeyError, TypeError) as e:
        problem = f"cannot be read ({type(e).__name__})"
    if problem:
        drop(key)
        if (store := shared()) is not None:
            store.drop(key)
        return None, f"a cached artifact {problem}: dropped and made again ({folder})"
    with contextlib.suppress(OSError):
        os.utime(folder / "entry.json")
    return entry, ""


def _fetched(key: str) -> bool:
    """Whether the entry of ``key`` came over from the shared cache; it is checked when it is read."""
    store = shared()
    if store is None:
        return False
    try:
        with scratch() as folder:
            if not store.pull(key, folder / "entry"):
                return False
            make_folder(artifacts_root())
            _place(folder / "entry", key)
            return True
    except OSError as e:
        raise disk_error(e, artifacts_root()) from e


def _place(folder: Path, key: str) -> None:
    """Give a folder that holds a whole entry its place, in that of what is there."""
    if entry_folder(key).exists():
        drop(key)
    os.rename(folder, entry_folder(key))


def _damage(data: Path, files: Mapping[str, tuple[int, str]]) -> str:
    there = {f.relative_to(data).as_posix(): f for f in data.rglob("*") if f.is_file()}
    if set(there) != set(files):
        return "lost or gained files"
    for name, (size, _) in files.items():
        if there[name].stat().st_size != size:
            return f"is truncated ({name})" if there[name].stat().st_size < size else f"was changed ({name})"
    for name, (_, digest) in files.items():
        if sha256_file(there[name]) != digest:
            return f"was changed ({name})"
    return ""


def drop(key: str) -> None:
    """Remove an entry: renamed first, so that nobody finds half of it."""
    folder = entry_folder(key)
    gone = cache_root() / "work" / f"dropped-{key[:16]}-{time.time_ns()}"
    with contextlib.suppress(FileNotFoundError):
        make_folder(gone.parent)
        os.rename(folder, gone)
    remove(gone)


def write(key: str, data: Path, artifact: str, **about: Any) -> Entry:
    """Take the folder ``data`` (in scratch, on the same disk) into the cache as the entry of ``key``.

    Raises:
        EdgesegError: the disk is full; nothing is left in the cache.
    """
    files = {
        f.relative_to(data).as_posix(): (f.stat().st_size, sha256_file(f)) for f in sorted(data.rglob("*")) if f.is_file()
    }
    entry = Entry(key=key, artifact=artifact, files=files, **about)
    folder = data.with_name(f"entry-{key[:16]}")
    try:
        folder.mkdir()
        os.rename(data, folder / "data")
        text = json.dumps(
            {"schema": SCHEMA, **{k: v for k, v in asdict(entry).items() if k != "key"}}, indent=1, default=str
        )
        (folder / "entry.json").write_text(text, encoding="utf-8")
        for name in files:
            _flush(folder / "data" / name)
        _flush(folder / "entry.json")
        make_folder(artifacts_root())
        _place(folder, key)
    except OSError as e:
        raise disk_error(e, folder) from e
    if (store := shared()) is not None:
        store.push(key, entry.folder)
    return entry


def _flush(path: Path) -> None:
    """To the disk itself: after a power cut the renamed entry must not hold empty files."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def target_hash(target: Target) -> str:
    """SHA-256 over the target's folder, but for its runtime, which has no part in the conversion."""
    skip = {"runtime.py", "README.md", "__pycache__", *target.settings.get("runtime_files", ())}
    files = (f for f in target.folder.rglob("*") if f.is_file() and not skip & set(f.relative_to(target.folder).parts))
    return sha256_files(files, target.folder)


@lru_cache(maxsize=2)
def core_hash(quantized: bool) -> str:
    """SHA-256 over those parts of edgeseg that reach into an artifact."""
    parts = [PACKAGE / p for p in (*_CORE, *(_CORE_QUANTIZED if quantized else ()))]
    files = [f for p in parts for f in (p.rglob("*") if p.is_dir() else [p]) if f.suffix in (".py", ".yaml", ".toml")]
    return sha256_files(files, PACKAGE)


def folder_hash(name: str) -> str:
    """SHA-256 over a folder of edgeseg."""
    files = (f for f in (PACKAGE / name).rglob("*") if f.is_file() and f.suffix != ".pyc")
    return sha256_files(files, PACKAGE)


def make_key(what: Mapping[str, Any]) -> str:
    """The key of everything that decides an artifact's content."""
    return sha256_json({"schema": SCHEMA, **what})


def usage() -> list[tuple[str, int, float]]:
    """(key, bytes, time of last use) of every entry, the one used longest ago first."""
    rows = []
    for folder in artifacts_root().iterdir() if artifacts_root().is_dir() else []:
        with contextlib.suppress(OSError):
            size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
            rows.append((folder.name, size, (folder / "entry.json").stat().st_mtime))
    return sorted(rows, key=lambda r: r[2])


def prune(limit_bytes: int | None = None, *, in_use_s: float = _IN_USE_S) -> int:
    """Remove the entries used longest ago until the rest fits, and return the bytes freed.

    Args:
        limit_bytes: None takes ``EDGESEG_CACHE_GB``, else 20 GB.
        in_use_s: entries used within so many seconds stay, another export may be reading them.

    Raises:
        EdgesegError: ``EDGESEG_CACHE_GB`` is no number.
    """
    limit = _limit() if limit_bytes is None else limit_bytes
    rows = usage()
    total, freed, now = sum(size for _, size, _ in rows), 0, time.time()
    for key, size, used in rows:
        if total - freed <= limit:
            break
        if now - used < in_use_s:
            continue
        with lock(f"key-{key}", wait=False) as free:
            if free:
                drop(key)
                freed += size
    return freed


def _limit() -> int:
    text = os.environ.get("EDGESEG_CACHE_GB", "")
    try:
        return int(float(text or LIMIT_GB) * 1e9)
    except ValueError:
        raise EdgesegError(f"EDGESEG_CACHE_GB={text} is no number") from None


# Folders of the cache with small files that are written anew now and then.
_NOTES = ("hashes", "networks", "calibrations", "gates", "labels", "placed", "datasets", "weights")


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
