"""``boxes_only``: the detector that a segmentation network contains, for tools that read detectors (see docs/readers.md)."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from edgeseg.data.dataset import load_dataset
from edgeseg.data.shapes import make_shapes
from edgeseg.errors import EdgesegError
from edgeseg.export.api import export
from edgeseg.export.options import ExportOptions
from edgeseg.network.checkpoint import load_checkpoint, save_checkpoint
from edgeseg.network.definition import FAMILIES, Definition
from edgeseg.network.model import Network
from edgeseg.resources import demo_checkpoint
from edgeseg.running.open import open_model
from edgeseg.running.pipeline import Pipeline


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESEG_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize("family", FAMILIES)
def test_its_boxes_and_scores_are_those_of_the_whole_network(family: str, tmp_path: Path) -> None:
    torch.manual_seed(4)
    whole = Network(Definition("tiny", 3, "silu", 0.1, 0.0625, 256, family)).eval()
    image = torch.rand(1, 3, 64, 96)
    kept = load_checkpoint(save_checkpoint(tmp_path / "boxes.pt", whole.boxes_only())).eval()
    with torch.no_grad():
        expected = whole.view("decoded")(image)[0][:, : 4 + 3]
        for network in (kept, kept.fuse(), whole.fuse().boxes_only()):
            (found,) = network.view("decoded")(image)
            torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-4)
        assert torch.equal(kept.view("decoded")(image)[0], expected)
    assert kept.task == "detect" and whole.task == "segment" and not hasattr(kept.head, "proto")
    assert kept.boxes_only().task == "detect"
    if FAMILIES[family].single:
        assert not hasattr(kept.head.single, "coeff") and kept.end2end().task == "detect"


def test_the_file_has_one_output_with_boxes_and_scores(tiny: Path, tmp_path: Path) -> None:
    (result,) = export(tiny, ["onnx"], ExportOptions(boxes_only=True), out=tmp_path)
    assert result.error is None and result.path == tmp_path / "tiny-seg-boxes_decoded.onnx"
    with open_model(result.path) as opened:
        manifest, x = opened.manifest, np.random.default_rng(0).random((1, 3, 64, 64), np.float32)
        (found,) = opened.runtime.run(x)
    assert (manifest.task, manifest.head, manifest.names) == ("detect", "decoded", ("cat", "dog"))
    assert [(o.role, o.shape) for o in manifest.outputs] == [("prediction", (1, 6, 84))]
    with torch.no_grad():
        expected = load_checkpoint(tiny).eval().view("decoded")(torch.from_numpy(x))[0][:, :6].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_what_it_cannot_do_is_said(tiny: Path, tmp_path: Path) -> None:
    assert (
        ExportOptions(boxes_only=True, head="raw").head == "raw" and ExportOptions(boxes_only=True, nms=True).head == "nms"
    )
    (result,) = export(tiny, ["onnx"], ExportOptions(), out=tmp_path)
    with pytest.raises(EdgesegError, match="boxes_only needs the checkpoint"):
        export(str(result.path), ["openvino"], ExportOptions(boxes_only=True), out=tmp_path)


@pytest.mark.slow
def test_the_demo_network_without_masks_in_float_and_integers(tmp_path: Path) -> None:
    data = make_shapes(tmp_path / "shapes", train=40, val=24, size=160, seed=8)
    pictures = [cv2.imread(str(i)) for i in load_dataset(data).images("val")]
    with open_model(demo_checkpoint()) as opened:
        pipeline = Pipeline(opened.runtime, opened.manifest, masks=False, size=160)
        expected = [pipeline(p) for p in pictures]
    formats, options = ["onnx", "openvino", "tflite"], {"imgsz": 160, "boxes_only": True}
    for result in export(demo_checkpoint(), formats, ExportOptions(**options), out=tmp_path):
        assert result.error is None and result.path is not None
        with open_model(result.path) as opened:
            pipeline = Pipeline(opened.runtime, opened.manifest)
            for found, want in zip(map(pipeline, pictures), expected):
                assert len(found) == len(want) and np.array_equal(found.classes, want.classes)
                np.testing.assert_allclose(found.boxes, want.boxes, atol=0.01)
                np.testing.assert_allclose(found.scores, want.scores, atol=1e-4)
    for result in export(demo_checkpoint(), formats, ExportOptions(**options, int8=True, data=str(data)), out=tmp_path):
        assert result.error is None and result.gate is not None and result.gate["passed"], result
