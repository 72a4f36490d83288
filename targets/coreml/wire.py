"""The wire format of protocol buffers, as far as reading a Core ML specification takes it.

Reading it here keeps coremltools, which brings the whole converter along, out of the programs that only check a file.
Source: Protocol Buffers documentation, "Encoding".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from edgeseg.errors import EdgesegError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class Message:
    """The fields of one message by number; nested messages stay bytes until they are asked for.

    Raises:
        EdgesegError: the bytes are no message (truncated, or of an unknown wire type).
    """

    def __init__(self, data: bytes | memoryview) -> None:
        self._fields: dict[int, list[tuple[int, int | memoryview]]] = {}
        for number, kind, value in _fields(memoryview(data)):
            self._fields.setdefault(number, []).append((kind, value))

    def __contains__(self, number: int) -> bool:
        return number in self._fields

    def bytes(self, number: int) -> memoryview:
        """The last value of a length-delimited field, empty when it is absent."""
        found = self._all(number)
        return found[-1] if found else memoryview(b"")

    def text(self, number: int) -> str:
        """A string field."""
        return _text(self.bytes(number))

    def texts(self, number: int) -> list[str]:
        """A repeated string field."""
        return [_text(v) for v in self._all(number)]

    def integer(self, number: int) -> int:
        """A signed 64-bit integer (or enumeration) field, 0 when it is absent."""
        found = self.integers(number)
        return found[-1] if found else 0

    def integers(self, number: int) -> list[int]:
        """A repeated integer field, packed or not."""
        found: list[int] = []
        for kind, value in self._fields.get(number, []):
            if kind == VARINT and isinstance(value, int):
                found.append(_signed(value))
            elif kind == BYTES and isinstance(value, memoryview):
                at = 0
                while at < len(value):
                    n, at = _varint(value, at)
                    found.append(_signed(n))
            else:
                raise EdgesegError(f"field {number} holds no integers")
        return found

    def floats(self, number: int) -> list[float]:
        """A repeated float32 field, packed or not."""
        found: list[float] = []
        for kind, value in self._fields.get(number, []):
            if kind not in (FIXED32, BYTES) or not isinstance(value, memoryview) or len(value) % 4:
                raise EdgesegError(f"field {number} holds no floats")
            found.extend(struct.unpack(f"<{len(value) // 4}f", value))
        return found

    def message(self, number: int) -> Message:
        """A nested message, empty when it is absent."""
        return Message(self.bytes(number))

    def messages(self, number: int) -> list[Message]:
        """A repeated nested message."""
        return [Message(v) for v in self._all(number)]

    def mapping(self, number: int) -> dict[str, Message]:
        """A map from strings to messages."""
        return {entry.text(1): entry.message(2) for entry in self.messages(number)}

    def text_mapping(self, number: int) -> dict[str, str]:
        """A map from strings to strings."""
        return {entry.text(1): entry.text(2) for entry in self.messages(number)}

    def _all(self, number: int) -> list[memoryview]:
        found = []
        for kind, value in self._fields.get(number, []):
            if kind != BYTES or not isinstance(value, memoryview):
                raise EdgesegError(f"field {number} holds a number where bytes are expected")
            found.append(value)
        return found


def _fields(data: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, at = _varint(data, at)
            yield number, kind, value
            continue
        if kind == BYTES:
            size, at = _varint(data, at)
        elif kind in (FIXED32, FIXED64):
            size = 4 if kind == FIXED32 else 8
        else:
            raise EdgesegError(f"wire type {kind} is none of protocol buffers")
        if number == 0 or at + size > len(data):
            raise EdgesegError("the message ends before its fields do")
        yield number, kind, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
        shift += 7
    raise EdgesegError("a number in the message does not end")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _text(value: memoryview) -> str:
    try:
        return bytes(value).decode("utf-8")
    except UnicodeDecodeError as e:
        raise EdgesegError("a name in the message is no text") from e
