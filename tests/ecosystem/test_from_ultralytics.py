"""``supervision.Detections.from_ultralytics`` takes our results as they are: boxes, masks, classes, ids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeseg.model import Model
from edgeseg.predict.result import Result
from edgeseg.resources import demo_checkpoint
from edgeseg.vision.track import Tracker


@pytest.mark.slow
def test_our_results_pass_for_theirs(
    beside: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, found: list[Result], pictures: Path
) -> None:
    monkeypatch.syspath_prepend(str(beside("supervision", "defusedxml", "pyDeprecate", "av")))
    import supervision

    for result in found:
        there = supervision.Detections.from_ultralytics(result)
        assert np.array_equal(there.xyxy, result.detections.boxes) and there.tracker_id is None
        assert np.array_equal(there.confidence, result.detections.scores)
        assert there.class_id.tolist() == result.detections.classes.tolist()
        assert (there.mask is None) == (not len(result)) and (
            there.mask is None or (there.mask == result.detections.masks).all()
        )
        assert there["class_name"].tolist() == [result.names[c] for c in result.detections.classes]
        followed = result.tracked(Tracker())
        ids = supervision.Detections.from_ultralytics(followed).tracker_id
        assert ids is not None and ids.tolist() == followed.boxes.id.tolist()
    boxes = Model(demo_checkpoint()).predict(str(pictures / "c.png"), masks=False)[0]
    assert supervision.Detections.from_ultralytics(boxes).mask is None
    one = supervision.Detections.from_ultralytics(found[0])
    labels = [f"{name} {score:.2f}" for name, score in zip(one["class_name"], one.confidence)]
    drawn = supervision.LabelAnnotator().annotate(found[0].plot(boxes=False, labels=False), one, labels=labels)
    assert (drawn != found[0].image).any() and len(one[one.confidence > 2]) == 0
    assert len(supervision.Detections.from_ultralytics(replace(found[0], ids=None)[:0])) == 0
