"""Runs a TF Lite file with LiteRT, or with the older tflite-runtime where that alone is installed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg.errors import EdgesegError
from edgeseg.manifest import Tensor, read_zip

try:
    from ai_edge_litert.interpreter import Interpreter
except ImportError:
    from tflite_runtime.interpreter import Interpreter


class Runtime:
    """An interpreter with the XNNPACK delegate, which is LiteRT's default.

    Args:
        path: the ``.tflite`` file; it is mapped, not read.
        threads: threads inside one operator (None: the physical cores that this process may use).

    Raises:
        EdgesegError: the network has several inputs.
    """

    input: Tensor
    outputs: tuple[Tensor, ...]
    metadata: Mapping[str, Any]

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        self._path = str(path)
        self._interpreter = Interpreter(model_path=self._path, num_threads=threads or physical_cores())
        self._interpreter.allocate_tensors()
        inputs = self._interpreter.get_input_details()
        if len(inputs) != 1:
            found = ", ".join(f"{d['name']} {tuple(d['shape'])}" for d in inputs)
            raise EdgesegError(
                f"{len(inputs)} inputs ({found}) where one image is expected",
                path=path,
                hint="Is this a YOLO network?",
            )
        details = self._interpreter.get_output_details()
        self._entry, self._indices = inputs[0]["index"], [d["index"] for d in details]
        self.input, self.outputs = _tensor(inputs[0]), tuple(_tensor(d) for d in details)
        self.metadata = read_zip(path)

    def precision(self) -> str:
        """What is inside: int8 where some weights are 8-bit integers, fp16 where they are half floats, else fp32."""
        kinds, constants = set(), Interpreter(model_path=self._path)  # not allocated, it holds constants only
        for d in constants.get_tensor_details():
            with contextlib.suppress(ValueError):
                kinds |= {constants.get_tensor(d["index"]).dtype.name} if len(d["shape"]) == 4 else set()
        return "int8" if kinds & {"int8", "uint8"} else "fp16" if "float16" in kinds else "fp32"

    def run(self, x: np.ndarray) -> list[np.ndarray]:
        """Outputs for one input array of the file's own shape and type."""
        self._interpreter.set_tensor(self._entry, x)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(i) for i in self._indices]


def physical_cores() -> int:
    """Cores that this process may use, hyper-threads counted once: a second thread on a core only slows XNNPACK down."""
    try:
        cpus = os.sched_getaffinity(0)
        siblings = {
            Path(f"/sys/devices/system/cpu/cpu{c}/topology/thread_siblings_list").read_text(encoding="ascii") for c in cpus
        }
        return max(1, len(siblings))
    except (AttributeError, OSError):  # not Linux, or no /sys
        return os.cpu_count() or 1


def _tensor(detail: Mapping[str, Any]) -> Tensor:
    shape = tuple(int(n) for n in detail.get("shape_signature", detail["shape"]))
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
