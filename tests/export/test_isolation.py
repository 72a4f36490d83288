"""Converters that misbehave, each beside one that does not."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from edgeseg.environments import process
from edgeseg.environments.process import available_mb, memory_of_session, run_process, session_pids, total_mb
from edgeseg.errors import EdgesegError, StepFailed
from edgeseg.kernel import cores

linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")

BAD = {
    "segfault": ("import ctypes\ndef convert(job):\n    ctypes.string_at(0)\n", StepFailed, "SIGSEGV (segmentation fault)"),
    "abort": ("import os\ndef convert(job):\n    os.abort()\n", StepFailed, "crashed: SIGABRT"),
    "raise": ("def convert(job):\n    raise ValueError('shapes differ')\n", StepFailed, "ValueError: shapes differ"),
    "leave": ("def convert(job):\n    raise SystemExit(3)\n", StepFailed, "SystemExit: 3"),
    "quit": ("import os\ndef convert(job):\n    os._exit(0)\n", StepFailed, "exit code 0 and no result"),
    "nothing": ("def convert(job):\n    pass\n", EdgesegError, "without writing its artifact"),
    "elsewhere": ("def convert(job):\n    return '/etc/hostname'\n", EdgesegError, "wrote outside its folder"),
    "syntax": ("def convert(job:\n", StepFailed, "SyntaxError"),
    "importing": ("import no_such_module_anywhere\n", StepFailed, "ModuleNotFoundError"),
    "ours": (
        "from edgeseg.errors import EdgesegError\n"
        "def convert(job):\n    raise EdgesegError('bad weights', path='w.pt', line=3, hint='Train it')\n",
        EdgesegError,
        "w.pt:3: bad weights. Train it",
    ),
    "full": (
        "import errno\ndef convert(job):\n    job.output.write_text('half')\n    raise OSError(errno.ENOSPC, 'no space')\n",
        EdgesegError,
        "the disk is full, nothing was written",
    ),
}


def test_each_fault_is_one_failed_step_and_the_others_finish(toys) -> None:
    toys.add("good")
    for name, (convert, _, _) in BAD.items():
        toys.add(name, convert)
    toys.add("reader", reads=["segfault"])
    results = {r.format: r for r in toys.export("good", "reader", *BAD)}
    assert results["good"].ok and results["good"].path.exists()
    for name, (_, kind, words) in BAD.items():
        error = results[name].error
        assert type(error) is kind and words in str(error), (name, error)
        assert results[name].path is None and results[name].log.is_file()
        if kind is StepFailed:
            assert str(results[name].log) in str(error)
        assert not toys.model.with_name(f"net.{name}").exists()
    assert "segfault fp32, which it reads, failed" in str(results["reader"].error)
    assert str(results["segfault"].log) in str(results["reader"].error)
    assert "Segmentation fault" in results["segfault"].log.read_text()
    assert toys.hidden() == []
    assert sorted(p.name for p in toys.model.parent.iterdir()) == ["net.good", "net.pt"]


def test_a_failed_step_is_tried_again(toys) -> None:
    toys.add("toy", BAD["raise"][0])
    assert not toys.export("toy")[0].ok
    toys.counting("toy")
    assert toys.export("toy")[0].ok and toys.runs == ["toy"]


@linux
def test_a_step_that_hangs_is_killed_with_all_its_children(toys, until) -> None:
    pids = toys.root / "pids"
    toys.add(
        "hang",
        "import os, signal, subprocess, time\n"
        "def convert(job):\n"
        "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "    child = subprocess.Popen(['sleep', '600'], preexec_fn=os.setpgrp)\n"
        f"    open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
        "    time.sleep(600)\n",
    )
    _limits(toys, "hang", timeout_s=1)
    toys.add("good")
    hang, good = toys.export("hang", "good")
    assert good.ok and isinstance(hang.error, StepFailed) and "ran past its limit of 1 s" in str(hang.error)
    for pid in pids.read_text().split():
        assert until(lambda pid=pid: not _alive(int(pid)))
    assert toys.hidden() == []


@linux
def test_a_step_that_eats_memory_is_killed(toys) -> None:
    toys.add(
        "hog",
        "import time\ndef convert(job):\n    x = [bytearray(b'x' * 20_000_000) for _ in range(20)]\n    time.sleep(600)\n",
    )
    _limits(toys, "hog", memory_mb=200)
    (hog,) = toys.export("hog")
    assert "took more than its 200 MB of memory" in str(hog.error)


@linux
def test_the_memory_of_children_counts(toys) -> None:
    toys.add(
        "hog",
        "import subprocess, sys\ndef convert(job):\n"
        "    subprocess.run([sys.executable, '-c', 'import time; x = bytearray(b\"x\" * 300_000_000); time.sleep(600)'])\n",
    )
    _limits(toys, "hog", memory_mb=200)
    (hog,) = toys.export("hog")
    assert "took more than its 200 MB" in str(hog.error)


def test_an_exit_that_hangs_or_crashes_does_not_spoil_the_work(toys) -> None:
    toys.add(
        "toy",
        "import atexit, os, threading, time\n"
        "def convert(job):\n"
        "    job.output.write_text('done')\n"
        "    atexit.register(os.abort)\n"
        "    threading.Thread(target=time.sleep, args=(600,)).start()\n",
    )
    assert toys.export("toy")[0].ok


def test_a_child_that_keeps_stdout_open_does_not_hold_the_step(toys) -> None:
    toys.add(
        "toy",
        "import subprocess\ndef convert(job):\n    subprocess.Popen(['sleep', '600'])\n    job.output.write_text('done')\n",
    )
    start = time.monotonic()
    assert toys.export("toy")[0].ok
    assert time.monotonic() - start < 60


def test_steps_run_at_once_within_jobs_and_memory(toys) -> None:
    """Each step waits for the other's file: that ends at once only when both run. With one job they must not."""
    (toys.root / "room").mkdir()
    meet = (
        "import time, pathlib\n"
        "def convert(job):\n"
        "    me = pathlib.Path({root!r}) / 'room' / job.format\n"
        "    me.write_text('here')\n"
        "    end = time.monotonic() + {wait}\n"
        "    while len(list(me.parent.glob('meet?'))) < 2 and time.monotonic() < end:\n"
        "        time.sleep(0.01)\n"
        "    seen = len(list(me.parent.glob('meet?')))\n"
        "    time.sleep(0.2)\n"
        "    me.unlink()\n"
        "    job.output.write_text(str(seen))\n"
    )
    for name in ("meet1", "meet2"):
        toys.add(name, meet.format(root=str(toys.root), wait=20))
    assert [r.path.read_text() for r in toys.export("meet1", "meet2", jobs=2)] == ["2", "2"]
    for name in ("meet1", "meet2"):
        toys.add(name, meet.format(root=str(toys.root), wait=0.1))
    assert [r.path.read_text() for r in toys.export("meet1", "meet2", jobs=1)] == ["1", "1"]
    for name in ("meet1", "meet2"):
        _limits(toys, name, memory_mb=4 * int(available_mb()))
    assert [r.path.read_text() for r in toys.export("meet1", "meet2", jobs=2)] == ["1", "1"]


