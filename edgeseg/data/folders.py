"""Folders that appear complete or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def made_beside(folder: Path) -> Iterator[Path]:
    """A hidden folder beside ``folder`` to fill; at the end it takes that name, and what had it before is removed.

    After an exception nothing of it is left, and what was there before still is.

    Raises:
        OSError: from the file system, or because another process made ``folder`` at the same moment.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield part
        os.chmod(part, 0o755)  # mkdtemp makes folders that nobody else can read
        _put_in_place(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _put_in_place(part: Path, folder: Path) -> None:
    old = part.with_name(part.name + ".old")
    if folder.exists():
        os.rename(folder, old)
    try:
        os.rename(part, folder)
    except OSError:
        if old.exists() and not folder.exists():
            os.rename(old, folder)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
