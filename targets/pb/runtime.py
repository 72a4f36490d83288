"""Runs a frozen TensorFlow GraphDef on the CPU."""

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
    """A frozen graph, its one placeholder in and its leaves out.

    Args:
        path: the ``.pb`` file; its metadata lies in ``<file>.yaml``.
        threads: threads inside one operator (None: TensorFlow's choice). They are global to the process.

    Raises:
        EdgesegError: no frozen graph with one input.
    """

    input: Tensor
    outputs: tuple[Tensor, ...]
    metadata: Mapping[str, Any]

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        if threads:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
        definition = tf.compat.v1.GraphDef()
        definition.ParseFromString(path.read_bytes())
        entries = [n.name for n in definition.node if n.op == "Placeholder"]
        if len(entries) != 1:
            raise EdgesegError(f"{len(entries)} inputs where one image is expected", path=path)
        used = {i.removeprefix("^").split(":")[0] for n in definition.node for i in n.input}
        leaves = sorted(
            n.name for n in definition.node if n.name not in used and n.op not in ("Const", "NoOp", "Placeholder")
        )

        def load() -> None:
            tf.graph_util.import_graph_def(definition, name="")

        wrapped = tf.compat.v1.wrap_function(load, [])
        entry = wrapped.graph.as_graph_element(f"{entries[0]}:0")
        exits = [wrapped.graph.as_graph_element(f"{name}:0") for name in leaves]
        self._run = wrapped.prune(entry, exits)
        self.input = _tensor(entries[0], entry)
        self.outputs = tuple(_tensor(n, e) for n, e in zip(leaves, exits))
        self.metadata = read_sidecar(path, ours=named_by_us(o.name for o in self.outputs))

    def run(self, x: np.ndarray) -> list[np.ndarray]:
        """Outputs for one input array of the file's own shape and type."""
        return [t.numpy() for t in self._run(tf.constant(x))]


def _tensor(name: str, value: Any) -> Tensor:
    shape = tuple(-1 if n is None else n for n in value.shape)
    return Tensor(name, shape, value.dtype.as_numpy_dtype.__name__, "nhwc")
