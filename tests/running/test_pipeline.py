from dataclasses import replace

import numpy as np
import pytest

from edgeseg.errors import EdgesegError
from edgeseg.manifest import Manifest, Output, Tensor
from edgeseg.predict.result import predict_frame
from edgeseg.predict.sources import Frame
from edgeseg.running.pipeline import Pipeline, output_order, rectangle
from edgeseg.running.runtime import Local
from edgeseg.vision import rle

OUTPUTS = (Output("prediction", (1, 4 + 2 + 32, 84), role="prediction"), Output("proto", (1, 32, 16, 16), role="proto"))
MANIFEST = Manifest("test", ("a", "b"), (64, 64), Tensor("images", (1, 3, 64, 64)), OUTPUTS, head="decoded")


class Fake:
    """A runtime that finds one box of the whole input; ``outputs`` may be named and ordered in its own way."""

    def __init__(self, manifest=MANIFEST, outputs=None, order=(0, 1)):
        self.input = manifest.input
        self.outputs = outputs if outputs is not None else tuple(manifest.outputs[i] for i in order)
        self.metadata = {}
        self.order = order
        self.seen = []

    def run(self, x):
        self.seen.append((x.copy(), id(x)))
        prediction = np.zeros((x.shape[0], 38, 84), np.float32)
        prediction[0, :6, 3] = 32, 32, 64, 64, 0.1, 0.9
        prediction[0, 6, 3] = 1
        return [(prediction, np.ones((x.shape[0], 32, 16, 16), np.float32))[i] for i in self.order]


def image(h=30, w=60):
    return np.full((h, w, 3), 50, np.uint8)


def test_picture_in_detections_out():
    pipeline = Pipeline(Local(Fake()), MANIFEST)
    found = pipeline(image())
    assert found.shape == (30, 60) and found.names == ("a", "b") and found.classes.tolist() == [1]
    np.testing.assert_array_equal(found.boxes, [[0, 0, 60, 30]])
    assert found.masks.all()
    assert set(pipeline.speed) == {"preprocess", "inference", "postprocess"} and min(pipeline.speed.values()) > 0
    outputs, letterbox = pipeline.raw(image(9, 9))
    assert outputs[0].shape == (1, 38, 84) and letterbox.source == (9, 9)
    assert pipeline(image(2, 200)).shape == (2, 200)


def test_masks_are_paid_for_when_they_are_asked_for():
    result = predict_frame(Pipeline(Local(Fake()), MANIFEST), Frame(image(300, 600), "a.jpg", "a.jpg"))
    assert result.spent == {**result.speed, "masks": 0.0} and len(result) == 1
    told = result.to_dict()
    assert told["speed_ms"]["masks"] > 0 and rle.decode(told["detections"][0]["rle"]).all()
    boxes_only = predict_frame(Pipeline(Local(Fake()), MANIFEST, masks=False), Frame(image(), "a.jpg", "a.jpg"))
    assert "masks" not in boxes_only.to_dict()["speed_ms"]


def test_settings_reach_the_postprocess():
    assert len(Pipeline(Local(Fake()), MANIFEST, conf=0.95)(image())) == 0
    assert len(Pipeline(Local(Fake()), MANIFEST, conf=0.05, multi_label=True)(image())) == 2
    assert len(Pipeline(Local(Fake()), MANIFEST, conf=0.05, multi_label=True, max_det=1)(image())) == 1
    (found,) = Pipeline(Local(Fake()), MANIFEST, conf=0.05, multi_label=True, agnostic=True)(image()).scores
    assert round(float(found), 3) == 0.9
    assert Pipeline(Local(Fake()), MANIFEST, masks=False)(image()).masks is None
    for bad in ({"conf": 2}, {"iou": -0.1}, {"max_det": 0}):
        with pytest.raises(EdgesegError):
            Pipeline(Local(Fake()), MANIFEST, **bad)


def test_the_input_buffer_is_reused_and_refilled():
    runtime = Fake()
    pipeline = Pipeline(Local(runtime), MANIFEST)
    pipeline(np.zeros((64, 64, 3), np.uint8))
    pipeline(np.full((64, 64, 3), 255, np.uint8))
    (first, a), (second, b) = runtime.seen
    assert a == b and first.max() == 0 and second.min() == 1


