"""Runs an ncnn folder on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ncnn
import numpy as np

from edgeseg.errors import EdgesegError
from edgeseg.manifest import Manifest, Tensor, imgsz_of, read_sidecar

from . import check


class Runtime:
    """One ncnn network. ncnn knows no shapes before it runs: the manifest tells them, else one run on a blank image.

    Args:
        path: the folder, with one ``.param`` and one ``.bin`` file in it, or one such ``.param`` file.
        threads: CPU threads (None: ncnn takes the big cores).

    Raises:
        EdgesegError: files are missing or cannot be read.
    """

    input: Tensor
    outputs: tuple[Tensor, ...]
    metadata: Mapping[str, Any]

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        param, weights = _files(path)
        tags = check.check(param, weights)
        self.guesses: tuple[str, ...] = ()
        # The first layer of an INT8 file is often float: one layer of integers makes it one.
        self._precision = "int8" if check.INTEGER in tags else "fp16" if check.HALF in tags else "fp32"
        self._net = ncnn.Net()
        # ncnn's half kernels (ARMv8.2: Pi 5) take half the instructions and add up in half floats: each convolution loses a
        # little (58 dB left behind the first, 30 dB at the head), scores move by 0.03, and of two boxes of one object that
        # score alike suppression keeps the other one, 37 px away. Kept in half and computed in float it is 5 times slower
        # (docs/figures.md). So a file of any precision is computed in float, on every board as on the machine that made it.
        for switch in ("use_fp16_arithmetic", "use_fp16_packed", "use_fp16_storage", "use_bf16_storage"):
            setattr(self._net.opt, switch, False)
        if threads:
            self._net.opt.num_threads = threads
        if self._net.load_param(str(param)) or self._net.load_model(str(weights)):
            raise EdgesegError("ncnn cannot read it", path=param, hint="Export the model again")
        self.metadata = read_sidecar(param.parent, ours=check.marked(param))
        manifest = Manifest.from_metadata(self.metadata, path=str(path))
        if manifest is not None:
            self.input, self.outputs = manifest.input, manifest.outputs
            # ncnn gives an empty tensor for a name that it does not know, and reading that ends the process.
            lost = {o.name for o in self.outputs} - set(self._net.output_names())
            if lost or self.input.name not in self._net.input_names():
                what = f"its graph has no {min(lost, default=self.input.name)}, which its metadata.yaml names"
                raise EdgesegError(what, path=param, hint="Export the model again")
            return
        if "imgsz" not in self.metadata:
            why = "there is no metadata.yaml beside it" if not self.metadata else "its metadata.yaml names no imgsz"
            self.guesses = (f"{why}: the size 640x640 is a guess, ncnn files do not say it",)
        height, width = imgsz_of(self.metadata.get("imgsz"))
        self.input = Tensor(self._net.input_names()[0], (1, 3, height, width))
        self.outputs = tuple(Tensor(name, ()) for name in sorted(self._net.output_names()))
        found = self.run(np.full(self.input.shape, 114 / 255, dtype=np.float32))
        self.outputs = tuple(Tensor(o.name, a.shape) for o, a in zip(self.outputs, found))

    def precision(self) -> str:
        """What the weights are stored as: fp32, fp16 or int8."""
        return self._precision

    def run(self, x: np.ndarray) -> list[np.ndarray]:
        """Outputs, with a batch axis of 1 in front, for one float32 array (1, 3, H, W)."""
        with self._net.create_extractor() as extractor:
            extractor.input(self.input.name, ncnn.Mat(np.ascontiguousarray(x[0])).clone())
            return [np.array(extractor.extract(o.name)[1])[None] for o in self.outputs]


def _files(path: Path) -> tuple[Path, Path]:
    """The graph and the weights: of a folder with one of each, or the ``.param`` given and the ``.bin`` of its name."""
    if path.is_file():
        weights = path.with_suffix(".bin")
        if not weights.is_file():
            raise EdgesegError("its weights are not there", path=weights, hint="Copy the .bin file beside the .param file")
        return path, weights
    params, bins = sorted(path.glob("*.param")), sorted(path.glob("*.bin"))
    if len(params) != 1 or len(bins) != 1:
        raise EdgesegError("one .param and one .bin file are expected", path=path, hint="Give the .param file itself")
    return params[0], bins[0]
