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
from edgeseg.manifest import Manifest, Tensor

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
        self.metadata = _parse(_metadata(path))
        manifest = Manifest.from_metadata(self.metadata, path=str(path))
        if manifest is not None:
            self.input, self.outputs = manifest.input, manifest.outputs
            return
        height, width = _imgsz(self.metadata.get("imgsz"), path)
        batch = int(self.metadata.get("batch", 1))
        self.input = Tensor("images", (batch, 3, height, width))
        blank = np.full(self.input.shape, 114 / 255, dtype=np.float32)
        self.outputs = tuple(Tensor(f"output_{i}", a.shape, a.dtype.name) for i, a in enumerate(self.run(blank)))

    @property
    def _module(self) -> Any:
        """The archive, loaded when it first runs: loading may run code of its own, reading the manifest does not."""
        if self._loaded is None:
            self._loaded = torch.jit.load(str(self._path), map_location="cpu").eval()
        return self._loaded

    def run(self, x: np.ndarray) -> list[np.ndarray]:
        """Outputs for one float32 array (N, 3, H, W)."""
        # The profiling executor recompiles during the second run (seconds) and gains nothing on convolutions.
        with torch.inference_mode(), torch.jit.optimized_execution(False):
            return [t.numpy() for t in _flat(self._module(torch.from_numpy(x)))]


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
