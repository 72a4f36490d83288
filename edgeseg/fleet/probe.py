"""What a board is, asked over SSH when it is added."""

from __future__ import annotations

import json
from dataclasses import dataclass

from edgeseg.boards import boards
from edgeseg.errors import EdgesegError
from edgeseg.fleet.ssh import BoardFailed, Ssh
from edgeseg.fleet.wheels import OLDEST

# Python 3.6 and newer; what a board has not is empty.
_ASK = b"""
import json, os, platform, shutil, struct, sys
try:
    with open("/proc/device-tree/model", errors="replace") as f:
        model = f.read().strip("\\0 \\n")
except OSError:
    model = ""
try:
    import venv
    has_venv = True
except ImportError:
    has_venv = False
print(json.dumps({
    "model": model, "machine": platform.machine(), "bits": struct.calcsize("P") * 8,
    "python": "%d.%d" % sys.version_info[:2], "venv": has_venv,
    "free_mb": shutil.disk_usage(os.path.expanduser("~")).free // 1000000,
}))
"""
_NEED_MB = 500


@dataclass(frozen=True)
class Said:
    """``model`` is the name in the device tree; ``free_mb`` the room in the home folder."""

    model: str
    machine: str
    bits: int
    python: str
    venv: bool
    free_mb: int

    def board(self) -> str:
        """Its kind in ``boards.toml``.

        Raises:
            EdgesegError: none fits.
        """
        fits = [b.name for b in boards().values() if any(m in self.model for m in b.models)]
        plain = [b.name for b in boards().values() if b.machine == self.machine and not b.models]
        if fits or (plain and not self.model):
            return (fits or plain)[0]
        hint = f"Say which it is like: --board {', '.join(b.name for b in boards().values() if b.machine)}"
        raise EdgesegError(f"{self.model or self.machine} is no board that is known", hint=hint)

    def warnings(self) -> list[str]:
        """What will stand in the way of a bundle there."""
        found = []
        if self.bits != 64:
            found.append(f"its Python has {self.bits} bits: bundles need a 64-bit system")
        if tuple(int(n) for n in self.python.split(".")) < OLDEST:
            found.append(f"edgeseg needs Python {OLDEST[0]}.{OLDEST[1]} or newer there, not {self.python}")
        if not self.venv:
            found.append("Python's venv module is not installed there: sudo apt-get install python3-venv")
        if self.free_mb < _NEED_MB:
            found.append(f"only {self.free_mb} MB are free there: a bundle takes about {_NEED_MB}")
        return found


def probe(line: Ssh) -> Said:
    """Ask a board.

    Raises:
        BoardFailed: it does not answer, or has no Python.
    """
    text = line.run("python3 -", give=_ASK)
    try:
        return Said(**json.loads(text))
    except (ValueError, TypeError) as e:
        raise BoardFailed(f"{line.host.name} answers something strange ({e})") from e
