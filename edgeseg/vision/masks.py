"""Masks from coefficients and the prototype: logits, upsampled to source pixels inside each box, thresholded at 0.

A mask's logit at a point of the prototype grid is the dot product of the detection's coefficients with the prototype there
(Bolya et al. 2019, "YOLACT"). Between grid points it is bilinear, and the grid is sampled at the centre of every source
pixel, through the letterbox geometry: nothing passes through an intermediate resolution, nothing outside a box is computed.

Every library adds up a dot product in an order of its own. In float64 the order cannot be seen: with an integer prototype
the sums are exact, with a float one they are known far beyond the float32 to which they are rounded. All that follows is one
operation after the other, which IEEE 754 defines. So the same tensors give the same masks on every machine.

Many a loop wants boxes and no masks. So what masks are made from is copied (runtimes use their buffers again), and each mask
is built when it is first asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter

import numpy as np

from edgeseg.record import dataclass
from edgeseg.vision.preprocess import Letterbox

_Falls = tuple[np.ndarray, np.ndarray]  # where pixels fall on the grid: the index before, the weight of the next one
_CHUNK = 1 << 16  # pixels of a mask upsampled at once: their floats stay in the cache, whatever the image's size


@dataclass(frozen=True)
class Prototype:
    """The ``proto`` output of one image, still in its own dtype.

    ``values`` is (k, h, w) with ``layout`` nchw or (h, w, k) with nhwc, float or integer; integers mean
    scale * (q - zero_point). ``origin`` (row, column) says where in the whole grid they lie.
    """

    values: np.ndarray
    layout: str = "nchw"
    scale: float | None = None
    zero_point: int | None = None
    origin: tuple[int, int] = (0, 0)

    @property
    def hw(self) -> tuple[int, int]:
        """(height, width) of the grid that ``values`` hold."""
        v = self.values.shape
        return (v[1], v[2]) if self.layout == "nchw" else (v[0], v[1])

    @property
    def channels(self) -> int:
        """k, the number of coefficients of a mask."""
        return self.values.shape[0 if self.layout == "nchw" else 2]

    def dequantized(self) -> Prototype:
        """The same with all values float64, up to the positive factor ``scale``, which no threshold at 0 can see."""
        return replace(self, values=self._floats(self.values), scale=None, zero_point=None)

    def cut(self, rows: slice, cols: slice) -> Prototype:
        """A copy of a window of the grid."""
        part = self.values[:, rows, cols] if self.layout == "nchw" else self.values[rows, cols]
        return replace(self, values=part.copy(), origin=(rows.start, cols.start))

    def signs(self, coeff: np.ndarray, rows: slice, cols: slice) -> np.ndarray:
        """(h, w) float32 logits of one mask in a window of the grid, up to a positive factor; ``coeff`` (k,) float32."""
        rows, cols = (slice(s.start - o, s.stop - o) for s, o in zip((rows, cols), self.origin))
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


def pixels_inside(boxes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(n, 4) int x0, y0, x1, y1: the half-open range of pixels whose centres lie in boxes (n, 4) xyxy of source pixels."""
    limit = np.array((shape[1], shape[0], shape[1], shape[0]), np.float64)
    return np.clip(np.ceil(boxes.astype(np.float64) - 0.5), 0, limit).astype(np.intp)


@dataclass(frozen=True)
class _Axis:
    """One axis of the image on the grid: pixel x lies at ((x + 0.5) * scale + pad) / step - 0.5, within 0..cells - 1."""

    pixels: int
    scale: float
    pad: int
    step: float
    cells: int

    def at(self, pixels: np.ndarray) -> _Falls:
        at = np.clip(((pixels + 0.5) * self.scale + self.pad) / self.step - 0.5, 0, self.cells - 1)
        first = np.minimum(at.astype(np.intp), max(self.cells - 2, 0))
        return first, (at - first).astype(np.float32)

    def window(self, first: int, last: int) -> slice:
        """The part of the grid that the pixels first..last need."""
        (start, stop), _ = self.at(np.array((first, last)))
        return slice(int(start), int(stop) + 2)


@dataclass(frozen=True)
class Unbuilt:
    """What n masks are made from: coefficients (n, k), ``windows`` (n, 4) of pixels, what they need of the prototype.

    ``some``: only these rows and columns of the image, which rise; the windows count in them.
    """

    proto: Prototype
    coeffs: np.ndarray
    windows: np.ndarray
    axes: tuple[_Axis, _Axis]
    some: tuple[np.ndarray, np.ndarray] | None = None

    def take(self, index: np.ndarray) -> Unbuilt:
        return replace(self, coeffs=self.coeffs[index], windows=self.windows[index])

    def sampled(self, ys: np.ndarray, xs: np.ndarray) -> Unbuilt:
        """The same at some pixels of the image only."""
        x0, y0, x1, y1 = self.windows.T
        windows = np.stack([np.searchsorted(at, edge) for at, edge in ((xs, x0), (ys, y0), (xs, x1), (ys, y1))], 1)
        return replace(self, windows=windows, some=(ys, xs))

    def build(self) -> tuple[np.ndarray, ...]:
        """n bool arrays (h, w)."""
        ys, xs = self.some or (np.arange(axis.pixels) for axis in self.axes)
        proto, down, across = self.proto, self.axes[0].at(ys), self.axes[1].at(xs)
        if proto.values.dtype != np.float64:
            x0, y0, x1, y1 = self.windows[_seen(self.windows)].T
            wide, high = across[0][x1 - 1] + 2 - across[0][x0], down[0][y1 - 1] + 2 - down[0][y0]
            if (wide * high).sum() > proto.hw[0] * proto.hw[1]:
                proto = proto.dequantized()  # the windows together are more than the grid: convert it once
        with np.errstate(all="ignore"):  # a logit that is no number is no pixel
            return tuple(_tile(proto, c, w, across, down) for c, w in zip(self.coeffs, self.windows.tolist()))


