"""Boards for the tests: OpenSSH servers on loopback whose shell is a folder of this machine, or an emulated Raspberry Pi."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

import pytest

from edgeseg.fleet import wheels

SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin")


@dataclass
class Board:
    """One server: ``home`` is the board's home folder on this machine."""

    name: str
    port: int
    key: Path
    home: Path
    process: subprocess.Popen[bytes]

    @property
    def address(self) -> str:
        return f"{getpass.getuser()}@127.0.0.1"

    def kill(self) -> None:
        """Cut the power: the server and everything that it started end at once."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGSTOP)
        for pid in descendants(self.process.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()


def descendants(pid: int) -> list[int]:
    """The process and all below it, children first."""
    import psutil

    try:
        return [p.pid for p in reversed(psutil.Process(pid).children(recursive=True))] + [pid]
    except psutil.NoSuchProcess:
        return []


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def serve(name: str, shell: Path, home: Path, folder: Path, port: int = 0) -> Board:
    """Start a server that runs every command through ``shell``; keys that are there already are taken again."""
    folder.mkdir(parents=True, exist_ok=True)
    home.mkdir(parents=True, exist_ok=True)
    for key in ("host", "client"):
        if not (folder / key).is_file():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
    shutil.copy(folder / "client.pub", folder / "authorized")
    port = port or free_port()
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd of root wants it
    config = folder / "config"
    config.write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\nPidFile none\n"
        f"StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\nForceCommand {shell}\n"
    )
    log = open(folder / "log", "ab")  # noqa: SIM115
    process = subprocess.Popen([str(SSHD), "-D", "-e", "-f", config], stdout=log, stderr=log, start_new_session=True)
    board = Board(name, port, folder / "client", home, process)
    for _ in range(100):
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return board
        if process.poll() is not None:
            break
        time.sleep(0.05)
    board.kill()
    pytest.skip(f"no SSH server can be started here: {(folder / 'log').read_text()[-200:]}")


@pytest.fixture
def boards() -> Iterator[Callable[..., Board]]:
    """Starts servers (``serve``), which end with the test."""
    if SSHD is None or shutil.which("ssh") is None:
        pytest.skip("no OpenSSH server here (Debian: apt-get install openssh-server)")
    started: list[Board] = []

    def start(*words: object, **named: object) -> Board:
        started.append(serve(*words, **named))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for board in started:
        board.kill()


@pytest.fixture(scope="session")
def local_shell(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Makes the shell of a board that is a folder of this machine: its home, this Python, and the packages of this one."""
    folder = tmp_path_factory.mktemp("shells")
    packages = folder / "packages"  # all but edgeseg and pip, which come with the bundle
    packages.mkdir()
    for site in (Path(p) for p in sys.path if p.endswith("site-packages")):
        for entry in site.iterdir():
            if not entry.name.lstrip("_").startswith(("edgeseg", "pip")) and not (packages / entry.name).exists():
                (packages / entry.name).symlink_to(entry)

    def make(home: Path) -> Path:
        shell = folder / f"{home.name}.sh"
        shell.write_text(
            f"#!/bin/sh\ncd {home} || exit 9\nexport HOME={home} PYTHONPATH={packages}\n"
            f"export PATH={Path(sys.executable).parent}:/usr/bin:/bin OMP_NUM_THREADS=1\n"
            f'exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n'
        )
        shell.chmod(0o755)
        return shell

    return make


@pytest.fixture(scope="session")
def own_wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with edgeseg's wheel and pip's: what a bundle holds for a board that has all else."""
    folder = tmp_path_factory.mktemp("wheels")
    try:
        wheels.own_wheel(folder)
        wheels.wheel_again(distribution("pip"), folder)
    except Exception as e:
        pytest.skip(f"edgeseg's wheel cannot be made here: {e}")
    return folder


@pytest.fixture(scope="session")
def demo_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo network as ONNX at 160 pixels."""
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    from edgeseg.export.api import export
    from edgeseg.export.options import ExportOptions
    from edgeseg.resources import demo_checkpoint

    (made,) = export(demo_checkpoint(), ["onnx"], ExportOptions(imgsz=160), out=tmp_path_factory.mktemp("onnx"))
    assert made.path is not None, made.error
    return made.path


@pytest.fixture(scope="session")
def demo_bundle(demo_onnx: Path, own_wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of it for this machine, which brings edgeseg and pip alone. Do not write into its folder."""
    from edgeseg.boards import board_by_name
    from edgeseg.fleet.bundle import compose, order

    wish = order(demo_onnx, board_by_name("pc"))
    own = next(own_wheels.glob("edgeseg-*.whl"))
    return compose(wish, tmp_path_factory.mktemp("bundles") / wish.name, own=own, packages=own_wheels)