def test_outputs_are_found_by_name_whatever_their_order():
    assert output_order(Fake(order=(1, 0)).outputs, MANIFEST) == [1, 0]
    assert len(Pipeline(Local(Fake(order=(1, 0))), MANIFEST)(image())) == 1


def test_outputs_of_other_names_are_taken_in_order():
    renamed = tuple(replace(o, name=f"StatefulPartitionedCall:{i}") for i, o in enumerate(OUTPUTS))
    assert output_order(renamed, MANIFEST) == [0, 1]
    assert output_order((), MANIFEST) == [0, 1]
    unknown = tuple(Tensor(o.name, ()) for o in renamed)
    assert output_order(unknown, MANIFEST) == [0, 1]


def test_shapes_are_checked():
    swapped = tuple(replace(o, name=f"x{i}") for i, o in enumerate(OUTPUTS[::-1]))
    with pytest.raises(EdgesegError, match="prediction"):
        Pipeline(Local(Fake(outputs=swapped)), MANIFEST)
    with pytest.raises(EdgesegError, match="1 outputs"):
        Pipeline(Local(Fake(outputs=OUTPUTS[:1])), MANIFEST)
    runtime = Fake()
    runtime.input = Tensor("images", (1, 3, 96, 64))
    with pytest.raises(EdgesegError, match="input"):
        Pipeline(Local(runtime), MANIFEST)
    dynamic = tuple(replace(o, shape=tuple(-1 for _ in o.shape)) for o in OUTPUTS)
    assert output_order(dynamic, MANIFEST) == [0, 1]
    runtime = Fake(outputs=())
    runtime.order = (0,)
    with pytest.raises(EdgesegError, match="gave 1 outputs"):
        Pipeline(Local(runtime), MANIFEST)(image())


def test_a_fixed_batch_is_filled():
    outputs = tuple(replace(o, shape=(4, *o.shape[1:])) for o in OUTPUTS)
    manifest = replace(MANIFEST, batch=4, input=Tensor("images", (4, 3, 64, 64)), outputs=outputs)
    runtime = Fake(manifest)
    assert len(Pipeline(Local(runtime), manifest)(image())) == 1
    assert runtime.seen[0][0].shape == (4, 3, 64, 64)


def test_dynamic_sizes():
    manifest = replace(MANIFEST, dynamic=True)
    runtime = Fake(manifest)
    runtime.input = Tensor("images", (-1, 3, -1, -1))
    pipeline = Pipeline(Local(runtime), manifest, size=128)
    pipeline.raw(image())
    assert runtime.seen[0][0].shape == (1, 3, 128, 128)
    with pytest.raises(EdgesegError, match="64x64"):
        Pipeline(Local(Fake()), MANIFEST, size=128)


def test_a_rectangle_holds_the_picture_and_no_more():
    for h, w in [
        (1, 1),
        (480, 640),
        (375, 500),
        (333, 77),
        (2000, 100),
        (639, 640),
        (20, 3000),
        *((97, n) for n in range(90, 105)),
    ]:
        ratio = min(320 / h, 320 / w)
        smallest = [next(s for s in range(32, 353, 32) if s >= side * ratio - 1e-6) for side in (h, w)]
        assert list(rectangle((h, w, 3), (320, 320), 32)) == smallest and max(smallest) == 320


def test_rect_pads_to_the_stride_only():
    manifest = replace(
        MANIFEST,
        stride=8,
        dynamic=True,
        input=Tensor("images", (1, 3, -1, -1)),
        outputs=(Output("prediction", (1, 38, -1), role="prediction"), Output("proto", (1, 32, -1, -1), role="proto")),
    )
    runtime = Fake(manifest)
    found = []
    for shape in ((30, 60), (60, 30), (64, 64)):
        pipeline = Pipeline(Local(runtime), manifest, rect=True)
        found.append(pipeline.raw(image(*shape))[1].size)
    assert found == [(32, 64), (64, 32), (64, 64)] == [x.shape[2:] for x, _ in runtime.seen]
    with pytest.raises(EdgesegError, match="rect=True: this model takes 64x64 only"):
        Pipeline(Local(Fake()), MANIFEST, rect=True)
