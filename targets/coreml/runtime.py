"""Runs a Core ML package: with Core ML on macOS, elsewhere with the evaluator of the saved program."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg.errors import EdgesegError
from edgeseg.manifest import Tensor

from .program import read_program


class Runtime:
    """One Core ML package. On macOS it needs coremltools; elsewhere it needs NumPy only, and is slow.

    Args:
        path: the ``.mlpackage`` folder.
        threads: has no meaning to Core ML, which chooses between CPU, GPU and Neural Engine itself.

    Raises:
        EdgesegError: a damaged package, an operator that the evaluator does not know, or no coremltools on macOS.
    """

    input: Tensor
    outputs: tuple[Tensor, ...]
    metadata: Mapping[str, Any]

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        program = read_program(path)
        self.input, self.outputs, self.metadata = program.input, program.outputs, program.metadata
        self._image = program.image
        self._model, self._evaluator = None, None
        if sys.platform == "darwin":
            self._model = _core_ml(path)
        else:
            from .evaluate import Evaluator

            self._evaluator = Evaluator(program)

    def run(self, x: np.ndarray) -> list[np.ndarray]:
        """Outputs for one float array (N, 3, H, W), RGB in 0..1."""
        if self._evaluator is not None:
            found: list[np.ndarray] = self._evaluator.run(x)
            return found
        value: Any = x
        if self._image is not None:
            from PIL import Image

            value = Image.fromarray(np.rint(x[0].transpose(1, 2, 0) * 255).astype(np.uint8))
        predicted = self._model.predict({self.input.name: value})  # type: ignore[attr-defined]
        return [np.asarray(predicted[o.name]) for o in self.outputs]


def _core_ml(path: Path) -> Any:
    if importlib.util.find_spec("coremltools") is None:
        raise EdgesegError("to run Core ML here, coremltools is needed", path=path, hint="pip install coremltools==9.0")
    import coremltools

    return coremltools.models.MLModel(str(path), compute_units=coremltools.ComputeUnit.ALL)
