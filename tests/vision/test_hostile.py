"""Networks that give infinities, what is no number, and numbers near the end of their type."""

import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeseg.vision.decode import decode, distances, sigmoid
from edgeseg.vision.postprocess import postprocess
from edgeseg.vision.preprocess import Letterbox

ODD = {
    "float32": [np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-42],
    "float16": [np.nan, np.inf, -np.inf, 65504, -65504, 6e-8],
    "int8": [-128, 127],
}
BOX = Letterbox.fit((50, 70), (64, 96))


@given(
    seed=st.integers(0, 10_000),
    head=st.sampled_from(["raw", "decoded"]),
    layout=st.sampled_from(["nchw", "nhwc"]),
    dtype=st.sampled_from(list(ODD)),
    conf=st.sampled_from([0.0, 0.25, 1.0]),
    share=st.sampled_from([0.001, 0.05, 1.0]),
    multi=st.booleans(),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
def test_whatever_a_network_gives_there_is_no_warning_and_every_box_is_sound(
    heads, seed, head, layout, dtype, conf, share, multi
):
    arrays, manifest = getattr(heads, head)(seed, layout=layout, dtype=dtype)
    rng = np.random.default_rng(seed)
    for array in arrays:
        odd = rng.random(array.shape) < share
        array[odd] = rng.choice(np.array(ODD[dtype], array.dtype), odd.sum())
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        found = decode(arrays, manifest, conf=conf, multi_label=multi)
        seen = postprocess(arrays, manifest, BOX, conf=conf, multi_label=multi, max_det=20)
        masks = seen.tiles.tiles
    assert np.isfinite(found.boxes).all() and ((found.scores >= conf) & (found.scores <= 1)).all()
    assert np.isfinite(seen.boxes).all() and (seen.boxes[:, 2:] > seen.boxes[:, :2]).all()
    assert all(m.dtype == bool for m in masks) and len(masks) == len(seen)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("role", ["box", "score"])
def test_what_is_no_number_invents_no_box(heads, bad, role):
    """A score that is no number is none; a box with an infinite logit has no place."""
    arrays, manifest = heads.raw(0)
    whole = decode(arrays, manifest, conf=0.0)
    for array, spec in zip(arrays, manifest.outputs):
        if spec.role == role:
            array[:] = bad
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = decode(arrays, manifest, conf=0.0)
    # An infinite score is its limit: half floats reach it at 65520.
    assert len(found) == (len(whole) if role == "score" and bad == np.inf else 0)


def test_masks_of_coefficients_that_are_no_numbers_are_empty(heads):
    arrays, manifest = heads.raw(0)
    for array, spec in zip(arrays, manifest.outputs):
        if spec.role == "coeff":
            array[:] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        seen = postprocess(arrays, manifest, BOX, conf=0.1)
        assert len(seen) and not any(m.any() for m in seen.tiles.tiles)


def test_the_limits_of_a_distance():
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        logits = np.array([[0, 0], [-np.inf, 0], [0, -np.inf], [-3e38, 3e38], [np.inf, 0], [-np.inf, -np.inf], [np.nan, 0]])
        found = distances(logits.astype(np.float32))
        assert sigmoid(np.array([-np.inf, -3e38, 3e38, np.inf], np.float32)).tolist() == [0, 0, 1, 1]
    assert found[:4].tolist() == [0.5, 1, 0, 1] and np.isnan(found[4:]).all()
