"""The zip file that ``torch.save`` writes, read as data: the pickle through ``PickleReader``, tensors on demand."""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from edgeseg.errors import EdgesegError, brief
from edgeseg.network.allowlist import ALLOWED, CONSTRUCTORS, STORAGES, TensorRef
from edgeseg.network.pickles import PickleReader, Storage, damaged
from edgeseg.store import read_bounded

#: A checkpoint of the largest network with its optimizer and averages has 1.5 GB.
MOST_BYTES = 4 << 30
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


class TorchFile:
    """One opened checkpoint file; nothing that it contains is run.

    Raises:
        EdgesegError: the file is missing, truncated, of the format before torch 1.6, a TorchScript export, or no checkpoint.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # Read once: what is checked is what is loaded, whatever happens to the file meanwhile.
            if path.exists() and not path.is_file():
                raise EdgesegError("not a file", path=path)
            with open(path, "rb") as f:
                start = f.read(32)
            data = read_bounded(path, MOST_BYTES) if start[:2] == b"PK" else b""
            self._zip = zipfile.ZipFile(io.BytesIO(data)) if data else None
        except (zipfile.BadZipFile, LookupError, NotImplementedError, ValueError, struct.error) as e:
            raise damaged("damaged or cut short: the zip directory at its end is missing", path) from e
        except OSError as e:
            raise EdgesegError(f"cannot be read ({e.strerror or e})", path=path) from e
        if self._zip is None:
            raise self._no_zip(start)
        self._bytes = len(data)
        names = self._zip.namelist()
        if len(set(names)) != len(names):
            raise damaged("damaged: two of its parts have one name", path)
        pickles = [n for n in names if n.endswith("/data.pkl") and n.count("/") == 1]
        if len(pickles) != 1:
            inside = next((n for n in names if n.endswith((".pt", ".pth"))), "")
            hint = f"Unpack it, and give {brief(inside)}" if inside else "A checkpoint is what torch.save writes"
            raise EdgesegError("a zip file, but no checkpoint", path=path, hint=hint)
        self._root = pickles[0].rpartition("/")[0]
        if any(n.startswith(f"{self._root}/code/") or n == f"{self._root}/constants.pkl" for n in names):
            what = "a TorchScript export, not a checkpoint"
            raise EdgesegError(what, path=path, hint="Rename it to end in .torchscript, or give the .pt it came from")
        if f"{self._root}/byteorder" in names and self._member("byteorder").strip() != b"little":
            raise EdgesegError("its numbers are big-endian", path=path, hint="Save it again on a little-endian machine")
        self._cache: dict[str, torch.Tensor] = {}
        self._given = 0

    def _no_zip(self, start: bytes) -> EdgesegError:
        if not start:
            return damaged("the file is empty", self.path)
        if start.startswith(_LEGACY):
            return EdgesegError(
                "written in the format of torch before 1.6",
                path=self.path,
                hint="Where it was made, load it and write it again with torch.save of a newer torch",
            )
        if start.startswith(b"\x1f\x8b"):
            return EdgesegError("compressed with gzip", path=self.path, hint="Unpack it with gunzip, and give the result")
        if start[8:9] == b"{":
            hint = "Make a .pt of it: torch.save(safetensors.torch.load_file('FILE'), 'weights.pt')"
            return EdgesegError("a safetensors file, which holds no layers", path=self.path, hint=hint)
        return damaged("no checkpoint: torch.save writes a zip file, this is none", self.path)

    def _member(self, name: str) -> bytes:
        full = f"{self._root}/{name}"
        zip_file = self._zip
        try:
            if zip_file is None:
                raise KeyError(full)
            info = zip_file.getinfo(full)
            # torch stores without compression: a member that says otherwise could claim any size.
            if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
                raise damaged(f"its part {name} is compressed, which torch.save never does", self.path)
            return zip_file.read(info)
        except (LookupError, zipfile.BadZipFile, EOFError, OSError, RuntimeError, ValueError, struct.error) as e:
            raise damaged(f"damaged: its part {name} cannot be read", self.path) from e

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
            raise damaged(f"damaged: a tensor of shape {ref.size} is larger than its data", self.path)
        try:
            window = flat.as_strided(ref.size, ref.stride, ref.offset) if numel else torch.empty(ref.size, dtype=flat.dtype)
        except (RuntimeError, TypeError) as e:  # sizes or strides that no machine integer holds
            raise damaged(f"damaged: no tensor has the shape {ref.size}", self.path) from e
        return window.clone(memory_format=torch.contiguous_format)

    def check(self, ref: TensorRef) -> None:
        """That the file has the bytes which ``ref`` claims, before any memory is taken for it.

        Raises:
            EdgesegError: its storage is missing or shorter than the tensor.
        """
        numel, last = math.prod(ref.size), ref.offset + sum((n - 1) * s for n, s in zip(ref.size, ref.stride))
        width = getattr(torch, ref.storage.dtype).itemsize
        info = self._zip.NameToInfo.get(f"{self._root}/data/{ref.storage.key}") if self._zip else None
        there = min(info.file_size, self._bytes) // width if info is not None else 0
        if numel and (last >= there or numel > there):
            raise damaged("damaged: a tensor is larger than its data", self.path)

    def load(self, content: Any) -> Any:
        """What ``read`` gave, with every ``TensorRef`` made a tensor; lists and dicts are filled in place.

        Raises:
            EdgesegError: nested too deeply, an object of a class, or tensors that claim far more than the file holds.
        """
        return self._loaded(content, {}, 0)

    def _loaded(self, value: Any, seen: dict[Any, Any], depth: int) -> Any:
        if isinstance(value, TensorRef):
            if value not in seen:
                self.check(value)
                self._given += math.prod(value.size) * int(getattr(torch, value.storage.dtype).itemsize)
                if self._given > 4 * self._bytes:
                    raise damaged("damaged: its tensors share more than there is", self.path)
                seen[value] = self.tensor(value)
            return seen[value]
        if value is None or isinstance(value, (str, int, float, bytes, set, frozenset)):
            return value
        if depth > 48 or not isinstance(value, (dict, list, tuple)):
            kind = "is nested too deeply" if depth > 48 else f"holds a {type(value).__name__}"
            raise damaged(f"damaged: its content {kind}", self.path)
        if id(value) in seen:
            return seen[id(value)]
        if isinstance(value, tuple):
            seen[id(value)] = made = tuple(self._loaded(v, seen, depth + 1) for v in value)
            return made
        seen[id(value)] = value
        for key, inner in list(value.items() if isinstance(value, Mapping) else enumerate(value)):
            value[key] = self._loaded(inner, seen, depth + 1)
        return value

    def _storage(self, storage: Storage) -> torch.Tensor:
        if storage.key not in self._cache:
            dtype: torch.dtype = getattr(torch, storage.dtype)
            data = bytearray(self._member(f"data/{storage.key}"))
            if len(data) != storage.numel * dtype.itemsize:
                raise damaged(
                    f"damaged: its part data/{storage.key} has {len(data)} bytes for {storage.numel} numbers", self.path
                )
            self._cache[storage.key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        return self._cache[storage.key]
