"""Whole scenes: what was put into the tensors comes out on the source image."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseg.errors import EdgesegError
from edgeseg.vision.postprocess import nms, postprocess
from edgeseg.vision.preprocess import Letterbox

SIZE = (128, 128)


def scene(heads, boxes, classes, scores, layout="nchw", dtype="float32"):
    """Raw tensors with one object a box (xyxy in input pixels, of stride 8), each with a rectangle as its mask."""
    arrays, manifest = heads.raw(0, imgsz=SIZE, mean=-9, spread=0.1)
    for a, o in zip(arrays, manifest.outputs):
        if o.role in ("coeff", "proto"):
            a[:] = 0
    for i, (box, cls, score) in enumerate(zip(boxes, classes, scores)):
        x, y = int((box[0] + box[2]) / 16), int((box[1] + box[3]) / 16)
        sides = np.array([x + 0.5 - box[0] / 8, y + 0.5 - box[1] / 8, box[2] / 8 - x - 0.5, box[3] / 8 - y - 0.5])
        bins = np.full((4, 16), -30.0)
        for side, value in enumerate(sides):  # two bins whose expectation is the distance
            low = int(value)
            with np.errstate(divide="ignore"):
                bins[side, low], bins[side, low + 1] = np.log(np.array([low + 1 - value, value - low]) + 1e-12)
        arrays[0][0, :, y, x] = bins.ravel()
        arrays[1][0, cls, y, x] = np.log(score / (1 - score))
        arrays[2][0, i, y, x] = 1
        arrays[9][0, i] = -1
        x1, y1, x2, y2 = (round(v / 4) for v in box)
        arrays[9][0, i, y1:y2, x1:x2] = 1
    pairs = [heads.output(o.name, a, o.role, layout, dtype, o.stride) for a, o in zip(arrays, manifest.outputs)]
    return [p[0] for p in pairs], replace(manifest, outputs=tuple(p[1] for p in pairs))


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 0.01), ("int16", 0.1)])
@pytest.mark.parametrize("source", [(128, 128), (64, 128), (300, 200), (40, 25)])
def test_objects_come_back(heads, layout, dtype, tolerance, source):
    letterbox = Letterbox.fit(source, SIZE)
    # In the source image's own units, so that they lie inside it whatever its shape.
    unit = np.array([[0.1, 0.2, 0.5, 0.6], [0.45, 0.3, 0.9, 0.8]])
    there = letterbox.to_input(unit * np.tile(source[::-1], 2))
    there = np.rint(there / 4) * 4
    arrays, manifest = scene(heads, there, [2, 0], [0.6, 0.8], layout, dtype)
    found = postprocess(arrays, manifest, letterbox)
    assert found.classes.tolist() == [0, 2] and found.shape == source
    np.testing.assert_allclose(found.scores, [0.8, 0.6], atol=0.01)
    expected = letterbox.to_source(there[::-1])
    np.testing.assert_allclose(found.boxes, expected, atol=tolerance / letterbox.ratio)
    for mask, box in zip(found.masks, expected):
        area = (box[2] - box[0]) * (box[3] - box[1])
        # The outermost ring of grid cells may fall either way.
        assert abs(mask.sum() - area) < 0.15 * area + 2 * (box[2] - box[0] + box[3] - box[1])


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    head=st.sampled_from(["raw", "decoded"]),
    layout=st.sampled_from(["nchw", "nhwc"]),
    dtype=st.sampled_from(["float32", "int8"]),
    multi=st.booleans(),
    source=st.tuples(st.integers(1, 80), st.integers(1, 80)),
    max_det=st.sampled_from([1, 5, 300]),
)
def test_any_noise_gives_valid_detections(heads, seed, head, layout, dtype, multi, source, max_det):
    arrays, manifest = getattr(heads, head)(seed, layout=layout, dtype=dtype)
    letterbox = Letterbox.fit(source, manifest.imgsz)
    found = postprocess(arrays, manifest, letterbox, conf=0.1, multi_label=multi, max_det=max_det)
    assert len(found) <= max_det and found.masks.shape == (len(found), *source)
    assert ((found.boxes[:, 2:] - found.boxes[:, :2]) > 0).all()
    without = postprocess(arrays, manifest, letterbox, conf=0.1, multi_label=multi, max_det=max_det, masks=False)
    np.testing.assert_array_equal(found.boxes, without.boxes)
    assert without.masks is None


def test_layouts_agree_to_the_last_bit(heads):
    results = []
    for layout in ("nchw", "nhwc"):
        arrays, manifest = heads.raw(7, imgsz=(128, 160), layout=layout)
        results.append(postprocess(arrays, manifest, Letterbox.fit((100, 99), (128, 160)), conf=0.1))
    a, b = results
    for field in ("boxes", "scores", "classes"):
        np.testing.assert_array_equal(getattr(a, field), getattr(b, field))
    # Sums of 32 products in another order: a pixel whose logit is 0 within rounding may differ.
    assert (a.masks != b.masks).mean() < 1e-4


def test_a_box_in_the_padding_is_no_detection(heads):
    letterbox = Letterbox.fit((64, 128), SIZE)  # padding above and below
    arrays, manifest = scene(heads, np.array([[40.0, 4, 80, 28]]), [1], [0.9])
    assert len(postprocess(arrays, manifest, letterbox)) == 0
    assert len(postprocess(arrays, manifest, Letterbox.fit(SIZE, SIZE))) == 1


def test_what_needs_no_suppression_is_not_suppressed(heads):
    same = np.array([[16.0, 16, 48, 48], [20, 20, 60, 52]])
    arrays, manifest = scene(heads, same, [1, 1], [0.6, 0.8])
    letterbox = Letterbox.fit(SIZE, SIZE)
    assert len(postprocess(arrays, manifest, letterbox, iou=0.3)) == 1
    both = postprocess(arrays, replace(manifest, end2end=True), letterbox, iou=0.3)
    np.testing.assert_allclose(both.scores, [0.8, 0.6], atol=0.01)
    assert len(postprocess(arrays, replace(manifest, end2end=True), letterbox, max_det=1)) == 1


def test_a_detector_has_boxes_and_no_masks(heads):
    arrays, manifest = scene(heads, np.array([[16.0, 16, 48, 48]]), [1], [0.6])
    boxes = [i for i, o in enumerate(manifest.outputs) if o.role in ("box", "score")]
    detector = replace(manifest, task="detect", outputs=tuple(manifest.outputs[i] for i in boxes))
    letterbox = Letterbox.fit(SIZE, SIZE)
    found, whole = postprocess([arrays[i] for i in boxes], detector, letterbox), postprocess(arrays, manifest, letterbox)
    assert found.tiles is None and np.array_equal(found.boxes, whole.boxes) and np.array_equal(found.scores, whole.scores)
    for task, outputs in (("segment", [arrays[i] for i in boxes]), ("detect", arrays)):
        with pytest.raises(EdgesegError, match="no raw head"):
            postprocess(outputs, replace(detector if task == "segment" else manifest, task=task), letterbox)


def slow(boxes, scores, classes, iou, max_det, agnostic=False):
    """Greedy suppression, pair by pair."""
    kept: list[int] = []
    zero = np.float32(0)
    for i in sorted(range(len(scores)), key=lambda i: -scores[i]):
        b = boxes[i]
        for j in kept:
            if not agnostic and classes[i] != classes[j]:
                continue
            a = boxes[j]
            inter = max(zero, min(a[2], b[2]) - max(a[0], b[0])) * max(zero, min(a[3], b[3]) - max(a[1], b[1]))
            area_a = max(zero, a[2] - a[0]) * max(zero, a[3] - a[1])
            area_b = max(zero, b[2] - b[0]) * max(zero, b[3] - b[1])
            if inter > np.float32(iou) * (area_a + area_b - inter):
                break
        else:
            kept.append(i)
    return kept[:max_det]


def crowd(seed, n, nc, levels):
    """Boxes in clusters, so that chains of overlap occur; scores on a coarse scale, so that equal ones occur."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(0, 100, (max(1, n // 8), 2))[rng.integers(0, max(1, n // 8), n)] + rng.normal(0, 4, (n, 2))
    half = rng.uniform(-1, 20, (n, 2))  # a few are inside out: no area
    boxes = np.concatenate((centre - half, centre + half), axis=1).astype(np.float32)
    scores = (rng.integers(0, levels, n) / levels).astype(np.float32)
    return boxes, scores, rng.integers(0, nc, n).astype(np.int32)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(0, 90),
    st.sampled_from([1, 3, 80]),
    st.sampled_from([4, 1000]),
    st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    st.sampled_from([1, 7, 300]),
)
def test_equals_pair_by_pair(seed, n, nc, levels, iou, max_det):
    boxes, scores, classes = crowd(seed, n, nc, levels)
    for agnostic in (False, True):
        kept = nms(boxes, scores, classes, iou, max_det, agnostic)
        assert kept.tolist() == slow(boxes, scores, classes, iou, max_det, agnostic)


