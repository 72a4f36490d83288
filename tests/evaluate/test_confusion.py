"""What is taken for what: on cases whose answer is known, and against a slow and obvious count."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.evaluate.confusion import confusion

NAMES = ("cat", "dog", "hen")
Row = dict[str, Any]


def there(cls: int, box: list[float], image: int = 1, crowd: int = 0) -> Row:
    return {"image_id": image, "category_id": cls + 1, "bbox": box, "iscrowd": crowd}


def seen(cls: int, box: list[float], score: float, image: int = 1) -> Row:
    return {"image_id": image, "category_id": cls + 1, "bbox": box, "score": score}


A, B, FAR = [10.0, 10.0, 20.0, 20.0], [12.0, 10.0, 20.0, 20.0], [60.0, 60.0, 9.0, 9.0]


def test_each_kind_of_mistake_has_its_place() -> None:
    truth = [there(0, A), there(1, FAR), there(2, A, image=2)]
    found = [seen(0, B, 0.9), seen(2, A, 0.8), seen(0, A, 0.7, image=2), seen(1, FAR, 0.2), seen(1, FAR, 0.9, image=3)]
    got = confusion(truth, found, NAMES)
    wanted = np.zeros((4, 4), np.int64)
    wanted[0, 0] = 1  # a cat that is one
    wanted[2, 3] = 1  # a second box on it, of another class: the cat is taken
    wanted[0, 2] = 1  # a cat that is a hen
    wanted[3, 1] = 1  # the dog's only box has too low a score
    wanted[1, 3] = 1  # a dog in an image without objects
    assert np.array_equal(got.matrix, wanted)
    assert got.mistakes == {1: 2, 2: 1, 3: 1}
    assert (
        got.normalized()[0, 2] == 1 and got.normalized()[3, 1] == 1 and got.normalized()[:, 3].tolist() == [0, 0.5, 0.5, 0]
    )
    assert json.loads(json.dumps(got.to_dict()))["matrix"] == wanted.tolist()


def test_the_best_score_chooses_first_and_one_box_counts_once() -> None:
    truth = [there(0, A)]
    assert confusion(truth, [seen(1, A, 0.5), seen(0, B, 0.9)], NAMES).matrix[0, 0] == 1
    both = confusion(truth, [seen(0, A, 0.9), seen(1, A, 0.5)], NAMES).matrix
    assert both.sum() == 1 and both[0, 0] == 1


def test_in_a_crowd_of_its_class_a_detection_is_neither_right_nor_wrong() -> None:
    truth = [there(0, [0.0, 0.0, 100.0, 100.0], crowd=1)]
    assert confusion(truth, [seen(0, A, 0.9)], NAMES).matrix.sum() == 0
    assert confusion(truth, [seen(1, A, 0.9)], NAMES).matrix[1, 3] == 1
    assert confusion(truth, [seen(0, [95.0, 95.0, 20.0, 20.0], 0.9)], NAMES).matrix[0, 3] == 1


def iou(a: list[float], b: list[float]) -> float:
    across = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    down = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(across, 0) * max(down, 0)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def slowly(truth: list[Row], found: list[Row], conf: float, least: float) -> np.ndarray:
    """The rule as it is written, one detection at a time."""
    counts = np.zeros((4, 4), np.int64)
    left, used = [a for a in truth if not a["iscrowd"]], []
    for d in sorted(found, key=lambda f: -f["score"]):
        if d["score"] < conf or (d["image_id"], d["bbox"]) in used:
            continue
        used.append((d["image_id"], d["bbox"]))
        choice = None
        for a in left:
            if a["image_id"] != d["image_id"] or iou(a["bbox"], d["bbox"]) < least:
                continue
            if choice is None or iou(a["bbox"], d["bbox"]) > iou(choice["bbox"], d["bbox"]):
                choice = a
        if choice is not None:
            left = [a for a in left if a is not choice]
            counts[d["category_id"] - 1, choice["category_id"] - 1] += 1
            continue
        ignored = False
        for c in truth:
            if c["iscrowd"] and c["image_id"] == d["image_id"] and c["category_id"] == d["category_id"]:
                (x, y, w, h), (u, v, m, n) = d["bbox"], c["bbox"]
                pixels = [(i, j) for i in range(int(w)) for j in range(int(h))]
                inside = [1 for i, j in pixels if u <= x + i < u + m and v <= y + j < v + n]
                ignored = ignored or len(inside) >= least * len(pixels)
        if not ignored:
            counts[d["category_id"] - 1, 3] += 1
    for a in left:
        counts[3, a["category_id"] - 1] += 1
    return counts


corner, side = st.integers(0, 6).map(float), st.integers(1, 6).map(float)
boxes = st.tuples(corner, corner, side, side).map(list)
truths = st.builds(there, st.integers(0, 2), boxes, st.integers(1, 2), st.sampled_from((0, 0, 0, 1)))
scores = st.lists(st.integers(1, 1000), unique=True, max_size=8)


@given(st.lists(truths, max_size=6), scores, st.data(), st.sampled_from((0.3, 0.45, 0.5)))
def test_it_counts_as_the_slow_rule_does(truth: list[Row], order: list[int], data: st.DataObject, least: float) -> None:
    found = [seen(data.draw(st.integers(0, 2)), data.draw(boxes), n / 1000, data.draw(st.integers(1, 2))) for n in order]
    got = confusion(truth, found, NAMES, conf=0.25, iou=least).matrix
    assert np.array_equal(got, slowly(truth, found, 0.25, least))
    objects = [a["category_id"] - 1 for a in truth if not a["iscrowd"]]
    assert got[:, :3].sum(0).tolist() == np.bincount(np.array(objects, int), minlength=3).tolist() and got[3, 3] == 0
