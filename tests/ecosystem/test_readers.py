"""``export --for``: what Frigate and DeepStream-Yolo would make of the files, by their rules as understood here."""

from __future__ import annotations

import configparser
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
import yaml

from edgeseg import cli
from edgeseg.data.shapes import shapes_image
from edgeseg.ecosystem.readers import READERS, for_reader, write_beside
from edgeseg.errors import EdgesegError
from edgeseg.export.options import ExportOptions
from edgeseg.model import Model
from edgeseg.network.checkpoint import load_checkpoint, save_checkpoint
from edgeseg.registry import targets
from edgeseg.resources import demo_checkpoint

SIDE = 160


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESEG_HOME", str(home))


def exported(reader: str, out: Path, *more: str) -> None:
    assert cli.run(["export", str(demo_checkpoint()), "--for", reader, "--imgsz", str(SIDE), "--out", str(out), *more]) == 0


def labels_of_frigate(path: Path) -> dict[int, str]:
    """Either a name a line, or a number and a name: the first line decides, by whether its first word is a number."""
    lines = path.read_text().splitlines()
    if lines[0].split(" ")[0].isdigit():
        return {int(number): name for number, name in (line.split(" ", 1) for line in lines)}
    return dict(enumerate(lines))


def boxes_of_frigate(outputs: list[np.ndarray], width: int, height: int) -> list[list[float]]:
    """Rows of class, score, y1, x1, y2, x2 in 0..1, at most 20. One tensor, whose shorter side is (x, y, w, h, scores ...);
    scores above 0.4, then OpenCV's suppression at 0.4, which is given corners where it expects widths."""
    (only,) = outputs
    rows = only.squeeze()
    rows = rows.T if len(rows) < rows.shape[1] else rows
    rows = rows[rows[:, 4:].max(1) > 0.4]
    half = rows[:, 2:4] / 2
    corners, scores = np.concatenate((rows[:, :2] - half, rows[:, :2] + half), 1), rows[:, 4:].max(1)
    kept = np.ravel(cv2.dnn.NMSBoxes(corners.tolist(), scores.tolist(), 0.4, 0.4)).astype(int)[:20]
    scale = np.array((width, height, width, height))
    return [[int(rows[i, 4:].argmax()), float(scores[i]), *(corners[i] / scale)[[1, 0, 3, 2]]] for i in kept]


def matched(theirs: np.ndarray, ours: np.ndarray) -> np.ndarray:
    """For each of their boxes, the largest difference to that of ours which is nearest."""
    return np.abs(theirs[:, None] - ours[None]).max(2).min(1)


def test_frigate_finds_our_boxes_by_its_own_rules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exported("frigate", tmp_path)
    said = capsys.readouterr().out
    config = yaml.safe_load((tmp_path / "demo-seg-boxes_decoded.frigate.yml").read_text())
    assert config == yaml.safe_load(said.split("frigate.yml:\n")[1])
    model = config["model"]
    # What its configuration allows, and what its yolo-generic reader needs.
    assert config["detectors"] == {"onnx": {"type": "onnx"}} and model["model_type"] == "yolo-generic"
    assert (model["input_tensor"], model["input_pixel_format"], model["input_dtype"]) == ("nchw", "rgb", "float")
    names = Model(demo_checkpoint()).opened.manifest.names
    assert tuple(labels_of_frigate(tmp_path / Path(model["labelmap_path"]).name).values()) == names
    session = onnxruntime.InferenceSession(str(tmp_path / Path(model["path"]).name))
    (only,) = session.get_inputs()
    assert only.shape == [1, 3, model["height"], model["width"]] and only.type == "tensor(float)"
    network, total = Model(demo_checkpoint()), 0
    for seed in range(12):
        image = shapes_image(seed + 60, SIDE)[0]
        x = np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1)[None].astype(np.float32) / 255)
        theirs = np.array(boxes_of_frigate(session.run(None, {only.name: x}), SIDE, SIDE)).reshape(-1, 6)
        (ours,) = network.predict(image, conf=0.4, imgsz=SIDE, masks=False)
        found = ours.detections
        assert len(theirs) <= len(found) and (len(theirs) > 0) == (len(found) > 0)
        as_theirs = np.column_stack((found.classes, found.scores, found.boxes[:, [1, 0, 3, 2]] / SIDE))
        inside = np.column_stack((theirs[:, :2], theirs[:, 2:].clip(0, 1)))
        assert not len(theirs) or matched(inside, as_theirs).max() < 1e-3
        # What is missing overlaps something that scores higher, by its measure.
        kept = np.ravel(cv2.dnn.NMSBoxes(found.boxes.tolist(), found.scores.tolist(), 0.4, 0.4)).astype(int)
        assert len(theirs) == len(kept)
        total += len(theirs)
    assert total >= 12


