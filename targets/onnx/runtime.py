"""Runs an ONNX file with ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from edgeseg.errors import EdgesegError
from edgeseg.manifest import Tensor

_DTYPES = {"float": "float32", "double": "float64"}


class Runtime:
    """One ONNX Runtime session. Free dimensions show as -1; all tensors are reported channels first.

    Args:
        path: the ``.onnx`` file.
        threads: threads inside one operator (None: ONNX Runtime takes the physical cores).

    Raises:
        EdgesegError: the network has several inputs.
    """

    input: Tensor
    outputs: tuple[Tensor, ...]
    metadata: Mapping[str, Any]

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if threads:
            options.intra_op_num_threads = threads
        self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        inputs = [_tensor(i) for i in self._session.get_inputs()]
        if len(inputs) != 1:
            found = ", ".join(f"{i.name} {i.shape}" for i in inputs)
            raise EdgesegError(
                f"{len(inputs)} inputs ({found}) where one image is expected",
                path=path,
                hint="Is this a YOLOv8-seg network?",
            )
        self.input = inputs[0]
        self.outputs = tuple(_tensor(o) for o in self._session.get_outputs())
        self.metadata = dict(self._session.get_modelmeta().custom_metadata_map)

    def run(self, x: np.ndarray) -> list[np.ndarray]:
        """Outputs for one input array of the file's own shape and type."""
        return self._session.run(None, {self.input.name: x})


def _tensor(value: Any) -> Tensor:
    kind = str(value.type).removeprefix("tensor(").removesuffix(")")
    shape = tuple(n if isinstance(n, int) and n > 0 else -1 for n in value.shape)
    return Tensor(value.name, shape, _DTYPES.get(kind, kind))
