"""Ids stay with objects: against a slow assignment, a textbook Kalman filter, and objects whose way is known."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.data.shapes import shapes_image
from edgeseg.vision import track
from edgeseg.vision.detections import Detections
from edgeseg.vision.track import Tracker, assign

SHAPE = (600, 800)


def frame(boxes, scores=None, classes=None):
    """Detections of boxes (n, 4) x1, y1, x2, y2, cut at the image's edge, and the order that falling scores give them."""
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4).clip(0, [SHAPE[1], SHAPE[0], SHAPE[1], SHAPE[0]])
    scores = np.full(len(boxes), 0.9) if scores is None else np.asarray(scores, float)
    classes = np.zeros(len(boxes), int) if classes is None else np.asarray(classes)
    order = np.argsort(-scores, kind="stable")
    return Detections(boxes[order], scores[order], classes[order], None, ("a", "b"), SHAPE), order


def ids_of(tracker, boxes, scores=None, classes=None):
    """Ids in the order in which the boxes were given."""
    detections, order = frame(boxes, scores, classes)
    ids = np.zeros(len(order), np.int64)
    ids[order] = tracker.update(detections)
    return ids


def square(x, y, side=40):
    return [x - side / 2, y - side / 2, x + side / 2, y + side / 2]


@given(st.integers(0, 10_000), st.integers(0, 5), st.integers(0, 6), st.sampled_from([0.0, 0.4, 0.8]))
def test_assignment_is_the_best_of_all(seed, n, m, empty):
    rng = np.random.default_rng(seed)
    gain = np.where(rng.random((n, m)) < empty, 0, rng.integers(1, 6, (n, m)) / 4)
    rows, columns = assign(gain)
    assert len(set(rows)) == len(rows) == len(set(columns)) == len(columns) and (gain[rows, columns] > 0).all()
    wide = gain if n <= m else gain.T
    every = itertools.permutations(range(wide.shape[1]), wide.shape[0])
    assert gain[rows, columns].sum() == max(sum(wide[i, j] for i, j in enumerate(p)) for p in every)


@pytest.mark.parametrize("seed", range(3))
def test_assignment_of_a_crowd_costs_what_scipys_does(seed):
    optimize = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(seed)
    gain = np.maximum(rng.random((90, 120)) - 0.7, 0)
    rows, columns = assign(gain)
    assert gain[rows, columns].sum() == pytest.approx(gain[optimize.linear_sum_assignment(gain, maximize=True)].sum())


def test_four_small_filters_are_the_large_one():
    """Against a Kalman filter of eight numbers with matrices, written out."""
    rng = np.random.default_rng(4)
    boxes = np.array([100, 200, 50, 30]) + np.cumsum(rng.normal([3, -2, 1, 0.5], 1, (9, 4)), 0)
    move, see = np.eye(8) + np.eye(8, k=4), np.eye(4, 8)
    sides = boxes[0, [2, 3, 2, 3]]
    x = np.concatenate((boxes[0], np.zeros(4)))
    spread = np.diag(np.concatenate((sides / 10, sides / 16)) ** 2)
    states = track._started(boxes[:1])
    for box in boxes[1:]:
        sides = x[[2, 3, 2, 3]]
        x = move @ x
        spread = move @ spread @ move.T + np.diag(np.concatenate((sides / 20, sides / 160)) ** 2)
        gain = spread @ see.T @ np.linalg.inv(see @ spread @ see.T + np.diag((x[[2, 3, 2, 3]] / 20) ** 2))
        x, spread = x + gain @ (box - see @ x), (np.eye(8) - gain @ see) @ spread
        track._predict(states, np.zeros(1, bool))
        states = track._corrected(states, box[None])
        assert np.allclose(states[0, 0], x[:4]) and np.allclose(states[0, 1], x[4:])
        assert np.allclose(states[0, 2], np.diag(spread)[:4]) and np.allclose(states[0, 4], np.diag(spread)[4:])


