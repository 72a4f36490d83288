"""The zip file that ``torch.save`` writes, read as data: the pickle through ``PickleReader``, tensors on demand."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import torch

from edgeseg.errors import EdgesegError
from edgeseg.network.allowlist import ALLOWED, CONSTRUCTORS, STORAGES, TensorRef
from edgeseg.network.pickles import PickleReader, Storage

_FRESH = "Download it again, or copy it again from where it was made"
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


class TorchFile:
    """One opened checkpoint file; nothing that it contains is run.

    Raises:
        EdgesegError: the file is missing, truncated, of the format before torch 1.6, a TorchScript export, or no checkpoint.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as f:
                start = f.read(32)
            self._zip = zipfile.ZipFile(path) if start[:2] == b"PK" else None
        except zipfile.BadZipFile as e:
            raise EdgesegError(
                "damaged or cut short: the zip directory at its end is missing", path=path, hint=_FRESH
            ) from e
        except OSError as e:
            raise EdgesegError(f"cannot be read ({e.strerror or e})", path=path) from e
        if self._zip is None:
            raise self._no_zip(start)
        names = self._zip.namelist()
        pickles = [n for n in names if n.endswith("/data.pkl") and n.count("/") == 1]
        if len(pickles) != 1:
            raise EdgesegError("a zip file, but no checkpoint", path=path, hint="A checkpoint is what torch.save writes")
        self._root = pickles[0].rpartition("/")[0]
        if any(n.startswith(f"{self._root}/code/") or n == f"{self._root}/constants.pkl" for n in names):
            raise EdgesegError(
                "a TorchScript export, not a checkpoint",
                path=path,
                hint="Rename it to end in .torchscript, or give the .pt it came from",
            )
        if f"{self._root}/byteorder" in names and self._member("byteorder").strip() != b"little":
            raise EdgesegError("its numbers are big-endian", path=path, hint="Save it again on a little-endian machine")
        self._cache: dict[str, torch.Tensor] = {}

    def _no_zip(self, start: bytes) -> EdgesegError:
        if not start:
            return EdgesegError("the file is empty", path=self.path, hint=_FRESH)
        if start.startswith(_LEGACY):
            return EdgesegError(
                "written in the format of torch before 1.6",
                path=self.path,
                hint="Where it was made, load it and write it again with torch.save of a newer torch",
            )
        return EdgesegError("no checkpoint: torch.save writes a zip file, this is none", path=self.path, hint=_FRESH)

    def _member(self, name: str) -> bytes:
        full = f"{self._root}/{name}"
        zip_file = self._zip
        try:
            if zip_file is None:
                raise KeyError(full)
            info = zip_file.getinfo(full)
            # torch stores without compression: a member that says otherwise could claim any size.
            if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
                raise EdgesegError(
                    f"its part {name} is compressed, which torch.save never does", path=self.path, hint=_FRESH
                )
            return zip_file.read(info)
        except (KeyError, zipfile.BadZipFile, EOFError, OSError, RuntimeError, NotImplementedError) as e:
            raise EdgesegError(f"damaged: its part {name} cannot be read", path=self.path, hint=_FRESH) from e

    def read(self) -> Any:
        """The saved object: plain data, ``Record``, ``TensorRef``.

        Raises:
            EdgesegError: a name off the closed list, or a damaged file.
        """
        return PickleReader(self.path, ALLOWED.__contains__, CONSTRUCTORS, STORAGES).read(self._member("data.pkl"))

    def tensor(self, ref: TensorRef) -> torch.Tensor:
        """A copy of one tensor, in its own dtype, contiguous.

        Raises:
            EdgesegError: its storage is missing or shorter than claimed, or the tensor reaches beyond it.
        """
        flat = self._storage(ref.storage)
        last = ref.offset + sum((n - 1) * s for n, s in zip(ref.size, ref.stride))
        numel = math.prod(ref.size)
        if numel and (last >= flat.numel() or numel > flat.numel()):
            raise EdgesegError(f"damaged: a tensor of shape {ref.size} is larger than its data", path=self.path, hint=_FRESH)
        try:
            window = flat.as_strided(ref.size, ref.stride, ref.offset) if numel else torch.empty(ref.size, dtype=flat.dtype)
        except (RuntimeError, TypeError) as e:  # sizes or strides that no machine integer holds
            raise EdgesegError(f"damaged: no tensor has the shape {ref.size}", path=self.path, hint=_FRESH) from e
        return window.clone(memory_format=torch.contiguous_format)

    def _storage(self, storage: Storage) -> torch.Tensor:
        if storage.key not in self._cache:
            dtype: torch.dtype = getattr(torch, storage.dtype)
            data = bytearray(self._member(f"data/{storage.key}"))
            if len(data) != storage.numel * dtype.itemsize:
                raise EdgesegError(
                    f"damaged: its part data/{storage.key} has {len(data)} bytes for {storage.numel} numbers",
                    path=self.path,
                    hint=_FRESH,
                )
            self._cache[storage.key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        return self._cache[storage.key]
