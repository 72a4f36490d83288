"""The folders of runs: ``runs/predict/exp``, ``exp2``, ``exp3`` ..."""

from __future__ import annotations

from pathlib import Path

from edgeseg.errors import EdgesegError


def new_folder(parent: str | Path, name: str = "exp", exist_ok: bool = False) -> Path:
    """Make ``parent/name`` and what is above it, or ``name2``, ``name3`` ... when that is there (``exist_ok``: take that).

    Safe against a second process.

    Raises:
        EdgesegError: it cannot be made.
    """
    number = 1
    while True:
        folder = Path(parent) / (name if number == 1 else f"{name}{number}")
        try:
            folder.mkdir(parents=True, exist_ok=exist_ok)
            return folder
        except FileExistsError as e:
            if exist_ok:
                raise EdgesegError("a file is where the run's folder must go", path=folder, hint="Use another name") from e
            number += 1
        except OSError as e:
            what = f"the run's folder cannot be made ({e.strerror})"
            raise EdgesegError(what, path=folder, hint="Name another folder") from e
