"""Folders that appear complete or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeseg.store import making


@contextmanager
def made_beside(folder: Path) -> Iterator[Path]:
    """A hidden folder beside ``folder`` to fill; at the end it takes that name, and what had it before is removed.

    After an exception nothing of it is left, and what was there before still is.

    Raises:
        OSError: from the file system, or because another process made ``folder`` at the same moment.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with making(folder) as part:
        yield part
