"""The weight file of a Core ML package (MIL blob storage, version 2).

A header of 64 bytes (count, version), then for each blob a 64-byte record (marker 0xDEADBEEF, type, size in bytes, offset of
the data) and the data, all aligned to 64 bytes, little-endian. A program names a blob by the offset of its record.
Source: coremltools, StorageFormat.hpp and BlobDataType.hpp.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from edgeseg.errors import EdgesegError

ALIGNMENT = 64
MARKER = 0xDEADBEEF
VERSION = 2
# Types of less than a byte are packed from the lowest bit up; (bits, signed).
_DTYPES = {1: "float16", 2: "float32", 3: "uint8", 4: "int8", 6: "int16", 7: "uint16", 14: "int32", 15: "uint32"}
_PACKED = {8: (4, True), 9: (1, False), 10: (2, False), 11: (4, False), 12: (3, False), 13: (6, False)}
AGAIN = "Copy the whole folder again, or export again"


class BlobFile:
    """The arrays of one weight file, read by the offset of their records. The file is read at once.

    Raises:
        EdgesegError: no such file, or it is no blob storage.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise EdgesegError("the weight file is missing", path=path, hint=AGAIN)
        self._data = np.fromfile(path, np.uint8)
        self.size = self._data.size
        if self.size < ALIGNMENT:
            raise EdgesegError(f"the weight file is truncated ({self.size} bytes)", path=path, hint=AGAIN)
        self.count, version = struct.unpack("<II", self._data[:8].tobytes())
        if version != VERSION:
            raise EdgesegError(f"no Core ML weight file (version {version}, not {VERSION})", path=path, hint=AGAIN)

    def read(self, offset: int) -> np.ndarray:
        """The flat array whose record lies at ``offset``; types below a byte come widened to (u)int8.

        Raises:
            EdgesegError: no record there, an unknown type, or data beyond the end of the file.
        """
        if offset < ALIGNMENT or offset % ALIGNMENT or offset + ALIGNMENT > self.size:
            raise EdgesegError(f"the weight file has no record at {offset}: truncated?", path=self.path, hint=AGAIN)
        marker, kind, size, start, padding = struct.unpack("<IIQQQ", self._data[offset : offset + 32].tobytes())
        if marker != MARKER:
            raise EdgesegError(f"the weight file's record at {offset} is damaged", path=self.path, hint=AGAIN)
        if start < offset + ALIGNMENT or start + size > self.size:
            what = f"the weight file is truncated: {size} bytes at {start} end behind it"
            raise EdgesegError(what, path=self.path, hint=AGAIN)
        data = self._data[start : start + size]
        if kind in _PACKED:
            return _unpack(data, *_PACKED[kind], padding)
        if kind not in _DTYPES or size % np.dtype(_DTYPES[kind]).itemsize:
            raise EdgesegError(f"the record at {offset} holds no type that is known ({kind})", path=self.path, hint=AGAIN)
        return data.view(np.dtype(_DTYPES[kind]).newbyteorder("<"))


def _unpack(data: np.ndarray, bits: int, signed: bool, padding: int) -> np.ndarray:
    stream = np.unpackbits(data, bitorder="little")
    stream = stream[: len(stream) - padding] if 0 < padding < len(stream) else stream
    digits = stream[: len(stream) // bits * bits].reshape(-1, bits)
    values = (digits.astype(np.int16) << np.arange(bits, dtype=np.int16)).sum(1)
    if signed:
        values = np.where(values >= 1 << (bits - 1), values - (1 << bits), values)
        return values.astype(np.int8)
    return values.astype(np.uint8)
