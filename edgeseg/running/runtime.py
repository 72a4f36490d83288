"""What runs a model: one interface, whether it runs here, in a process of its own, or is a network of PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from edgeseg.errors import EdgesegError
from edgeseg.kernel import cores
from edgeseg.manifest import Tensor, size_on_disk

CREW, CREW_BYTES = 4, 1 << 28
"""Runtimes at once, at most, and bytes of their files together: each holds its weights in memory."""


class TargetRuntime(Protocol):
    """What a target's ``runtime.py`` offers as ``class Runtime``: it loads an artifact and returns output tensors.

    ``input`` and ``outputs`` are read from the file itself. ``metadata`` is what the file (or its sidecar) says, {} if
    nothing. ``run`` takes the input in the file's own shape and dtype and returns the outputs in the order of ``outputs``;
    the arrays stay valid until the next ``run``. It may have ``guesses`` (sentences on what the file does not say) and
    ``precision()`` (fp32, fp16 or int8, by what is inside), for files that edgeseg did not write; ``crews = True``: several
    in one process may run at once, and give the same bits with any number of threads.
    """

    input: Tensor
    outputs: tuple[Tensor, ...]
    metadata: Mapping[str, Any]

    def __init__(self, path: Path, *, threads: int | None = None) -> None: ...

    def run(self, x: np.ndarray) -> list[np.ndarray]: ...


class Runtime(Protocol):
    """An opened model that runs: what a target offers, timed, and closed when it is done with.

    ``seconds`` is what the last ``run`` took. ``precision`` is empty where the file does not tell. ``to`` moves it to
    another device or is an ``EdgesegError``. Closing twice is no error; running after it is.
    """

    input: Tensor
    outputs: tuple[Tensor, ...]
    metadata: Mapping[str, Any]
    guesses: tuple[str, ...]
    device: str
    seconds: float

    @property
    def precision(self) -> str: ...

    def run(self, x: np.ndarray) -> list[np.ndarray]: ...

    def to(self, device: str) -> None: ...

    def close(self) -> None: ...


class Local:
    """A target's runtime in this process; its faults name the file, some of which come to light only while it runs."""

    def __init__(self, runtime: TargetRuntime, path: Path | None = None, threads: int | None = None) -> None:
        self._runtime: TargetRuntime | None = runtime
        self._path, self._threads = path, threads
        self.input, self.outputs, self.metadata = runtime.input, runtime.outputs, runtime.metadata
        self.guesses: tuple[str, ...] = tuple(getattr(runtime, "guesses", ()))
        self.device = str(getattr(runtime, "device", "cpu"))
        self.seconds = 0.0

    @property
    def precision(self) -> str:
        """By what is inside; to look may take as long as to load."""
        precision = getattr(self._runtime, "precision", None)
        return "" if precision is None else str(precision())

    def run(self, x: np.ndarray) -> list[np.ndarray]:
        """The outputs for one input array, as the target gives them."""
        if self._runtime is None:
            raise EdgesegError("this model was closed", hint="Open it again")
        start = perf_counter()
        try:
            outputs = self._runtime.run(x)
        except EdgesegError:
            raise
        except Exception as e:
            raise EdgesegError(
                f"its runtime cannot run it ({first_line(e)})", path=self._path, hint="Export it again"
            ) from e
        self.seconds = perf_counter() - start
        return outputs

    def crew(self) -> list[Local]:
        """More of the same that share the CPU's cores and run at once, for many images; none where that is not to be had.

        Worth it where the threads of one image spin while they wait for each other.
        """
        shared = self._threads or cores()
        if self._path is None or self._runtime is None or not getattr(self._runtime, "crews", False):
            return []
        count = min(shared, CREW, CREW_BYTES // size_on_disk(self._path))
        if count < 2:
            return []
        return [Local(type(self._runtime)(self._path, threads=shared // count), self._path) for _ in range(count)]

    def to(self, device: str) -> None:
        """Only where it is."""
        stay(self.device, device)

    def close(self) -> None:
        """Let go of the runtime and its memory."""
        self._runtime = None


def first_line(e: BaseException) -> str:
    """What an exception says, without the story behind it."""
    return (str(e).strip() or type(e).__name__).splitlines()[0]


def stay(here: str, device: str) -> None:
    """``to`` of what cannot be moved.

    Raises:
        EdgesegError: ``device`` is not ``here``.
    """
    if device != here:
        hint = "Leave device out, or run the checkpoint: it goes to any device of torch"
        raise EdgesegError(f"it runs on {here} here, not on device={device}", hint=hint)
