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
        texts = [("" if ids is None else f"#{ids[i]} ") + detections.names[c] for i, c in enumerate(detections.classes)]
        texts = [f"{text} {score:.2f}" for text, score in zip(texts, detections.scores)] if scores else texts
        places: list[tuple[int, int, int, int]] = []
        for text, box in zip(texts, detections.boxes):
            places.append(_place(text, _corners(box, picture.shape), picture.shape, unit, places))
        for i in worst_first:
            _label(picture, texts[i], places[i], colours[i], unit)
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


def _letters(unit: float) -> tuple[float, int, int]:
    """Size and weight of the letters, and the gap around them, in pixels."""
    return 0.42 * unit, max(1, round(0.9 * unit)), max(2, round(3 * unit))


def _place(
    text: str,
    box: tuple[int, int, int, int],
    shape: tuple[int, ...],
    unit: float,
    taken: list[tuple[int, int, int, int]],
) -> tuple[int, int, int, int]:
    """Where a label lies: above its box, inside or below, at the left or right, where it hides least of the others."""
    size, weight, gap = _letters(unit)
    (w, h), base = cv2.getTextSize(text, _FONT, size, weight)
    w, h = w + 2 * gap, h + base + gap
    height, width = shape[:2]
    lines = [y for y in (box[1] - h, box[1], box[3], box[3] - h) if 0 <= y <= height - h]
    lines = lines or [max(0, min(box[1], height - h))]
    starts = [max(0, min(x, width - w)) for x in (box[0], box[2] - w)]
    spots = [(x, y, x + w, y + h) for x in starts for y in lines]
    free = (s for s in spots if not any(_common(s, t) for t in taken))
    return next(free, None) or min(spots, key=lambda s: sum(_common(s, t) for t in taken))


def _label(
    picture: np.ndarray, text: str, plate: tuple[int, int, int, int], colour: tuple[int, int, int], unit: float
) -> None:
    """Write on a plate of the class's colour."""
    size, weight, gap = _letters(unit)
    x, _, right, bottom = plate
    base = cv2.getTextSize(text, _FONT, size, weight)[1]
    cv2.rectangle(picture, plate[:2], (right - 1, bottom - 1), colour, cv2.FILLED)
    bright = 0.114 * colour[0] + 0.587 * colour[1] + 0.299 * colour[2]
    ink = (20, 20, 20) if bright > 130 else (255, 255, 255)
    cv2.putText(picture, text, (x + gap, bottom - base - gap // 4), _FONT, size, ink, weight, cv2.LINE_AA)


def _common(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> int:
    """Pixels that two rectangles share."""
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
