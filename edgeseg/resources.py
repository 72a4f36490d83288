"""Where the folders that are not Python packages lie, in a checkout and in a wheel alike."""

from __future__ import annotations

import os
from pathlib import Path

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


def cache_root() -> Path:
    """``EDGESEG_HOME``, else ``$XDG_CACHE_HOME/edgeseg``, else ``~/.cache/edgeseg`` (not created here)."""
    home = os.environ.get("EDGESEG_HOME")
    if home:
        return Path(home).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeseg"
