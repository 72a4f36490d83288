"""SIGTERM, SIGHUP and Ctrl-C in the middle of a command: no child goes on, and nothing half-made is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeseg.data.shapes import make_shapes

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")

SLOW = """
import subprocess, time
def convert(job):
    job.output.write_text("half")
    child = subprocess.Popen(["sleep", "600"])
    job.progress(0.5, "half")
    time.sleep(600)
"""


def parents() -> dict[int, int]:
    """Process -> its parent, of all that run."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            state, parent = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state != "Z":
            found[int(name)] = int(parent)
    return found


def below(pid: int) -> set[int]:
    """The processes that a process has started, and theirs."""
    found, running = {pid}, parents()
    while more := {p for p, parent in running.items() if parent in found} - found:
        found |= more
    return found - {pid}


Stopped = Callable[..., str]


@pytest.fixture
def stopped(until: Callable[..., bool]) -> Stopped:
    """Run a command until it has ``count`` processes below it, send it a signal, and see them all end; its stderr."""

    def run(number: signal.Signals, count: int, *words: object) -> str:
        return _stopped(until, number, count, *words)

    return run


def _stopped(until: Callable[..., bool], number: signal.Signals, count: int, *words: object) -> str:
    command = [sys.executable, "-m", "edgeseg.cli", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert until(lambda: process.poll() is not None or len(below(process.pid)) >= count, 60)
        assert process.poll() is None, process.communicate()
        time.sleep(0.3)
        children = below(process.pid)
        process.send_signal(number)
        err = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "Traceback" not in err and "error: interrupted" in err.splitlines()[-1], err
    assert until(lambda: not children & set(parents()), 10)
    return err


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGESEG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("EDGESEG_TARGETS", str(tmp_path / "toys"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "toys" / "slow"
    folder.mkdir(parents=True)
    (folder / "target.toml").write_text('name = "slow"\ntitle = "Slow"\nsuffix = ".slow"\nreads = ["network"]\n')
    (folder / "convert.py").write_text(SLOW)
    return tmp_path / "home"


def unfinished(home: Path) -> list[str]:
    """What a stopped run must not leave: scratch, locks and hidden files."""
    left = [p for name in ("work", "locks") if (home / name).is_dir() for p in (home / name).iterdir()]
    return [str(p) for p in [*left, *home.parent.rglob("*.part"), *home.parent.rglob("*.old")]]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_export(home: Path, tiny: Path, stopped: Stopped, number: signal.Signals) -> None:
    stopped(number, 2, "export", tiny, "-f", "slow", "--imgsz", "64", "--out", "out")
    assert unfinished(home) == [] and not Path("out").exists()


def test_validate(home: Path, tiny: Path, stopped: Stopped, tmp_path: Path) -> None:
    """An artifact and its reference, each in a process of its own."""
    data = make_shapes(tmp_path / "shapes", train=1, val=300, size=64, seed=1).parent / "images" / "val"
    command = [sys.executable, "-m", "edgeseg.cli", "export", str(tiny), "-f", "torchscript", "--imgsz", "64", "--out", "."]
    subprocess.run(command, check=True, capture_output=True)
    words = ("--reference", tiny, "--data", data, "--html", "report.html")
    stopped(signal.SIGTERM, 1, "validate", "tiny-seg.torchscript", *words)
    assert unfinished(home) == [] and not Path("report.html").exists()


def test_train(home: Path, tiny: Path, stopped: Stopped, shapes_yaml: Path) -> None:
    words = ("epochs=500", "imgsz=64", "batch=2", "workers=2", "device=cpu", "project=runs")
    err = stopped(signal.SIGTERM, 2, "train", f"data={shapes_yaml}", f"model={tiny}", *words)
    assert unfinished(home) == []
    weights = Path("runs/exp/weights")
    there = sorted(p.name for p in weights.iterdir())
    assert "last.pt" in there and f"{weights} holds {' and '.join(there)}" in err
    assert err.endswith(f"edgeseg train resume={weights / 'last.pt'}\n")


@pytest.mark.slow
@pytest.mark.parametrize("at", ["validating", "val: "])
def test_control_c_in_a_training_on_a_terminal(home: Path, tiny: Path, in_terminal: Callable[..., Any], at: str) -> None:
    """The terminal sends it to the loaders too: one sentence, no traceback, and nothing left of the live lines."""
    data = make_shapes(home.parent / "shapes", train=8, val=400, size=64, seed=1)
    words = (f"data={data}", f"model={tiny}", "epochs=3", "imgsz=64", "batch=4", "workers=2", "device=cpu", "plots=false")
    seen = in_terminal(["train", *words], home.parent, typed={at: "\x03"})
    assert seen.code == 130 and "Traceback" not in seen.raw and "KeyboardInterrupt" not in seen.raw
    weights = home.parent / "runs/train/exp/weights"
    if at == "validating":
        assert [p.name for p in weights.iterdir()] == ["last.pt"]
        assert (
            "holds last.pt, and no best.pt, for" in seen.text and "resume=runs/train/exp/weights/last.pt" in seen.lines[-1]
        )
    else:
        assert "nothing was saved" in seen.text or "anything was saved" in seen.text
    assert not any("╌" in line for line in seen.lines)