@linux
def test_ctrl_c_stops_the_steps(toys, until) -> None:
    pid = toys.root / "pid"
    toys.add(
        "slow",
        f"import os, time\ndef convert(job):\n    open({str(pid)!r}, 'w').write(str(os.getpid()))\n"
        "    job.progress(0.1, 'begun')\n    time.sleep(600)\n",
    )

    def interrupt(event) -> None:
        if event.kind == "progress":
            signal.raise_signal(signal.SIGINT)

    from edgeseg.export.api import export

    with pytest.raises(KeyboardInterrupt):
        export(toys.model, ["slow"], on_event=interrupt)
    assert until(lambda: not _alive(int(pid.read_text())))
    assert toys.hidden() == []


@linux
def test_kill_9_in_the_middle_leaves_scratch_that_the_next_run_removes(toys, until) -> None:
    pid = toys.root / "pid"
    toys.add(
        "slow",
        f"import os, time\ndef convert(job):\n    job.output.write_text('half')\n"
        f"    open({str(pid)!r}, 'w').write(str(os.getpid()))\n    time.sleep(600)\n",
    )
    parent = _export_elsewhere(toys, "slow")
    assert until(lambda: pid.exists() and pid.read_text() != "")
    parent.kill()
    parent.wait()
    # The worker notices that its parent is gone.
    assert until(lambda: not _alive(int(pid.read_text())))
    assert list((toys.home / "work").iterdir()) and not toys.model.with_name("net.slow").exists()
    toys.add("slow")
    (result,) = toys.export("slow")
    assert result.ok and not result.cached and "removed what an interrupted export had left" in toys.said()
    assert toys.hidden() == []
    toys.export("slow", rebuild=True)
    assert toys.said() == ""