@pytest.mark.slow
def test_deepstream_finds_our_boxes_by_its_own_rules(tmp_path: Path) -> None:
    exported("deepstream", tmp_path)
    config = configparser.ConfigParser()
    config.read(tmp_path / "demo-seg-boxes_nms.config_infer_primary.txt")
    told, below = config["property"], float(config["class-attrs-all"]["pre-cluster-threshold"])
    names = (tmp_path / told["labelfile-path"]).read_text().splitlines()
    assert len(names) == int(told["num-detected-classes"]) == len(Model(demo_checkpoint()).names)
    # Scaled RGB planes, padded on both sides; no clustering, since the graph has suppressed.
    assert (told["model-color-format"], told["network-type"], told["cluster-mode"]) == ("0", "0", "4")
    session = onnxruntime.InferenceSession(str(tmp_path / told["onnx-file"]))
    (only,) = session.get_inputs()
    network, total = Model(demo_checkpoint()), 0
    for seed in range(8):
        image = shapes_image(seed + 60, SIDE)[0]
        x = image[..., ::-1].transpose(2, 0, 1)[None].astype(np.float32) * np.float32(told["net-scale-factor"])
        (output,) = session.run(None, {only.name: np.ascontiguousarray(x)})
        # Rows of x1, y1, x2, y2 in input pixels, score, class, one after the other; thinner than a pixel is nothing.
        assert output.shape[2] == 6
        rows = output[0][output[0, :, 4] >= below]
        corners = rows[:, :4].clip(0, SIDE)
        rows, corners = (v[(corners[:, 2:] - corners[:, :2] >= 1).all(1)] for v in (rows, corners))
        (ours,) = network.predict(image, conf=below, imgsz=SIDE, masks=False)
        assert len(rows) == len(ours)
        np.testing.assert_allclose(corners, ours.detections.boxes, atol=0.02)
        np.testing.assert_allclose(rows[:, 4], ours.detections.scores, atol=1e-4)
        assert rows[:, 5].astype(int).tolist() == ours.detections.classes.tolist()
        total += len(rows)
    assert total >= 10


def test_what_a_reader_cannot_have_is_said_before_anything_is_made() -> None:
    for reader, formats, options, words in (
        ("frigate", ["tflite"], {}, "Frigate reads no tflite of ours. Formats: onnx, openvino"),
        ("frigate", [], {"half": True}, "Frigate does not take half=True"),
        ("frigate", ["onnx"], {"head": "raw"}, "Frigate does not take head=raw"),
        ("deepstream", ["openvino"], {}, "DeepStream-Yolo reads no openvino"),
        ("deepstream", [], {"int8": True}, "DeepStream-Yolo does not take int8"),
        ("deepstream-seg", [], {}, "finished masks.*edgeseg/decoders/cpp"),
        ("frigatte", [], {}, "Did you mean 'frigate'"),
    ):
        with pytest.raises(EdgesegError, match=words):
            for_reader(reader, formats, ExportOptions(**options))
    assert for_reader("frigate", ["ov"], ExportOptions(int8=True))[0] == ["openvino"]
    assert all(name in READERS for t in targets().values() for name in t.settings.get("readers", {}))


@pytest.mark.slow
def test_names_and_files_of_people_are_safe(tmp_path: Path) -> None:
    network = load_checkpoint(demo_checkpoint())
    network.names = ("3 wheels", "a;b\nc", "'#: x", "")
    model = save_checkpoint(tmp_path / "m.pt", network)
    for reader, labels in (("frigate", "m-boxes_decoded.labelmap.txt"), ("deepstream", "m-boxes_nms.labels.txt")):
        words = ["export", str(model), "--for", reader, "--imgsz", "64"]
        assert cli.run(words) == 0
        lines = (tmp_path / labels).read_text().splitlines()
        assert len(lines) == 4 and (reader == "frigate" or ";" not in "".join(lines))
    assert list(labels_of_frigate(tmp_path / "m-boxes_decoded.labelmap.txt").values()) == ["3 wheels", "a;b c", "'#: x", "_"]
    mine = tmp_path / "m-boxes_nms.config_infer_primary.txt"
    mine.write_text("mine")
    with pytest.raises(EdgesegError, match="Export it with --for frigate"):
        write_beside("frigate", Model(demo_checkpoint()).export("onnx", imgsz=64, out=tmp_path))
    _, stay = write_beside("deepstream", tmp_path / "m-boxes_nms.onnx")
    assert stay == (mine,) and mine.read_text() == "mine"
