"""Runs a TorchScript archive with PyTorch on the CPU."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgeseg.errors import EdgesegError
from edgeseg.manifest import Manifest, Tensor

METADATA = "config.txt"


class Runtime:
    """A loaded archive. TorchScript stores no shapes: the manifest tells them, else one run on a blank image.

    Args:
        path: the ``.torchscript`` file.
        threads: PyTorch's threads inside one operator (None: PyTorch's own choice). They are global to the process.
    """

    input: Tensor
    outputs: tuple[Tensor, ...]
    metadata: Mapping[str, Any]

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        if threads:
            torch.set_num_threads(threads)
        extra = {METADATA: ""}
        self._module = torch.jit.load(str(path), map_location="cpu", _extra_files=extra).eval()
        self.metadata = _parse(extra[METADATA])
        manifest = Manifest.from_metadata(self.metadata, path=str(path))
        if manifest is not None:
            self.input, self.outputs = manifest.input, manifest.outputs
            return
        height, width = _imgsz(self.metadata.get("imgsz"), path)
        batch = int(self.metadata.get("batch", 1))
        self.input = Tensor("images", (batch, 3, height, width))
        blank = np.full(self.input.shape, 114 / 255, dtype=np.float32)
        self.outputs = tuple(Tensor(f"output_{i}", a.shape, a.dtype.name) for i, a in enumerate(self.run(blank)))

    def run(self, x: np.ndarray) -> list[np.ndarray]:
        """Outputs for one float32 array (N, 3, H, W)."""
        # The profiling executor recompiles during the second run (seconds) and gains nothing on convolutions.
        with torch.inference_mode(), torch.jit.optimized_execution(False):
            return [t.numpy() for t in _flat(self._module(torch.from_numpy(x)))]


def _flat(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [t for v in value for t in _flat(v)] if isinstance(value, Sequence) else []


def _parse(text: str | bytes) -> dict[str, Any]:
    try:
        value = json.loads(text) if text else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _imgsz(value: Any, path: Path) -> tuple[int, int]:
    """(height, width) from metadata as a list, its text, or one number; 640 x 640 when there is none."""
    if value is None:
        return 640, 640
    try:
        value = json.loads(value) if isinstance(value, str) else value
        sides = [int(v) for v in value] if isinstance(value, Sequence) else [int(value)] * 2
        return sides[0], sides[1]
    except (TypeError, ValueError, IndexError) as e:
        raise EdgesegError(f"imgsz {value!r} in its metadata is no image size", path=path, hint="Export it again") from e
