"""A fleet on loopback: real OpenSSH servers, bundles that are really copied, installed and tested."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from edgeseg.boards import Use, board_by_name
from edgeseg.cli import run as edgeseg
from edgeseg.cli.board import milliseconds_on
from edgeseg.errors import EdgesegError, StepFailed
from edgeseg.fleet.hosts import Host, chosen_hosts, read_hosts, write_hosts
from edgeseg.fleet.probe import Said
from edgeseg.fleet.report import measured_lines, read_reports
from edgeseg.fleet.ssh import BoardFailed, Ssh

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, and a cache that nobody else uses."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGESEG_HOME", str(tmp_path / "cache"))
    return tmp_path


def add(board, *words: str) -> int:
    return edgeseg(["board", "add", board.name, board.address, "--port", str(board.port), "--key", str(board.key), *words])


def test_two_boards_and_one_that_is_off(here, boards, local_shell, demo_bundle, capsys):
    one, two = (boards(n, local_shell(here / n), here / n, here / f"{n}.d") for n in ("one", "two"))
    gone = boards("gone", local_shell(here / "gone"), here / "gone", here / "g.d")
    assert add(one) == add(two) == add(gone) == 0
    assert capsys.readouterr().out.count(": pc\n") == 3  # what boards say of themselves
    gone.kill()
    assert edgeseg(["board", "run", str(demo_bundle), "--runs", "2", "--json", "first.json"]) == 1
    rows = {r["board"]: r for r in json.loads(Path("first.json").read_text())["rows"]}
    for name in ("one", "two"):
        report = rows[name]["report"]
        assert report["equal"] and report["passed"] and report["host"] == name and report["kind"] == "pc"
    assert rows["gone"]["report"] is None and "cannot be reached" in rows["gone"]["error"]
    said = capsys.readouterr().out
    assert "looking: cannot be reached" in said and said.count("equal") == 2 and "install.sh --service" in said
    page = Path("runs/fleet/fleet.html").read_text()
    assert page.count('{"cells":[') == 3 and "cannot be reached" in page and "2 of 3 find what they must" in page

    # The same again, all on: only what is missing is done.
    copied = next((here / "one").glob("edgeseg-bundles/*/bundle.json")).stat().st_mtime_ns
    back = boards("gone", local_shell(here / "gone"), here / "gone", here / "g.d", port=gone.port)
    assert edgeseg(["board", "run", str(demo_bundle), "--runs", "2", "--json", "second.json"]) == 0
    again = {r["board"]: r for r in json.loads(Path("second.json").read_text())["rows"]}
    assert again["one"] == rows["one"] and again["two"] == rows["two"] and again["gone"]["report"]["equal"]
    assert capsys.readouterr().out.count("(measured before)") == 2
    assert next((here / "one").glob("edgeseg-bundles/*/bundle.json")).stat().st_mtime_ns == copied
    assert back.process.poll() is None

    # A copy that was damaged there is mended, and nothing else is copied.
    place = next((here / "one" / "edgeseg-bundles").iterdir())
    whole = {f: (f.stat().st_ino, f.read_bytes()) for f in (place / "selftest").iterdir()}
    first, *others = whole
    first.write_bytes(whole[first][1][:100])
    (place / "demo-seg.onnx").unlink()
    wrong = refusing(shutil.copytree(demo_bundle, here / "wrong"))
    assert edgeseg(["board", "run", str(wrong), str(demo_bundle), "--boards", "one", "--runs", "1", "--again"]) == 1
    assert first.read_bytes() == whole[first][1] and (place / "demo-seg.onnx").is_file()
    assert all(f.stat().st_ino == whole[f][0] for f in others)
    said = capsys.readouterr().out  # one bundle fails there, the other goes on
    assert "installing: no room for this" in said and said.count("equal") == 1

    check_measured_lines(capsys)
    check_service(place, local_shell(here / "one"), here)


def test_milliseconds_of_a_search_are_those_of_a_board(here, boards, local_shell, demo_bundle):
    """An artifact is bundled, copied, installed and timed there; what fails there is an error with the board's name."""
    board = boards("one", local_shell(here / "one"), here / "one", here / "one.d")
    assert add(board) == 0
    artifact = shutil.copy(demo_bundle / "demo-seg.onnx", here / "demo-seg.onnx")
    measure = milliseconds_on("one")
    first = measure(Path(artifact))
    (file,) = (here / "demo-seg.onnx.one" / "one").glob("*.json")
    assert first == json.loads(file.read_text())["ms"]["inference"] > 0
    board.kill()
    assert measure(Path(artifact)) == first  # its report is here
    shutil.copy(artifact, here / "other.onnx")
    with pytest.raises(StepFailed, match="one: looking: cannot be reached"):
        measure(here / "other.onnx")
    with pytest.raises(EdgesegError, match="nowhere"):
        milliseconds_on("nowhere")


