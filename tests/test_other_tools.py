"""Files between edgeseg and Ultralytics, both ways. It is no dependency: EDGESEG_PEER_PYTHON names a Python that has it.

It runs in a process of its own, offline, and answers with plain numbers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from edgeseg.evaluate.fidelity import match
from edgeseg.model import Model
from edgeseg.resources import demo_checkpoint

pytestmark = pytest.mark.slow
PEER = os.environ.get("EDGESEG_PEER_PYTHON") or sys.executable
PREDICT = """
import json, sys
from ultralytics import YOLO
model = YOLO(sys.argv[1], task="segment")
found = []
for image in sys.argv[4:]:
    (r,) = model.predict(image, imgsz=int(sys.argv[3]), conf=0.25, iou=0.7, verbose=False, save=False, rect=False)
    found.append([r.boxes.cls.int().tolist(), r.boxes.xyxy.tolist(), 0 if r.masks is None else len(r.masks)])
json.dump(found, open(sys.argv[2], "w"))
"""
EXPORT = "import sys; from ultralytics import YOLO; YOLO(sys.argv[1]).export(format=sys.argv[2], imgsz=int(sys.argv[3]))"


@dataclass(frozen=True)
class Found:
    """Objects in one image: classes (N,), boxes (N, 4) as xyxy in its pixels."""

    classes: np.ndarray
    boxes: np.ndarray

    def __len__(self) -> int:
        return len(self.classes)


def peer(script: str, *words: object, home: Path) -> None:
    offline = {"YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "false", "YOLO_CONFIG_DIR": str(home), "OMP_NUM_THREADS": "1"}
    command = [PEER, "-c", script, *map(str, words)]
    done = subprocess.run(command, env={**os.environ, **offline}, cwd=home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-3000:]


def theirs(model: Path, images: list[Path], size: int, home: Path) -> list[Found]:
    peer(PREDICT, model, home / "found.json", size, *images, home=home)
    rows = json.loads((home / "found.json").read_text())
    assert all(masks == len(classes) for classes, _, masks in rows)
    return [Found(np.array(c, int), np.array(b, float).reshape(-1, 4)) for c, b, _ in rows]


def ours(model: Path, images: list[Path]) -> list[Found]:
    found = [r.detections for r in Model(model, threads=1).predict([str(p) for p in images])]
    return [Found(np.asarray(d.classes), np.asarray(d.boxes)) for d in found]


def agreement(first: list[Found], second: list[Found]) -> tuple[float, int]:
    """Share of the objects of both that the other has too (same class, box IoU above 0.9), and how many there are."""
    both = sum(len(f) + len(s) for f, s in zip(first, second, strict=True))
    return 2 * sum(len(match(f, s, 0.9)) for f, s in zip(first, second)) / max(both, 1), both


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The peer's own folder for settings; skips where there is no peer."""
    if subprocess.run([PEER, "-c", "import ultralytics"], capture_output=True, check=False).returncode:
        pytest.skip("no ultralytics here (EDGESEG_PEER_PYTHON)")
    return tmp_path_factory.mktemp("peer")


@pytest.mark.parametrize("format", ["onnx", "torchscript", "openvino", "tflite"])
def test_our_decoded_files_find_the_same_objects_there(format, home, tmp_path) -> None:
    from edgeseg.data.dataset import load_dataset
    from edgeseg.data.shapes import make_shapes

    images = load_dataset(make_shapes(tmp_path / "shapes", train=1, val=8, size=160, seed=6)).images("val")
    path = Model(demo_checkpoint()).export(format, head="decoded", imgsz=160, out=tmp_path)
    share, count = agreement(ours(path, images), theirs(path, images, 160, home))
    assert count > 20 and share >= 0.9


@pytest.mark.parametrize("format", ["onnx", "torchscript", "openvino"])
def test_their_files_find_the_same_objects_here(format, home, shared, tmp_path) -> None:
    source = tmp_path / "yolov8n-seg.pt"
    source.write_bytes((shared / "models" / "yolov8n-seg.pt").read_bytes())
    data = shared / "data" / "coco100-seg" / "coco100-seg.yaml"
    images = sorted((data.parent / "images" / "val2017").glob("*.jpg"))[:6]
    peer(EXPORT, source, format, 320, home=home)
    (path,) = (p for p in tmp_path.iterdir() if p != source and p.suffix != ".json")
    share, count = agreement(ours(path, images), theirs(path, images, 320, home))
    assert count > 20 and share >= 0.9
    assert Model(path, threads=1).validate(data, limit=6).box.map > 0.2


