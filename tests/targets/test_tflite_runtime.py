"""The older tflite-runtime 2.14 (NumPy 1, Python up to 3.11), which many boards still have, runs our files like LiteRT.

EDGESEG_TFLITE_RUNTIME_PYTHON names an interpreter that has it; else an environment is made, where packages can be had.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgeseg.data.dataset import load_dataset
from edgeseg.data.shapes import make_shapes
from edgeseg.environments.python_env import python_env
from edgeseg.evaluate.fidelity import match
from edgeseg.model import Model
from edgeseg.resources import demo_checkpoint

pytestmark = pytest.mark.slow
# The base of pyproject.toml in the versions that still take NumPy 1, and nothing else.
PACKAGES = (
    "tflite-runtime==2.14.0",
    "numpy>=1.26,<2",
    "opencv-python-headless>=4.9,<4.12",
    "PyYAML",
    "rich",
    "typer",
    "tomli",
)


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """An interpreter with tflite-runtime and the base packages."""
    given = os.environ.get("EDGESEG_TFLITE_RUNTIME_PYTHON")
    if given:
        return Path(given)
    if sys.version_info >= (3, 12):
        pytest.skip("tflite-runtime has no wheel for this Python")
    folder = tmp_path_factory.mktemp("tflite-runtime")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    made = folder / "bin" / "python"
    pip = [made, "-m", "pip", "install", "-q", *PACKAGES, "faster-coco-eval"]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"packages cannot be had: {done.stderr.strip().splitlines()[-1]}")
    return made


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("shapes"), train=24, val=8, size=160, seed=4)


def edgeseg(python: Path, place: Path, *words: object) -> dict:
    command = [str(python), "-m", "edgeseg.cli", *map(str, words), "--json", str(place / "found.json")]
    done = subprocess.run(command, env=python_env(place, False), cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((place / "found.json").read_text())


def objects(rows: list[dict]) -> Objects:
    columns = {"boxes": "box", "scores": "score", "classes": "class"}
    return Objects(**{k: np.array([r[v] for r in rows]) for k, v in columns.items()})


class Objects(SimpleNamespace):
    """Detections as ``match`` reads them."""

    def __len__(self) -> int:
        return len(self.scores)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_same_objects_as_litert(precision, python, data, tmp_path) -> None:
    options = {"fp32": {}, "fp16": {"half": True}, "int8": {"int8": True, "data": str(data)}}[precision]
    model = Model(Model(demo_checkpoint()).export("tflite", imgsz=160, out=tmp_path, **options))
    images = load_dataset(data).images("val")
    found = edgeseg(python, tmp_path, "predict", model.path, images[0].parent, "--no-save")["images"]
    assert len(found) == len(images)
    pairs, count = 0, 0
    for there, here in zip(found, model.predict([str(i["path"]) for i in found])):
        first, second = objects(there["detections"]), objects(here.detections.to_dicts())
        matched = match(first, second, 0.8)
        pairs, count = pairs + 2 * len(matched), count + len(first) + len(second)
        for i, j, _ in matched if precision != "int8" else ():
            assert np.abs(first.boxes[i] - second.boxes[j]).max() < 0.05
            assert abs(first.scores[i] - second.scores[j]) < 1e-3
    # Integers of the two generations' kernels differ in the last bit: what is near the threshold may come or go.
    assert count > 20 and pairs >= (0.9 if precision == "int8" else 1) * count
    theirs = edgeseg(python, tmp_path, "validate", model.path, f"data={data}")["metrics"]
    ours = model.validate(data)
    most = 0.03 if precision == "int8" else 0.002  # 8 images: one object more or less is half a point
    assert abs(theirs["box"]["map"] - ours.box.map) < most and abs(theirs["seg"]["map"] - ours.seg.map) < most
    assert ours.box.map > 0.5
