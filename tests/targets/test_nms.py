"""Suppression inside the file: the same detections as without it, here and for whoever reads the rows alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeseg.data.shapes import make_shapes
from edgeseg.evaluate.fidelity import fidelity
from edgeseg.model import Model
from edgeseg.resources import demo_checkpoint
from edgeseg.running.open import open_model
from edgeseg.running.pipeline import Pipeline

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = make_shapes(tmp_path_factory.mktemp("nms"), train=1, val=8, size=160, seed=11).parent
    return sorted((folder / "images" / "val").iterdir())


@pytest.mark.parametrize(("name", "half"), [("onnx", False), ("onnx", True), ("openvino", False)])
def test_the_same_detections_as_without(name: str, half: bool, pictures: list[Path], tmp_path: Path) -> None:
    if name == "openvino":
        pytest.importorskip("openvino")
    path = Model(demo_checkpoint()).export(format=name, nms=True, half=half, imgsz=160, out=tmp_path)
    artifact = open_model(path)
    assert artifact.manifest.head == "nms" and "nms" in path.name
    rows, proto = artifact.manifest.outputs
    assert (rows.shape, rows.layout, proto.shape) == ((1, 300, 38), "nhwc", (1, 32, 40, 40))
    one = [r.detections for r in Model(demo_checkpoint()).predict([str(p) for p in pictures], imgsz=160, conf=0.3)]
    other = [r.detections for r in Model(path).predict([str(p) for p in pictures], conf=0.3)]
    f = fidelity(one, other, conf=0.3)
    assert f.reference > 20 and f.matched > (0.97 if half else 0.999) and f.extra <= (1 if half else 0)
    assert f.mask_iou > (0.99 if half else 0.9999) and abs(f.score_shift) < (2e-3 if half else 1e-5)


def test_rows_are_sorted_and_end_in_zeros(pictures: list[Path], tmp_path: Path) -> None:
    from edgeseg.data.images import read_image

    artifact = open_model(Model(demo_checkpoint()).export(format="onnx", nms=True, imgsz=160, out=tmp_path))
    (rows, _), _ = Pipeline(artifact.runtime, artifact.manifest).raw(read_image(pictures[0]))
    scores = rows[0, :, 4]
    used = int((scores > 0).sum())
    assert 0 < used < 50 and (np.diff(scores) <= 0).all() and not rows[0, used:].any() and scores[used - 1] >= 0.25
    assert set(rows[0, :used, 5].tolist()) <= {0.0, 1.0, 2.0, 3.0} and (rows[0, :used, 2:4] > rows[0, :used, :2]).all()


def test_readers_of_other_tools_see_it_without_our_manifest(pictures: list[Path], tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    path = Model(demo_checkpoint()).export(format="onnx", nms=True, imgsz=160, out=tmp_path)
    model = onnx.load(str(path))
    names = next(p.value for p in model.metadata_props if p.key == "names")
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {"names": names, "task": "segment"})
    onnx.save(model, str(tmp_path / "foreign.onnx"))
    own, foreign = (Model(p).predict(str(pictures[0]))[0].detections for p in (path, tmp_path / "foreign.onnx"))
    assert len(own) == len(foreign) > 0 and np.array_equal(own.masks, foreign.masks) and own.names == foreign.names
