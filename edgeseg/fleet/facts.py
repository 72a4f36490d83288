"""What a board says of itself: machine, memory, temperature, whether it had to slow down."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

MODEL = Path("/proc/device-tree/model")
# Bits of the Raspberry Pi's `vcgencmd get_throttled` (its firmware's documentation); 16 higher: since it was started.
THROTTLED = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "temperature limit"}


def machine() -> dict[str, Any]:
    """The board: its name as its kernel gives it, processor, cores, system and Python."""
    name = ""
    with contextlib.suppress(OSError):
        name = MODEL.read_text(encoding="utf-8", errors="replace").strip("\0 \n")
    return {
        "board": name,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def peak_mb() -> float | None:
    """The largest resident memory of this process so far in MB; None where the system does not tell."""
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


def throttled() -> str | None:
    """What slows or slowed a Raspberry Pi down, ``no`` for nothing; None on boards that do not tell."""
    tool = shutil.which("vcgencmd")
    if tool is None:
        return None
    with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError):
        said = subprocess.run([tool, "get_throttled"], capture_output=True, text=True, timeout=5).stdout
        name, _, bits = said.strip().partition("=")
        return throttle_words(int(bits, 16)) if name == "throttled" else None
    return None


def throttle_words(bits: int) -> str:
    """The bits of ``get_throttled`` in words: what holds now, and what held since the board was started."""
    now = [word for bit, word in THROTTLED.items() if bits >> bit & 1]
    before = [word for bit, word in THROTTLED.items() if bits >> bit + 16 & 1 and word not in now]
    return ", ".join([*(f"{w} now" for w in now), *(f"{w} before" for w in before)]) or "no"
