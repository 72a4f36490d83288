"""A picture of detections: translucent masks, outlines, boxes, labels."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np

from edgeseg.vision.detections import Detections, borders
from edgeseg.vision.preprocess import as_bgr

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_GOLDEN = 0.618034  # steps of the golden ratio around the circle of hues keep neighbouring classes apart


def colour_of(cls: int) -> tuple[int, int, int]:
    """The BGR colour (0..255 each) of a class: the same for the same index, everywhere."""
    hue = (0.02 + cls * _GOLDEN) % 1.0
    lightness = (0.56, 0.46, 0.66)[cls // 7 % 3]
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, 0.92)
    return round(255 * blue), round(255 * green), round(255 * red)


def draw(
    image: np.ndarray,
    detections: Detections,
    *,
    alpha: float = 0.45,
    labels: bool = True,
    scores: bool = True,
    boxes: bool = True,
    masks: bool = True,
    line_width: int | None = None,
    ids: np.ndarray | None = None,
    instances: bool = False,
) -> np.ndarray:
    """Draw detections on a copy of their image.

    Args:
        image: uint8 BGR (H, W, 3), of ``detections.shape``.
        detections: what to draw; the best lies on top.
        alpha: strength of the masks' colour, 0..1.
        labels: write class names. scores: and scores behind them.
        boxes: draw boxes. masks: draw masks and their outlines.
        line_width: of boxes, in pixels; None: by the size of the image.
        ids: (n,) of the objects, written before their names as ``#7``.
        instances: a colour for each object (by its id where there is one), not for each class.

    Returns:
        uint8 BGR (H, W, 3).

    Raises:
        ValueError: the image is not of the detections' shape.
    """
    picture = as_bgr(image).copy()
    if picture.shape[:2] != detections.shape:
        raise ValueError(f"the image is {picture.shape[:2]}, the detections are of {detections.shape}")
    unit = max(1.0, min(picture.shape[:2]) / 480)  # sizes below are for an image of 480 pixels
    thin, thick = line_width or max(1, round(unit)), max(1, round(1.6 * unit))
    tiles = detections.tiles if masks else None
    worst_first = range(len(detections) - 1, -1, -1)
    kinds = (range(len(detections)) if ids is None else ids) if instances else detections.classes
    colours = [colour_of(int(c)) for c in kinds]
    if tiles is not None:
        for i in worst_first:
            _fill(picture, tiles.tiles[i], tiles.corners[i], colours[i], alpha)
    for i in worst_first:
        if tiles is not None:
            lines = borders(tiles.tiles[i], tiles.corners[i])
            cv2.polylines(picture, lines, True, colours[i], thick, cv2.LINE_AA)
        if boxes:
            x1, y1, x2, y2 = _corners(detections.boxes[i], picture.shape)
            cv2.rectangle(picture, (x1, y1), (x2, y2), colours[i], thin, cv2.LINE_AA)
    if labels:
        taken: list[tuple[int, int, int, int]] = []
        for i in range(len(detections)):
            text = ("" if ids is None else f"#{ids[i]} ") + detections.names[detections.classes[i]]
            text += f" {detections.scores[i]:.2f}" if scores else ""
            _label(picture, text, _corners(detections.boxes[i], picture.shape), colours[i], unit, taken)
    return picture


def _corners(box: np.ndarray, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    x1, y1, x2, y2 = (int(v) for v in np.rint(box))
    return x1, y1, min(x2, shape[1] - 1), min(y2, shape[0] - 1)


def _fill(picture: np.ndarray, tile: np.ndarray, corner: np.ndarray, colour: tuple[int, int, int], alpha: float) -> None:
    if not tile.any():
        return
    (x, y), (h, w) = corner, tile.shape
    part = picture[y : y + h, x : x + w]
    tint = np.empty_like(part)
    tint[:] = colour
    mixed = cv2.addWeighted(part, 1 - alpha, tint, alpha, 0)
    np.copyto(part, mixed, where=tile[..., None])


def _label(
    picture: np.ndarray,
    text: str,
    box: tuple[int, int, int, int],
    colour: tuple[int, int, int],
    unit: float,
    taken: list[tuple[int, int, int, int]],
) -> None:
    """Write on a plate of the class's colour: above the box, else inside it, else below, where no other label lies."""
    size, weight, gap = 0.42 * unit, max(1, round(0.9 * unit)), max(2, round(3 * unit))
    (w, h), base = cv2.getTextSize(text, _FONT, size, weight)
    w, h = w + 2 * gap, h + base + gap
    height, width = picture.shape[:2]
    x = max(0, min(box[0], width - w))
    spots = [y for y in (box[1] - h, box[1], box[3]) if 0 <= y <= height - h] or [max(0, min(box[1], height - h))]
    free = [y for y in spots if not any(_meet((x, y, x + w, y + h), t) for t in taken)]
    y = (free or spots)[0]
    taken.append((x, y, x + w, y + h))
    cv2.rectangle(picture, (x, y), (x + w - 1, y + h - 1), colour, cv2.FILLED)
    bright = 0.114 * colour[0] + 0.587 * colour[1] + 0.299 * colour[2]
    ink = (20, 20, 20) if bright > 130 else (255, 255, 255)
    cv2.putText(picture, text, (x + gap, y + h - base - gap // 4), _FONT, size, ink, weight, cv2.LINE_AA)


def _meet(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
