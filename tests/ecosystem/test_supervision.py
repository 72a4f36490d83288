"""To ``supervision`` and back, with the real package beside the environment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.ecosystem.supervision import from_supervision
from edgeseg.errors import EdgesegError
from edgeseg.predict.result import Result
from edgeseg.vision.detections import Detections

NAMES = ("cat", "dog", "a & <b>")


def same(a: Detections, b: Detections) -> bool:
    arrays = all(np.array_equal(getattr(a, k), getattr(b, k)) for k in ("boxes", "scores", "classes"))
    masks = (a.masks is None) == (b.masks is None) and (a.masks is None or np.array_equal(a.masks, b.masks))
    return arrays and masks and (a.names, a.shape) == (b.names, b.shape)


@st.composite
def detections(draw: st.DrawFn) -> Detections:
    height, width, n = draw(st.integers(1, 24)), draw(st.integers(1, 24)), draw(st.integers(0, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    corners = np.sort(rng.random((n, 2, 2), np.float32) * (width, height), 1).astype(np.float32)
    scores = np.sort(rng.choice(rng.random(3, np.float32), n))[::-1]  # some are equal
    masks = rng.random((n, height, width)) < 0.4 if draw(st.booleans()) else None
    return Detections(corners.reshape(n, 4), scores, rng.integers(0, len(NAMES), n), masks, NAMES, (height, width))


def test_what_others_leave_out_has_a_meaning() -> None:
    bare = SimpleNamespace(xyxy=np.array([[-3.0, 2, 9, 40]]), mask=None, confidence=None, class_id=None, data={})
    made = from_supervision(bare, (16, 8))
    assert made.boxes.tolist() == [[0, 2, 8, 16]] and made.scores.tolist() == [1] and made.names == ("0",)
    named = SimpleNamespace(**{**vars(bare), "class_id": np.array([2]), "data": {"class_name": np.array(["dog"])}})
    assert from_supervision(named, (16, 8)).names == ("0", "1", "dog")
    with pytest.raises(EdgesegError, match="an image of 8x16"):
        from_supervision(named, (16, 8), ["cat"])


@pytest.mark.slow
def test_the_way_there_and_back(beside: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, found: list[Result]) -> None:
    monkeypatch.syspath_prepend(str(beside("supervision", "defusedxml", "pyDeprecate", "av")))
    import supervision

    @given(detections())
    def there_and_back(one: Detections) -> None:
        there = one.to_supervision()
        assert isinstance(there, supervision.Detections) and len(there) == len(one)
        assert same(from_supervision(there, one.shape, one.names), one)

    there_and_back()
    for result in found:
        followed = replace(result, ids=np.arange(len(result)) + 7)
        there = followed.to_supervision()
        assert there.tracker_id.tolist() == list(range(7, 7 + len(result)))
        assert [str(n) for n in there["class_name"]] == [result.names[c] for c in result.detections.classes]
        assert same(from_supervision(there, result.orig_shape, result.detections.names), result.detections)
    # What people do with it: filter, annotate, merge.
    there = found[0].to_supervision()
    kept = from_supervision(there[there.confidence > 0.5], found[0].orig_shape, found[0].detections.names)
    assert same(kept, found[0].detections[found[0].detections.scores > 0.5])
    drawn = supervision.MaskAnnotator().annotate(found[0].image.copy(), there)
    assert (drawn != found[0].image).any()
    both = from_supervision(supervision.Detections.merge([there, there]), found[0].orig_shape)
    assert len(both) == 2 * len(there)
    assert found[-1].to_supervision().is_empty() == (len(found[-1]) == 0)
