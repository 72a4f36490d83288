"""``edgeseg run`` as a process: what it writes, how it ends, what it refuses."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest

from edgeseg import cli
from edgeseg.cli import light
from edgeseg.cli.live import run
from edgeseg.demo import CHECKPOINT

ROOT = Path(__file__).resolve().parents[2]
ENDED = re.compile(r"(\d+) frames in [\d.]+ s\b.*?(\d+) dropped, (\d+) reconnects")


@pytest.fixture
def started(tmp_path: Path, artifact: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts ``edgeseg run`` with the demo network in an empty folder; kills it at the end."""
    running: list[subprocess.Popen[str]] = []

    def start(*words: object, **environ: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "edgeseg", "run", str(artifact), *map(str, words)]
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environ}
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        running.append(subprocess.Popen(command, text=True, cwd=tmp_path, env=environ, **pipes))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Callable[[str], bool]]:
    """Listens as systemd does: whether a line was ever heard."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(tmp_path / "notify"))
        ear.settimeout(0.05)
        heard: list[str] = []

        def listen(line: str) -> bool:
            with contextlib.suppress(TimeoutError):
                heard.extend(ear.recv(4096).decode().split("\n"))
            return line in heard

        yield listen


def lines(file: Path) -> list[dict[str, Any]]:
    text = file.read_text() if file.exists() else ""
    assert text.endswith("\n") or not text
    return [json.loads(line) for line in text.splitlines()]


def length(file: Path) -> int:
    capture, number = cv2.VideoCapture(str(file)), 0
    while capture.read()[0]:
        number += 1
    return number


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_middle_loses_nothing(
    number: signal.Signals, clip: Path, started: Any, tmp_path: Path, until: Callable[..., bool]
) -> None:
    process = started("--camera", clip, "--realtime", "--json", "found.jsonl", "--video", "seen.mkv", "--events", "events")
    assert until(lambda: len(lines(tmp_path / "found.jsonl")) >= 8, 60), process.communicate()
    process.send_signal(number)
    process.send_signal(number)  # timeout(1) sends its signal twice
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0 and "Traceback" not in err, err
    told = ENDED.search(out)
    assert told is not None, out
    frames, dropped = int(told[1]), int(told[2])
    written = lines(tmp_path / "found.jsonl")
    assert 8 <= len(written) == frames < 40 and length(tmp_path / "seen.mkv") == frames
    assert written[-1]["dropped"] <= dropped
    assert len(list((tmp_path / "events").glob("*.jpg"))) == len(list((tmp_path / "events").glob("*.json"))) > 0


def test_a_signal_while_the_model_is_opened_ends_it_cleanly_too(capsys: Any, monkeypatch: Any) -> None:
    """A service that is told to stop has not failed, however early that comes."""

    def slow(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    monkeypatch.setattr("edgeseg.running.open.open_model", slow)
    start, before = time.monotonic(), signal.getsignal(signal.SIGTERM)
    assert cli.run(["run", "m.onnx", "--camera", "."]) == 0 and time.monotonic() - start < 3
    assert "stopped before the first frame" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_signal_forces(clip: Path, started: Any, tmp_path: Path, told: Any, until: Callable[..., bool]) -> None:
    """Nobody opens the other end of the pipe that it writes to, so what waits is never written."""
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    fill(tmp_path / "pipe")
    process = started("--camera", clip, "--realtime", "--json", "pipe", NOTIFY_SOCKET=str(tmp_path / "notify"))
    assert until(lambda: told("READY=1"), 60), process.communicate()
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 130
    os.close(reader)


def fill(pipe: Path) -> None:
    """Leave no room in a pipe."""
    writer = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 512)
    os.close(writer)


def test_json_on_standard_output_and_words_on_standard_error(clip: Path, started: Any) -> None:
    process = started("--camera", clip, "--json", "-", "--frames", "5", "--track", "--conf", "0.3")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    found = [json.loads(line) for line in out.splitlines()]
    assert [e["frame"] for e in found] == [0, 1, 2, 3, 4] and ENDED.search(err)
    assert all("id" in d for e in found for d in e["detections"])


def test_a_reader_that_goes_away_ends_it_quietly(clip: Path, started: Any) -> None:
    process = started("--camera", clip, "--realtime", "--json", "-")
    process.stdout.readline()
    process.stdout.close()
    process.wait(30)
    assert process.returncode == 1 and process.stderr.read() == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a.onnx", "b.onnx"], "2 words where one model belongs"),
        (["a.onnx", "--camera", "nothing.mp4"], "no such camera"),
        (["a.onnx", "--size", "640"], "no size"),
        (["a.onnx", "--rate", "0"], "rate 0 is no number above 0"),
        (["a.onnx", "--conf", "2"], "conf 2 is not between"),
        (["nothing.onnx", "--camera", "."], "no such file"),
        (["{model}", "--camera", ".", "--video", "x.txt"], "suffix"),
        (["{model}", "--camera", ".", "--mqtt", "host"], "no MQTT address"),
        (["{model}", "--camera", ".", "--page", "host:"], "no address"),
        (["{model}", "--camera", ".", "--classes", "zebra"], "no class"),
    ],
)
def test_what_is_refused(words: list[str], said: str, capsys: Any, tmp_path: Path, monkeypatch: Any) -> None:
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    assert cli.run(["run", *(w.format(model=CHECKPOINT) for w in words)]) == 2
    assert said in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_plain_words_need_no_typer() -> None:
    words = ["run", "m.tflite", "--camera", "0", "--size", "640x480", "rate=15", "--track", "--json", "-", "--page", "8080"]
    found = light.arguments(words, run)
    assert found is not None and found.pop("words") == ["m.tflite"]
    assert found == {"camera": "0", "size": "640x480", "rate": 15.0, "track": True, "json": "-", "page": "8080"}


def test_a_cold_start_looks_for_no_garbage_and_imports_no_sockets(tmp_path: Path) -> None:
    """As that of ``predict``: the same imports, with the collector off, and frozen behind them."""
    script = (
        "import gc, sys\nfrom edgeseg.cli import run\nimport edgeseg.cli.live\nlooking = {}\n"
        "sys.addaudithook(lambda event, args: event == 'import' and looking.setdefault(args[0], gc.isenabled()))\n"
        f"assert run(['run', {str(CHECKPOINT)!r}, '--camera', '.', '--classes', 'zebra']) == 2\n"
        "ours = [on for name, on in looking.items() if name.startswith(('edgeseg.live', 'edgeseg.running', 'torch.nn'))]\n"
        "print(len(ours) > 9, any(ours), gc.isenabled(), gc.get_freeze_count() > 0, 'typer' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.split() == ["True", "False", "True", "True", "False"], done.stderr
    script = "import sys, edgeseg.cli.live, edgeseg.live.loop, edgeseg.live.notify\nprint('socket' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def test_a_service_says_ready_alive_and_stopping(
    clip: Path, started: Any, tmp_path: Path, told: Any, until: Callable[..., bool]
) -> None:
    environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "600000"}
    process = started("--camera", clip, "--realtime", **environ)
    assert until(lambda: told("READY=1") and told("WATCHDOG=1"), 60), process.communicate()
    process.terminate()
    assert until(lambda: told("STOPPING=1")) and process.wait(20) == 0
