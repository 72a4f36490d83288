"""Commands and files for a board, over the system's own ssh: its configuration, keys and agent count."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

from edgeseg.errors import EdgesegError
from edgeseg.fleet.hosts import Host
from edgeseg.resources import cache_root
from edgeseg.store import make_folder

CONNECT_S, QUIET_S = 10, 15
UNREACHABLE = 255  # ssh's own exit code; all others are the command's


class BoardFailed(EdgesegError):
    """A board that cannot be reached, or a command that failed there. Others go on: exit code 1."""

    exit_code = 1


def known_hosts() -> Path:
    """Where the keys of boards are kept that are met here first."""
    return make_folder(cache_root()) / "known_hosts"


class Ssh:
    """One board. A first connection takes the board's key for good; another key later is refused.

    ``timeout_s`` is how long one command may take.
    """

    def __init__(self, host: Host, timeout_s: float = 1800) -> None:
        if shutil.which("ssh") is None:
            raise EdgesegError("ssh is not installed here", hint="Debian: sudo apt-get install openssh-client")
        self.host, self.timeout_s = host, timeout_s
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False
        self._lock = threading.Lock()

    def command(self, remote: str) -> list[str]:
        """What is started here for ``remote`` to be run there."""
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": str(CONNECT_S),
            "ServerAliveInterval": str(QUIET_S // 3),
            "ServerAliveCountMax": "3",
            "StrictHostKeyChecking": "accept-new",
            "UserKnownHostsFile": f'"{known_hosts()}" ~/.ssh/known_hosts',
            "LogLevel": "ERROR",
        }
        words = ["ssh", *(w for k, v in options.items() for w in ("-o", f"{k}={v}"))]
        words += ["-p", str(self.host.port)] if self.host.port else []
        words += ["-i", str(Path(self.host.key).expanduser()), "-o", "IdentitiesOnly=yes"] if self.host.key else []
        return [*words, self.host.address, remote]

    def run(self, remote: str, *, give: bytes | Callable[[IO[bytes]], None] = b"") -> str:
        """Run a command of the board's shell and return what it printed.

        Args:
            remote: the command, quoted for a POSIX shell.
            give: its standard input, or what writes it.

        Raises:
            BoardFailed: the board does not answer, it took too long, or its exit code is not 0.
        """
        process = subprocess.Popen(
            self.command(remote), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        with self._lock:
            self._running.add(process)
            if self._stopped:
                process.kill()
        late = threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(self.timeout_s, end)
        timer.start()
        try:
            out, err = _talk(process, give)
        finally:
            timer.cancel()
            with contextlib.suppress(OSError):
                process.kill()
            with self._lock:
                self._running.discard(process)
        if late.is_set():
            raise BoardFailed(f"took longer than {self.timeout_s:g} s")
        if process.returncode:
            raise BoardFailed(self._why(process.returncode, out, err))
        return out

    def send(self, folder: Path, names: Iterable[str], place: str, sent: Callable[[int], None] = lambda n: None) -> None:
        """Copy files of ``folder`` into the folder ``place`` there; ``sent`` is called with their bytes, file by file.

        Raises:
            BoardFailed: as for ``run``.
        """

        def write(pipe: IO[bytes]) -> None:
            with tarfile.open(fileobj=pipe, mode="w|", format=tarfile.USTAR_FORMAT) as tar:
                for name in names:
                    tar.add(folder / name, name, recursive=False)
                    sent((folder / name).stat().st_size)

        self.run(f"tar -xof - -C {place}", give=write)

    def stop(self) -> None:
        """End whatever runs, now and later."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                with contextlib.suppress(OSError):
                    process.kill()

    def _why(self, code: int, out: str, err: str) -> str:
        lines = [line.strip() for line in (err or out).splitlines() if line.strip()]
        last = (lines or [f"exit code {code}"])[-1].removeprefix("error: ")
        if code < 0:
            return "was stopped"
        if code != UNREACHABLE:
            return last
        if "identification has changed" in err or "Host key verification failed" in err:
            return (
                f"it has another key than before. If it was set up anew: edgeseg board remove {self.host.name}, and add it"
            )
        port = f"-p {self.host.port} " if self.host.port else ""
        if "Permission denied" in err:
            return f"lets nobody in with the key that was offered. Type: ssh-copy-id {port}{self.host.address}"
        return f"cannot be reached ({last}). See why: ssh {port}{self.host.address}"


def _talk(process: subprocess.Popen[bytes], give: bytes | Callable[[IO[bytes]], None]) -> tuple[str, str]:
    """Write to a process and read what it says, at once; a process that stops reading early says why itself."""
    pipes = (process.stdin, process.stdout, process.stderr)
    said: dict[int, bytes] = {}

    def read(k: int) -> None:
        pipe = pipes[k]
        said[k] = pipe.read() if pipe is not None else b""

    readers = [threading.Thread(target=read, args=(k,), daemon=True) for k in (1, 2)]
    for reader in readers:
        reader.start()
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if callable(give):
                give(process.stdin)
            else:
                process.stdin.write(give)
        with contextlib.suppress(OSError):
            process.stdin.close()
    process.wait()
    for reader in readers:
        reader.join(5)
    return said.get(1, b"").decode("utf-8", "replace"), said.get(2, b"").decode("utf-8", "replace")


def forget(host: Host) -> None:
    """Forget the key of a board."""
    file = known_hosts()
    if file.is_file() and shutil.which("ssh-keygen"):
        name = host.address.rpartition("@")[2]
        place = f"[{name}]:{host.port}" if host.port not in (0, 22) else name
        subprocess.run(["ssh-keygen", "-R", place, "-f", str(file)], capture_output=True)
