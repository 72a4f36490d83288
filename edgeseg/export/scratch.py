"""Scratch folders of exports that outlive no crash, and what dead runs left in the cache."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from edgeseg.resources import cache_root
from edgeseg.store import lock, make_folder, remove, sweep_folder

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
