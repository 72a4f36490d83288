"""Augmentation of images with outlines: NumPy and OpenCV only, every random choice from the generator that is passed in.

Training pictures alone are warped with OpenCV's free rounding (and reduced by it in the image cache): a value that is one
higher on another CPU is far below what scale, colour and position are changed by at random, and OpenCV has exact integers
for the resize only, not for an affine map. So a training is repeated bit by bit on one machine, not between machines. What
is measured or exported (validation, calibration, the gate) goes through ``edgeseg.vision.preprocess``, whose pixels are the
same everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from edgeseg.data.polygons import Rings, area, bounds, clip, rasterize

MIN_SIDE = 2.0
"""Objects whose visible part is narrower than this many pixels are dropped."""
MIN_VISIBLE = 0.1
"""Objects of which less than this share is still visible are dropped."""


@dataclass(frozen=True)
class AugmentOptions:
    """How much of what. Probabilities are 0..1, gains are the largest relative change.

    Attributes:
        mosaic, mixup, copy_paste: probability per image (copy-paste: per object of the second image).
        hsv_h, hsv_s, hsv_v: gains of hue, saturation and value.
        degrees: largest rotation. translate: share of the side. scale: gain (0.5: half to one and a half times the size).
        shear: degrees. fliplr, flipud: probability.
        pad_value: grey of the parts that no image covers.
    """

    mosaic: float = 1.0
    mixup: float = 0.0
    copy_paste: float = 0.0
    hsv_h: float = 0.015
    hsv_s: float = 0.7
    hsv_v: float = 0.4
    degrees: float = 0.0
    translate: float = 0.1
    scale: float = 0.5
    shear: float = 0.0
    fliplr: float = 0.5
    flipud: float = 0.0
    pad_value: int = 114

    def closing(self) -> AugmentOptions:
        """For the last epochs: whole pictures only, as the network will see them."""
        return replace(self, mosaic=0.0, mixup=0.0, copy_paste=0.0)


NO_AUGMENTATION = AugmentOptions(mosaic=0, hsv_h=0, hsv_s=0, hsv_v=0, translate=0, scale=0, fliplr=0)


@dataclass(frozen=True, eq=False)
class Sample:
    """One image (H, W, 3) uint8 BGR with its objects: classes (n,) int64 and as many outlines in pixels."""

    image: np.ndarray
    classes: np.ndarray
    outlines: list[Rings]

    def boxes(self) -> np.ndarray:
        """(n, 4) float32 xyxy around the outlines."""
        return np.array([bounds(o) for o in self.outlines], np.float32).reshape(-1, 4)

    def index_map(self, cell: int = 4) -> np.ndarray:
        """(H / cell, W / cell) int16: 0 background, k the k-th object (from 1); smaller objects lie on top of larger."""
        h, w = self.image.shape[0] // cell, self.image.shape[1] // cell
        result = np.zeros((h, w), np.int16)
        for k in np.argsort([-area(o) for o in self.outlines], kind="stable").tolist():
            patch, (x, y) = rasterize([ring / cell for ring in self.outlines[k]], (h, w))
            result[y : y + patch.shape[0], x : x + patch.shape[1]][patch] = k + 1
        return result


def clipped(image: np.ndarray, classes: np.ndarray, outlines: Sequence[Rings], full_area: Sequence[float]) -> Sample:
    """The sample with outlines cut at the picture's borders; objects of which too little is left are dropped.

    Args:
        full_area: what each object covered before anything was cut, at the present scale, in square pixels.
    """
    height, width = image.shape[:2]
    keep, visible = [], []
    for i, (rings, whole) in enumerate(zip(outlines, full_area)):
        cut = clip(rings, width, height)
        if not cut:
            continue
        x1, y1, x2, y2 = bounds(cut)
        if x2 - x1 >= MIN_SIDE and y2 - y1 >= MIN_SIDE and area(cut) >= MIN_VISIBLE * whole:
            keep.append(i)
            visible.append(cut)
    return Sample(image, classes[keep], visible)


def affine_matrix(rng: np.random.Generator, side: int, o: AugmentOptions) -> np.ndarray:
    """(3, 3): rotation, scale and shear about the centre of a canvas of ``side`` pixels, then translation."""
    angle = math.radians(rng.uniform(-o.degrees, o.degrees))
    ratio = rng.uniform(1 - o.scale, 1 + o.scale)
    shear_x, shear_y = (math.tan(math.radians(rng.uniform(-o.shear, o.shear))) for _ in range(2))
    tx, ty = (rng.uniform(0.5 - o.translate, 0.5 + o.translate) * side for _ in range(2))
    c, s = math.cos(angle) * ratio, math.sin(angle) * ratio
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    shear = np.array([[1, shear_x, 0], [shear_y, 1, 0], [0, 0, 1]])
    return _shift(tx, ty) @ shear @ turn @ _shift(-side / 2, -side / 2)


def place(tiles: Sequence[tuple[Sample, np.ndarray]], side: int, pad_value: int = 114) -> Sample:
    """Draw samples onto one square canvas, each through its own (3, 3) matrix from its pixels to the canvas.

    Each image is interpolated once, whatever the matrix is made of, and outlines are cut only at the canvas.
    """
    canvas = np.full((side, side, 3), pad_value, np.uint8)
    classes, outlines, areas = [], [], []
    for sample, matrix in tiles:
        # cv2 puts pixel centres at whole numbers, outlines put pixel edges there.
        cv2.warpAffine(
            sample.image, (_shift(-0.5, -0.5) @ matrix @ _shift(0.5, 0.5))[:2], (side, side), dst=canvas,
            flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_TRANSPARENT,
        )  # fmt: skip
        grow = abs(float(np.linalg.det(matrix[:2, :2])))
        classes.append(sample.classes)
        areas += [area(rings) * grow for rings in sample.outlines]
        outlines += [[ring @ matrix[:2, :2].T + matrix[:2, 2] for ring in rings] for rings in sample.outlines]
    return clipped(canvas, np.concatenate(classes), outlines, areas)


def letterbox_matrix(shape: tuple[int, int], side: int) -> np.ndarray:
    """(3, 3) that fits an image of ``shape`` (height, width) into the square canvas, centred."""
    ratio = side / max(shape)
    return _shift((side - shape[1] * ratio) / 2, (side - shape[0] * ratio) / 2) @ np.diag((ratio, ratio, 1.0))


def mosaic_tiles(rng: np.random.Generator, samples: Sequence[Sample], side: int) -> list[tuple[Sample, np.ndarray]]:
    """Four samples around a random centre of a canvas of ``2 * side``, each touching the centre with one corner."""
    cx, cy = rng.uniform(0.5, 1.5, 2) * side
    tiles = []
    for k, sample in enumerate(samples):
        ratio = side / max(sample.image.shape[:2])
        h, w = (n * ratio for n in sample.image.shape[:2])
        x, y = (cx - w, cx)[k % 2], (cy - h, cy)[k // 2]
        tiles.append((sample, _shift(x, y) @ np.diag((ratio, ratio, 1.0))))
    return tiles


def compose(
    rng: np.random.Generator, index: int, count: int, load: Callable[[int], Sample], side: int, o: AugmentOptions
) -> Sample:
    """One picture through mosaic (or alone) and the random affine map: the larger canvas is never drawn."""
    if o.mosaic and rng.random() < o.mosaic:
        picks = [index, *rng.integers(count, size=3).tolist()]
        order = rng.permutation(4).tolist()
        tiles = mosaic_tiles(rng, [load(picks[i]) for i in order], side)
        view = affine_matrix(rng, side, o) @ _shift(-side / 2, -side / 2)
    else:
        sample = load(index)
        tiles = [(sample, letterbox_matrix(sample.image.shape[:2], side))]
        view = affine_matrix(rng, side, o)
    return place([(s, view @ m) for s, m in tiles], side, o.pad_value)


def mixup(rng: np.random.Generator, a: Sample, b: Sample) -> Sample:
    """Both pictures blended at about half each, with the objects of both (Zhang et al., arXiv:1710.09412)."""
    share = float(rng.beta(32.0, 32.0))
    image = cv2.addWeighted(a.image, share, b.image, 1 - share, 0)
    return Sample(image, np.concatenate((a.classes, b.classes)), a.outlines + b.outlines)


def copy_paste(rng: np.random.Generator, a: Sample, b: Sample, probability: float) -> Sample:
    """Objects of ``b`` pasted into ``a`` (Ghiasi et al., arXiv:2012.07177) where they hide below 30 % of every other box."""
    image, classes, outlines = a.image.copy(), a.classes.tolist(), list(a.outlines)
    for rings, cls in zip(b.outlines, b.classes.tolist()):
        if rng.random() >= probability:
            continue
        x1, y1, x2, y2 = bounds(rings)
        there = np.array([bounds(o) for o in outlines], np.float64).reshape(-1, 4)
        w = np.minimum(there[:, 2], x2) - np.maximum(there[:, 0], x1)
        h = np.minimum(there[:, 3], y2) - np.maximum(there[:, 1], y1)
        own = (there[:, 2] - there[:, 0]) * (there[:, 3] - there[:, 1])
        if (w.clip(0) * h.clip(0) >= 0.3 * own).any():
            continue
        patch, (x, y) = rasterize(rings, image.shape[:2])
        here = (slice(y, y + patch.shape[0]), slice(x, x + patch.shape[1]))
        image[here][patch] = b.image[here][patch]
        classes.append(cls)
        outlines.append(rings)
    return Sample(image, np.array(classes, np.int64), outlines)


def jitter_hsv(rng: np.random.Generator, image: np.ndarray, o: AugmentOptions) -> np.ndarray:
    """Hue, saturation and value times random gains; hue wraps around, the others saturate."""
    if not (o.hsv_h or o.hsv_s or o.hsv_v):
        return image
    gains = 1 + rng.uniform(-1, 1, 3) * (o.hsv_h, o.hsv_s, o.hsv_v)
    levels = np.arange(256)
    hue = ((levels * gains[0]) % 180).astype(np.uint8)
    saturation, value = ((levels * g).clip(0, 255).astype(np.uint8) for g in gains[1:])
    channels = cv2.split(cv2.cvtColor(image, cv2.COLOR_BGR2HSV))
    changed = [cv2.LUT(c, table) for c, table in zip(channels, (hue, saturation, value))]
    return cv2.cvtColor(cv2.merge(changed), cv2.COLOR_HSV2BGR)


def flip(sample: Sample, *, horizontal: bool) -> Sample:
    """Mirror left-right or upside down."""
    axis = 0 if horizontal else 1
    extent = sample.image.shape[1 - axis]
    outlines = []
    for rings in sample.outlines:
        mirrored = [ring.copy() for ring in rings]
        for ring in mirrored:
            ring[:, axis] = extent - ring[:, axis]
        outlines.append(mirrored)
    return Sample(cv2.flip(sample.image, 1 if horizontal else 0), sample.classes, outlines)


def augment(
    rng: np.random.Generator, index: int, count: int, load: Callable[[int], Sample], side: int, o: AugmentOptions
) -> Sample:
    """One training picture of ``side`` x ``side`` pixels.

    Args:
        rng: the only source of chance: the same generator state gives the same picture.
        index: which image. count: how many there are. load: reads image i with its outlines (and does not change later).
        side: pixels. o: what to do.
    """
    sample = compose(rng, index, count, load, side, o)
    if o.copy_paste:
        other = compose(rng, int(rng.integers(count)), count, load, side, o.closing())
        sample = copy_paste(rng, sample, flip(other, horizontal=True), o.copy_paste)
    if o.mixup and rng.random() < o.mixup:
        sample = mixup(rng, sample, compose(rng, int(rng.integers(count)), count, load, side, o))
    sample = replace(sample, image=jitter_hsv(rng, sample.image, o))
    if o.flipud and rng.random() < o.flipud:
        sample = flip(sample, horizontal=False)
    if o.fliplr and rng.random() < o.fliplr:
        sample = flip(sample, horizontal=True)
    return sample


def _shift(x: float, y: float) -> np.ndarray:
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])