@given(st.integers(0, 10_000), st.integers(1, 8))
def test_objects_on_straight_ways_keep_their_ids(seed, n):
    """In lanes of their own, with noise, faint now and then, or missing for up to ``buffer`` frames (and sure when back)."""
    rng = np.random.default_rng(seed)
    tracker, x, pace = Tracker(buffer=8), rng.uniform(200, 600, n), rng.uniform(-4, 4, n)
    given_to: list[set[int]] = [set() for _ in range(n)]
    away = np.zeros(n, int)
    for number in range(40):
        x += pace
        back, away = away == 1, np.maximum(away - 1, 0)
        if number > 12:  # the pace is known by then
            leaves = (away == 0) & ~back & (rng.random(n) < 0.05)
            away[leaves] = rng.integers(1, 9, leaves.sum())
        here = np.flatnonzero(away == 0)
        boxes = [square(*(np.array([x[i], 40 + 70 * i]) + rng.normal(0, 0.7, 2))) for i in here]
        faint = (number > 3) & ~back[here] & (rng.random(len(here)) < 0.2)
        scores = np.where(faint, 0.15, rng.uniform(0.4, 0.9, len(here)))
        for i, value in zip(here, ids_of(tracker, boxes, scores)):
            if value:
                given_to[i].add(int(value))
    assert all(len(ids) == 1 for ids in given_to)
    assert set.union(*given_to) == set(range(1, n + 1))


@given(st.integers(0, 10_000), st.floats(60, 160), st.floats(3, 8))
def test_crossing_objects_keep_their_ids(seed, degrees, pace):
    rng = np.random.default_rng(seed)
    tracker, turn = Tracker(), np.radians(degrees) / 2
    ways = pace * np.array([[np.cos(turn), np.sin(turn)], [np.cos(turn), -np.sin(turn)]])
    seen = []
    for number in range(-30, 31):
        places = [400, 300] + number * ways + rng.normal(0, 0.3, (2, 2))
        seen.append(ids_of(tracker, [square(*p) for p in places]).tolist())
    assert seen[0] == [1, 2] and seen[-1] == [1, 2]


def test_after_the_buffer_an_object_is_a_new_one_and_no_id_comes_twice():
    tracker = Tracker(buffer=3)
    here, nothing = [square(100, 100)], []
    assert ids_of(tracker, here) == [1]
    for _ in range(3):
        assert ids_of(tracker, nothing).tolist() == []
    assert ids_of(tracker, here) == [1]
    for _ in range(4):
        ids_of(tracker, nothing)
    assert ids_of(tracker, here) == [0] and ids_of(tracker, here) == [2]  # an id with the second sight
    tracker.reset()
    assert ids_of(tracker, here) == [3]  # the first frame of a scene gives ids at once


def test_what_is_seen_once_is_nothing():
    tracker = Tracker()
    ids_of(tracker, [square(100, 100)])
    for x in (300, 500, 700):  # a flicker each time elsewhere
        assert ids_of(tracker, [square(100, 100), square(x, 300)]).tolist() == [1, 0]
    assert ids_of(tracker, [square(100, 100), square(700, 300)]).tolist() == [1, 2]


def test_faint_detections_carry_tracks_on_and_begin_none():
    tracker = Tracker(high=0.5)
    assert ids_of(tracker, [square(100, 100), square(300, 300)], [0.9, 0.3]).tolist() == [1, 0]
    for _ in range(3):
        assert ids_of(tracker, [square(100, 100), square(300, 300)], [0.3, 0.3]).tolist() == [1, 0]
    assert ids_of(tracker, []).tolist() == []
    assert ids_of(tracker, [square(100, 100)], [0.3]).tolist() == [0]  # one that was out of sight needs a sure one
    assert ids_of(tracker, [square(100, 100)], [0.9]).tolist() == [1]


def test_classes_never_mix():
    tracker = Tracker()
    boxes = [square(100, 100), square(104, 100)]
    assert ids_of(tracker, boxes, classes=[0, 1]).tolist() == [1, 2]
    assert ids_of(tracker, boxes[::-1], classes=[1, 0]).tolist() == [2, 1]
    assert ids_of(tracker, boxes[:1], classes=[1]).tolist() == [2]


def test_odd_boxes_and_the_same_frames_again():
    rng = np.random.default_rng(1)
    frames = [rng.uniform(0, 500, (int(rng.integers(0, 60)), 2)) for _ in range(20)]
    boxes = [np.concatenate((p, p + rng.integers(0, 3, p.shape) * 40), 1) for p in frames]  # some have no area
    first, second = Tracker(), Tracker()
    for some in boxes:
        ids = ids_of(first, some)
        assert ids.dtype == np.int64 and np.array_equal(ids, ids_of(second, some))
        assert len(set(ids[ids > 0])) == (ids > 0).sum()
    assert np.isfinite(first._states).all()


