"""The packages of a bundle: edgeseg's own wheel, those of the board's platform, and a list that locks them by hash."""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.util
import io
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from email.parser import Parser
from importlib.metadata import Distribution, distribution
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from edgeseg.environments import python_env
from edgeseg.errors import EdgesegError
from edgeseg.hashing import sha256_file
from edgeseg.resources import PACKAGE

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet
from dataclasses import dataclass

from edgeseg.boards import Board, boards

OLDEST = (3, 10)


@dataclass(frozen=True)
class Platform:
    """Linux on ``machine`` (``aarch64``, ``x86_64``) with CPython ``python`` (``3.11``) and glibc 2.``glibc`` or newer."""

    machine: str
    python: str
    glibc: int

    def options(self) -> list[str]:
        """What pip must be told to choose wheels for it."""
        tags = [f"manylinux_2_{minor}_{self.machine}" for minor in range(self.glibc, 16, -1)]
        words = [w for t in (*tags, f"manylinux2014_{self.machine}") for w in ("--platform", t)]
        abis = [w for a in (f"cp{self.python.replace('.', '')}", "abi3", "none") for w in ("--abi", a)]
        return ["--only-binary=:all:", "--implementation", "cp", "--python-version", self.python, *words, *abis]

    def markers(self) -> dict[str, str]:
        """The environment in which conditions of requirements hold there (PEP 508)."""
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{self.python}.0",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
        }


def platform_of(board: Board, python: str | None = None) -> Platform:
    """The platform of a board, with its usual Python or another one.

    Raises:
        EdgesegError: edgeseg does not run there, or not on that Python.
    """
    if not board.machine:
        fit = ", ".join(b.name for b in boards().values() if b.machine)
        raise EdgesegError(f"{board.title} runs no bundle: {board.about}", hint=f"Bundles are for {fit}")
    version = python or board.python or f"{sys.version_info.major}.{sys.version_info.minor}"
    parts = version.split(".")
    if len(parts) != 2 or not all(p.isdigit() for p in parts):
        raise EdgesegError(f"python {version!r} is no version", hint="Write it as 3.11")
    if (int(parts[0]), int(parts[1])) < OLDEST:
        raise EdgesegError(f"edgeseg needs Python {OLDEST[0]}.{OLDEST[1]} or newer, not {version}")
    return Platform(board.machine, version, board.glibc)


_OWN = ("INSTALLER", "REQUESTED", "RECORD", "direct_url.json")  # what an installer adds to a wheel's files
_EPOCH = (2020, 2, 2, 0, 0, 0)


def own_wheel(folder: Path) -> Path:
    """The wheel of the edgeseg that runs here, in ``folder``: built in a checkout, else made again from what is installed.

    Raises:
        EdgesegError: it cannot be built, or an installed file is not what was installed.
    """
    found = distribution("edgeseg")
    origin = json.loads(found.read_text("direct_url.json") or "{}")
    checkout = PACKAGE.parent
    if origin.get("dir_info", {}).get("editable") and (checkout / "pyproject.toml").is_file():
        alone = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
        before = set(folder.glob("*.whl"))
        _pip("wheel", "--no-deps", "--no-cache-dir", *alone, "-w", str(folder), str(checkout))
        (made,) = set(folder.glob("*.whl")) - before
        return made
    return wheel_again(found, folder)


