"""Runs a TensorRT engine on the GPU that built it, or a build kit's ONNX file in ONNX Runtime."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg.errors import EdgesegError
from edgeseg.manifest import Manifest, Tensor

KIT_NOTE = "a build kit: its ONNX file was run in ONNX Runtime, no engine is built yet"


class Runtime:
    """An engine file (with or without metadata in front of it), or a kit's folder.

    Args:
        path: the file or folder.
        threads: CPU threads, for a kit only.

    Raises:
        EdgesegError: the engine was built for another GPU or TensorRT version, or TensorRT refuses it.
    """

    input: Tensor
    outputs: tuple[Tensor, ...]
    metadata: Mapping[str, Any]

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        self._inner: _Kit | _Engine = _Kit(path, threads) if path.is_dir() else _Engine(path)
        self.input, self.outputs, self.metadata = self._inner.input, self._inner.outputs, self._inner.metadata
        self.device = "cpu" if path.is_dir() else "cuda:0"

    def run(self, x: np.ndarray) -> list[np.ndarray]:
        """Outputs for one input array of the file's own shape and type."""
        return self._inner.run(x)


class _Kit:
    def __init__(self, path: Path, threads: int | None) -> None:
        file = path / "metadata.json"
        try:
            metadata = json.loads(file.read_text(encoding="utf-8"))
            metadata.pop("build", None)
        except (OSError, ValueError, AttributeError, TypeError) as e:
            raise EdgesegError("no build kit: its metadata cannot be read", path=file, hint="Export it again") from e
        from ..onnx.runtime import Runtime as OnnxRuntime

        self._runtime = OnnxRuntime(path / "model.onnx", threads=threads)
        self.input, self.outputs, self.run = self._runtime.input, self._runtime.outputs, self._runtime.run
        manifest = Manifest.from_metadata(metadata, path=str(path))
        if manifest is not None:
            metadata = replace(manifest, notes=(*manifest.notes, KIT_NOTE)).to_metadata()
        self.metadata: Mapping[str, Any] = metadata


