"""Emulated Raspberry Pis as a fleet: real OpenSSH servers whose shells run arm64 Debian on a Cortex-A72 and a Cortex-A76."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgeseg.cli import run as edgeseg
from edgeseg.data.shapes import make_shapes
from edgeseg.fleet.hosts import read_hosts
from edgeseg.fleet.ssh import Ssh

_spec = importlib.util.spec_from_file_location("emulated", Path(__file__).with_name("emulated.py"))
assert _spec is not None and _spec.loader is not None
emulated = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(emulated)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if emulated.missing():
        pytest.skip(emulated.missing())
    try:
        return emulated.make_system(tmp_path_factory.mktemp("arm64") / "system")
    except subprocess.CalledProcessError as e:
        pytest.skip(f"no Debian for arm64 can be had here: {e.stderr.decode()[-200:]}")


def test_a_newcomers_path_on_two_emulated_boards(boards, system, tmp_path, monkeypatch, capsys):
    """docs/boards.md as it is written, from a checkpoint; one board loses its power half-way, and the rest is as it says."""
    from edgeseg.resources import demo_checkpoint

    monkeypatch.chdir(tmp_path)
    shutil.copy(demo_checkpoint(), "best.pt")
    data = make_shapes(tmp_path / "shapes", train=40, val=12, size=320)
    servers = {}
    for name in emulated.PIS:
        shell = emulated.make_shell(name, system, tmp_path / name, tmp_path / f"{name}.d")
        servers[name] = boards(name, shell, tmp_path / name, tmp_path / f"{name}.d")
        board = servers[name]
        assert edgeseg(["board", "add", name, board.address, "--port", str(board.port), "--key", str(board.key)]) == 0
    assert "pi4: Raspberry Pi 4 Model B Rev 1.4, Python 3.11: pi4" in capsys.readouterr().out

    # The power of the Pi 4 goes while it installs.
    def cut() -> None:
        for _ in range(9000):
            if list((tmp_path / "pi4").glob("edgeseg-bundles/*/venv/lib/python3.11/site-packages/numpy")):
                break
            time.sleep(0.1)
        servers["pi4"].kill()

    thread = threading.Thread(target=cut, daemon=True)
    thread.start()
    command = ["board", "run", "best.pt", "--data", str(data), "--runs", "2", "--json"]
    assert edgeseg([*command, "first.json"]) == 1
    thread.join()
    rows = {r["board"]: r for r in json.loads(Path("first.json").read_text())["rows"]}
    assert rows["pi4"]["report"] is None and rows["pi4"]["error"]
    check(rows["pi5"]["report"], "Raspberry Pi 5 Model B Rev 1.0")
    said = capsys.readouterr().out
    assert "installing: cannot be reached" in said and "equal" in said
    assert "1 of 2 find what they must" in Path("runs/fleet/fleet.html").read_text()

    # The same command again: the Pi 5 is not asked, the Pi 4 goes on from where it was.
    board = servers["pi4"]
    boards("pi4", tmp_path / "pi4.d" / "shell.sh", board.home, tmp_path / "pi4.d", port=board.port)
    copied = next((tmp_path / "pi4").glob("edgeseg-bundles/*/wheels/numpy*")).stat().st_ino
    assert edgeseg([*command, "second.json"]) == 0
    again = {r["board"]: r for r in json.loads(Path("second.json").read_text())["rows"]}
    assert again["pi5"] == rows["pi5"]
    check(again["pi4"]["report"], "Raspberry Pi 4 Model B Rev 1.4")
    assert next((tmp_path / "pi4").glob("edgeseg-bundles/*/wheels/numpy*")).stat().st_ino == copied
    print(capsys.readouterr().out)
    check_service(Ssh(read_hosts()["pi5"], timeout_s=600), tmp_path / "pi5")


def check(report: dict, board: str) -> None:
    """What an emulated board must find: all that this machine found, to the last bit."""
    assert report["board"] == board and report["machine"] == "aarch64" and report["model"]["precision"] == "int8"
    assert report["passed"] and report["agreement"] == 1 and report["equal"], report["fidelity"]
    assert report["tensor_difference"] <= 1 and report["ms"]["inference"] > 0 and report["memory_mb"] > 40


def check_service(line: Ssh, home: Path) -> None:
    """The loop as systemd would start it, on the emulated board: it says that it is ready and alive, and ends cleanly."""
    import cv2

    (bundle,) = home.glob("edgeseg-bundles/*")
    image = cv2.imread(str(bundle / "selftest" / "00.png"))
    film = cv2.VideoWriter(str(home / "film.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, image.shape[1::-1])
    for _ in range(1000):
        film.write(image)
    film.release()
    assert "ExecStart=/bin/sh run.sh\n" in (bundle / "edgeseg.service").read_text()
    # A name in no folder: the emulation translates paths, but not those of sockets.
    name = f"edgeseg-{os.getpid()}"
    told = f"NOTIFY_SOCKET=@{name} WATCHDOG_USEC=8000000"
    words = "--camera ~/film.mp4 --json ~/lines.jsonl"
    start = f"cd edgeseg-bundles/{bundle.name} && echo $$ >~/pid && export {told} && exec sh run.sh {words}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as said, ThreadPoolExecutor(1) as pool:
        said.bind(f"\0{name}")
        said.settimeout(1)
        running, heard = pool.submit(line.run, start), []

        def listen(until: bytes) -> None:
            while until not in heard:
                try:
                    heard.append(said.recv(1000))
                except TimeoutError:
                    assert not running.done(), running.result()

        listen(b"WATCHDOG=1")
        line.run("kill -TERM $(cat ~/pid)")
        listen(b"STOPPING=1")
        running.result()  # exit code 0
    assert b"READY=1" in heard
    frames = [json.loads(text) for text in (home / "lines.jsonl").read_text().splitlines()]
    assert frames and all(f["detections"] for f in frames) and [f["frame"] for f in frames] == list(range(len(frames)))