def test_two_exports_at_once_do_the_work_once(toys) -> None:
    gate = toys.root / "gate"
    slow = (
        "import pathlib, time\n"
        "def convert(job):\n"
        f"    open({str(toys.counter)!r}, 'a').write(job.format + '\\n')\n"
        f"    while not pathlib.Path({str(gate)!r}).exists():\n        time.sleep(0.01)\n"
        "    job.output.write_bytes(job.source.read_bytes())\n"
    )
    toys.add("first", slow)
    toys.counting("second", reads=["first"])
    others = [_export_elsewhere(toys, "second", out=toys.root / f"out{i}") for i in range(3)]
    threading.Timer(0.8, lambda: gate.write_text("")).start()
    assert [p.wait(60) for p in others] == [0, 0, 0]
    assert toys.runs == ["first", "second"]
    assert all((toys.root / f"out{i}" / "net.second").read_bytes() == b"weights|second" for i in range(3))


def test_two_exports_into_the_same_folder(toys) -> None:
    toys.add(
        "web", "def convert(job):\n    job.output.mkdir()\n    (job.output / 'a').write_text('a')\n", suffix="_web_model"
    )
    others = [_export_elsewhere(toys, "web") for _ in range(4)]
    assert [p.wait(60) for p in others] == [0] * 4
    assert (toys.model.parent / "net_web_model" / "a").read_text() == "a"
    assert toys.hidden() == []


@linux
def test_a_process_is_watched(tmp_path) -> None:
    code = "import time; x = bytearray(b'x' * 50_000_000); time.sleep(0.3)"
    ended = run_process(
        [sys.executable, "-c", code],
        log=tmp_path / "log",
        cwd=tmp_path,
        env=os.environ,
        timeout_s=60,
        memory_mb=10_000,
        on_progress=lambda done, words: None,
        cancelled=threading.Event(),
    )
    assert (ended.code, ended.reason) == (0, "") and ended.peak_mb > 50
    assert os.getpid() in session_pids(os.getsid(0)) and memory_of_session(os.getsid(0)) > 1
    assert 0 < available_mb() <= total_mb() < 1e9 and cores() >= 1


@linux
@pytest.mark.parametrize(("waits", "reason"), [(True, ""), (False, "ran past its limit of 0.3 s")])
def test_a_limit_of_time_does_not_run_while_a_step_waits(tmp_path, waits: bool, reason: str) -> None:
    ended = run_process(
        [sys.executable, "-c", "import time; time.sleep(1)"],
        log=tmp_path / "log",
        cwd=tmp_path,
        env=os.environ,
        timeout_s=0.3,
        memory_mb=10_000,
        on_progress=lambda done, words: None,
        cancelled=threading.Event(),
        waits=lambda: waits,
    )
    assert ended.reason == reason and ended.stopped is not waits


def test_without_sessions_there_is_no_memory_limit(monkeypatch) -> None:
    monkeypatch.delattr(process.os, "getsid")
    assert session_pids(1) == [] and memory_of_session(1) == 0


def _limits(toys, name: str, **limits: int) -> None:
    from edgeseg import registry

    file = toys.root / name / "target.toml"
    file.write_text(file.read_text() + "[convert]\n" + "\n".join(f"{k} = {v}" for k, v in limits.items()) + "\n")
    registry._scan.cache_clear()


def _export_elsewhere(toys, name: str, out: Path | None = None) -> subprocess.Popen:
    where = "" if out is None else f", out={str(out)!r}"
    script = (
        f"from edgeseg.export.api import export\nr, = export({str(toys.model)!r}, [{name!r}]{where})\nassert r.ok, r.error"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    return subprocess.Popen([sys.executable, "-c", script], env=env)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_native_converter_that_aborts_on_a_full_disk(toys) -> None:
    toys.add("toy", "import os\ndef convert(job):\n    os.write(2, b'write: No space left on device\\n')\n    os.abort()\n")
    assert "the disk is full" in str(toys.export("toy")[0].error)
