"""Packages of npm that a runtime needs, pinned by ``package.json`` and ``package-lock.json`` in its target's folder.

They are installed once for everybody under the cache folder: nothing is written into the user's own folders, and npm's
cache of downloads goes with the installation.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path

from edgeseg.errors import EdgesegError
from edgeseg.resources import cache_root
from edgeseg.store import lock, make_folder

PINS = ("package.json", "package-lock.json")
_TIMEOUT_S = 1800


def has_packages(folder: Path) -> bool:
    """Whether a target's folder pins packages of npm."""
    return all((folder / name).is_file() for name in PINS)


def place_of(folder: Path) -> Path:
    """Where the packages of a target's folder lie, or would: targets with the same pins share them."""
    digest = hashlib.sha256()
    for name in PINS:
        digest.update((folder / name).read_bytes())
    return cache_root() / "toolchains" / f"npm-{digest.hexdigest()[:12]}"


def is_installed(folder: Path) -> bool:
    """Whether they are all there: their folder gets its name when it is complete."""
    return place_of(folder).is_dir()


def ensure(folder: Path, *, offline: bool = False, say: Callable[[str], None] | None = None, again: str = "") -> Path:
    """The folder that holds ``node_modules`` with the packages of a target, installed when they are missing.

    Args:
        folder: the target's folder.
        offline: install nothing; so does ``EDGESEG_OFFLINE=1``.
        say: called with a sentence before an installation.
        again: what to do with a network; of a target's folder, to install its toolchain.

    Raises:
        EdgesegError: they are missing and this is offline, there is no npm, or npm failed.
    """
    place, name = place_of(folder), folder.name
    if place.is_dir():
        return place
    again = again or f"With a network, type: edgeseg toolchain install {name}"
    if offline or os.environ.get("EDGESEG_OFFLINE", "") not in ("", "0"):
        raise EdgesegError(f"the npm packages of {name} are not installed and this is offline", path=place, hint=again)
    npm = shutil.which("npm")
    if npm is None:
        raise EdgesegError(
            f"npm is needed to install the packages of {name}",
            path=folder / PINS[0],
            hint=f"Install Node.js (with npm). {again}",
        )
    try:
        make_folder(place.parent)
        with lock(place.name):
            if not place.is_dir():
                if say is not None:
                    say(f"installing the npm packages of {name}")
                _install(npm, folder, place, again)
    except OSError as e:
        raise EdgesegError(f"cannot be written ({e.strerror or e})", path=place, hint="Is the disk full?") from e
    return place


def remove(folder: Path) -> bool:
    """Remove the packages of a target's folder; False when they are not there."""
    place = place_of(folder)
    there = place.is_dir()
    with contextlib.suppress(FileNotFoundError):
        gone = place.with_name(f"{place.name}-gone-{uuid.uuid4().hex[:8]}")
        os.rename(place, gone)
        shutil.rmtree(gone, ignore_errors=True)
    return there


def _install(npm: str, folder: Path, place: Path, again: str) -> None:
    for left in place.parent.glob(f"{place.name}-part-*"):
        shutil.rmtree(left, ignore_errors=True)
    part = place.with_name(f"{place.name}-part-{uuid.uuid4().hex[:8]}")
    downloads, log = part / ".npm", cache_root() / "logs" / f"{place.name}.log"
    part.mkdir()
    make_folder(log.parent)
    try:
        for name in PINS:
            shutil.copyfile(folder / name, part / name)
        # Scripts of packages would run with the user's rights; none of ours needs one.
        quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--omit=dev"]
        with log.open("wb") as sink:
            done = subprocess.run(
                [npm, "ci", *quiet, "--cache", str(downloads)],
                cwd=part,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                timeout=_TIMEOUT_S,
                check=False,
            )
        if done.returncode:
            raise EdgesegError(f"npm cannot install the packages of {folder.name} ({_why(log)})", path=log, hint=again)
        shutil.rmtree(downloads, ignore_errors=True)
        os.rename(part, place)
    except subprocess.TimeoutExpired as e:
        raise EdgesegError(f"npm took more than {_TIMEOUT_S} seconds", path=log, hint=again) from e
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _why(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    said = [line for line in lines if line.startswith(("npm error", "npm ERR!")) and " A complete log" not in line]
    return (said or lines or ["no message"])[0][:200]
