"""Closeness of tensors by role."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from edgeseg.errors import EdgesegError
from edgeseg.evaluate.tensors import Closeness, TensorMeter, apart, parts_of, plain, same_order, whole
from edgeseg.manifest import Manifest, Output, Tensor

OUTPUTS = (
    Output("box_8", (1, 64, 4, 4), role="box", stride=8),
    Output("box_16", (1, 64, 2, 2), role="box", stride=16),
    Output("proto", (1, 32, 8, 8), role="proto"),
)
RNG = np.random.default_rng(0)
TENSORS = [RNG.normal(size=o.shape).astype(np.float32) for o in OUTPUTS]


def compare_tensors(
    reference: list[np.ndarray], other: list[np.ndarray], outputs: tuple[Output, ...]
) -> dict[str, Closeness]:
    meter = TensorMeter(outputs)
    meter.add(reference, other)
    return meter.by_role()


def test_equal_tensors() -> None:
    found = compare_tensors(TENSORS, TENSORS, OUTPUTS)
    assert list(found) == ["box", "proto"]
    assert found["box"].snr_db == math.inf and found["box"].cosine == pytest.approx(1) and found["box"].largest == 0
    assert found["box"].count == 64 * 20
    assert json.dumps(found["box"].to_dict(), allow_nan=False)


def test_noise_of_a_hundredth_of_the_power_is_20_db() -> None:
    other = [t * 1.1 for t in TENSORS]
    found = compare_tensors(TENSORS, other, OUTPUTS)
    assert found["proto"].snr_db == pytest.approx(20, abs=1e-4) and found["proto"].cosine == pytest.approx(1)
    assert compare_tensors(TENSORS, [-t for t in TENSORS], OUTPUTS)["proto"].cosine == pytest.approx(-1)


def test_images_are_pooled_and_outputs_kept_apart() -> None:
    meter = TensorMeter(OUTPUTS)
    noisy = [t + RNG.normal(size=t.shape) * s for t, s in zip(TENSORS, (0.1, 1.0, 0.0))]
    meter.add(TENSORS, TENSORS)
    meter.add(TENSORS, noisy)
    one = meter.by_output()
    assert one["box_8"].snr_db > one["box_16"].snr_db + 10 and one["proto"].snr_db == math.inf
    r = np.concatenate([t.ravel() for t in TENSORS[:2]]).astype(float)
    d = np.concatenate([(a - b).ravel() for a, b in zip(TENSORS[:2], noisy[:2])])
    role = meter.by_role()["box"]
    assert role.snr_db == pytest.approx(10 * np.log10(2 * (r @ r) / (d @ d)))
    assert role.largest == pytest.approx(np.abs(d).max()) and role.count == 2 * 64 * 20


def test_zeros() -> None:
    zero = [np.zeros_like(t) for t in TENSORS]
    assert compare_tensors(zero, zero, OUTPUTS)["box"].cosine == 1
    found = compare_tensors(zero, TENSORS, OUTPUTS)["box"]
    assert math.isnan(found.snr_db) and math.isnan(found.cosine) and found.to_dict()["cosine"] is None
    assert compare_tensors(TENSORS, zero, OUTPUTS)["box"].snr_db == pytest.approx(0)


def test_what_cannot_be_compared() -> None:
    with pytest.raises(EdgesegError, match="2 and 3 tensors"):
        compare_tensors(TENSORS[:2], TENSORS, OUTPUTS)
    with pytest.raises(EdgesegError, match="box_8: shapes"):
        compare_tensors(TENSORS, [t[..., :1] for t in TENSORS], OUTPUTS)


def test_boxes_in_shares_become_pixels() -> None:
    outputs = (Output("prediction", (1, 38, 5), role="prediction"), Output("proto", (1, 32, 16, 24), role="proto"))
    manifest = Manifest(
        "x", ("a", "b"), (64, 96), Tensor("images", (1, 3, 64, 96)), outputs, head="decoded", normalized_boxes=True
    )
    given = [RNG.random(o.shape, np.float32) for o in outputs]
    prediction, proto = plain(manifest, given)
    np.testing.assert_allclose(prediction[0, :4, 0], given[0][0, :4, 0] * [96, 64, 96, 64], rtol=1e-6)
    assert np.array_equal(prediction[:, 4:], given[0][:, 4:]) and np.array_equal(proto, given[1])


@pytest.mark.parametrize("masks", [True, False])
def test_a_prediction_in_parts_is_compared_as_one(masks: bool) -> None:
    sizes = {"box": 4, "score": 2, **({"coeff": 32} if masks else {})}
    parts = [Output(r, (1, n, 21), "int8", scale=0.5 / n, zero_point=-3, role=r) for r, n in sizes.items()]
    proto = [Output("proto", (1, 8, 16, 32), layout="nhwc", role="proto")] if masks else []
    first = Manifest("x", ("a", "b"), (32, 64), Tensor("images", (1, 3, 32, 64)), (), "decoded", normalized_boxes=True)
    first = replace(first, task="segment" if masks else "detect")
    split = replace(first, outputs=(*reversed(parts), *proto))
    one = replace(first, outputs=(*proto, Output("prediction", (1, sum(sizes.values()), 21), role="prediction")))
    values = {o.role: RNG.integers(-128, 127, o.shape).astype(np.int8) for o in parts}
    pixels = RNG.normal(size=(1, 8, 16, 32)).astype(np.float32)
    real = np.concatenate([(values[o.role] + np.float32(3)) * np.float32(o.scale or 0) for o in parts], 1)
    ours = plain(split, [pixels if o.role == "proto" else values[o.role] for o in split.outputs])
    theirs = plain(one, [pixels if o.role == "proto" else real for o in one.outputs])
    order = same_order(whole(one), whole(split))
    for a, b in zip(theirs, (ours[i] for i in order), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    roles = [o.role for o in parts_of(split)]
    assert roles == [*sizes, *(["proto"] if masks else [])]
    assert [a.shape[1] for a in apart(split, ours)] == [*sizes.values(), *([32] if masks else [])]
