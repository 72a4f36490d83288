"""EdgeFirst's decoder (Apache-2.0) reads our files by what lies in them, and finds what edgeseg finds.

EDGESEG_EDGEFIRST_PYTHON names an interpreter that has it; else an environment is made, where packages can be had.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgeseg.data.dataset import load_dataset
from edgeseg.data.shapes import make_shapes
from edgeseg.decoders import edgefirst
from edgeseg.evaluate.fidelity import box_iou
from edgeseg.export.api import export
from edgeseg.export.options import ExportOptions
from edgeseg.manifest import Manifest, Output, Tensor
from edgeseg.resources import demo_checkpoint
from edgeseg.running.open import open_model
from edgeseg.running.pipeline import Pipeline
from edgeseg.vision.detections import Detections

NETWORKS = Path(__file__).parents[1] / "networks"
PACKAGE = "edgefirst-decoder==0.38.0"
SIZE = 160
READER = """
import json, sys
import numpy as np
from edgefirst.decoder import Decoder
from edgefirst.tensor import Tensor

recorded = np.load(sys.argv[1])
text = str(recorded["text"])
parts = [part for one in json.loads(text)["outputs"] for part in one.get("outputs") or [one]]
steps = {part["name"]: part["quantization"] for part in parts}
decoder = Decoder.new_from_json_str(text, score_threshold=0.25, iou_threshold=0.7)
found = []
for i in range(recorded["count"]):
    tensors = []
    for name in map(str, recorded["names"]):
        values = np.ascontiguousarray(recorded["of " + name][i])
        tensor = Tensor(list(values.shape), dtype=str(values.dtype))
        tensor.from_numpy(values)
        if values.dtype.kind != "f":
            tensor.set_quantization_per_tensor(steps[name]["scale"], steps[name]["zero_point"])
        tensors.append(tensor)
    boxes, scores, classes, masks = decoder.decode(tensors, 300)
    found.append([boxes.tolist(), scores.tolist(), classes.tolist(), len(masks)])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with EdgeFirst's decoder."""
    given = os.environ.get("EDGESEG_EDGEFIRST_PYTHON")
    if given:
        return Path(given)
    folder = tmp_path_factory.mktemp("edgefirst")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    made = folder / "bin" / "python"
    done = subprocess.run([made, "-m", "pip", "install", "-q", PACKAGE], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"packages cannot be had: {done.stderr.strip().splitlines()[-1]}")
    return made


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("shapes"), train=40, val=40, size=SIZE, seed=6)


def tied(every: Detections, kept: Detections) -> bool:
    """Whether the order of equal scores decides: two classes of one place, or two boxes of which one suppresses the other.

    Of such EdgeFirst takes the last and edgeseg the first; int8 scores are often equal. What a better box suppresses anyway
    decides nothing.
    """
    better = (kept.scores > every.scores[:, None]) & (kept.classes == every.classes[:, None])
    alive = ~(better & (box_iou(every.boxes, kept.boxes) > 0.7)).any(1)
    equal = every.scores[:, None] == every.scores
    overlap, same = box_iou(every.boxes, every.boxes), every.classes[:, None] == every.classes
    boxes = same & (overlap > 0.7) & alive[:, None] & alive
    classes = ~same & (overlap > 0.9999) & (alive[:, None] | alive)
    return bool(np.triu(equal & (boxes | classes), 1).any())


