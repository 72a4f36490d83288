"""A runtime in a process of its own: the same interface, with the tensors sent through pipes.

Some runtimes live in another environment than this one, and some crash each other when they share a process. The child is
this very file, run as a program by the interpreter that has the runtime; it needs NumPy and PyYAML and nothing else of ours.

Both ways a message is a line of JSON, then the raw bytes of the arrays that the line announces.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import IO, Any

import numpy as np

from edgeseg.environments import python_env as children
from edgeseg.errors import EdgesegError
from edgeseg.manifest import Tensor
from edgeseg.registry import target_by_name, target_by_path
from edgeseg.running.runtime import Local, Runtime, TargetRuntime, first_line, stay


class RemoteRuntime:
    """An artifact opened in a child process. Close it, or leave a ``with`` block, to end the child.

    Args:
        path: the artifact.
        threads: CPU threads of its runtime (None: the runtime's choice).
        python: the interpreter that has the runtime's packages (default: this one).
        env: environment variables of the child (default: this process's).
        format: the target's name, where the suffix alone does not tell it; ``network`` or ``network-decoded`` for a
            checkpoint with that head, where the interpreter has torch.

    Attributes:
        seconds: what the last ``run`` took inside the child, without the pipes.

    Raises:
        EdgesegError: what the runtime said, or that the child ended and how.
    """

    input: Tensor
    outputs: tuple[Tensor, ...]
    metadata: Mapping[str, Any]

    def __init__(
        self,
        path: Path,
        *,
        threads: int | None = None,
        python: Path | str = sys.executable,
        env: Mapping[str, str] | None = None,
        format: str = "",
    ) -> None:
        self.path, self.seconds, self.device = Path(path), 0.0, "cpu"
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the child
        command = children.command(python, "edgeseg.running.remote", str(Path(path).resolve()), format, str(threads or 0))
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=children.environment(env),
        )
        hello, _ = self._receive()
        self.input = Tensor(**hello["input"])
        self.outputs = tuple(Tensor(**o) for o in hello["outputs"])
        self.metadata, self.guesses = hello["metadata"], tuple(hello.get("guesses", ()))
        self.precision, self.device = str(hello.get("precision", "")), str(hello.get("device", "cpu"))

    def run(self, x: np.ndarray) -> list[np.ndarray]:
        """Outputs for one input array of the file's own shape and type."""
        try:
            _send(self._pipe(self._child.stdin), {}, [x])
        except OSError:
            raise self._ended() from None
        answer, arrays = self._receive()
        self.seconds = float(answer["seconds"])
        return arrays

    def to(self, device: str) -> None:
        """Only where it is."""
        stay(self.device, device)

    def close(self) -> None:
        """End the child. Further runs are errors."""
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                with suppress(OSError):  # what a child that has ended did not take
                    pipe.close()
        try:
            self._child.wait(5)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._errors.close()

    def __enter__(self) -> RemoteRuntime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        child = getattr(self, "_child", None)
        if child is not None and child.poll() is None:
            child.kill()
            child.wait()

    def _receive(self) -> tuple[dict[str, Any], list[np.ndarray]]:
        try:
            header, arrays = _read(self._pipe(self._child.stdout))
        except (EOFError, OSError, ValueError):
            raise self._ended() from None
        if "error" in header:
            raise EdgesegError(**header["error"])
        return header, arrays

    @staticmethod
    def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
        if pipe is None or pipe.closed:
            raise EOFError
        return pipe

    def _ended(self) -> EdgesegError:
        self._child.kill()
        code = self._child.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        last = f": {lines[-1]}" if lines else ""
        return EdgesegError(f"the process that ran it ended ({how}){last}", path=self.path, hint="Export it again")


def _send(pipe: IO[bytes], header: Mapping[str, Any], arrays: Sequence[np.ndarray]) -> None:
    whole = [np.ascontiguousarray(a) for a in arrays]
    shapes = [{"shape": a.shape, "dtype": a.dtype.name} for a in whole]
    pipe.write(json.dumps({**header, "arrays": shapes}, default=str).encode() + b"\n")
    for a in whole:
        pipe.write(a.reshape(-1).view(np.uint8).data)
    pipe.flush()


def _read(pipe: IO[bytes]) -> tuple[dict[str, Any], list[np.ndarray]]:
    line = pipe.readline()
    if not line:
        raise EOFError
    header = json.loads(line)
    arrays = []
    for spec in header.pop("arrays"):
        a = np.empty(spec["shape"], dtype=spec["dtype"])
        view, got = a.reshape(-1).view(np.uint8).data, 0
        while got < len(view):
            count = pipe.readinto(view[got:])  # type: ignore[attr-defined]
            if not count:
                raise EOFError
            got += count
        arrays.append(a)
    return header, arrays


def _as_dict(t: Tensor) -> dict[str, Any]:
    return {k: getattr(t, k) for k in ("name", "shape", "dtype", "layout", "scale", "zero_point")}


def _open(path: Path, format: str, threads: int | None) -> Runtime:
    if format.partition("-")[0] == "network":
        from edgeseg.network.runtime import NetworkRuntime

        return NetworkRuntime(path, threads=threads, head=format.partition("-")[2] or "raw")
    target = target_by_name(format) if format else target_by_path(path)
    if target is None:
        raise EdgesegError("no known format has this suffix", path=path)
    runtime: TargetRuntime = target.load("runtime").Runtime(path, threads=threads)
    return Local(runtime, path)


def serve(path: Path, format: str, threads: int) -> None:
    """The child: open the artifact, tell its tensors, then answer until the pipe closes."""
    # Runtimes print to stdout as they please: what they print goes to stderr, and the pipe stays ours.
    answers, requests = os.fdopen(os.dup(1), "wb"), os.fdopen(os.dup(0), "rb")
    os.dup2(2, 1)
    try:
        runtime = _open(path, format, threads or None)
        tensors = {"input": _as_dict(runtime.input), "outputs": [_as_dict(o) for o in runtime.outputs]}
        about = {"metadata": dict(runtime.metadata), "guesses": list(runtime.guesses), "device": runtime.device}
        if "edgeseg" not in runtime.metadata:
            about["precision"] = runtime.precision
        _send(answers, {**tensors, **about}, [])
        while True:
            try:
                _, (x,) = _read(requests)
            except EOFError:
                return
            start = perf_counter()
            outputs = runtime.run(x)
            _send(answers, {"seconds": perf_counter() - start}, outputs)
    except EdgesegError as e:
        error = {"what": e.what, "path": None if e.path is None else str(e.path), "line": e.line, "hint": e.hint}
        _send(answers, {"error": error}, [])
    except Exception as e:
        _send(answers, {"error": {"what": f"its runtime failed ({first_line(e)})", "path": str(path), "hint": ""}}, [])


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