def test_the_demo_network_follows_shapes():
    """A circle that goes right and a square that goes left: each has one id all the way."""
    pytest.importorskip("torch")
    from edgeseg import Model
    from edgeseg.resources import demo_checkpoint

    def film():
        for number in range(40):
            image = np.full((160, 160, 3), 60, np.uint8)
            cv2.circle(image, (30 + 2 * number, 35), 18, (40, 200, 240), cv2.FILLED)
            cv2.rectangle(image, (110 - 2 * number, 95), (142 - 2 * number, 127), (230, 120, 30), cv2.FILLED)
            yield image

    results = list(Model(demo_checkpoint()).track(film(), stream=True))
    assert len(results) == 40
    for name, x, pace, y in (("circle", 30, 2, 35), ("square", 126, -2, 111)):
        ids: set[int] = set()
        for number, r in enumerate(results):
            near = np.abs(r.boxes.xywh[:, :2] - (x + pace * number, y)).max(1) < 8
            ids.update(r.boxes.id[near & (r.boxes.cls == r.names.index(name))].tolist())
        assert len(ids) == 1


def moving_shapes(seed, frames, size=160, n=4):
    """Pictures of shapes that cross each other and bounce off the edges, and for each the class and visible box of everyone.

    A box is None where less than half of its shape is to be seen."""
    rng = np.random.default_rng(seed)
    things = []
    for number in range(n):
        image, labels = shapes_image([seed, number], size)
        ring = np.rint(labels[-1].pixels((size, size))).astype(np.int32)  # the last one lies on top: all of it is visible
        x, y, w, h = cv2.boundingRect(ring)
        w, h = min(w, size - x), min(h, size - y)
        mask = cv2.fillPoly(np.zeros((size, size), np.uint8), [ring], 1)[y : y + h, x : x + w].astype(bool)
        place, pace = np.array([x, y], float), rng.uniform(1, 2.5, 2) * rng.choice([-1, 1], 2)
        things.append((labels[-1].cls, image[y : y + h, x : x + w], mask, place, pace))
    ground = cv2.blur(shapes_image([seed, n], size)[0], (61, 61))
    for _ in range(frames):
        image, owner = ground.copy(), np.full((size, size), -1)
        for number, (_, picture, mask, place, pace) in enumerate(things):
            room = np.array([size - mask.shape[1], size - mask.shape[0]])
            place += pace
            pace[(place < 0) | (place > room)] *= -1
            place[:] = place.clip(0, room)
            x, y = np.rint(place).astype(int)
            where = np.s_[y : y + mask.shape[0], x : x + mask.shape[1]]
            image[where][mask], owner[where][mask] = picture[mask], number
        truth = []
        for number, (cls, _, mask, *_rest) in enumerate(things):
            seen = (owner == number).astype(np.uint8)
            x, y, w, h = cv2.boundingRect(seen)
            truth.append((cls, [x, y, x + w, y + h] if 2 * seen.sum() >= mask.sum() else None))
        yield image, truth


@pytest.mark.slow
def test_how_often_ids_switch_on_crossing_shapes():
    """MOTChallenge's count: an object is found (IoU 0.5, its class) under another id than when it was found last."""
    pytest.importorskip("torch")
    from edgeseg import Model
    from edgeseg.resources import demo_checkpoint

    model, switches, found, objects = Model(demo_checkpoint()), 0, 0, 0
    for seed in range(4):
        film, last = list(moving_shapes(seed, 120)), {}
        for (_, truth), r in zip(film, model.track((image for image, _ in film), stream=True)):
            for number, (cls, box) in enumerate(truth):
                if box is None:
                    continue
                objects += 1
                ours = np.flatnonzero(r.boxes.cls == cls)
                overlap = track._overlap(track._centred(r.boxes.xyxy[ours]), track._centred(np.array([box])))[:, 0]
                if len(ours) and overlap.max() >= 0.5:
                    now = int(r.boxes.id[ours[overlap.argmax()]])
                    found, switches = found + 1, switches + (last.get(number, now) != now)
                    last[number] = now
    print(f"{switches} switches in {found} of {objects} sightings")
    assert found > 0.85 * objects and switches < 0.02 * found
