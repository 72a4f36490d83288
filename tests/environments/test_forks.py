"""Forks: programs like any other, but for their imports, which are done already."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from edgeseg.environments.forks import Forks
from edgeseg.environments.process import Ended, run_process
from edgeseg.environments.python_env import command, environment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there are forks on Linux only")

PROGRAM = """
import os, signal, sys, tempfile, time
early = "early" in sys.modules
import early as module
words = sys.argv[1:]
told = os.environ.get("TOLD"), os.environ.get("OUTSIDE"), tempfile.gettempdir()
print(early, words, os.getcwd(), *told, os.getsid(0) == os.getpid())
print("to the log", file=sys.stderr)
if "wait" in words:
    time.sleep(60)
if "crash" in words:
    os.kill(os.getpid(), signal.SIGSEGV)
if "raise" in words:
    raise ValueError("of its own")
print(sys.stdin.read() if "read" in words else "")
sys.exit(7 if "exit" in words else 0)
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "early.py").write_text("import time\ntime.sleep(0.3)\n")
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "threads.py").write_text("import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\n")
    (tmp_path / "tmp").mkdir()
    return tmp_path


@pytest.fixture
def forks(place: Path) -> Iterator[Forks]:
    found = Forks(["early", "not_there"], environment({**os.environ, "OUTSIDE": "yes"}, first=[place]))
    yield found
    found.close()


def run(forks: Forks, place: Path, *words: str, given: bytes = b"") -> tuple[int, list[str], str]:
    """Exit code, lines of stdout, stderr."""
    env = {**environment(first=[place]), "TOLD": "this", "TMPDIR": str(place / "tmp")}
    with open(place / "log", "w+b") as log:
        child = forks.start("program", words, stderr=log, cwd=place / "tmp", env=env)
        assert child is not None and child.stdin is not None and child.stdout is not None
        child.stdin.write(given)
        child.stdin.close()
        said = child.stdout.read().decode().splitlines()
        code = child.wait(10)
        log.seek(0)
        return code, said, log.read().decode()


def test_a_program_runs_as_if_it_was_started_but_for_its_imports(forks: Forks, place: Path) -> None:
    code, said, log = run(forks, place, "read", "exit", given=b"to its stdin")
    assert code == 7 and "to the log" in log
    assert said[0] == f"True ['read', 'exit'] {place / 'tmp'} this None {place / 'tmp'} True"
    assert said[1] == "to its stdin"


def test_one_that_crashes_harms_no_other(forks: Forks, place: Path) -> None:
    assert run(forks, place, "crash")[0] == -signal.SIGSEGV
    code, _, log = run(forks, place, "raise")
    assert code == 1 and "ValueError: of its own" in log
    assert run(forks, place)[0] == 0


def test_several_at_once(forks: Forks, place: Path) -> None:
    codes: list[int] = []
    threads = [threading.Thread(target=lambda w=w: codes.append(run(forks, place, *w)[0])) for w in ((), ("exit",)) * 4]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(codes) == [0] * 4 + [7] * 4


def waits(forks: Forks, place: Path, timeout_s: float, cancelled: threading.Event) -> Ended:
    """How a fork that would wait for a minute ends."""
    env = environment(first=[place])
    return run_process(
        command(sys.executable, "not_there"),
        log=place / "log",
        cwd=place,
        env=env,
        timeout_s=timeout_s,
        memory_mb=1000,
        on_progress=lambda done, words: None,
        cancelled=cancelled,
        fork=lambda log: forks.start("program", ["wait"], stderr=log, cwd=place, env=env),
    )


def test_limits_and_their_ends_are_those_of_any_process(forks: Forks, place: Path) -> None:
    start = time.monotonic()
    ended = waits(forks, place, 1, threading.Event())
    assert ended.reason == "ran past its limit of 1 s" and ended.stopped and ended.code == -signal.SIGKILL
    assert time.monotonic() - start < 20 and ended.peak_mb > 1
    assert "to the log" in (place / "log").read_text()


def test_one_that_is_stopped_at_once_ends_at_once(forks: Forks, place: Path) -> None:
    stopped = threading.Event()
    stopped.set()
    for _ in range(5):
        start = time.monotonic()
        assert waits(forks, place, 100, stopped).reason == "was stopped" and time.monotonic() - start < 30


def test_where_forks_are_not_safe_there_are_none(place: Path) -> None:
    forks = Forks(["threads"], environment(first=[place]))
    with open(place / "log", "wb") as log:
        assert forks.start("program", [], stderr=log, cwd=place, env={}) is None
        assert forks.start("program", [], stderr=log, cwd=place, env={}) is None
    forks.close()


def test_an_order_too_long_is_no_order(forks: Forks, place: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with open(place / "log", "wb") as log:
        assert forks.start("program", ["x" * 2_000_000], stderr=log, cwd=place, env={}) is None
    assert len(os.listdir("/proc/self/fd")) <= before
    assert run(forks, place)[0] == 0


def test_nothing_is_left_open_or_running(forks: Forks, place: Path) -> None:
    run(forks, place)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        run(forks, place)
    assert len(os.listdir("/proc/self/fd")) <= before
    forks.close()
    assert not [p for p in psutil.Process().children(recursive=True) if "environments.forks" in " ".join(p.cmdline())]


def test_whoever_forks_ends_with_the_process_that_asked(place: Path) -> None:
    code = (
        "import sys, time\nfrom edgeseg.environments.forks import Forks\n"
        "f = Forks(['early'], {})\nprint(f._process.pid, flush=True)\ntime.sleep(60)"
    )
    asking = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment(first=[place]))
    assert asking.stdout is not None
    forking = psutil.Process(int(asking.stdout.readline()))
    asking.kill()
    asking.wait()
    asking.stdout.close()
    forking.wait(20)
