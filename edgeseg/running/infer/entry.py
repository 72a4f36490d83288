"""The input of a stranger's file: layout, size, channels, and what its values mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeseg.errors import EdgesegError, brief
from edgeseg.manifest import Tensor, imgsz_of

HINT = "Export it again from its checkpoint: edgeseg export <checkpoint>.pt"
CHANNELS = (3, 1, 4)
_RANGE = re.compile(r"(?:0\.\.)?(1|255)(?:\.0)?")


@dataclass(frozen=True)
class Meaning:
    """What a model's input holds: ``colour`` is rgb or bgr, ``top`` white in a float input; ``said`` by the user."""

    colour: str = "rgb"
    top: float = 1.0
    said: bool = False

    @classmethod
    def parse(cls, text: str | None) -> Meaning:
        """From words such as ``bgr``, ``0..255`` or ``bgr,255``.

        Raises:
            EdgesegError: a word that is none of them.
        """
        colour, top = "rgb", 1.0
        words = [w.strip().lower() for w in (text or "").split(",") if w.strip()]
        for word in words:
            found = _RANGE.fullmatch(word)
            if word in ("rgb", "bgr"):
                colour = word
            elif found:
                top = float(found[1])
            else:
                raise EdgesegError(
                    f"input={brief(text)} is not understood", hint="Write input=bgr, input=0..255 or input=bgr,0..255"
                )
        return cls(colour, top, bool(words))

    def note(self, entry: Tensor) -> str:
        """The assumption in words, with how to say otherwise."""
        what = "grey" if entry.channels == 1 else self.colour.upper()
        alpha = " and an opaque alpha" if entry.channels == 4 else ""
        values = f"0..{self.top:g}" if entry.dtype.startswith("float") else "0..1, quantized"
        how = "as said" if self.said else "input=bgr and input=0..255 say otherwise"
        return f"the input is taken as {what}{alpha} in {values} ({how})"


def entry_of(raw: Tensor, metadata: Mapping[str, Any], path: Path, notes: list[str]) -> tuple[Tensor, bool]:
    """The input with its layout and a concrete shape, and whether its height or width are free.

    Raises:
        EdgesegError: it is no image, or of a type that no image is fed as.
    """
    shape = tuple(raw.shape)
    if len(shape) != 4:
        raise EdgesegError(
            f"input {raw.name} {shape} is no image: it has {len(shape)} dimensions, not 4", path=path, hint=HINT
        )
    layout = _layout(shape)
    if layout is None:
        raise EdgesegError(f"input {raw.name} {shape} is no image of 1, 3 or 4 channels", path=path, hint=HINT)
    channels = shape[1] if layout == "nchw" else shape[3]
    sides = shape[2:] if layout == "nchw" else shape[1:3]
    dynamic = min(sides) < 1
    if dynamic:
        sides = imgsz_of(metadata.get("imgsz"))
        known = "its imgsz" if metadata.get("imgsz") else "habit: nothing says the size"
        notes.append(f"input size is free; {sides[0]}x{sides[1]} taken from {known}")
    batch = max(shape[0], 1)
    full = (batch, channels, *sides) if layout == "nchw" else (batch, *sides, channels)
    scale, zero_point = raw.scale, raw.zero_point
    if raw.dtype in ("uint8", "int8") and scale is None:
        scale, zero_point = 1 / 255, 0 if raw.dtype == "uint8" else -128
        notes.append(f"input {raw.dtype} without quantization parameters: 0..255 taken as 0..1")
    elif raw.dtype not in ("float32", "float16", "uint8", "int8"):
        raise EdgesegError(f"input {raw.name} is {raw.dtype}, which no image is fed as", path=path, hint=HINT)
    return Tensor(raw.name, full, raw.dtype, layout, scale, zero_point), dynamic


def _layout(shape: tuple[int, ...]) -> str | None:
    """Where the channels are; three of them first of all, and not where a side would be as short as that."""
    for count in CHANNELS:
        first, last = shape[1] == count, shape[3] == count
        if first and not (last and max(shape[2], 1) > count):
            return "nchw"
        if last:
            return "nhwc"
    return None
