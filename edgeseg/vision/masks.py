"""Masks from coefficients and the prototype: logits, upsampled to source pixels inside each box, thresholded at 0.

A mask's logit at a point of the prototype grid is the dot product of the detection's coefficients with the prototype there
(Bolya et al. 2019, "YOLACT"). Between grid points it is bilinear, and the grid is sampled at the centre of every source
pixel, through the letterbox geometry: nothing passes through an intermediate resolution, nothing outside a box is computed.

Every library adds up a dot product in an order of its own. In float64 the order cannot be seen: with an integer prototype
the sums are exact, with a float one they are known far beyond the float32 to which they are rounded. All that follows is one
operation after the other, which IEEE 754 defines. So the same tensors give the same masks on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edgeseg.record import dataclass
from edgeseg.vision.letterbox import Letterbox

_CHUNK = 1 << 16  # pixels of a mask upsampled at once: their floats stay in the cache, whatever the image's size


@dataclass(frozen=True)
class Prototype:
    """The ``proto`` output of one image, still in its own dtype.

    ``values`` is (k, h, w) with ``layout`` nchw or (h, w, k) with nhwc, float or integer; integers mean
    scale * (q - zero_point).
    """

    values: np.ndarray
    layout: str = "nchw"
    scale: float | None = None
    zero_point: int | None = None

    @property
    def hw(self) -> tuple[int, int]:
        """(height, width) of the grid."""
        v = self.values.shape
        return (v[1], v[2]) if self.layout == "nchw" else (v[0], v[1])

    @property
    def channels(self) -> int:
        """k, the number of coefficients of a mask."""
        return self.values.shape[0 if self.layout == "nchw" else 2]

    def dequantized(self) -> Prototype:
        """The same with all values float64, up to the positive factor ``scale``, which no threshold at 0 can see."""
        return replace(self, values=self._floats(self.values), scale=None, zero_point=None)

    def signs(self, coeff: np.ndarray, rows: slice, cols: slice) -> np.ndarray:
        """(h, w) float32 logits of one mask in a window of the grid, up to a positive factor; ``coeff`` (k,) float32."""
        if self.layout == "nchw":
            # A stack of one (k, w) matrix a row, which BLAS reads in place: no copy of the window.
            logits = np.matmul(coeff.astype(np.float64), self._floats(self.values[:, rows, cols]).transpose(1, 0, 2))
        else:
            logits = np.matmul(self._floats(self.values[rows, cols]), coeff.astype(np.float64))
        return logits.astype(np.float32)

    def _floats(self, q: np.ndarray) -> np.ndarray:
        if self.zero_point is not None and q.dtype.kind in "iu":
            return np.subtract(q, self.zero_point, dtype=np.float64)
        return q.astype(np.float64, copy=False)


@dataclass(frozen=True)
class Tiles:
    """n masks, each kept as the part inside its box.

    ``corners`` (n, 2) int: x, y of a tile's top left pixel in the image of ``shape`` (H, W); ``tiles``: n bool arrays
    (h, w), which may be empty.
    """

    shape: tuple[int, int]
    corners: np.ndarray
    tiles: tuple[np.ndarray, ...]

    def __len__(self) -> int:
        return len(self.tiles)

    def take(self, index: np.ndarray) -> Tiles:
        """The masks at ``index`` (integers)."""
        return Tiles(self.shape, self.corners[index], tuple(self.tiles[i] for i in index))

    def full(self) -> np.ndarray:
        """(n, H, W) bool, every mask at the size of the image."""
        out = np.zeros((len(self.tiles), *self.shape), bool)
        for image, (x, y), tile in zip(out, self.corners.tolist(), self.tiles):
            image[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
        return out

    @classmethod
    def of(cls, masks: np.ndarray) -> Tiles:
        """Tiles of full-size masks (n, H, W) bool, each cut to the mask's own extent."""
        corners, tiles = np.zeros((len(masks), 2), np.intp), []
        for i, mask in enumerate(masks):
            ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            if len(ys):
                corners[i] = xs[0], ys[0]
                tiles.append(mask[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1])
            else:
                tiles.append(mask[:0, :0])
        return cls((masks.shape[1], masks.shape[2]), corners, tuple(tiles))


