import json
import pickle
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseg.errors import EdgesegError
from edgeseg.vision import rle
from edgeseg.vision.detections import Detections
from edgeseg.vision.masks import Tiles
from edgeseg.vision.outline import fill

NAMES = ("circle", "square", "star")
SHAPE = (40, 60)


def three(masks=True) -> Detections:
    full = np.zeros((3, *SHAPE), bool)
    full[0, 5:20, 10:30] = True
    full[0, 30:33, 40:45] = True
    full[0, 8:10, 12:15] = False  # a hole
    full[1, 7, 3] = True
    boxes = [[10, 5, 45, 33], [3, 7, 4, 8], [50, 30, 60, 40]]
    return Detections(boxes, [0.9, 0.5, 0.5], [2, 0, 2], full if masks else None, NAMES, SHAPE)


def test_fields():
    d = three()
    assert len(d) == 3 and d.boxes.dtype == d.scores.dtype == np.float32 and d.classes.dtype == np.int32
    assert d.masks.shape == (3, *SHAPE) and d.masks.dtype == bool
    assert d.summary() == "2 star, 1 circle" and repr(d) == "Detections(3 on 60x40: 2 star, 1 circle)"
    assert three(masks=False).masks is None
    empty = Detections(np.zeros((0, 4)), [], [], np.zeros((0, *SHAPE), bool), NAMES, SHAPE)
    assert len(empty) == 0 and empty.polygons() == empty.rle() == empty.to_dicts() == empty.to_yolo() == []
    assert "nothing" in repr(empty)


@pytest.mark.parametrize(
    "change",
    [
        {"boxes": np.zeros((2, 4))},
        {"boxes": [[5, 5, 4, 6]]},
        {"boxes": [[0, 5, 61, 6]]},
        {"boxes": [[0, 5, 6, 41]]},
        {"boxes": [[-1, 5, 6, 6]]},
        {"boxes": [[0, np.nan, 6, 6]]},
        {"scores": [1.2]},
        {"scores": [np.nan]},
        {"scores": [-0.1]},
        {"scores": [0.4, 0.6], "boxes": [[0, 0, 1, 1]] * 2, "classes": [0, 0]},
        {"classes": [3]},
        {"classes": [-1]},
        {"classes": [[0]]},
        {"masks": np.zeros((1, 40, 61), bool)},
        {"masks": np.zeros((1, *SHAPE), np.uint8)},
        {"masks": Tiles((9, 9), np.zeros((1, 2), int), (np.zeros((0, 0), bool),))},
        {"masks": Tiles(SHAPE, np.zeros((0, 2), int), ())},
    ],
)
def test_what_cannot_be_is_refused(change):
    good = {"boxes": [[0, 0, 5, 5]], "scores": [0.5], "classes": [0], "masks": None, "names": NAMES, "shape": SHAPE}
    Detections(**good)
    with pytest.raises(ValueError):
        Detections(**{**good, **change})


def test_they_are_not_changed():
    d = three()
    with pytest.raises(AttributeError):
        d.scores = d.scores
    for array in (d.boxes, d.scores, d.classes, d.masks):
        with pytest.raises(ValueError):
            array[0] = 0
    scores = np.array([0.5], np.float32)
    Detections([[0, 0, 1, 1]], scores, [0], None, NAMES, SHAPE)
    scores[0] = 0.2  # the caller's own array stays writable


def test_parts():
    d = three()
    assert d[1].scores.tolist() == [0.5] and d[-1].classes.tolist() == [2]
    np.testing.assert_array_equal(d[1:].masks, d.masks[1:])
    part = d[d.classes == 2]
    np.testing.assert_array_equal(part.boxes, d.boxes[[0, 2]])
    np.testing.assert_array_equal(part.masks, d.masks[[0, 2]])
    assert len(d[[0, 2]]) == 2 and len(d[5:]) == 0
    with pytest.raises(IndexError):
        d[3]
    with pytest.raises(ValueError):
        d[::-1]


def test_copies_through_pickle():
    d = three()
    copy = pickle.loads(pickle.dumps(d))
    np.testing.assert_array_equal(copy.masks, d.masks)
    np.testing.assert_array_equal(copy.boxes, d.boxes)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999))
def test_codes_are_the_masks(seed):
    rng = np.random.default_rng(seed)
    full = cv2.GaussianBlur(rng.random(SHAPE), (0, 0), 3) > 0.5
    full = np.stack((full, ~full, np.zeros(SHAPE, bool)))
    d = Detections([[0, 0, 60, 40]] * 3, [0.5] * 3, [0] * 3, full, NAMES, SHAPE)
    for code, mask, expected in zip(d.rle(), full, map(rle.encode, full)):
        assert code == expected
        np.testing.assert_array_equal(rle.decode(code), mask)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999))
