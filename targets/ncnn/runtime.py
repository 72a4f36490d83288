"""Runs an ncnn folder on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ncnn
import numpy as np

from edgeseg.artifact import read_sidecar
from edgeseg.errors import EdgesegError
from edgeseg.manifest import Manifest, Tensor


class Runtime:
    """One ncnn network. ncnn knows no shapes before it runs: the manifest tells them, else one run on a blank image.

    Args:
        path: the folder, with one ``.param`` and one ``.bin`` file in it.
        threads: CPU threads (None: ncnn takes the big cores).

    Raises:
        EdgesegError: files are missing or cannot be read.
    """

    input: Tensor
    outputs: tuple[Tensor, ...]
    metadata: Mapping[str, Any]

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        params, weights = sorted(path.glob("*.param")), sorted(path.glob("*.bin"))
        if len(params) != 1 or len(weights) != 1:
            raise EdgesegError("one .param and one .bin file are expected", path=path, hint="Export the model again")
        self._net = ncnn.Net()
        # Half floats inside the arithmetic would make a float file differ between boards.
        self._net.opt.use_fp16_arithmetic = False
        self._net.opt.use_fp16_packed = False
        self._net.opt.use_fp16_storage = False
        self._net.opt.use_bf16_storage = False
        if threads:
            self._net.opt.num_threads = threads
        if self._net.load_param(str(params[0])) or self._net.load_model(str(weights[0])):
            raise EdgesegError("ncnn cannot read it", path=params[0], hint="Export the model again")
        self.metadata = read_sidecar(path)
        manifest = Manifest.from_metadata(self.metadata, path=str(path))
        if manifest is not None:
            self.input, self.outputs = manifest.input, manifest.outputs
            return
        size = self.metadata.get("imgsz", [640, 640])
        height, width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        self.input = Tensor(self._net.input_names()[0], (1, 3, height, width))
        self.outputs = tuple(Tensor(name, ()) for name in sorted(self._net.output_names()))
        found = self.run(np.full(self.input.shape, 114 / 255, dtype=np.float32))
        self.outputs = tuple(Tensor(o.name, a.shape) for o, a in zip(self.outputs, found))

    def run(self, x: np.ndarray) -> list[np.ndarray]:
        """Outputs, with a batch axis of 1 in front, for one float32 array (1, 3, H, W)."""
        with self._net.create_extractor() as extractor:
            extractor.input(self.input.name, ncnn.Mat(np.ascontiguousarray(x[0])).clone())
            return [np.array(extractor.extract(o.name)[1])[None] for o in self.outputs]
