"""One subprocess of a step: its progress, its log, its time and memory limits, and what its end means."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from edgeseg.environments.forks import Child

Fork = Callable[[IO[bytes]], Child | None]
_PROGRESS = re.compile(rb"@progress ([0-9.]+)(?: (.*))?$")
_NOTE = re.compile(rb"@note (.+)$")
_POLL_S = 0.05
_LOOK_S = 0.2  # between two looks at the memory of a session, which go through all processes


@dataclass(frozen=True)
class Ended:
    """How a subprocess ended.

    ``reason`` is empty when it ended by itself, whatever its ``code``; else it says which limit or signal ended it, and
    ``stopped`` is set when it was a limit, or somebody who stopped it.
    ``peak_mb`` is the largest resident memory of the whole process tree that was seen, in MB.
    """

    code: int
    reason: str
    peak_mb: float
    notes: tuple[str, ...]
    stopped: bool = False


def run_process(
    command: Sequence[str],
    *,
    log: Path,
    cwd: Path,
    env: Mapping[str, str],
    timeout_s: float,
    memory_mb: float,
    on_progress: Callable[[float, str], None],
    cancelled: threading.Event,
    waits: Callable[[], bool] = lambda: False,
    fork: Fork = lambda stderr: None,
) -> Ended:
    """Run a command in a session of its own and see it to its end.

    Lines ``@progress 0.25 words`` and ``@note words`` on its stdout are taken; all else goes to ``log``, as does stderr.
    Its stdin stays open until this process ends, which is how it notices that (see ``worker``). At its time limit, its
    memory limit (resident memory of its whole session, polled; not enforced where there are no sessions) or when
    ``cancelled`` is set, every process of its session is killed. While ``waits()`` its time does not run. ``fork``, called
    with the log, may give the process that ``command`` would start, its stdin and stdout piped.
    """
    notes: list[str] = []
    with open(log, "ab") as sink:
        process: Child = fork(sink) or subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=sink,
            cwd=cwd,
            env=dict(env),
            start_new_session=True,
        )
        reader = threading.Thread(target=_read, args=(process.stdout, sink, on_progress, notes), daemon=True)
        reader.start()
        reason, peak, start, looked = "", 0.0, time.monotonic(), 0.0
        try:
            while process.poll() is None:
                start = time.monotonic() if waits() else start
                if time.monotonic() - looked > _LOOK_S:
                    looked, peak = time.monotonic(), max(peak, memory_of_session(process.pid))
                if peak > memory_mb:
                    reason = f"took more than its {memory_mb:.0f} MB of memory"
                elif time.monotonic() - start > timeout_s:
                    reason = f"ran past its limit of {timeout_s:g} s"
                elif cancelled.is_set():
                    reason = "was stopped"
                if reason:
                    break
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL_S)
        finally:
            kill_session(process.pid)
            code = process.wait()
            reader.join(5)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
    return Ended(code, reason or _signal_reason(code), peak, tuple(notes), bool(reason))


def _signal_reason(code: int) -> str:
    if code >= 0:
        return ""
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    words = {"SIGSEGV": "segmentation fault", "SIGKILL": "killed from outside, the machine may have run out of memory"}
    return f"crashed: {name}" + (f" ({words[name]})" if name in words else "")


def _read(pipe: IO[bytes], sink: IO[bytes], on_progress: Callable[[float, str], None], notes: list[str]) -> None:
    with contextlib.suppress(OSError, ValueError):
        for line in pipe:
            stripped = line.rstrip(b"\r\n")
            if found := _PROGRESS.search(stripped):
                with contextlib.suppress(ValueError):
                    words = (found[2] or b"").decode("utf-8", "replace")
                    on_progress(min(1.0, float(found[1])), words)
            elif note := _NOTE.search(stripped):
                notes.append(note[1].decode("utf-8", "replace"))
            else:
                sink.write(line)
                sink.flush()


def session_pids(session: int) -> list[int]:
    """Processes of a session; empty where the system has no sessions."""
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(OSError, AttributeError):
            if os.getsid(pid) == session:
                found.append(pid)
    return found


def memory_of_session(session: int) -> float:
    """Resident memory of all processes of a session in MB; pages that they share count for each."""
    total = 0
    for pid in session_pids(session):
        with contextlib.suppress(psutil.Error):
            total += psutil.Process(pid).memory_info().rss
    return total / 1e6


def kill_session(session: int) -> None:
    """Kill every process of a session, those in other process groups too."""
    for pid in session_pids(session):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(session, signal.SIGKILL)
        else:
            os.kill(session, signal.SIGTERM)


def available_mb() -> float:
    """Memory that can be had without swapping, in MB."""
    return float(psutil.virtual_memory().available / 1e6)


def total_mb() -> float:
    """Memory of the machine in MB."""
    return float(psutil.virtual_memory().total / 1e6)