def test_outlines_give_the_mask_back(seed):
    full = cv2.GaussianBlur(np.random.default_rng(seed).random(SHAPE), (0, 0), 3) > 0.52
    d = Detections([[0, 0, 60, 40]], [0.5], [0], full[None], NAMES, SHAPE)
    parts = d.polygons()[0]
    assert all(len(p) >= 3 and p.dtype == np.float32 for p in parts)
    line = [float(v) for v in d.to_yolo()[0].split()[1:]]
    for rings in (parts, [np.array(line).reshape(-1, 2) * (60, 40)]):
        again = fill(rings, SHAPE)
        assert (again & full).sum() / (again | full).sum() > 0.97
        assert abs(int(again.sum()) - int(full.sum())) <= 0.02 * full.sum() + 2


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 999), st.sampled_from([1, 2, 3, 4.5]))
def test_outlines_at_a_smaller_size(seed, times):
    """Each is the mask at that size, enlarged; its points cross between two neighbours of which one is inside."""
    shape, size = (180, 270), (round(180 / times), round(270 / times))
    full = cv2.GaussianBlur(np.random.default_rng(seed).random(shape), (0, 0), 12) > 0.502
    d = Detections([[0, 0, 270, 180]], [0.5], [0], full[None], NAMES, shape)
    small, sides = d.masks_at(size)[0], np.array(shape)[::-1] / size[::-1]
    assert small.shape == size and small.dtype == bool
    rings = d.polygons(size)[0]
    again = fill([ring / sides for ring in rings], size)
    assert (again ^ small).sum() <= 0.02 * small.sum() + 2  # what TOLERANCE moves
    whole = fill(rings, shape)
    assert (whole & full).sum() / (whole | full).sum() > (0.97 if times == 1 else 0.9)
    # Half a pixel of the small size off the mask's rim, and TOLERANCE more; both, and where the rim lies, to whole pixels.
    padded = np.pad(full, 1).astype(np.uint8)
    rim = cv2.distanceTransform(1 - (padded - cv2.erode(padded, np.ones((3, 3)))), cv2.DIST_L2, 5)
    points = np.concatenate(rings).astype(int) + 1
    assert rim[points[:, 1], points[:, 0]].max() <= times + 1.5


def test_masks_at_a_size():
    assert three(masks=False).masks_at((4, 6)) is None
    np.testing.assert_array_equal(three().masks_at(SHAPE), three().masks)
    np.testing.assert_array_equal(three().masks_at((20, 30)), three().masks[:, 1::2, 1::2])


def test_polygons_largest_first_with_holes_and_single_pixels():
    outlines = three().polygons()
    assert [len(o) for o in outlines] == [2, 1, 0]
    np.testing.assert_array_equal(fill(outlines[0], SHAPE), three().masks[0])
    assert fill(outlines[0][:1], SHAPE).sum() == 15 * 20 - 6
    np.testing.assert_array_equal(sorted(outlines[1][0].tolist()), [[3, 7], [3, 8], [4, 7], [4, 8]])
    np.testing.assert_array_equal(three(masks=False).polygons()[1][0], [[3, 7], [4, 7], [4, 8], [3, 8]])


def test_json():
    value = json.loads(three().to_json(rle=True, polygons=True))
    first = value["detections"][0]
    assert value["shape"] == [40, 60] and first["box"] == [10, 5, 45, 33] and first["name"] == "star" and first["class"] == 2
    assert first["score"] == pytest.approx(0.9) and first["rle"]["size"] == [40, 60] and len(first["polygons"]) == 2
    np.testing.assert_array_equal(rle.decode(first["rle"]), three().masks[0])
    assert set(three().to_dicts()[0]) == {"box", "score", "class", "name"}


def test_yolo_lines():
    lines = three().to_yolo()
    assert [line.split()[0] for line in lines] == ["2", "0"]  # the empty mask has no outline
    points = np.array(lines[0].split()[1:], float).reshape(-1, 2)
    np.testing.assert_array_equal(fill([points * (60, 40)], SHAPE), three().masks[0])  # both parts, without the hole
    assert three().to_yolo(scores=True)[1].endswith(" 0.5")
    box = np.array(three(masks=False).to_yolo()[0].split()[1:], float)
    np.testing.assert_allclose(box, [27.5 / 60, 19 / 40, 35 / 60, 28 / 40], atol=1e-5)


def test_supervision(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", SimpleNamespace(Detections=lambda **k: SimpleNamespace(**k)))
    d = three()
    sv = d.to_supervision()
    np.testing.assert_array_equal(sv.xyxy, d.boxes)
    np.testing.assert_array_equal(sv.mask, d.masks)
    assert sv.data["class_name"].tolist() == ["star", "circle", "star"] and sv.class_id.dtype == int
    assert three(masks=False).to_supervision().mask is None
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(EdgesegError, match="pip install supervision"):
        d.to_supervision()