def wheel_again(found: Distribution, folder: Path) -> Path:
    """The wheel from which a pure Python distribution was installed, made again from its files.

    Raises:
        EdgesegError: it has no list of files, is not pure, or a file differs from that list.
    """
    name, where = found.metadata["Name"], found.read_text("WHEEL") or ""
    if not found.files or "Root-Is-Purelib: true" not in where:
        raise EdgesegError(f"{name} was not installed from a pure wheel", hint="Install it with pip")
    members = {}
    for file in found.files:
        if ".." in file.parts or file.suffix == ".pyc" or file.name in _OWN or file.is_absolute():
            continue
        data = Path(str(file.locate())).read_bytes()
        if file.hash is not None and _digest(data) != file.hash.value:
            hint = f"Install {name} again"
            raise EdgesegError("this file was changed after it was installed", path=str(file.locate()), hint=hint)
        members[PurePosixPath(file).as_posix()] = data
    info = next(p for p in members if p.endswith(".dist-info/METADATA")).rpartition("/")[0]
    rows = [(path, f"sha256={_digest(data)}", str(len(data))) for path, data in sorted(members.items())]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([*rows, (f"{info}/RECORD", "", "")])
    tags = [line.partition(": ")[2] for line in where.splitlines() if line.startswith("Tag: ")]
    pythons = ".".join(dict.fromkeys(t.split("-")[0] for t in tags))
    place = folder / f"{info.removesuffix('.dist-info')}-{pythons}-none-any.whl"
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as z:
        for path, data in [*sorted(members.items()), (f"{info}/RECORD", text.getvalue().encode())]:
            z.writestr(zipfile.ZipInfo(path, _EPOCH), data, zipfile.ZIP_DEFLATED)
    return place


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def gather(folder: Path, own: Path, extras: Iterable[str], platform: Platform) -> None:
    """Put into ``folder`` the wheels of edgeseg, of pip, and of all that edgeseg with ``extras`` needs on ``platform``.

    pip judges the conditions of requirements by the machine that it runs on, so they are judged here, until what was
    downloaded is what that platform asks for.

    Raises:
        EdgesegError: a package has no wheel for that platform, or cannot be downloaded.
    """
    from packaging.utils import parse_wheel_filename

    shutil.copy2(own, folder / own.name)
    for _ in range(9):
        needed, here = _needed(folder, extras, platform), _by_name(folder)
        open_ = [n for n, s in needed.items() if n not in here or parse_wheel_filename(here[n].name)[1] not in s]
        if not open_:
            break
        for name, wheel in here.items():
            if name != "edgeseg":
                wheel.unlink()
        wanted = [f"{name}{specifier}" for name, specifier in needed.items() if name != "edgeseg"]
        _pip("download", "-d", str(folder), *platform.options(), *wanted)
    else:
        raise EdgesegError(f"the packages for {platform.machine}, Python {platform.python} contradict each other")
    for name, wheel in _by_name(folder).items():
        if name not in needed:
            wheel.unlink()


def _needed(folder: Path, extras: Iterable[str], platform: Platform) -> dict[str, SpecifierSet]:
    """What edgeseg with ``extras`` needs on ``platform``, as far as the wheels here tell: versions by name. And pip."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet
    from packaging.utils import canonicalize_name

    here, seen = _by_name(folder), set()
    needed = {"edgeseg": SpecifierSet(prereleases=True), "pip": SpecifierSet()}
    todo: list[tuple[str, frozenset[str]]] = [("edgeseg", frozenset(extras))]
    while todo:
        name, asked = one = todo.pop()
        if one in seen or name not in here:
            continue
        seen.add(one)
        for text in _requires(here[name]):
            requirement = Requirement(text)
            places = [{**platform.markers(), "extra": e} for e in ("", *asked)]
            if requirement.marker is None or any(requirement.marker.evaluate(p) for p in places):
                key = canonicalize_name(requirement.name)
                needed[key] = needed.get(key, SpecifierSet()) & requirement.specifier
                todo.append((key, frozenset(requirement.extras)))
    return needed


def _requires(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as z:
        member = next(n for n in z.namelist() if n.count("/") == 1 and n.endswith(".dist-info/METADATA"))
        return Parser().parsestr(z.read(member).decode("utf-8")).get_all("Requires-Dist") or []


def _by_name(folder: Path) -> dict[str, Path]:
    from packaging.utils import parse_wheel_filename

    return {str(parse_wheel_filename(w.name)[0]): w for w in sorted(folder.glob("*.whl"))}


def lock(folder: Path, extras: Iterable[str]) -> str:
    """The lines of a requirements file: every wheel of ``folder`` with its version and SHA-256, edgeseg with ``extras``."""
    from packaging.utils import parse_wheel_filename

    lines = []
    for name, wheel in _by_name(folder).items():
        chosen = f"[{','.join(sorted(extras))}]" if name == "edgeseg" and extras else ""
        lines.append(f"{name}{chosen}=={parse_wheel_filename(wheel.name)[1]} --hash=sha256:{sha256_file(wheel)}\n")
    return "".join(lines)


def _pip(*words: str) -> None:
    command = python_env.command(sys.executable, "pip", words[0], "-q", "--disable-pip-version-check", *words[1:])
    environment = python_env.environment()
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=environment)
    if done.returncode:
        said = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        reason = (said or done.stderr.strip().splitlines() or ["it did not say why"])[0]
        hint = "Is there a network here, and a wheel of every package for that Python? Another one: --python 3.11"
        raise EdgesegError(f"pip {words[0]} failed: {reason}", hint=hint)
