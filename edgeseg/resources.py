"""Where the folders that are not Python packages lie, in a checkout and in a wheel alike, and where runs put theirs."""

from __future__ import annotations

import os
import shlex
import stat
import sys
from pathlib import Path
from typing import Any

from edgeseg.errors import EdgesegError

PACKAGE = Path(__file__).resolve().parent


def _beside(name: str) -> Path:
    inside = PACKAGE / f"_{name}"
    return inside if inside.is_dir() else PACKAGE.parent / name


def target_roots() -> list[Path]:
    """Folders whose sub-folders are targets: the built-in one, then those that ``EDGESEG_TARGETS`` names."""
    extra = os.environ.get("EDGESEG_TARGETS", "")
    return [_beside("targets"), *(Path(p).expanduser() for p in extra.split(os.pathsep) if p)]


def calib_root() -> Path:
    """The folder of the built-in recipes."""
    return _beside("calib")


def demo_checkpoint() -> Path:
    """The small network of our own that ``edgeseg demo`` exports; it travels in the package."""
    return PACKAGE / "demo" / "demo-seg.pt"


def parse_toml(text: str) -> dict[str, Any]:
    """The table that TOML text is; ValueError where it is none."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads(text)


def cache_root() -> Path:
    """``EDGESEG_HOME``, else ``$XDG_CACHE_HOME/edgeseg``, else ``~/.cache/edgeseg`` (not created here).

    Raises:
        EdgesegError: others than its owner may write there: toolchains are run from it, and artifacts taken.
    """
    home = os.environ.get("EDGESEG_HOME")
    root = Path(home).expanduser() if home else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeseg"
    _refuse_shared(root)
    return root.absolute()


_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_private: set[str] = set()


def _refuse_shared(root: Path) -> None:
    """Once a process. Of the folders above, only those count that everybody may rename in: groups may be private."""
    if not hasattr(os, "geteuid"):
        return
    real = Path(os.path.realpath(root))
    if str(real) in _private:
        return
    for above in real.parents:
        mode = _mode(above)
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise _refused(root, f"everybody may rename what lies in {above}, the cache folder too", "chmod o-w", above)
    if not real.is_dir():
        return
    if real.stat().st_uid not in (0, os.geteuid()):
        what = "the cache folder belongs to somebody else, and what lies in it is run"
        raise _refused(root, what, f"chown -R {os.geteuid()}", real)
    if any(_mode(folder) & _OTHERS for folder in (real, *(p for p in real.iterdir() if p.is_dir()))):
        raise _refused(root, "others may write into the cache folder, and what lies in it is run", "chmod -R go-w", real)
    _private.add(str(real))


def _refused(root: Path, what: str, command: str, folder: Path) -> EdgesegError:
    hint = f"Type: {command} {shlex.quote(str(folder))}, or set EDGESEG_HOME to a folder of your own"
    return EdgesegError(what, path=root, hint=hint)


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError:
        return 0


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