@pytest.mark.parametrize("seed", range(2))
def test_across_blocks(seed):
    boxes, scores, classes = crowd(seed, 700, 2, 200)
    for max_det in (300, 5000):
        assert nms(boxes, scores, classes, 0.5, max_det).tolist() == slow(boxes, scores, classes, 0.5, max_det)


def test_a_long_chain():
    """Each box is suppressed by the one before it only: the worst case for repeated rounds."""
    x = np.arange(300, dtype=np.float32)
    boxes = np.stack((x, 0 * x, x + 3, 0 * x + 1), axis=1)
    scores = np.linspace(1, 0.1, 300, dtype=np.float32)
    kept = nms(boxes, scores, np.zeros(300, np.int32), 0.4, 300)
    assert kept.tolist() == list(range(0, 300, 2))


def test_two_classes_do_not_touch_each_other():
    boxes = np.array([[0, 0, 9, 9]] * 3, np.float32)
    kept = nms(boxes, np.array([0.5, 0.9, 0.8], np.float32), np.array([0, 1, 1]), 0.5, 300)
    assert kept.tolist() == [1, 0]
    assert nms(boxes, np.array([0.5, 0.9, 0.8], np.float32), np.array([0, 1, 1]), 0.5, 300, agnostic=True).tolist() == [1]
