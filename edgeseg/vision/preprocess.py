"""From a picture to the input tensor (letterbox, colour order, layout, dtype), and the way back for coordinates."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from edgeseg.errors import EdgesegError
from edgeseg.manifest import Manifest
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


def as_bgr(image: np.ndarray) -> np.ndarray:
    """An image as uint8 BGR (h, w, 3): grayscale (h, w) or (h, w, 1) is spread over three channels, alpha is dropped.

    Raises:
        EdgesegError: not uint8, no pixels, or another number of channels.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        found = getattr(image, "dtype", type(image).__name__)
        raise EdgesegError(f"an image must be a uint8 array, not {found}", hint="Files: edgeseg.data.images.read_image")
    if image.size == 0:
        raise EdgesegError(f"the image is empty (shape {image.shape})")
    channels = 1 if image.ndim == 2 else image.shape[2] if image.ndim == 3 else 0
    if channels == 3:
        return image
    if channels == 1:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    if channels == 4:
        return cv2.cvtColor(image, cv2.COLOR_BGRA2BGR)
    raise EdgesegError(f"an image must be (h, w), (h, w, 3) or (h, w, 4), not {image.shape}")


def input_size(manifest: Manifest, size: int | tuple[int, int] | None = None) -> tuple[int, int]:
    """(height, width) of the input in pixels: ``size`` if the artifact accepts it, the manifest's when None.

    Raises:
        EdgesegError: another size than a fixed artifact has, or no multiple of the stride.
    """
    if size is None:
        return manifest.imgsz[0], manifest.imgsz[1]
    height, width = (size, size) if isinstance(size, int) else size
    if (height, width) == tuple(manifest.imgsz):
        return height, width
    if not manifest.dynamic and -1 not in manifest.input.hw:
        fixed = "x".join(map(str, manifest.imgsz))
        raise EdgesegError(
            f"this artifact takes {fixed} only, not {height}x{width}", hint="Export it with that imgsz, or dynamic"
        )
    if height < manifest.stride or width < manifest.stride or height % manifest.stride or width % manifest.stride:
        raise EdgesegError(f"imgsz {height}x{width} is no multiple of the stride {manifest.stride}")
    return height, width


def prepare(
    image: np.ndarray, manifest: Manifest, size: int | tuple[int, int] | None = None, *, out: np.ndarray | None = None
) -> tuple[np.ndarray, Letterbox]:
    """Make the input tensor of one image.

    Args:
        image: uint8 BGR (h, w, 3) of any size from 1x1; (h, w) and (h, w, 4) are converted.
        manifest: its ``input`` gives layout, dtype and quantization; the padding is ``pad_value``.
        size: (height, width) or one number for a square, for artifacts with a dynamic input; None: ``manifest.imgsz``.
        out: a C-contiguous array of the result's shape and dtype to write into, to spare the allocation.

    Returns:
        The tensor, (1, 3, H, W) or (1, H, W, 3): float RGB in 0..1 (or to ``input_max``), or integers q with 0..1 =
        scale * (q - zero_point), rounded and saturated; and the geometry that leads back to the source image. A model of one
        channel gets grey, one of four an opaque alpha after the colours.

    Raises:
        EdgesegError: no uint8 image, an impossible size, or an input dtype that is none of float32, float16, int8, uint8.
    """
    image, spec = as_bgr(image), manifest.input
    box = Letterbox.fit((image.shape[0], image.shape[1]), input_size(manifest, size))
    channels = spec.channels if spec.channels > 0 else 3
    shape = (1, channels, *box.size) if spec.layout == "nchw" else (1, *box.size, channels)
    if out is None or out.shape != shape or out.dtype != spec.dtype:
        out = np.empty(shape, spec.dtype)
    canvas = np.empty((*box.size, 3), np.uint8)
    paste(image, box, canvas, manifest.pad_value)
    rgb = manifest.colour == "rgb"
    if channels != 3:
        _other_channels(canvas, manifest, out[0])
        return out, box
    if spec.layout == "nhwc":
        if rgb:  # bytes go straight into a result of bytes
            pixels = cv2.cvtColor(canvas, cv2.COLOR_BGR2RGB, dst=out[0].view(np.uint8) if out.itemsize == 1 else None)
        else:
            pixels = canvas
        _convert(pixels, manifest, out[0])
    else:
        plane = np.empty(box.size, np.uint8)
        for channel in range(3):
            cv2.extractChannel(canvas, 2 - channel if rgb else channel, plane)
            _convert(plane, manifest, out[0, channel])
    return out, box


def _other_channels(canvas: np.ndarray, manifest: Manifest, out: np.ndarray) -> None:
    """A BGR canvas (H, W, 3) into an input of one (grey) or four channels (alpha last)."""
    first = manifest.input.layout == "nchw"
    count = out.shape[0 if first else -1]
    if count == 1:
        # The weights of ITU-R BT.601 in 1/16384: integers, so that every machine has the same grey.
        blue, green, red = (canvas[..., i].astype(np.uint32) for i in range(3))
        planes = [((1868 * blue + 9617 * green + 4899 * red + 8192) >> 14).astype(np.uint8)]
    elif count == 4:
        order = (2, 1, 0) if manifest.colour == "rgb" else (0, 1, 2)
        planes = [*(np.ascontiguousarray(canvas[..., i]) for i in order), np.full(canvas.shape[:2], 255, np.uint8)]
    else:
        raise EdgesegError(f"an input of {count} channels cannot be filled from a picture")
    for i, plane in enumerate(planes):
        values = np.empty(plane.shape, out.dtype)
        _convert(plane, manifest, values)
        if first:
            out[i] = values
        else:
            out[..., i] = values


def _convert(values: np.ndarray, manifest: Manifest, out: np.ndarray) -> None:
    """Bytes 0..255 (any shape) -> the input's dtype, into ``out`` of the same shape."""
    spec = manifest.input
    table = input_table(spec.dtype, spec.scale, spec.zero_point, manifest.input_max)
    if table is _SHIFT:
        np.bitwise_xor(values, 128, out=out.view(np.uint8))  # v - 128 in two's complement
    elif table is None:
        if not np.may_share_memory(values, out):
            out[...] = values
    elif table.dtype == np.float16:
        out[...] = table[values]
    else:
        cv2.LUT(values, table, out)  # each byte is read before it is written: the two may be the same memory


_SHIFT = np.zeros(0, np.uint8)  # stands for "subtract 128": the table is not needed


@lru_cache(maxsize=32)
def input_table(dtype: str, scale: float | None, zero_point: int | None, top: float = 1.0) -> np.ndarray | None:
    """The 256 input values of the bytes 0..255 (floats: 255 is ``top``).

    None where a byte is its own value, ``_SHIFT`` where it is that less 128.
    """
    kind, real = np.dtype(dtype), np.arange(256, dtype=np.float32) / np.float32(255)
    if kind in (np.float32, np.float16):
        return (real if top == 1 else np.arange(256, dtype=np.float32) * np.float32(top / 255)).astype(kind)
    if kind not in (np.int8, np.uint8) or scale is None or zero_point is None:
        raise EdgesegError(f"an input of dtype {dtype} with scale {scale} cannot be filled", hint="Export the model again")
    limits = np.iinfo(kind)
    table = np.clip(np.rint(real.astype(np.float64) / scale) + zero_point, limits.min, limits.max).astype(kind)
    if kind == np.uint8 and np.array_equal(table, np.arange(256)):
        return None
    if kind == np.int8 and np.array_equal(table, np.arange(-128, 128)):
        return _SHIFT
    return table
