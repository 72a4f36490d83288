"""Decoding against plain loops that dequantize everything first."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseg.errors import EdgesegError
from edgeseg.vision.decode import boxes_around, centres, decode, distances, from_xywh, sigmoid

DTYPES = ("float32", "float16", "int8", "uint8", "int16")
LAYOUTS = ("nchw", "nhwc")


def slow_raw(arrays, manifest, conf, multi_label, real):
    """(box, score, class, coeff) of each survivor, cell by cell."""
    found = []
    by = {(o.role, o.stride): real(a, o)[0] for a, o in zip(arrays, manifest.outputs)}
    for stride in (8, 16, 32):
        box, score, coeff = (by[role, stride] for role in ("box", "score", "coeff"))
        for y in range(box.shape[1]):
            for x in range(box.shape[2]):
                sides = []
                for side in range(4):
                    e = np.exp(box[side * 16 : side * 16 + 16, y, x].astype(np.float64))
                    sides.append((e * np.arange(16)).sum() / e.sum())
                left, top, right, bottom = sides
                xyxy = [(x + 0.5 - left), (y + 0.5 - top), (x + 0.5 + right), (y + 0.5 + bottom)]
                logits = score[:, y, x]
                for c in range(manifest.nc) if multi_label else [int(np.argmax(logits))]:
                    p = sigmoid(logits[c : c + 1])[0]
                    if p >= np.float32(conf):
                        found.append((np.array(xyxy) * stride, p, c, coeff[:, y, x]))
    return found


def slow_decoded(arrays, manifest, conf, multi_label, real):
    prediction = real(arrays[0], manifest.outputs[0])[0]
    nc, found = manifest.nc, []
    h, w = manifest.imgsz if manifest.normalized_boxes else (1, 1)
    for i in range(prediction.shape[1]):
        x, y, bw, bh = prediction[:4, i].astype(np.float64) * (w, h, w, h)
        scores = np.minimum(prediction[4 : 4 + nc, i], 1)
        for c in range(nc) if multi_label else [int(np.argmax(scores))]:
            if scores[c] >= np.float32(conf):
                found.append(((x - bw / 2, y - bh / 2, x + bw / 2, y + bh / 2), scores[c], c, prediction[4 + nc :, i]))
    return found


def same(candidates, expected, tolerance):
    assert len(candidates) == len(expected)
    assert candidates.boxes.dtype == candidates.scores.dtype == candidates.coeffs.dtype == np.float32
    assert candidates.classes.dtype == np.int32 and candidates.boxes.shape == (len(expected), 4)
    assert candidates.coeffs.shape == (len(expected), 32)
    for i, (box, score, cls, coeff) in enumerate(expected):
        np.testing.assert_allclose(candidates.boxes[i], box, atol=tolerance)
        assert candidates.scores[i] == score and candidates.classes[i] == cls
        np.testing.assert_array_equal(candidates.coeffs[i], coeff)


cases = {
    "seed": st.integers(0, 10_000),
    "layout": st.sampled_from(LAYOUTS),
    "dtype": st.sampled_from(DTYPES),
    "conf": st.sampled_from([0.0, 0.001, 0.25, 0.5, 0.9, 1.0]) | st.floats(0, 1),
    "multi_label": st.booleans(),
    "nc": st.sampled_from([1, 2, 5]),
}


@settings(max_examples=60, deadline=None)
@given(**cases)
def test_raw_head(heads, seed, layout, dtype, conf, multi_label, nc):
    arrays, manifest = heads.raw(seed, nc=nc, imgsz=(32, 64), layout=layout, dtype=dtype, mean=-1, spread=3)
    found = decode(arrays, manifest, conf=conf, multi_label=multi_label)
    # Boxes: distances of up to 15 cells of up to 32 px in float32 against float64.
    same(found, slow_raw(arrays, manifest, conf, multi_label, heads.real), 2e-3)
    assert found.proto.hw == (8, 16) and found.proto.channels == 32


@settings(max_examples=60, deadline=None)
@given(**cases, normalized=st.booleans())
def test_decoded_head(heads, seed, layout, dtype, conf, multi_label, nc, normalized):
    arrays, manifest = heads.decoded(seed, nc=nc, imgsz=(64, 96), layout=layout, dtype=dtype, normalized=normalized)
    found = decode(arrays, manifest, conf=conf, multi_label=multi_label)
    same(found, slow_decoded(arrays, manifest, conf, multi_label, heads.real), 1e-3)


@settings(max_examples=60, deadline=None)
@given(seed=cases["seed"], layout=cases["layout"], dtype=st.sampled_from(["int8", "uint8", "int16"]), multi=st.booleans(),
       head=st.sampled_from(["raw", "decoded"]), step=st.integers(0, 255), nudge=st.sampled_from([-1, 0, 1]))  # fmt: skip
def test_integers_give_what_their_real_values_give(heads, seed, layout, dtype, multi, head, step, nudge):
    """Also where the threshold is exactly a score that occurs, or the next float32 beside one."""
    arrays, manifest = getattr(heads, head)(seed, layout=layout, dtype=dtype)
    reals = [heads.real(a, o) for a, o in zip(arrays, manifest.outputs)]
    specs = tuple(
        replace(o, dtype="float32", layout="nchw", scale=None, zero_point=None, shape=r.shape)
        for o, r in zip(manifest.outputs, reals)
    )
    plain = replace(manifest, outputs=specs)
    if head == "raw":
        scores = np.sort(sigmoid(np.concatenate([r.ravel() for r, o in zip(reals, specs) if o.role == "score"])))
    else:
        scores = np.sort(np.clip(reals[0][0, 4:7].ravel(), 0, 1))
    conf = scores[step * (len(scores) - 1) // 255]
    conf = float(np.clip(np.nextafter(conf, np.float32(nudge * 9), dtype=np.float32) if nudge else conf, 0, 1))
    a = decode(arrays, manifest, conf=conf, multi_label=multi)
    b = decode(reals, plain, conf=conf, multi_label=multi)
    for field in ("boxes", "scores", "classes", "coeffs"):
        np.testing.assert_array_equal(getattr(a, field), getattr(b, field))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60), st.sampled_from(["float32", "int8"]), st.sampled_from(LAYOUTS))
def test_the_cap_keeps_the_best_and_of_equals_the_first(heads, seed, most, dtype, layout):
    arrays, manifest = heads.raw(seed, imgsz=(64, 64), dtype=dtype, layout=layout)
    everything = decode(arrays, manifest, conf=0.01, multi_label=True)
    capped = decode(arrays, manifest, conf=0.01, multi_label=True, max_candidates=most)
    keep = np.sort(np.argsort(-everything.scores, kind="stable")[:most])
    np.testing.assert_array_equal(capped.scores, everything.scores[keep])
    np.testing.assert_array_equal(capped.classes, everything.classes[keep])
    np.testing.assert_array_equal(capped.coeffs, everything.coeffs[keep])
    np.testing.assert_allclose(capped.boxes, everything.boxes[keep], atol=1e-4)


def test_every_image_of_a_batch(heads):
    singles = [heads.raw(seed) for seed in (1, 2)]
    batch = [np.concatenate(pair) for pair in zip(singles[0][0], singles[1][0])]
    for i, (arrays, manifest) in enumerate(singles):
        a, b = decode(arrays, manifest, conf=0.3), decode(batch, manifest, conf=0.3, index=i)
        np.testing.assert_array_equal(a.boxes, b.boxes)


def test_map_sizes_come_from_the_arrays(heads):
    arrays, manifest = heads.raw(5, imgsz=(96, 128))
    dynamic = tuple(replace(o, shape=(-1, o.shape[1], -1, -1)) for o in manifest.outputs)
    other = replace(manifest, outputs=dynamic, imgsz=(640, 640), dynamic=True)
    np.testing.assert_array_equal(decode(arrays, other, conf=0.2).boxes, decode(arrays, manifest, conf=0.2).boxes)


def test_normalized_boxes_of_a_dynamic_model_are_of_the_size_at_hand(heads):
    arrays, manifest = heads.decoded(5, imgsz=(96, 128), normalized=True)
    other = replace(manifest, imgsz=(640, 640), dynamic=True)
    np.testing.assert_array_equal(decode(arrays, other, conf=0.2).boxes, decode(arrays, manifest, conf=0.2).boxes)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_nothing_is_found_above_all_scores(heads, dtype):
    arrays, manifest = heads.raw(0, mean=-7, spread=0.2, dtype=dtype)
    found = decode(arrays, manifest, conf=0.9)
    assert len(found) == 0 and found.boxes.shape == (0, 4) and found.coeffs.shape == (0, 32)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("multi", [False, True])
def test_nan_is_nothing(heads, layout, multi):
    arrays, manifest = heads.raw(0, layout=layout)
    everything = decode(arrays, manifest, conf=0.0, multi_label=multi)
    for a in arrays[:3]:
        a[:] = np.nan
    found = decode(arrays, manifest, conf=0.0, multi_label=multi)
    per_cell = manifest.nc if multi else 1
    assert len(everything) - len(found) == per_cell * 8 * 12
    arrays[3][:] = np.inf  # the boxes of the next stride
    with np.errstate(invalid="ignore"):
        assert len(found) - len(decode(arrays, manifest, conf=0.0, multi_label=multi)) == per_cell * 4 * 6


def test_errors_name_what_is_wrong(heads):
    arrays, manifest = heads.raw(0)
    with pytest.raises(EdgesegError, match="9 outputs"):
        decode(arrays[:-1], manifest, conf=0.2)
    with pytest.raises(EdgesegError, match=r"conf 1\.5"):
        decode(arrays, manifest, conf=1.5)
    with pytest.raises(EdgesegError, match="score_8"):
        decode(arrays, replace(manifest, names=("a",)), conf=0.2)
    with pytest.raises(EdgesegError, match="no decoded head"):
        decode(arrays, replace(manifest, head="decoded"), conf=0.2)
    with pytest.raises(EdgesegError, match="no scale"):
        decode([a.astype(np.int8) for a in arrays], manifest, conf=0.2)
    with pytest.raises(EdgesegError, match="proto"):
        decode([*arrays[:-1], arrays[-1][..., 0]], manifest, conf=0.2)
    with pytest.raises(EdgesegError, match="no scale"):
        decode([*arrays[:-1], arrays[-1].astype(np.int8)], manifest, conf=0.2)
    arrays, manifest = heads.decoded(0)
    with pytest.raises(EdgesegError, match="no raw head"):
        decode(arrays, replace(manifest, head="raw"), conf=0.2)
    with pytest.raises(EdgesegError, match="prediction"):
        decode([arrays[0][0], arrays[1]], manifest, conf=0.2)


@given(st.integers(1, 30), st.integers(1, 30))
def test_centres_are_row_major(h, w):
    found = centres(np.arange(h * w), w)
    expected = [(x + 0.5, y + 0.5) for y in range(h) for x in range(w)]
    np.testing.assert_array_equal(found, np.array(expected, np.float32))


@settings(max_examples=50)
@given(st.integers(0, 10_000), st.integers(0, 20))
def test_distances_are_expectations(seed, n):
    logits = np.random.default_rng(seed).normal(0, 5, (n, 4, 16)).astype(np.float32)
    found = distances(logits)
    assert found.shape == (n, 4) and found.dtype == np.float32
    for row, value in zip(logits.reshape(-1, 16).astype(np.float64), found.ravel()):
        e = np.exp(row - row.max())
        assert abs(sum(i * p for i, p in enumerate(e / e.sum())) - value) < 1e-4
    assert n == 0 or (found.min() >= 0 and found.max() <= 15)


def test_large_logits_do_not_overflow():
    logits = np.zeros((1, 4, 16), np.float32)
    logits[..., 7] = 3e38
    np.testing.assert_array_equal(distances(logits), [[7, 7, 7, 7]])


def test_boxes_from_distances():
    found = boxes_around(np.array([[1.5, 2.5]], np.float32), np.array([[1, 2, 3, 4]], np.float32), 8)
    np.testing.assert_array_equal(found, [[4, 4, 36, 52]])


def test_boxes_from_centres():
    np.testing.assert_array_equal(from_xywh(np.array([[10, 20, 4, 6]], np.float32)), [[8, 17, 12, 23]])
