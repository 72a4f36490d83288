"""Runs a compiled file on the Edge TPU, or a kit's int8 network on the CPU with the reference kernels."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg.errors import EdgesegError
from edgeseg.manifest import Manifest, Tensor, read_zip

try:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType, load_delegate
except ImportError:
    from tflite_runtime.interpreter import Interpreter, OpResolverType, load_delegate

#: Name of the one operator that a compiled file has for all that runs on the Edge TPU.
CUSTOM = b"edgetpu-custom-op"
LIBRARIES = ("libedgetpu.so.1", "libedgetpu.1.dylib", "edgetpu.dll")
KIT_NETWORK = "model_int8.tflite"
KIT_NOTE = "a kit: its int8 network was run on the CPU with the reference kernels; nothing is compiled for the Edge TPU yet"


class Runtime:
    """A compiled file through libedgetpu, or a kit's folder.

    Args:
        path: the file or folder.
        threads: CPU threads for what does not run on the Edge TPU.

    Raises:
        EdgesegError: libedgetpu or the Edge TPU itself is missing, or the network has several inputs.
    """

    input: Tensor
    outputs: tuple[Tensor, ...]
    metadata: Mapping[str, Any]

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        kit = path.is_dir()
        file = path / KIT_NETWORK if kit else path
        if not file.is_file():
            raise EdgesegError(f"no kit: {KIT_NETWORK} is not in it", path=path, hint="Export it again")
        if kit:
            more: dict[str, Any] = {"experimental_op_resolver_type": OpResolverType.BUILTIN_REF}
        else:
            more = {"experimental_delegates": [_delegate(path)]} if is_compiled(file) else {}
        self._interpreter = Interpreter(model_path=str(file), num_threads=threads, **more)
        self._interpreter.allocate_tensors()
        inputs, details = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        if len(inputs) != 1:
            raise EdgesegError(f"{len(inputs)} inputs where one image is expected", path=path, hint="Is it a YOLO network?")
        self.metadata = read_zip(file)
        manifest = Manifest.from_metadata(self.metadata, path=str(path))
        if manifest is not None:
            # The compiler keeps names, and may change the order.
            order = {o.name: i for i, o in enumerate(manifest.outputs)}
            details = sorted(details, key=lambda d: order.get(d["name"], len(order)))
            if kit:
                self.metadata = replace(manifest, notes=(*manifest.notes, KIT_NOTE)).to_metadata()
        self._entry, self._indices = inputs[0]["index"], [d["index"] for d in details]
        self.input, self.outputs = _tensor(inputs[0]), tuple(_tensor(d) for d in details)

    def run(self, x: np.ndarray) -> list[np.ndarray]:
        """Outputs for one input array of the file's own shape and type."""
        self._interpreter.set_tensor(self._entry, x)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(i) for i in self._indices]


def is_compiled(file: Path) -> bool:
    """Whether any part of the file was compiled for the Edge TPU (nothing may have been mapped)."""
    with file.open("rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(CUSTOM) >= 0


def _delegate(path: Path) -> Any:
    problem = "libedgetpu is not installed"
    for library in LIBRARIES:
        try:
            return load_delegate(library)
        except OSError:
            continue
        except ValueError as e:
            # The library is there and finds no device that answers.
            problem = f"no Edge TPU answers ({str(e).strip().splitlines()[0] if str(e).strip() else 'no reason given'})"
            break
    raise EdgesegError(
        f"this file is compiled for the Edge TPU, and {problem}",
        path=path,
        hint="Install libedgetpu1-std (https://coral.ai/software), plug the device in and check its permissions; "
        "on the CPU, run the int8 TF Lite file",
    )


def _tensor(detail: Mapping[str, Any]) -> Tensor:
    shape = tuple(int(n) for n in detail["shape"])
    scale, zero_point = detail["quantization"]
    quantized = scale != 0.0
    return Tensor(
        detail["name"],
        shape,
        np.dtype(detail["dtype"]).name,
        "nhwc" if len(shape) == 4 else "nchw",
        float(scale) if quantized else None,
        int(zero_point) if quantized else None,
    )
