"""The Python interface: what users of YOLO tools type."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import edgeseg
from edgeseg import Detections, EdgesegError, Model
from edgeseg.errors import Notice

pytest.importorskip("torch")
TINY = "variant: tiny\nnc: {nc}\ndepth: 0.1\nwidth: 0.0625\nmax_channels: 256\n"


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (48, 80, 3), np.uint8)


def test_importing_imports_nothing_heavy() -> None:
    script = (
        "import sys, edgeseg\n"
        "from edgeseg import Model, Detections\n"
        "import edgeseg.cli.predict, edgeseg.running.open, edgeseg.predict.writer\n"
        "heavy = {'torch', 'onnxruntime', 'onnx', 'ai_edge_litert', 'tensorflow', 'faster_coco_eval', 'rich', 'pandas'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_dir_and_unknown_names() -> None:
    assert {"Model", "Detections", "EdgesegError"} <= set(dir(edgeseg))
    with pytest.raises(AttributeError, match="Modell"):
        edgeseg.Modell  # noqa: B018


def test_predict(tiny: Path, image: np.ndarray, tmp_path: Path) -> None:
    model = Model(tiny)
    result = model(image, conf=0.0, max_det=5)[0]
    assert model.names == ("cat", "dog") and result.names == model.names and repr(model).startswith("Model(")
    assert isinstance(result.detections, Detections) and len(result) == 5 and result.detections.shape == (48, 80)
    assert result.detections.masks is not None and result.detections.masks.shape == (5, 48, 80)
    assert result.plot().shape == image.shape and set(result.speed) == {"preprocess", "inference", "postprocess"}
    assert cv2.imread(str(result.save(tmp_path / "a.png"))).shape == image.shape
    assert result.save(tmp_path) == tmp_path / "image.jpg"
    with pytest.raises(EdgesegError, match="suffix"):
        result.save(tmp_path / "a.txt")
    assert result.to_dict()["height"] == 48 and len(result.to_dict()["detections"]) == 5
    assert isinstance(result.verbose(), str)


def test_classes_size_and_stream(tiny: Path, image: np.ndarray) -> None:
    model = Model(tiny)
    for wanted in ("dog", "1", [1], (1,)):
        found = model.predict(image, conf=0.0, classes=wanted)[0].detections
        assert set(found.classes.tolist()) <= {1}
    # The classes are chosen first, then so many of them are kept.
    other = 1 - int(model.predict(image, conf=0.0, max_det=1)[0].detections.classes[0])
    few = model.predict(image, conf=0.0, classes=other, max_det=1)[0].detections
    assert few.classes.tolist() == [other]
    assert model.predict(image, conf=0.0, masks=False)[0].detections.masks is None
    assert len(model.predict(image, imgsz=96)) == len(model.predict(image, imgsz=(64, 96))) == 1
    stream = model.predict([image, image], stream=True)
    assert next(iter(stream)).name == "image0.jpg"
    for bad in ({"classes": "cow"}, {"classes": 2}, {"imgsz": 70}, {"imgsz": "x"}, {"conf": 3}):
        with pytest.raises(EdgesegError):
            model.predict(image, **bad)


def test_unreadable_among_good(tiny: Path, image: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no")
    with pytest.raises(EdgesegError, match=r"bad\.png"):
        Model(tiny).predict(tmp_path)
    cv2.imwrite(str(tmp_path / "good.png"), image)
    with pytest.warns(UserWarning, match="skipped"):
        assert len(Model(tiny).predict(tmp_path)) == 1


def test_validate_and_compare(tiny: Path, tmp_path: Path, image: np.ndarray) -> None:
    for folder in ("images/val", "labels/val"):
        (tmp_path / folder).mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "images/val/a.png"), image)
    (tmp_path / "labels/val/a.txt").write_text("0 0.1 0.1 0.9 0.1 0.9 0.9\n")
    (tmp_path / "d.yaml").write_text("path: .\ntrain: images/val\nval: images/val\nnames: [cat, dog]\n")
    seen = []
    result = Model(tiny).val(data=tmp_path / "d.yaml", progress=lambda done, total: seen.append((done, total)))
    for part in (result.box, result.seg):
        assert 0 <= part.map <= 1 and 0 <= part.map50 <= 1 and len(part.maps) == 2
    assert result.speed["inference"] > 0 and seen == [(1, 1)]
    same = Model(tiny).compare(tiny, tmp_path / "d.yaml", conf=0.001)
    assert same.missing == same.extra == 0


def test_info(tiny: Path) -> None:
    facts = Model(tiny).info(imgsz=64)
    assert facts["classes"] == 2 and facts["parameters"] > 1000 and facts["strides"] == [8, 16, 32] and facts["size"] > 0
    facts = Model("yolov8n-seg.yaml").info()
    assert facts["parameters"] == 3_409_968 and facts["gflops"] == pytest.approx(12.0, abs=0.05) and facts["size"] == 0


def test_load_takes_what_fits(tiny: Path, tmp_path: Path, image: np.ndarray) -> None:
    for nc in (2, 3):
        (tmp_path / f"t{nc}.yaml").write_text(TINY.format(nc=nc))
    wanted = Model(tiny).predict(image, conf=0.0, max_det=5)[0].detections
    model = Model(tmp_path / "t2.yaml").load(tiny)
    got = model.predict(image, conf=0.0, max_det=5, imgsz=64)[0].detections
    assert model.names == ("cat", "dog") and np.array_equal(got.boxes, wanted.boxes)
    assert len(Model(tmp_path / "t3.yaml").load(tiny).names) == 3
    with pytest.raises(EdgesegError, match="do not fit"):
        Model("yolov8n-seg.yaml").load(tiny)


def test_export_and_artifact(tiny: Path, tmp_path: Path, image: np.ndarray) -> None:
    path = Model(tiny).export(format="torchscript", imgsz=64, out=tmp_path)
    assert path.parent == tmp_path and path.exists()
    model = Model(path)
    assert model.info()["precision"] == "fp32" and model.info()["inputs"][0]["shape"] == (1, 3, 64, 64)
    first, second = (m.predict(image, conf=0.0, max_det=5)[0].detections for m in (Model(tiny), model))
    np.testing.assert_allclose(first.boxes, second.boxes, atol=0.1)
    with pytest.raises(EdgesegError, match="64x64"):
        model.predict(image, imgsz=96)
    with pytest.raises(EdgesegError, match="network"):
        model.load(tiny)
    with pytest.raises(EdgesegError, match="no option 'imgs'"):
        Model(tiny).export(format="torchscript", imgs=64)


def test_default_data(tiny: Path) -> None:
    with pytest.warns(Notice, match="names no dataset"):
        assert Model(tiny).default_data() == "coco128-seg"
