"""Runs a PaddlePaddle inference folder on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from paddle import inference

from edgeseg.errors import EdgesegError
from edgeseg.manifest import Manifest, Tensor, read_sidecar


class Runtime:
    """One Paddle predictor. Output shapes come from the manifest, else from one run on a blank image.

    Args:
        path: the folder, with one graph (``.json`` or ``.pdmodel``) and its ``.pdiparams``.
        threads: CPU threads (None: Paddle's choice).

    Raises:
        EdgesegError: files are missing, or several inputs.
    """

    input: Tensor
    outputs: tuple[Tensor, ...]
    metadata: Mapping[str, Any]

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        graphs = [*sorted(path.glob("*.json")), *sorted(path.glob("*.pdmodel"))]
        weights = sorted(path.glob("*.pdiparams"))
        if not graphs or not weights:
            raise EdgesegError("a graph and a .pdiparams file are expected", path=path, hint="Export the model again")
        config = inference.Config(str(graphs[0]), str(weights[0]))
        config.disable_glog_info()
        # Its kernel for nearest_interp refuses the scales that Paddle itself writes (3.3).
        config.disable_onednn()
        if threads:
            config.set_cpu_math_library_num_threads(threads)
        self._predictor = inference.create_predictor(config)
        inputs = self._predictor.get_input_names()
        if len(inputs) != 1:
            raise EdgesegError(f"{len(inputs)} inputs where one image is expected", path=path)
        self.metadata = read_sidecar(path, ours=_ours(graphs[0]))
        names = self._predictor.get_output_names()
        manifest = Manifest.from_metadata(self.metadata, path=str(path))
        if manifest is not None:
            self.input = manifest.input
            self.outputs = tuple(Tensor(o.name, o.shape) for o in manifest.outputs)
            return
        size = self.metadata.get("imgsz", [640, 640])
        height, width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        self.input = Tensor(inputs[0], (1, 3, height, width))
        self.outputs = tuple(Tensor(n, ()) for n in names)
        found = self.run(np.full(self.input.shape, 114 / 255, dtype=np.float32))
        self.outputs = tuple(Tensor(n, a.shape) for n, a in zip(names, found))

    def run(self, x: np.ndarray) -> list[np.ndarray]:
        """Outputs for one float32 array (N, 3, H, W)."""
        entry = self._predictor.get_input_handle(self.input.name)
        entry.reshape(x.shape)
        entry.copy_from_cpu(np.ascontiguousarray(x))
        self._predictor.run()
        return [self._predictor.get_output_handle(o.name).copy_to_cpu() for o in self.outputs]


def _ours(graph: Path) -> bool:
    """Whether ``convert.py`` wrote it: so the first object in it says."""
    with graph.open("rb") as file:
        return b'"producer":"edgeseg"' in file.read(256)