def _seen(windows: np.ndarray) -> np.ndarray:
    """(n,) bool: which windows hold a pixel."""
    return (windows[:, 2] > windows[:, 0]) & (windows[:, 3] > windows[:, 1])


@dataclass(frozen=True)
class Tiles:
    """n masks, each kept as the part inside its box.

    ``corners`` (n, 2) int: x, y of a tile's top left pixel in the image of ``shape`` (H, W); ``held``: n bool arrays (h, w),
    which may be empty, or what they are made from; ``seconds``: what it took to make them.
    """

    shape: tuple[int, int]
    corners: np.ndarray
    held: tuple[np.ndarray, ...] | Unbuilt
    seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.corners)

    @property
    def tiles(self) -> tuple[np.ndarray, ...]:
        """n bool arrays (h, w); the first time they may have to be built."""
        held = self.held
        if isinstance(held, Unbuilt):  # two threads at once build the same
            start = perf_counter()
            held = held.build()
            object.__setattr__(self, "seconds", perf_counter() - start)
            object.__setattr__(self, "held", held)
        return held

    @property
    def windows(self) -> np.ndarray:
        """(n, 4) int x0, y0, x1, y1: the half-open range of pixels of each tile, which is not built for this."""
        if isinstance(self.held, Unbuilt):
            return self.held.windows
        return np.concatenate((self.corners, self.corners + np.array([t.shape[::-1] for t in self.held]).reshape(-1, 2)), 1)

    def take(self, index: np.ndarray) -> Tiles:
        """The masks at ``index`` (integers)."""
        held = self.held
        part = held.take(index) if isinstance(held, Unbuilt) else tuple(held[i] for i in index)
        return Tiles(self.shape, self.corners[index], part)

    def full(self) -> np.ndarray:
        """(n, H, W) bool, every mask at the size of the image."""
        out = np.zeros((len(self), *self.shape), bool)
        for image, (x, y), tile in zip(out, self.corners.tolist(), self.tiles):
            image[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
        return out

    def sampled(self, size: tuple[int, int]) -> Tiles:
        """The masks at another ``size`` (height, width): a pixel is that pixel of the image in which its centre lies."""
        ys, xs = (((np.arange(n) + 0.5) * of / n).astype(np.intp) for n, of in zip(size, self.shape))
        held = self.held
        if isinstance(held, Unbuilt):
            held = held.sampled(ys, xs)
            return Tiles(size, held.windows[:, :2], held)
        (x0, y0), ends = self.corners.T, np.array([t.shape for t in held]).reshape(-1, 2).T
        left, right = np.searchsorted(xs, x0), np.searchsorted(xs, x0 + ends[1])
        top, bottom = np.searchsorted(ys, y0), np.searchsorted(ys, y0 + ends[0])
        cuts = zip(held, self.corners.tolist(), left, right, top, bottom)
        tiles = tuple(t[np.ix_(ys[v0:v1] - y, xs[u0:u1] - x)] for t, (x, y), u0, u1, v0, v1 in cuts)
        return Tiles(size, np.stack((left, top), 1), tiles)

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


def masks(proto: Prototype, coeffs: np.ndarray, boxes: np.ndarray, letterbox: Letterbox) -> Tiles:
    """Masks at the size of the source image, cropped to their boxes, which are built when they are asked for.

    Args:
        proto: the prototype of the image; what is needed of it is copied.
        coeffs: (n, k) float32, which are kept.
        boxes: (n, 4) float32 xyxy in source pixels, inside the image.
        letterbox: how the source image lies in the network's input.

    Returns:
        n masks: true where the bilinear logit at the pixel's centre is above 0 and that centre lies in the box.
    """
    windows = pixels_inside(boxes, letterbox.source)
    down, across = (
        _Axis(pixels, scale, pad, side / cells, cells)
        for pixels, scale, pad, side, cells in zip(
            letterbox.source, letterbox.scale[::-1], letterbox.pad[::-1], letterbox.size, proto.hw
        )
    )
    seen = windows[_seen(windows)]
    if len(seen):
        (left, top), (right, bottom) = seen[:, :2].min(axis=0), seen[:, 2:].max(axis=0) - 1
        proto = proto.cut(down.window(top, bottom), across.window(left, right))
    else:
        proto = proto.cut(slice(0, 0), slice(0, 0))
    return Tiles(letterbox.source, windows[:, :2], Unbuilt(proto, coeffs, windows, (down, across)))


def _tile(proto: Prototype, coeff: np.ndarray, window: Sequence[int], across: _Falls, down: _Falls) -> np.ndarray:
    x0, y0, x1, y1 = window
    if x1 <= x0 or y1 <= y0:
        return np.zeros((max(y1 - y0, 0), max(x1 - x0, 0)), bool)
    i, j = across[0][x0:x1], down[0][y0:y1]
    i0, j0 = int(i[0]), int(j[0])
    logits = proto.signs(coeff, slice(j0, int(j[-1]) + 2), slice(i0, int(i[-1]) + 2))
    # One axis after the other, as a + f * (b - a); the last sum is only a comparison.
    logits = _between(logits, i - i0, across[1][x0:x1], 1)
    step = logits[1:] - logits[:-1] if len(logits) > 1 else np.zeros_like(logits)
    np.negative(logits, out=logits)
    first, weight, tile = j - j0, down[1][y0:y1, None], np.empty((y1 - y0, x1 - x0), bool)
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