WRITE = """
import sys, torch
from ultralytics.nn.tasks import DetectionModel, SegmentationModel
name, file, outputs = sys.argv[1:]
torch.manual_seed(1)
model = (SegmentationModel if "-seg" in name else DetectionModel)(name, verbose=False)
for m in model.modules():
    if isinstance(m, torch.nn.BatchNorm2d):
        m.running_mean.normal_(0, 0.1); m.running_var.uniform_(0.5, 1.5)
        m.weight.data.uniform_(0.8, 1.3); m.bias.data.normal_(0, 0.1)
model.eval()
model.args = {}
torch.save({"model": model}, file)
head = model.model[-1]
if getattr(head, "end2end", False):
    head.end2end = False  # the branches with many boxes for an object
x = torch.rand(1, 3, 160, 192)
with torch.no_grad():
    found = model(x)[0]
found = list(found[:2]) if isinstance(found, (tuple, list)) else [found]
parameters = sum(p.numel() for p in model.parameters())
torch.save([x, *found, torch.tensor(parameters)], outputs)
"""


@pytest.mark.parametrize("variant", ["n", "s", "m", "l", "x"])
@pytest.mark.parametrize("family", ["yolov8", "yolo11", "yolo26"])
@pytest.mark.parametrize("suffix", ["-seg", ""])
def test_their_networks_give_the_same_tensors_here(family, variant, suffix, home, tmp_path) -> None:
    import torch

    from edgeseg.network.checkpoint import load_checkpoint
    from edgeseg.network.model import count_parameters

    file, outputs = tmp_path / "theirs.pt", tmp_path / "outputs.pt"
    peer(WRITE, f"{family}{variant}{suffix}.yaml", file, outputs, home=home)
    x, *wanted, parameters = torch.load(outputs)
    network = load_checkpoint(file)
    assert (network.definition.family, network.definition.variant) == (family, variant)
    assert network.task == ("segment" if suffix else "detect") and count_parameters(network) == int(parameters)
    with torch.no_grad():
        found = network.view("decoded")(x)
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-5)


REFUSED = {
    *(f"model.predict({option})" for option in ("half=True", "augment=True", "visualize=True", "embed=[1]")),
    *("model.track(tracker='botsort.yaml')", "r.boxes.xyxy[0] = 0"),
}
"""Of the calls, those that are refused here with what to use instead."""
BY_DESIGN = {
    "type(r.boxes.xyxy)", "r.boxes.id.dtype", "model.predict(wide)[0].masks.data.shape", "type(model.info())",
    "metrics.box.maps of a class that is not there", "metrics.fitness",
    "type(model.export(format='torchscript'))",
}  # fmt: skip
"""Those that give something else, and why: docs/porting.md."""


def test_calls_that_people_write_give_the_same_there_and_here(home, shared, tmp_path) -> None:
    import cv2

    data = shared / "data" / "coco100-seg"
    yaml, picture = tmp_path / "data.yaml", tmp_path / "square.png"
    yaml.write_text((data / "coco100-seg.yaml").read_text().replace("path: .", f"path: {data}"))
    cv2.imwrite(str(picture), cv2.resize(cv2.imread(str(data / "images" / "val2017" / "000000000776.jpg")), (320, 320)))
    words = [shared / "models" / "yolov8n-seg.pt", picture, yaml, 320]
    gave = []
    for package, python in (("edgeseg", sys.executable), ("ultralytics", PEER)):
        command = [python, Path(__file__).with_name("porting") / "calls.py", package, *words]
        done = subprocess.run([str(w) for w in command], cwd=home, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        gave.append(json.loads(done.stdout.rpartition("@@@")[2]))
    mine, there = gave
    differ = {k: (mine[k], there[k]) for k in mine if mine[k] != there[k]}
    assert {k for k, (m, t) in differ.items() if "gave" in m and "gave" in t} == BY_DESIGN, differ
    refused = {k for k, m in mine.items() if "refused" in m}
    assert refused <= REFUSED | {"list(r.to_df()['name'])"}, refused  # that needs pandas or polars
    assert len(mine) - len(differ) >= 140
