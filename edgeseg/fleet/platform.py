"""For which machine and Python a bundle's packages are chosen."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from edgeseg.boards import Board, boards
from edgeseg.errors import EdgesegError

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