def pixels_inside(boxes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(n, 4) int x0, y0, x1, y1: the half-open range of pixels whose centres lie in boxes (n, 4) xyxy of source pixels."""
    limit = np.array((shape[1], shape[0], shape[1], shape[0]), np.float64)
    return np.clip(np.ceil(boxes.astype(np.float64) - 0.5), 0, limit).astype(np.intp)


@dataclass(frozen=True)
class _Axis:
    """Where the source pixels of one axis fall on the grid: ``first`` grid index and ``weight`` of the next one."""

    first: np.ndarray
    weight: np.ndarray

    @classmethod
    def of(cls, pixels: int, scale: float, pad: int, step: float, cells: int) -> _Axis:
        at = ((np.arange(pixels) + 0.5) * scale + pad) / step - 0.5
        at = np.clip(at, 0, cells - 1)
        first = np.minimum(at.astype(np.intp), max(cells - 2, 0))
        return cls(first, (at - first).astype(np.float32))


def masks(proto: Prototype, coeffs: np.ndarray, boxes: np.ndarray, letterbox: Letterbox) -> Tiles:
    """Masks at the size of the source image, cropped to their boxes.

    Args:
        proto: the prototype of the image.
        coeffs: (n, k) float32.
        boxes: (n, 4) float32 xyxy in source pixels, inside the image.
        letterbox: how the source image lies in the network's input.

    Returns:
        n masks: true where the bilinear logit at the pixel's centre is above 0 and that centre lies in the box.
    """
    shape, (height, width) = letterbox.source, proto.hw
    windows = pixels_inside(boxes, shape)
    (sx, sy), (left, top) = letterbox.scale, letterbox.pad
    across = _Axis.of(shape[1], sx, left, letterbox.size[1] / width, width)
    down = _Axis.of(shape[0], sy, top, letterbox.size[0] / height, height)
    if proto.values.dtype != np.float64:
        x0, y0, x1, y1 = windows.T
        if ((x1 - x0) * sx * (y1 - y0) * sy).sum() > letterbox.size[0] * letterbox.size[1]:
            proto = proto.dequantized()  # the windows together are more than the grid: convert it once
    tiles = tuple(_tile(proto, c, w, across, down) for c, w in zip(coeffs, windows.tolist()))
    return Tiles(shape, windows[:, :2], tiles)


def _tile(proto: Prototype, coeff: np.ndarray, window: Sequence[int], across: _Axis, down: _Axis) -> np.ndarray:
    x0, y0, x1, y1 = window
    if x1 <= x0 or y1 <= y0:
        return np.zeros((max(y1 - y0, 0), max(x1 - x0, 0)), bool)
    i, j = across.first[x0:x1], down.first[y0:y1]
    i0, j0 = int(i[0]), int(j[0])
    logits = proto.signs(coeff, slice(j0, int(j[-1]) + 2), slice(i0, int(i[-1]) + 2))
    # One axis after the other, as a + f * (b - a); the last sum is only a comparison.
    logits = _between(logits, i - i0, across.weight[x0:x1], 1)
    step = logits[1:] - logits[:-1] if len(logits) > 1 else np.zeros_like(logits)
    np.negative(logits, out=logits)
    first, weight, tile = j - j0, down.weight[y0:y1, None], np.empty((y1 - y0, x1 - x0), bool)
    rows = max(1, _CHUNK // (x1 - x0))
    for y in range(0, y1 - y0, rows):
        part = slice(y, y + rows)
        rise = step.take(first[part], axis=0)
        rise *= weight[part]
        np.greater(rise, logits.take(first[part], axis=0), out=tile[part])
    return tile


def _between(values: np.ndarray, first: np.ndarray, weight: np.ndarray, axis: int) -> np.ndarray:
    if values.shape[axis] == 1:
        return values.take(first, axis=axis)
    out = np.diff(values, axis=axis).take(first, axis=axis)
    out *= weight
    out += values.take(first, axis=axis)
    return out
