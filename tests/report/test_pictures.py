"""A picture and what was found in it, as the viewer wants it."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeseg.errors import EdgesegError
from edgeseg.evaluate.metrics import Told
from edgeseg.report.pictures import picture, restored
from edgeseg.vision.detections import Detections

SHAPE = (60, 80)


def found(*boxes: tuple[int, int, int, int], cls: int = 0, masks: bool = True, shape: tuple[int, int] = SHAPE) -> Detections:
    full = np.zeros((len(boxes), *shape), bool)
    for mask, (x1, y1, x2, y2) in zip(full, boxes):
        mask[y1:y2, x1:x2] = True
        edge = (x2 - x1) // 5
        mask[y1 + edge : y2 - edge, x1 + edge : x2 - edge] = False  # a hole
    scores = np.linspace(0.9, 0.5, len(boxes), dtype=np.float32)
    given = np.array(boxes, np.float32).reshape(-1, 4)
    return Detections(given, scores, np.full(len(boxes), cls), full if masks else None, ("cat", "dog"), shape)


def decoded(src: str) -> np.ndarray:
    kind, data = src.split(",", 1)
    assert kind == "data:image/jpeg;base64"
    return cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)


def filled(rings: list[list[float]], shape: tuple[int, int]) -> np.ndarray:
    """By the even-odd rule, as an SVG path is: pixels whose centre an odd number of sides lies left of."""
    ys, xs = np.mgrid[: shape[0], : shape[1]] + 0.5
    inside = np.zeros(shape, bool)
    for ring in rings:
        points = np.array(ring, float).reshape(-1, 2)
        for (x1, y1), (x2, y2) in zip(points, np.roll(points, -1, axis=0)):
            if y1 != y2:
                crosses = (ys > min(y1, y2)) & (ys <= max(y1, y2))
                inside ^= crosses & (xs > x1 + (ys - y1) * (x2 - x1) / (y2 - y1))
    return inside


def test_a_picture_is_stored_once_with_what_was_found_as_numbers(tmp_path: Path) -> None:
    image = np.full((*SHAPE, 3), (40, 90, 200), np.uint8)
    cv2.imwrite(str(tmp_path / "a<b>.png"), image)
    first, second = found((5, 5, 30, 30), (40, 10, 70, 50)), found((41, 10, 70, 50), (0, 30, 15, 58))
    got = picture(tmp_path / "a<b>.png", [first, second, None])
    assert json.loads(json.dumps(got)) == got
    assert (got["name"], got["width"], got["height"]) == ("a<b>.png", 80, 60)
    assert np.abs(decoded(got["src"]).astype(int) - image).max() < 8
    mine, theirs, none = got["found"]
    assert none is None and [d["pair"] for d in mine] == [0, 1] and [d["pair"] for d in theirs] == [1, -1]
    assert mine[1] == {"class": 0, "score": 0.5, "box": [40.0, 10.0, 70.0, 50.0], "rings": mine[1]["rings"], "pair": 1}
    for one, mask in zip(mine, first.masks):
        assert np.array_equal(filled(one["rings"], SHAPE), mask)


def test_parts_and_holes_fill_the_mask_again() -> None:
    """A mask like a sieve: hundreds of rings, none of them joined, in no time."""
    mask = np.random.default_rng(0).random(SHAPE) < 0.6
    one = Detections(np.array([[0, 0, 80, 60]]), [0.5], [0], mask[None], ("thing",), SHAPE)
    rings = picture(np.zeros((*SHAPE, 3), np.uint8), [one])["found"][0][0]["rings"]
    assert len(rings) > 200 and np.array_equal(filled(rings, SHAPE), mask)


def test_masks_may_be_missing() -> None:
    image = np.zeros((*SHAPE, 3), np.uint8)
    first, second = found((5, 5, 30, 30), masks=False), found((50, 5, 79, 30), masks=False, cls=1)
    got = picture(image, [first, second], name="given")
    assert got["name"] == "given" and got["found"][1][0]["pair"] == -1 and got["found"][0][0]["rings"] == []
    assert picture(image, [found(), found()])["found"] == [[], []]


def test_a_large_picture_is_stored_smaller_in_its_own_coordinates() -> None:
    shape = (3000, 4000)
    image = np.zeros((*shape, 3), np.uint8)
    got = picture(image, [found((100, 100, 3900, 2900), shape=shape)], longest=400)
    assert decoded(got["src"]).shape[:2] == (300, 400) and (got["width"], got["height"]) == (4000, 3000)
    points = np.array(got["found"][0][0]["rings"][0]).reshape(-1, 2)
    assert np.abs(points.min(0) - 100).max() <= 10 and np.abs(points.max(0) - (3900, 2900)).max() <= 10


def test_detections_of_another_picture_are_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((50, 50, 3), np.uint8))
    with pytest.raises(EdgesegError, match="the image is 50x50 pixels, the detections are of one of 80x60"):
        picture(tmp_path / "a.png", [found()])


def test_what_was_kept_as_run_lengths_comes_back() -> None:
    for one in (found((5, 5, 30, 30), (40, 10, 70, 50)), found((5, 5, 30, 30), masks=False), found()):
        again = restored(Told.of(one), one.names)
        assert np.array_equal(again.boxes, one.boxes) and np.array_equal(again.scores, one.scores)
        assert np.array_equal(again.classes, one.classes) and again.shape == one.shape
        assert (again.masks is None) == (one.masks is None) and (one.masks is None or np.array_equal(again.masks, one.masks))