def compared(path: Path, data: Path, python: Path, folder: Path) -> tuple[int, int, float, float]:
    """Where no ties decide: how many both find, how many EdgeFirst finds, how far scores and boxes (px) are at most."""
    ours: list[Detections] = []
    with open_model(path) as opened:
        manifest, pipeline = opened.manifest, Pipeline(opened.runtime, opened.manifest)
        every = Pipeline(opened.runtime, manifest, iou=1.0, max_det=1000, multi_label=True, masks=False)
        seen: dict[str, list[np.ndarray]] = {o.name: [] for o in manifest.outputs}
        for image in load_dataset(data).images("val"):
            picture = cv2.imread(str(image))
            if tied(every(picture), pipeline(picture)):
                continue
            for spec, values in zip(manifest.outputs, pipeline.raw(picture)[0]):
                seen[spec.name].append(values.copy())
            ours.append(pipeline(picture))
    text = edgefirst.texts(manifest)["edgefirst.json"]
    values: dict[str, Any] = {f"of {k}": np.stack(v) for k, v in seen.items()}
    np.savez(folder / "seen.npz", text=text, names=list(seen), count=len(ours), **values)
    done = subprocess.run([python, "-c", READER, folder / "seen.npz"], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr[-2000:]
    both, theirs, score, box = 0, 0, 0.0, 0.0
    for a, (boxes, scores, classes, masks) in zip(ours, json.loads(done.stdout), strict=True):
        assert masks == (len(scores) if manifest.task == "segment" else 0)
        theirs += len(scores)
        corners = np.clip(np.array(boxes).reshape(-1, 4), 0, 1) * SIZE
        for i in range(len(a)):
            far = np.abs(corners - a.boxes[i]).max(1) + SIZE * (np.array(classes) != a.classes[i])
            if len(far) and far.min() < 0.5:
                both += 1
                box, score = max(box, float(far.min())), max(score, abs(scores[int(far.argmin())] - float(a.scores[i])))
    assert sum(map(len, ours)) == both
    return both, theirs, score, box


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "format", "head", "precision"),
    [
        ("demo-seg", "tflite", "raw", "int8"),
        ("demo-seg", "tflite", "decoded", "fp32"),
        ("demo-seg", "tflite", "decoded", "int8"),
        ("demo-seg", "onnx", "raw", "fp32"),
        ("yolo11", "tflite", "raw", "fp32"),
        ("yolo26-seg", "tflite", "raw", "int8"),
    ],
)
def test_it_finds_what_edgeseg_finds(
    name: str, format: str, head: str, precision: str, data: Path, python: Path, tmp_path: Path
) -> None:
    source = demo_checkpoint() if name == "demo-seg" else NETWORKS / f"{name}.pt"
    options = ExportOptions(imgsz=SIZE, head=head, int8=precision == "int8", data=str(data))
    (result,) = export(source, [format], options, out=tmp_path)
    assert result.error is None and result.path is not None
    both, theirs, score, box = compared(result.path, data, python, tmp_path)
    assert both == theirs > 40 and score < 1e-6 and box < 1e-4, (both, theirs, score, box)


def test_what_it_says_of_a_raw_head() -> None:
    outputs = [Output(f"{r}_{s}", (1, 64 // s, 96 // s, c), "int8", "nhwc", 0.1, 3, r, s) for s in (32, 8, 16)
               for r, c in (("box", 64), ("score", 2), ("coeff", 32))]  # fmt: skip
    outputs.append(Output("proto", (1, 16, 24, 32), "int8", "nhwc", 0.2, -1, "proto"))
    manifest = Manifest("x", ("a b\nc", ""), (64, 96), Tensor("images", (1, 64, 96, 3), layout="nhwc"), tuple(outputs))
    said = json.loads(edgefirst.texts(manifest)["edgefirst.json"])
    by_type = {o["type"]: o for o in said["outputs"]}
    assert list(by_type) == ["boxes", "scores", "mask_coefs", "protos"] and said["schema_version"] == 2
    assert [part["name"] for part in by_type["boxes"]["outputs"]] == ["box_8", "box_16", "box_32"]
    assert by_type["boxes"]["encoding"] == "dfl" and by_type["boxes"]["shape"] == [1, 4, 96 + 24 + 6]
    assert by_type["scores"]["outputs"][2]["dshape"] == [{"batch": 1}, {"height": 2}, {"width": 3}, {"num_classes": 2}]
    assert by_type["protos"]["quantization"] == {"scale": 0.2, "zero_point": -1, "dtype": "int8"}
    assert edgefirst.texts(manifest)["labels.txt"] == "a b c\n_\n"
    assert json.loads(edgefirst.properties(manifest)["labels"]) == ["a b\nc", ""]


@pytest.mark.parametrize("more", [{"head": "nms"}, {"end2end": True}, {"dynamic": True}, {"batch": 2}])
def test_what_it_does_not_read_gets_none(more: dict[str, Any]) -> None:
    manifest = Manifest("x", ("a",), (64, 64), Tensor("images", (1, 3, 64, 64)), (Output("p", (1, 5, 84)),), **more)
    assert edgefirst.texts(manifest) == edgefirst.properties(manifest) == {}
