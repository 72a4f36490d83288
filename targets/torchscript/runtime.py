"""Runs a TorchScript archive with PyTorch on the CPU."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgeseg.errors import EdgesegError
from edgeseg.manifest import Manifest, Tensor, imgsz_of, literal

METADATA = "config.txt"
MAX_METADATA = 16 << 20


class Runtime:
    """A loaded archive. TorchScript stores no shapes: the manifest tells them, else one run on a blank image.

    Args:
        path: the ``.torchscript`` file.
        threads: PyTorch's threads inside one operator (None: PyTorch's own choice). They are global to the process.
    """

    input: Tensor
    outputs: tuple[Tensor, ...]
    metadata: Mapping[str, Any]
    _loaded: Any

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        if threads:
            torch.set_num_threads(threads)
        self._path, self._loaded = path, None
        self.guesses: tuple[str, ...] = ()
        self.metadata = read_metadata(path)
        manifest = Manifest.from_metadata(self.metadata, path=str(path))
        if manifest is not None:
            self.input, self.outputs = manifest.input, manifest.outputs
            return
        height, width = imgsz_of(self.metadata.get("imgsz"))
        batch = int(literal(self.metadata.get("batch", 1)) or 1)
        if "imgsz" not in self.metadata:
            self.guesses = ("nothing in it says its size: 640x640 is a guess",)
        channels = next((p.shape[1] for p in self._module.parameters() if p.dim() == 4), 3)  # what the first one reads
        self.input = Tensor("images", (batch, channels, height, width))
        blank = np.full(self.input.shape, 114 / 255, dtype=np.float32)
        self.outputs = tuple(Tensor(f"output_{i}", a.shape, a.dtype.name) for i, a in enumerate(self.run(blank)))

    @property
    def _module(self) -> Any:
        """The archive, loaded when it first runs: loading may run code of its own, reading the manifest does not."""
        if self._loaded is None:
            self._loaded = torch.jit.load(str(self._path), map_location="cpu").eval()
        return self._loaded

    def precision(self) -> str:
        """What most of its weights are: fp16, int8 or fp32."""
        kinds = [p.dtype for p in self._module.parameters() if p.dim() == 4]
        halves = sum(k == torch.float16 for k in kinds)
        return "fp16" if kinds and 2 * halves > len(kinds) else "fp32"

    def run(self, x: np.ndarray) -> list[np.ndarray]:
        """Outputs for one float32 array (N, 3, H, W)."""
        # The profiling executor recompiles during the second run (seconds) and gains nothing on convolutions.
        with torch.inference_mode(), torch.jit.optimized_execution(False):
            return [t.numpy() for t in _flat(self._module(torch.from_numpy(x)))]


def read_metadata(path: Path) -> dict[str, Any]:
    """What the archive says of itself, read without running anything in it.

    Raises:
        EdgesegError: no TorchScript archive.
    """
    return _parse(_metadata(path))


def _flat(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [t for v in value for t in _flat(v)] if isinstance(value, Sequence) else []


def _metadata(path: Path) -> bytes:
    """The metadata member, read from the zip file without loading the archive; empty when there is none.

    Raises:
        EdgesegError: no zip file, or a member that claims more than the file holds or than any manifest needs.
    """
    try:
        with zipfile.ZipFile(path) as z:
            found = [i for i in z.infolist() if i.filename.endswith(f"/extra/{METADATA}") and i.filename.count("/") == 2]
            if not found:
                return b""
            if found[0].file_size > MAX_METADATA or found[0].compress_type != zipfile.ZIP_STORED:
                raise EdgesegError("its metadata is larger than any manifest", path=path, hint="Export it again")
            return z.read(found[0])
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as e:
        raise EdgesegError("no TorchScript archive, or cut short", path=path, hint="Export it again") from e


def _parse(text: str | bytes) -> dict[str, Any]:
    try:
        value = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
