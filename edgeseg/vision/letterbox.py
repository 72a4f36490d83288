"""Fitting an image of any size into the network's input, and the way back for coordinates."""

from __future__ import annotations

import cv2
import numpy as np

from edgeseg.errors import EdgesegError
from edgeseg.record import dataclass


@dataclass(frozen=True)
class Letterbox:
    """How a source image lies in the network's input: scaled by one ratio, centred, padded.

    Coordinates are continuous pixels: x to the right, y down, origin at the outer corner of the top left pixel, whose centre
    is therefore (0.5, 0.5).

    Attributes:
        source: (height, width) of the source image in pixels.
        size: (height, width) of the network's input in pixels.
        ratio: input pixels per source pixel, min over both sides of size / source.
        pad: (left, top) padding in input pixels; what is left over goes to the right and the bottom.
    """

    source: tuple[int, int]
    size: tuple[int, int]
    ratio: float
    pad: tuple[int, int]

    @classmethod
    def fit(cls, source: tuple[int, int], size: tuple[int, int]) -> Letterbox:
        """The letterbox of a ``source`` (height, width) in an input of ``size`` (height, width), all at least 1 pixel.

        Raises:
            EdgesegError: a side is below 1 pixel.
        """
        if min(*source, *size) < 1:
            raise EdgesegError(f"an image of {source[1]}x{source[0]} pixels does not fit an input of {size[1]}x{size[0]}")
        ratio = min(size[0] / source[0], size[1] / source[1])
        height, width = (_scaled(side, ratio) for side in source)
        # The small shift sends an odd pixel of padding to the right and the bottom, as trained networks saw it.
        left, top = round((size[1] - width) / 2 - 0.1), round((size[0] - height) / 2 - 0.1)
        return cls((int(source[0]), int(source[1])), (int(size[0]), int(size[1])), ratio, (left, top))

    @property
    def resized(self) -> tuple[int, int]:
        """(height, width) of the scaled image inside the input, in whole pixels, at least 1."""
        return _scaled(self.source[0], self.ratio), _scaled(self.source[1], self.ratio)

    @property
    def scale(self) -> tuple[float, float]:
        """(x, y) input pixels per source pixel that the resize really has: ``ratio``, but for rounding to whole pixels."""
        height, width = self.resized
        return width / self.source[1], height / self.source[0]

    def to_input(self, xyxy: np.ndarray) -> np.ndarray:
        """Boxes (..., 4) in source pixels -> float32 (..., 4) in input pixels, not clipped."""
        scale, pad = self._vectors()
        return (np.asarray(xyxy, np.float32) * scale + pad).astype(np.float32)

    def to_source(self, xyxy: np.ndarray) -> np.ndarray:
        """Boxes (..., 4) in input pixels -> float32 (..., 4) in source pixels, clipped to the source image."""
        scale, pad = self._vectors()
        boxes = ((np.asarray(xyxy, np.float32) - pad) / scale).astype(np.float32)
        height, width = self.source
        return np.clip(boxes, 0, np.array((width, height, width, height), np.float32), out=boxes)

    def _vectors(self) -> tuple[np.ndarray, np.ndarray]:
        (sx, sy), (left, top) = self.scale, self.pad
        return np.array((sx, sy, sx, sy)), np.array((left, top, left, top), np.float64)


def _scaled(side: int, ratio: float) -> int:
    return max(1, round(side * ratio))


def paste(image: np.ndarray, box: Letterbox, canvas: np.ndarray, pad_value: int) -> None:
    """Write the letterboxed ``image`` into ``canvas`` (H, W, 3) uint8: padding only where there is padding.

    The same bytes on every machine and with every OpenCV: see ``resize``.
    """
    (height, width), (left, top) = box.resized, box.pad
    bottom, right = top + height, left + width
    canvas[:top], canvas[bottom:] = pad_value, pad_value
    canvas[top:bottom, :left], canvas[top:bottom, right:] = pad_value, pad_value
    if (height, width) == box.source:
        canvas[top:bottom, left:right] = image
    else:
        canvas[top:bottom, left:right] = resized(image, height, width)


def resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """An image (h, w, c) uint8 at (height, width), bilinear: each value is the exact one, rounded half up.

    That is OpenCV's INTER_LINEAR_EXACT, integers whose rounding it defines; its plain INTER_LINEAR is whatever the CPU's
    fastest library does. Whole multiples, as cameras give, need no weights: 3:1, 5:1 ... are the middle pixel, 2:1, 4:1 ...
    the mean of the middle four. That gives the same bytes in a third of the instructions.
    """
    (h, w, channels), times = image.shape, image.shape[0] // height
    if not 2 <= times <= _MOST_TIMES or (h, w) != (height * times, width * times):
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR_EXACT)
    half = times // 2
    if times % 2:
        return _every(image[half::times], times, half)
    if times == 2:
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    shift = 1 - half % 2  # the two columns in the middle become a pair of the mean
    rows = np.empty((height, 2, w, channels), np.uint8)
    for i in (0, 1):
        rows[:, i, : w - shift] = image[half - 1 + i :: times, shift:]
    rows[:, :, w - shift :] = 0
    means = cv2.resize(rows.reshape(2 * height, w, channels), (w // 2, height), interpolation=cv2.INTER_AREA)
    return _every(means, half, (half - 1) // 2)


_MOST_TIMES = 32  # of three channels: OpenCV has 128 at most


def _every(image: np.ndarray, step: int, first: int) -> np.ndarray:
    """The columns ``first``, ``first + step`` ... of an image (h, w, c), w a multiple of ``step``."""
    height, width, channels = image.shape
    out = np.empty((height, width // step, channels), np.uint8)
    pairs = [n for c in range(channels) for n in (first * channels + c, c)]
    cv2.mixChannels([image.reshape(height, width // step, step * channels)], [out], pairs)
    return out


def letterbox(image: np.ndarray, size: tuple[int, int], pad_value: int = 114) -> tuple[np.ndarray, Letterbox]:
    """Scale an image up or down until it just fits ``size``, keep its proportions, centre it and pad.

    Args:
        image: (h, w, 3) uint8, any colour order.
        size: (height, width) of the result in pixels.
        pad_value: value of every padding byte, 0..255.

    Returns:
        The new image (height, width, 3) uint8, and its geometry.

    Raises:
        EdgesegError: the image is empty.
    """
    box = Letterbox.fit((image.shape[0], image.shape[1]), size)
    canvas = np.empty((*box.size, 3), np.uint8)
    paste(image, box, canvas, pad_value)
    return canvas, box