class _Engine:
    def __init__(self, path: Path) -> None:
        from . import build

        engine, self.metadata = build.unpack(path.read_bytes())
        manifest = Manifest.from_metadata(self.metadata, path=str(path))
        trt = build.import_tensorrt()
        if trt is None:
            raise EdgesegError("to run it, TensorRT is needed", path=path, hint="On a Jetson: sudo apt-get install tensorrt")
        if build.version_key(trt.__version__) < (8, 5, 0):
            raise EdgesegError(f"TensorRT {trt.__version__} is too old (8.5 runs it)", path=path, hint="Update JetPack")
        try:
            self._cuda = build.Cuda()
            here = {"tensorrt": trt.__version__, **self._cuda.facts()}
            why = refusal(_facts(self.metadata), here)
            if why:
                raise EdgesegError(why, path=path, hint=f"Build it here: {rebuild_command(manifest)}")
            self._cuda.start()
        except build.BuildError as e:
            raise EdgesegError(e.what, path=path, hint=e.hint) from e
        self._trt, self._logger = trt, trt.Logger(trt.Logger.ERROR)
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(engine)
        if self._engine is None:
            raise EdgesegError(
                f"TensorRT {trt.__version__} refuses this engine on {here['gpu']}; what it printed says why",
                path=path,
                hint=f"Build it here: {rebuild_command(manifest)}",
            )
        self._context = self._engine.create_execution_context()
        tensors = [self._tensor(self._engine.get_tensor_name(i)) for i in range(self._engine.num_io_tensors)]
        inputs = [t for t in tensors if self._engine.get_tensor_mode(t.name) == trt.TensorIOMode.INPUT]
        if len(inputs) != 1:
            raise EdgesegError(f"{len(inputs)} inputs where one image is expected", path=path, hint="Is it a YOLO network?")
        self.input = inputs[0]
        outputs = {t.name: t for t in tensors if t.name != self.input.name}
        order = [o.name for o in manifest.outputs] if manifest is not None else []
        self.outputs = tuple(outputs[n] for n in (order if set(order) == set(outputs) else outputs))
        self._device: dict[str, tuple[int, int]] = {}
        self._host: dict[str, np.ndarray] = {}

    def _tensor(self, name: str) -> Tensor:
        dtype = np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(name))).name
        return Tensor(name, tuple(self._engine.get_tensor_shape(name)), dtype)

    def run(self, x: np.ndarray) -> list[np.ndarray]:
        x = np.ascontiguousarray(x, self.input.dtype)
        self._cuda.use()
        self._context.set_input_shape(self.input.name, x.shape)
        self._bind(self.input.name, x.nbytes)
        for out in self.outputs:
            shape = tuple(self._context.get_tensor_shape(out.name))
            if out.name not in self._host or self._host[out.name].shape != shape:
                self._host[out.name] = np.empty(shape, out.dtype)
            self._bind(out.name, self._host[out.name].nbytes)
        self._cuda.upload(self._device[self.input.name][0], x.ctypes.data, x.nbytes)
        if not self._context.execute_async_v3(self._cuda.stream.value):
            raise EdgesegError("TensorRT could not run the engine; what it printed says why")
        for out in self.outputs:
            host = self._host[out.name]
            self._cuda.download(host.ctypes.data, self._device[out.name][0], host.nbytes)
        self._cuda.wait()
        return [self._host[o.name] for o in self.outputs]

    def _bind(self, name: str, size: int) -> None:
        """Device memory of at least ``size`` bytes for a tensor; kept, since sizes rarely change."""
        address, held = self._device.get(name, (0, 0))
        if held < size:
            if address:
                self._cuda.free(address)
            self._device[name] = (self._cuda.allocate(size), size)
        self._context.set_tensor_address(name, self._device[name][0])

    def __del__(self) -> None:
        # While the interpreter ends, the driver may be gone before this: its memory is then given back with the process.
        with contextlib.suppress(Exception):
            self._cuda.use()
            for address, _ in self._device.values():
                self._cuda.free(address)


def _facts(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        value = json.loads(metadata.get("engine", "{}"))
    except (TypeError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def refusal(built: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Why an engine built as ``built`` cannot run ``here``, in one sentence; empty if nothing speaks against it.

    Both hold ``gpu``, ``compute_capability`` and ``tensorrt``; what is missing is not compared (engines of other tools).
    NVIDIA: an engine fits the version and the GPU model that it was built with.
    """
    from .build import version_key as key

    differs = [k for k in ("gpu", "compute_capability") if k in built and built[k] != here.get(k)]
    if "tensorrt" in built and key(built["tensorrt"]) != key(here.get("tensorrt", "")):
        differs.append("tensorrt")
    if not differs:
        return ""
    return f"this engine was built for {_words(built)}, and this machine has {_words(here)}"


def _words(facts: Mapping[str, Any]) -> str:
    gpu = facts.get("gpu", "another GPU")
    return f"{gpu} (compute capability {facts.get('compute_capability', '?')}) with TensorRT {facts.get('tensorrt', '?')}"


def rebuild_command(manifest: Manifest | None) -> str:
    """The command that makes such an engine again, as far as the manifest tells."""
    if manifest is None:
        return "edgeseg export <checkpoint>.pt --format engine"
    words = [f"edgeseg export {manifest.source.get('file', '<checkpoint>.pt')} --format engine"]
    words += {"fp16": ["--half"], "int8": ["--int8"]}.get(manifest.precision, [])
    height, width = manifest.imgsz
    words += [f"--imgsz {height}" if height == width else f"--imgsz {height},{width}"]
    words += [f"--batch {manifest.batch}"] if manifest.batch > 1 else []
    words += ["--dynamic"] if manifest.dynamic else []
    words += [f"--head {manifest.head}"] if manifest.head != "raw" else []
    return " ".join(words)
