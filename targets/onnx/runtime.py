"""Runs an ONNX file with ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from edgeseg.errors import EdgesegError
from edgeseg.manifest import Tensor

_INTEGER = ("DequantizeLinear", "QLinearConv", "ConvInteger", "MatMulInteger")
_WEIGHTS = b"/weight/quantized"  # what ``qdq`` calls those that multiply floats and need no such operator
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
    crews = True

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
                hint="Is this a YOLO network?",
            )
        self.input = inputs[0]
        self.outputs = tuple(_tensor(o) for o in self._session.get_outputs())
        self._path = path
        self.metadata = dict(self._session.get_modelmeta().custom_metadata_map)

    def precision(self) -> str:
        """What is inside: int8 where there are quantized operators, fp16 where weights are half floats, else fp32.

        Operators are found by the bytes with which an ONNX node spells its type: no reader of ONNX is needed on a board.
        """
        content = self._path.read_bytes()
        if _WEIGHTS in content or any(_node(kind) in content for kind in _INTEGER):
            return "int8"
        if self.input.dtype == "float16":
            return "fp16"
        try:
            import onnx
        except ImportError:
            return "fp32"
        weights = onnx.load(self._path, load_external_data=False).graph.initializer
        halves = sum(w.data_type == onnx.TensorProto.FLOAT16 and len(w.dims) == 4 for w in weights)
        return (
            "fp16" if halves > sum(w.data_type == onnx.TensorProto.FLOAT and len(w.dims) == 4 for w in weights) else "fp32"
        )

    def run(self, x: np.ndarray) -> list[np.ndarray]:
        """Outputs for one input array of the file's own shape and type."""
        return self._session.run(None, {self.input.name: x})


def _node(kind: str) -> bytes:
    """``NodeProto.op_type``: field 4, a string with its length."""
    return b"\x22" + bytes([len(kind)]) + kind.encode()


def _tensor(value: Any) -> Tensor:
    kind = str(value.type).removeprefix("tensor(").removesuffix(")")
    shape = tuple(n if isinstance(n, int) and n > 0 else -1 for n in value.shape)
    return Tensor(value.name, shape, _DTYPES.get(kind, kind))
