"""Processes that begin with their imports done: forked from one that has imported what they need, and does nothing else.

Importing PyTorch and its tracer takes as long as many a step of an export, and an export has several such steps. A fork
is a process of its own all the same: what crashes, hangs or eats memory there harms no other.

A process is forked while it has one thread and has computed nothing yet, which is what makes it safe. Where that cannot be
had (no Linux, a module that starts threads when it is imported) there are no forks, and programs are started as usual.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn, Protocol

from edgeseg.environments import python_env as children

_LONGEST = 1 << 17
"""Bytes of an order at most: a command with its environment variables."""


class Child(Protocol):
    """A running process, as ``subprocess.Popen`` has it."""

    pid: int
    stdin: IO[bytes] | None
    stdout: IO[bytes] | None

    def poll(self) -> int | None:
        """Its exit code, minus the number of the signal that ended it; None: it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code once it has ended; ``subprocess.TimeoutExpired`` after ``timeout`` seconds."""


class Forks:
    """Starts Python programs in forks of one process. Close it when the last has ended.

    Args:
        modules: what to import beforehand; those that are not there are left out.
        env: environment variables of that process; see ``python_env``.
    """

    def __init__(self, modules: Sequence[str], env: Mapping[str, str]) -> None:
        self._orders: socket.socket | None = None
        if sys.platform != "linux":
            return
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                children.command(sys.executable, __name__, str(theirs.fileno()), *modules),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                # Threads of a linear algebra library would be there before the fork.
                env={**env, "OPENBLAS_NUM_THREADS": "1"},
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def start(
        self, module: str, words: Sequence[str], *, stderr: IO[bytes], cwd: Path, env: Mapping[str, str]
    ) -> Child | None:
        """``python -m module words`` in a session of its own, with pipes to its stdin and from its stdout.

        Waits until the imports are done. None: it cannot be forked; start it as usual.
        """
        if self._orders is None:
            return None
        order = json.dumps({"module": module, "words": list(words), "cwd": str(cwd), "env": dict(env)}).encode()
        pipes = [os.pipe() for _ in range(3)]
        (stdin_of, stdin), (stdout, stdout_of), (told, tells) = pipes
        try:
            socket.send_fds(self._orders, [order], [stdin_of, stdout_of, stderr.fileno(), tells])
        except OSError:  # it is gone, or the order is too long
            for end in (*pipes[0], *pipes[1], *pipes[2]):
                os.close(end)
            return None
        for end in (stdin_of, stdout_of, tells):
            os.close(end)
        child = _Forked(os.fdopen(stdin, "wb", 0), os.fdopen(stdout, "rb"), os.fdopen(told, "rb", 0))
        if child.pid:
            return child
        child.close()
        return None

    def close(self) -> None:
        """End the process that forks, once what it started has ended."""
        if self._orders is not None:
            self._orders.close()
            self._process.wait()
            self._orders = None


class _Forked:
    """A forked process, seen through the pipe on which its number and its exit code come, each a line."""

    def __init__(self, stdin: IO[bytes], stdout: IO[bytes], told: IO[bytes]) -> None:
        self.stdin: IO[bytes] | None = stdin
        self.stdout: IO[bytes] | None = stdout
        self._told = told
        self.pid = int(told.readline() or 0)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """See ``Child``."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """See ``Child``."""
        if self.returncode is None:
            ended = select.poll()
            ended.register(self._told, select.POLLIN)
            if not ended.poll(None if timeout is None else timeout * 1000):
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            # Nothing said: whoever watched over it was killed.
            self.returncode = int(self._told.readline() or -signal.SIGKILL)
            self._told.close()
        return self.returncode

    def close(self) -> None:
        """Close the pipes of one that never was."""
        for pipe in (self.stdin, self.stdout, self._told):
            if pipe is not None:
                pipe.close()


def main(argv: list[str]) -> int:
    """Import the modules ``argv[1:]``, then fork for every order that comes in on socket ``argv[0]``, until it is closed."""
    orders = socket.socket(fileno=int(argv[0]))
    for name in argv[1:]:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    if len(os.listdir("/proc/self/task")) > 1:
        return 1
    while True:
        data, descriptors, _, _ = socket.recv_fds(orders, _LONGEST, 4)
        if not data:
            break
        _reap(os.WNOHANG)
        if os.fork() == 0:
            orders.close()
            _watch(json.loads(data), descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
    _reap(0)  # so that what they computed counts as computed by this process's children
    return 0


def _reap(options: int) -> None:
    """Wait for those who watch: all, or those that have ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, options)[0]:
            pass


def _watch(order: dict[str, Any], descriptors: list[int]) -> NoReturn:
    """Fork the program, and tell its exit code when it has ended."""
    *streams, tells = descriptors
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.write(tells, b"%d\n" % os.getpid())  # not before: whoever knows the number may kill the session
        os.close(tells)
        _run(order, streams)
    for descriptor in streams:
        os.close(descriptor)
    os.write(tells, b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    os._exit(0)


def _run(order: dict[str, Any], streams: list[int]) -> NoReturn:
    """Become the program."""
    import runpy
    import traceback

    code = 1
    try:
        for number, descriptor in enumerate(streams):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.chdir(order["cwd"])
        os.environ.clear()
        os.environ.update(order["env"])
        tempfile.tempdir = None  # it is named in the environment
        sys.path[:] = [p for p in (*order["env"].get("PYTHONPATH", "").split(os.pathsep), *sys.path) if p]
        if "torch" in sys.modules:  # it has read the number of threads of another environment
            sys.modules["torch"].set_num_threads(int(order["env"].get("OMP_NUM_THREADS", os.cpu_count() or 1)))
        sys.argv = [order["module"], *order["words"]]
        runpy.run_module(order["module"], None, "__main__", True)
        code = 0
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else int(e.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))  # no thread that a module has started is waited for
