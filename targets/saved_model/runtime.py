"""Runs a TensorFlow SavedModel folder on the CPU."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it when it is imported, and is loud without it

import tensorflow as tf

from edgeseg.errors import EdgesegError
from edgeseg.manifest import Tensor, named_by_us, read_sidecar


class Runtime:
    """The ``serving_default`` signature of a SavedModel. Outputs are sorted by name: the file stores no order.

    Args:
        path: the folder with ``saved_model.pb``.
        threads: threads inside one operator (None: TensorFlow's choice). They are global to the process.

    Raises:
        EdgesegError: no such signature, or several inputs.
    """

    input: Tensor
    outputs: tuple[Tensor, ...]
    metadata: Mapping[str, Any]

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        if threads:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
        self._model = tf.saved_model.load(str(path))  # the function keeps no reference to its variables
        if "serving_default" not in self._model.signatures:
            raise EdgesegError("no signature serving_default", path=path, hint="Export the model again")
        self._serve = self._model.signatures["serving_default"]
        inputs = self._serve.structured_input_signature[1]
        if len(inputs) != 1:
            raise EdgesegError(f"{len(inputs)} inputs where one image is expected", path=path)
        ((name, spec),) = inputs.items()
        self.input = _tensor(name, spec)
        self.outputs = tuple(_tensor(n, s) for n, s in sorted(self._serve.structured_outputs.items()))
        self.metadata = read_sidecar(path, ours=named_by_us(o.name for o in self.outputs))

    def run(self, x: np.ndarray) -> list[np.ndarray]:
        """Outputs for one input array of the file's own shape and type."""
        found = self._serve(**{self.input.name: tf.constant(x)})
        return [found[o.name].numpy() for o in self.outputs]


def _tensor(name: str, spec: Any) -> Tensor:
    shape = tuple(-1 if n is None else n for n in spec.shape)
    return Tensor(name, shape, spec.dtype.as_numpy_dtype.__name__, "nhwc")