def check_service(place: Path, shell: Path, here: Path) -> None:
    """What systemd would start says that it is ready and alive, and ends cleanly when it is told to."""
    import cv2

    film = cv2.VideoWriter(str(here / "film.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (160, 160))
    for _ in range(300):
        film.write(cv2.imread(str(place / "selftest" / "00.png")))
    film.release()
    unit = (place / "edgeseg.service").read_text()
    assert "Type=notify" in unit and f"WorkingDirectory={place}" in unit and "ExecStart=/bin/sh run.sh\n" in unit
    if shutil.which("systemd-analyze"):
        (here / "edgeseg.service").write_text(unit)
        done = subprocess.run(["systemd-analyze", "verify", here / "edgeseg.service"], capture_output=True, text=True)
        assert "edgeseg.service" not in done.stderr
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as said:
        name = f"edgeseg-{os.getpid()}.sock"  # in a short place: such addresses have 108 bytes at most
        said.bind(f"/tmp/{name}")
        said.settimeout(60)
        command = f"cd {place} && exec sh run.sh --camera {here}/film.mp4 --realtime --json {here}/lines.jsonl"
        told = {"SSH_ORIGINAL_COMMAND": command, "NOTIFY_SOCKET": f"/tmp/{name}", "WATCHDOG_USEC": "500000"}
        loop = subprocess.Popen([shell], env={**os.environ, **told}, stdout=subprocess.DEVNULL)
        try:
            heard: list[bytes] = []
            while not {b"READY=1", b"WATCHDOG=1"} <= set(heard):  # a line of status may come before the first result
                heard.append(said.recv(1000))
            loop.terminate()
            while heard[-1] != b"STOPPING=1":
                heard.append(said.recv(1000))
            assert loop.wait(60) == 0
        finally:
            loop.kill()
            os.unlink(f"/tmp/{name}")
    assert heard.index(b"READY=1") < heard.index(b"WATCHDOG=1")
    assert all(json.loads(line)["detections"] for line in (here / "lines.jsonl").read_text().splitlines())


def refusing(bundle: Path) -> Path:
    """A bundle whose installation fails."""
    (bundle / "install.sh").write_text("echo 'error: no room for this' >&2; exit 2\n")
    digest = hashlib.sha256((bundle / "install.sh").read_bytes()).hexdigest()
    lines = (bundle / "SHA256SUMS").read_text().splitlines()
    lines = [f"{digest}  install.sh" if s.endswith("  install.sh") else s for s in lines]
    (bundle / "SHA256SUMS").write_text("\n".join(lines) + "\n")
    return bundle


def check_measured_lines(capsys) -> None:
    """Reports become lines that boards.toml can hold."""
    text = measured_lines(read_reports(Path("runs/fleet")))
    found = [s.strip().rstrip(",") for s in text.splitlines() if s.startswith("  {")]
    use = Use(**tomllib.loads(f"use = {found[0]}")["use"])
    assert len(found) == 3 and use.measured and use.format == "onnx" and use.imgsz == 160 and "ms an image" in use.why
    assert use.install == board_by_name("pc").use[0].install and text.startswith("# [pc]")
    assert edgeseg(["board", "report", "--toml"]) == 0 and found[0] in capsys.readouterr().out
    assert edgeseg(["board", "report"]) == 0 and "agrees" in capsys.readouterr().out
    (Path("runs/fleet/one") / "broken.json").write_text("{")
    with pytest.raises(EdgesegError, match="no report"):
        read_reports(Path("runs/fleet"))


def test_a_command_that_takes_too_long_ends(here, boards, local_shell):
    board = boards("one", local_shell(here / "one"), here / "one", here / "one.d")
    host = Host("one", board.address, "pc", "3.11", board.port, str(board.key))
    with pytest.raises(BoardFailed, match="longer than 1 s"):
        Ssh(host, timeout_s=1).run("sleep 30")
    with pytest.raises(BoardFailed, match="no such thing"):
        Ssh(host).run("echo 'error: no such thing' >&2; exit 7")
    assert Ssh(host).run("cat", give=b"a" * 300_000) == "a" * 300_000


def test_a_key_that_the_board_does_not_know(here, boards, local_shell, capsys):
    board = boards("one", local_shell(here / "one"), here / "one", here / "one.d")
    board.key = here / "stranger"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", board.key], check=True)
    assert add(board) == 1 and not Path("fleet.toml").exists()
    assert f"ssh-copy-id -p {board.port} {board.address}" in capsys.readouterr().err


def test_ctrl_c_ends_everything_at_once(here, boards, demo_bundle):
    (here / "slow.sh").write_text("#!/bin/sh\nexec sleep 120\n")
    (here / "slow.sh").chmod(0o755)
    board = boards("slow", here / "slow.sh", here / "slow", here / "slow.d")
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    write_hosts({"slow": Host("slow", board.address, "pc", version, board.port, str(board.key))})
    command = [sys.executable, "-m", "edgeseg", "board", "run", demo_bundle]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ) as process:
        assert process.stderr is not None and "looking what is there" in process.stderr.readline()
        while not (below := [p.pid for p in psutil.Process(process.pid).children(recursive=True)]):
            time.sleep(0.05)
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130 and time.monotonic() - started < 30
    assert not any(psutil.pid_exists(pid) for pid in below)
    assert not Path("runs/fleet/slow").exists()


def test_a_board_with_another_key_is_refused(here, boards, local_shell, capsys):
    board = boards("one", local_shell(here / "one"), here / "one", here / "one.d")
    assert add(board) == 0
    board.kill()
    shutil.copy(board.key, here / "client")
    (here / "one.d" / "host").unlink()
    (here / "one.d" / "host.pub").unlink()
    boards("one", local_shell(here / "one"), here / "one", here / "one.d", port=board.port)
    assert add(board) == 1
    assert "another key than before" in capsys.readouterr().err
    assert edgeseg(["board", "remove", "one"]) == 0 and read_hosts() == {}
    assert add(board) == 0


def test_the_list_of_boards(here, capsys):
    with pytest.raises(EdgesegError, match="board add"):
        chosen_hosts(None)
    both = {n: Host(n, f"pi@{n}.local", "pi5", "3.11", 2222, '~/a "key"') for n in ("hall", "yard")}
    write_hosts(both)
    assert read_hosts() == both and [h.name for h in chosen_hosts("yard")] == ["yard"]
    with pytest.raises(EdgesegError, match="Did you mean 'yard'"):
        chosen_hosts("yerd")
    assert edgeseg(["board", "list"]) == 0 and "pi@hall.local" in capsys.readouterr().out
    for text in ("[x", "x = 1", "[a]\naddress='b'", "[a]\naddress='b'\nboard='nonsense'\npython='3.11'"):
        Path("fleet.toml").write_text(text)
        with pytest.raises(EdgesegError):
            read_hosts()
    for name, address in (("a/b", "pi@x"), ("a", "-oProxyCommand=x"), ("a", "pi@x y"), ("", "pi@x")):
        with pytest.raises(EdgesegError):
            Host(name, address, "pi5", "3.11")


@pytest.mark.parametrize(
    ("model", "machine", "kind"),
    [
        ("Raspberry Pi 5 Model B Rev 1.0", "aarch64", "pi5"),
        ("Raspberry Pi Compute Module 4 Rev 1.1", "aarch64", "pi4"),
        ("NVIDIA Jetson Orin Nano Developer Kit", "aarch64", "jetson-orin"),
        ("", "x86_64", "pc"),
        ("Radxa ROCK 5B", "aarch64", None),
    ],
)
def test_a_board_is_known_by_its_device_tree(model, machine, kind):
    said = Said(model, machine, 64, "3.11", True, 9000)
    if kind is None:
        with pytest.raises(EdgesegError, match="Radxa ROCK 5B is no board that is known"):
            said.board()
    else:
        assert said.board() == kind and said.warnings() == []
    poor = Said(model, machine, 32, "3.9", False, 100).warnings()
    assert len(poor) == 4 and "32 bits" in poor[0] and "3.9" in poor[1]
