"""How many pictures a TIFF file holds: decoders take the first and say nothing of the others."""

from __future__ import annotations

import struct

_LEAST = 8
_SUBFILE = 254  # the tag NewSubfileType; bit 0: a smaller copy of another page, bit 2: a mask of another page


def pages(data: bytes, most: int = 1000) -> int:
    """Pages of a TIFF (or BigTIFF) file that are pictures of their own, at most ``most``; 0 for other files."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    found = 0
    if order is None or len(data) < _LEAST:
        return found
    try:
        (magic,) = struct.unpack_from(f"{order}H", data, 2)
        if magic not in (42, 43):
            return 0
        big = magic == 43
        word, count, entry = (f"{order}Q", f"{order}Q", 20) if big else (f"{order}I", f"{order}H", 12)
        (at,) = struct.unpack_from(word, data, 8 if big else 4)
        seen: set[int] = set()
        while at and at not in seen and len(seen) < most:
            seen.add(at)
            (tags,) = struct.unpack_from(count, data, at)
            start = at + struct.calcsize(count)
            found += _is_picture(data, order, start, min(tags, 4096), entry)
            (at,) = struct.unpack_from(word, data, start + tags * entry)
    except (struct.error, OverflowError):
        return found
    return found


def _is_picture(data: bytes, order: str, start: int, tags: int, entry: int) -> bool:
    for i in range(tags):
        (tag,) = struct.unpack_from(f"{order}H", data, start + i * entry)
        if tag == _SUBFILE:
            (kind,) = struct.unpack_from(f"{order}I", data, start + i * entry + entry - (4 if entry == 12 else 8))
            return not kind & 0b101
    return True
