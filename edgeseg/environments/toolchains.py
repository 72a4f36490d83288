"""The pinned packages that a converter needs, and the environment in which it finds them.

``toolchain.txt`` in a target's folder is a pip requirements file; ``toolchain-nodeps.txt`` beside it lists packages whose
own requirements contradict the rest (installed afterwards with ``--no-deps``). In ``target.toml``, ``[settings]`` may say
``python = ">=3.10,<3.12"`` (the interpreter) and ``toolchain = "other"`` (use the toolchain of another target). Where a
``package.json`` with its lock lies beside them, the runtime needs these packages of npm; ``npm.py`` keeps them.

A step runs in the current environment when that satisfies every pin, else in an environment of the toolchain's own under the
cache folder. The user's environment is never changed.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgeseg.environments import python_env as children
from edgeseg.environments.npm import ensure, has_packages
from edgeseg.environments.npm import is_installed as packages_there
from edgeseg.environments.npm import remove as remove_packages
from edgeseg.errors import EdgesegError
from edgeseg.hashing import sha256_json
from edgeseg.registry import Target, target_by_name, targets
from edgeseg.resources import cache_root
from edgeseg.store import lock, make_folder, remove, write_atomically

Say = Callable[[float, str], None]
MARKER = "edgeseg-toolchain.json"
CURRENT = "current"
# What ``edgeseg.export.worker`` and a convert.py's ``edgeseg.manifest`` import.
_BASE = ("numpy>=1.26", "PyYAML>=6.0", 'tomli>=2.0; python_version < "3.11"')
_PYTHONS = tuple(f"3.{minor}" for minor in range(14, 9, -1))


@dataclass(frozen=True)
class Toolchain:
    """The pins of one target. ``python`` is a version specifier of the interpreter, empty for any that edgeseg takes."""

    name: str
    requirements: tuple[str, ...] = ()
    nodeps: tuple[str, ...] = ()
    pip_options: tuple[str, ...] = ()
    python: str = ""

    @property
    def id(self) -> str:
        """Twelve hex digits of the pins: targets with the same pins share an environment."""
        parts = [sorted(self.requirements), sorted(self.nodeps), sorted(self.pip_options), self.python]
        return sha256_json([*parts, sys.platform, platform.machine()])[:12]

    @property
    def folder(self) -> Path:
        """Where its own environment lies, or would."""
        return cache_root() / "toolchains" / self.id

    @property
    def interpreter(self) -> Path:
        """Its Python."""
        return self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    @property
    def installed(self) -> bool:
        """Whether its own environment is complete: the marker is written last."""
        return (self.folder / MARKER).is_file() and self.interpreter.exists()

    def unmet(self) -> list[str]:
        """Pins that the current environment does not satisfy, each as a short sentence; empty: it can run here."""
        problems = []
        here = platform.python_version()
        if not _accepts(self, here):
            problems.append(f"python{self.python} (here {here})")
        for line in (*self.requirements, *self.nodeps):
            problems.extend(_unmet(line))
        return problems

    def versions(self) -> dict[str, str]:
        """Installed version of each pinned package in the current environment, those that are there."""
        from packaging.requirements import Requirement

        found = {}
        for line in (*self.requirements, *self.nodeps):
            name = Requirement(line).name
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found[name] = importlib.metadata.version(name)
        return found


@dataclass(frozen=True)
class Status:
    """A toolchain as ``edgeseg toolchain list`` shows it.

    ``where`` is ``current``, the folder of its own environment, or empty when it is missing; ``unmet`` are the pins that the
    current environment lacks; ``size`` is in bytes, 0 unless it has an environment of its own.
    """

    toolchain: Toolchain
    formats: tuple[str, ...]
    where: str
    unmet: tuple[str, ...]
    size: int


def toolchain_of(target: Target) -> Toolchain:
    """The toolchain that converts into ``target``; without any pins when it has no ``toolchain.txt``.

    Raises:
        EdgesegError: a line that is no requirement, or the target whose toolchain it shares does not exist.
    """
    shared = target.settings.get("toolchain")
    if shared and shared != target.name:
        return toolchain_of(target_by_name(str(shared)))
    lines, options = _read(target.folder / "toolchain.txt")
    nodeps, more = _read(target.folder / "toolchain-nodeps.txt")
    return Toolchain(target.name, lines, nodeps, (*options, *more), str(target.settings.get("python", "")))


def _read(file: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    from packaging.requirements import InvalidRequirement, Requirement

    lines, options = [], []
    for number, raw in enumerate(file.read_text(encoding="utf-8").splitlines() if file.is_file() else [], 1):
        line = raw.split(" #")[0].strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("-"):
            options.append(line)
            continue
        try:
            Requirement(line)
        except InvalidRequirement as e:
            raise EdgesegError(f"{line!r} is no requirement", path=file, line=number) from e
        lines.append(line)
    return tuple(lines), tuple(options)


def _unmet(line: str) -> list[str]:
    from packaging.requirements import Requirement

    pin = Requirement(line)
    if pin.marker is not None and not pin.marker.evaluate():
        return []
    try:
        version = importlib.metadata.version(pin.name)
    except importlib.metadata.PackageNotFoundError:
        return [f"{pin.name}{pin.specifier} (not here)"]
    if pin.url is None and not pin.specifier.contains(version, prereleases=True):
        return [f"{pin.name}{pin.specifier} (here {version})"]
    return []


def interpreter_for(toolchain: Toolchain, *, offline: bool = False, say: Say | None = None) -> tuple[Path, str]:
    """The Python that runs a step, and the word for the table: ``current`` or the toolchain's name.

    Installs the toolchain when it is missing.

    Raises:
        EdgesegError: it is missing and ``offline``, or it cannot be installed.
    """
    if not toolchain.unmet():
        return Path(sys.executable), CURRENT
    if not toolchain.installed:
        if offline or is_offline():
            lacking = ", ".join(toolchain.unmet()[:3])
            raise EdgesegError(
                f"the toolchain {toolchain.name} is not installed and this is offline (needed: {lacking})",
                hint=f"With a network, type: edgeseg toolchain install {toolchain.name}",
            )
        install(toolchain.name, say=say, npm=False)
    return toolchain.interpreter, toolchain.name


def is_offline() -> bool:
    """Whether ``EDGESEG_OFFLINE`` is set."""
    return os.environ.get("EDGESEG_OFFLINE", "") not in ("", "0")


def list_toolchains() -> list[Status]:
    """Every toolchain with pins, and the formats that it makes."""
    from edgeseg.manifest import size_on_disk

    by_id: dict[str, tuple[Toolchain, list[str]]] = {}
    for target in targets().values():
        toolchain = toolchain_of(target)
        by_id.setdefault(toolchain.id, (toolchain, []))[1].append(target.name)
    rows = []
    for toolchain, formats in by_id.values():
        unmet = tuple(toolchain.unmet())
        where = CURRENT if not unmet else str(toolchain.folder) if toolchain.installed else ""
        size = size_on_disk(toolchain.folder) if toolchain.installed else 0
        rows.append(Status(toolchain, tuple(formats), where, unmet, size))
    return rows


def install(name: str, *, say: Say | None = None, again: bool = False, npm: bool = True) -> Toolchain:
    """Install a toolchain into an environment of its own, unless it is there; one process does it, others wait.

    Args:
        name: a format (or alias) whose toolchain it is.
        say: called with (done 0..1, words) as it goes.
        again: remove it first.
        npm: also what the runtime needs of npm; converters do not need it.

    Raises:
        EdgesegError: no fitting Python, or the installer failed (with its log).
    """
    target = target_by_name(name)
    toolchain = toolchain_of(target)
    say = say or _quiet
    if npm and has_packages(target.folder):
        if again:
            remove_packages(target.folder)
        say(0.0, f"packages of npm for {target.name}")
        ensure(target.folder)
    if not toolchain.requirements and not toolchain.nodeps and not toolchain.unmet():
        say(1.0, f"{toolchain.name} has no pins: its steps run in the current environment")
        return toolchain
    with lock(f"toolchain-{toolchain.id}"):
        if toolchain.installed and not again:
            return toolchain
        if toolchain.folder.exists():
            say(0.0, f"removing an unfinished toolchain {toolchain.name}")
            remove(toolchain.folder)
        make_folder(toolchain.folder.parent)
        log = make_folder(cache_root() / "logs") / f"toolchain-{toolchain.name}-{toolchain.id}.log"
        log.write_text("", encoding="utf-8")
        try:
            _build(toolchain, log, say)
        except BaseException:
            remove(toolchain.folder)
            raise
    say(1.0, f"toolchain {toolchain.name} is installed")
    return toolchain


def _build(toolchain: Toolchain, log: Path, say: Say) -> None:
    uv = shutil.which("uv")
    env = installer_env(dict(os.environ))
    say(0.02, f"toolchain {toolchain.name}: creating its environment")
    if uv:
        python = sys.executable if _accepts(toolchain, platform.python_version()) else toolchain.python
        _call([uv, "venv", "--no-project", "--python", python, str(toolchain.folder)], log, env, toolchain)
        pip = [uv, "pip", "install", "--python", str(toolchain.interpreter)]
    else:
        _call(children.command(find_python(toolchain), "venv", str(toolchain.folder)), log, env, toolchain)
        pip = children.command(toolchain.interpreter, "pip", "install")
    options = [word for line in toolchain.pip_options for word in line.split()]
    say(
        0.1,
        f"toolchain {toolchain.name}: installing {len(toolchain.requirements) + len(toolchain.nodeps)} packages, minutes",
    )
    _call([*pip, *options, *_BASE, *toolchain.requirements], log, env, toolchain)
    if toolchain.nodeps:
        say(0.8, f"toolchain {toolchain.name}: installing {', '.join(toolchain.nodeps)}")
        _call([*pip, *options, "--no-deps", *toolchain.nodeps], log, env, toolchain)
    about = {"name": toolchain.name, "requirements": toolchain.requirements, "nodeps": toolchain.nodeps}
    write_atomically(toolchain.folder / MARKER, json.dumps({**about, "versions": _versions_in(toolchain)}, indent=1))


def installer_env(env: dict[str, str]) -> dict[str, str]:
    """The environment of the installer: nothing of the running one leaks in, and uv looks where pip was told to look."""
    for name in (
        "PYTHONPATH",
        "PYTHONHOME",
        "VIRTUAL_ENV",
        "PIP_REQUIRE_VIRTUALENV",
        "PIP_TARGET",
        "PIP_PREFIX",
        "PIP_USER",
    ):
        env.pop(name, None)
    env["PYTHONSAFEPATH"] = "1"
    if env.get("PIP_FIND_LINKS") and not env.get("UV_FIND_LINKS"):
        env["UV_FIND_LINKS"] = ",".join(env["PIP_FIND_LINKS"].split())
    return env


def find_python(toolchain: Toolchain) -> Path:
    """An interpreter that the toolchain accepts: this one, else the newest ``python3.X`` on the PATH.

    Raises:
        EdgesegError: there is none.
    """
    if _accepts(toolchain, platform.python_version()):
        return Path(sys.executable)
    for version in _PYTHONS:
        found = shutil.which(f"python{version}")
        if found and _accepts(toolchain, _version_of(found)):
            return Path(found)
    raise EdgesegError(
        f"the toolchain {toolchain.name} needs Python {toolchain.python}, and none is on the PATH",
        hint="Install one, or install uv (https://docs.astral.sh/uv), which brings it",
    )


def _accepts(toolchain: Toolchain, version: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(toolchain.python).contains(version, prereleases=True)


def _version_of(python: str) -> str:
    script = "import platform; print(platform.python_version())"
    done = subprocess.run([python, "-I", "-c", script], capture_output=True, text=True, check=False)
    # A shim of a version manager may be there without its interpreter: no version, never accepted.
    return done.stdout.strip() if done.returncode == 0 else "0"


def _call(command: list[str], log: Path, env: dict[str, str], toolchain: Toolchain) -> None:
    with open(log, "a", encoding="utf-8") as sink:
        sink.write(f"$ {' '.join(command)}\n")
        sink.flush()
        done = subprocess.run(command, stdout=sink, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=env, check=False)
    if done.returncode == 0:
        return
    text = log.read_text(encoding="utf-8", errors="replace")
    if "No space left on device" in text:
        raise EdgesegError(
            "the disk is full", path=toolchain.folder, hint="Free some space, or set EDGESEG_HOME to another disk"
        )
    said = [line for line in text.splitlines() if line.lower().lstrip().startswith(("error", "×"))]
    why = said[-1].strip() if said else f"exit code {done.returncode}"
    raise EdgesegError(f"the toolchain {toolchain.name} cannot be installed ({why})", path=log, hint="The log has the rest")


def _versions_in(toolchain: Toolchain) -> dict[str, str]:
    script = (
        "import importlib.metadata as m, json\n"
        "print(json.dumps({d.metadata['Name']: d.version for d in m.distributions() if d.metadata['Name']}))"
    )
    done = subprocess.run([str(toolchain.interpreter), "-I", "-c", script], capture_output=True, text=True, check=False)
    try:
        versions: dict[str, str] = json.loads(done.stdout)
    except ValueError as e:
        raise EdgesegError(
            f"the toolchain {toolchain.name} does not run ({done.stderr[-200:]})", path=toolchain.folder
        ) from e
    return versions


def remove_toolchain(name: str) -> bool:
    """Remove a toolchain's own environment; False when it has none."""
    target = target_by_name(name)
    toolchain = toolchain_of(target)
    with lock(f"toolchain-{toolchain.id}"):
        there = toolchain.folder.exists()
        remove(toolchain.folder)
    packages = has_packages(target.folder) and remove_packages(target.folder)
    return there or packages


def check(name: str) -> list[str]:
    """What is wrong with a toolchain, each as a short sentence; empty when it can run: here or in its own environment."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    target = target_by_name(name)
    toolchain, problems = toolchain_of(target), []
    if has_packages(target.folder) and not packages_there(target.folder):
        problems.append("packages of npm (not installed)")
    if not toolchain.installed:
        return [*toolchain.unmet(), *problems]
    there = {canonicalize_name(k): v for k, v in _versions_in(toolchain).items()}
    for line in (*toolchain.requirements, *toolchain.nodeps):
        pin = Requirement(line)
        version = there.get(canonicalize_name(pin.name))
        if pin.marker is not None and not pin.marker.evaluate():
            continue
        if version is None:
            problems.append(f"{pin.name}{pin.specifier} (missing from {toolchain.folder})")
        elif pin.url is None and not pin.specifier.contains(version, prereleases=True):
            problems.append(f"{pin.name}{pin.specifier} (there {version})")
    return problems


def _quiet(done: float, words: str) -> None:
    del done, words
