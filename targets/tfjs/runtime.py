"""Runs a TF.js graph model with the real @tensorflow/tfjs: in node, a child process, on WebAssembly."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import struct
import subprocess
import tempfile
import warnings
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from edgeseg.environments import npm
from edgeseg.errors import EdgesegError
from edgeseg.manifest import Manifest, Tensor, read_sidecar

HERE = Path(__file__).resolve().parent
#: WebAssembly first; plain JavaScript runs everywhere, some fifty times slower.
BACKENDS = "wasm,cpu"


class Runtime:
    """One graph model in a node process of its own, which ends with this object.

    ``backend`` is what runs it, ``version`` that of TF.js. ``EDGESEG_TFJS_BACKEND`` (``wasm``, ``cpu`` or both with a comma)
    chooses.

    Args:
        path: the folder with ``model.json``.
        threads: without effect: TF.js has one thread in node.

    Raises:
        EdgesegError: node or its packages are missing, several inputs, or TF.js cannot load the model.
    """

    input: Tensor
    outputs: tuple[Tensor, ...]
    metadata: Mapping[str, Any]

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        del threads
        if not (path / "model.json").is_file():
            raise EdgesegError("no model.json in it", path=path, hint="Export the model again")
        self._path = path
        self._child, self._log = _start(path)
        self._end = weakref.finalize(self, _stop, self._child, self._log)
        hello, _ = self._receive()
        self.backend, self.version = str(hello["backend"]), str(hello["version"])
        if hello["failures"]:
            why = "; ".join(hello["failures"])
            warnings.warn(f"{path.name} runs on TF.js's slower backend {self.backend} ({why})", stacklevel=2)
        if len(hello["inputs"]) != 1:
            raise EdgesegError(f"{len(hello['inputs'])} inputs where one image is expected", path=path)
        self._feed = str(hello["inputs"][0]["node"])
        self.metadata = _metadata(path, hello["metadata"])
        names = [str(o["name"]) for o in hello["outputs"]]
        self._order = _order(names, self.metadata, path)
        self.input = _tensor(hello["inputs"][0])
        self.outputs = tuple(_tensor(hello["outputs"][i]) for i in self._order)

    def run(self, x: np.ndarray) -> list[np.ndarray]:
        """Outputs for one input array of the file's own shape and type."""
        self._send({"name": self._feed, "shape": x.shape, "dtype": self.input.dtype}, np.ascontiguousarray(x))
        header, payload = self._receive()
        arrays, offset = [], 0
        for out in header["outputs"]:
            dtype = np.dtype(_DTYPES.get(out["dtype"], "float32")).newbyteorder("<")
            count = int(out["bytes"]) // dtype.itemsize
            arrays.append(np.frombuffer(payload, dtype, count, offset).reshape(out["shape"]))
            offset += int(out["bytes"])
        return [arrays[i] for i in self._order]

    def close(self) -> None:
        """End the node process."""
        self._end()

    def _send(self, header: dict[str, Any], x: np.ndarray) -> None:
        text = json.dumps({**header, "bytes": x.nbytes}).encode()
        pipe: IO[bytes] = self._child.stdin  # type: ignore[assignment]
        try:
            pipe.write(struct.pack("<I", len(text)) + text)
            pipe.write(x.data)
            pipe.flush()
        except (OSError, ValueError) as e:
            raise self._ended() from e

    def _receive(self) -> tuple[dict[str, Any], bytes]:
        header = json.loads(self._read(struct.unpack("<I", self._read(4))[0]))
        payload = self._read(header["bytes"])
        if "error" in header:
            raise EdgesegError(f"TF.js cannot run it ({header['error']})", path=self._path, hint="Export the model again")
        return header, payload

    def _read(self, count: int) -> bytes:
        pipe: IO[bytes] = self._child.stdout  # type: ignore[assignment]
        data = pipe.read(count)
        if len(data) < count:
            raise self._ended()
        return data

    def _ended(self) -> EdgesegError:
        code = self._child.wait()
        self._log.seek(0)
        said = [line for line in self._log.read().decode(errors="replace").splitlines() if "Error" in line]
        return EdgesegError(f"node ended with code {code} ({said[-1].strip() if said else 'no message'})", path=self._path)


_DTYPES = {"float32": "float32", "int32": "int32", "bool": "uint8"}


def _start(path: Path) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    node = shutil.which("node")
    if node is None:
        raise EdgesegError("node is needed to run TF.js", path=path, hint="Install Node.js 18 or newer")
    packages = npm.ensure(HERE, say=lambda text: warnings.warn(f"{text}, once", stacklevel=4))
    backends = os.environ.get("EDGESEG_TFJS_BACKEND") or BACKENDS
    log = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the child
    command = [node, str(HERE / "runner.mjs"), str(packages), str(path.resolve()), backends]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log), log


def _stop(child: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    try:
        child.wait(timeout=2)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    log.close()


def _metadata(path: Path, inside: Mapping[str, Any]) -> dict[str, Any]:
    """Of the sidecar; what model.json holds serves where that was lost."""
    return read_sidecar(path) or {k: v for k, v in inside.items() if k != "structuredOutputKeys"}


def _order(names: Sequence[str], metadata: Mapping[str, Any], path: Path) -> list[int]:
    """Outputs in the manifest's order, which a signature does not keep; in the file's where there is no manifest."""
    manifest = Manifest.from_metadata(metadata, path=str(path))
    wanted = [o.name for o in manifest.outputs] if manifest is not None else list(names)
    if sorted(wanted) != sorted(names):
        raise EdgesegError(f"outputs {sorted(names)} are not those of its manifest", path=path, hint="Export it again")
    return [names.index(n) for n in wanted]


def _tensor(info: Mapping[str, Any]) -> Tensor:
    shape = tuple(int(n) if n is not None and int(n) > 0 else -1 for n in info["shape"] or ())
    return Tensor(str(info["name"]), shape, str(info["dtype"]), "nhwc")
