"""The CMake example on artifacts of the demo network: LiteRT's and ONNX Runtime's tensors, from what C++ prepared."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeseg.data.shapes import make_shapes, shapes_image
from edgeseg.demo import CHECKPOINT
from edgeseg.running.open import open_model
from edgeseg.vision.letterbox import Letterbox
from edgeseg.vision.postprocess import postprocess
from edgeseg.vision.preprocess import prepare

EXAMPLES = Path(__file__).resolve().parents[2] / "edgeseg" / "decoders" / "cpp" / "examples"

pytestmark = pytest.mark.slow


def run(*words: object) -> str:
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def segment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, built by CMake with all warnings as errors."""
    if shutil.which("cmake") is None or shutil.which("g++") is None:
        pytest.skip("no cmake or g++ (Debian: apt-get install cmake g++)")
    build = tmp_path_factory.mktemp("example")
    run("cmake", "-S", EXAMPLES, "-B", build, "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror")
    run("cmake", "--build", build)
    return build / "segment"


@pytest.mark.parametrize("words", (("--format", "onnx"), ("--format", "tflite", "--int8")))
def test_a_real_artifact_between_the_two_halves(words: tuple[str, ...], segment: Path, tmp_path: Path) -> None:
    shutil.copy(CHECKPOINT, tmp_path / "demo-seg.pt")
    data = make_shapes(tmp_path / "data", train=40, val=4, size=160, seed=5)
    cli = (sys.executable, "-m", "edgeseg.cli", "export", tmp_path / "demo-seg.pt", "--imgsz", 160, "--force")
    run(*cli, *words, *((f"data={data}",) if "--int8" in words else ()))
    (artifact,) = (p for p in tmp_path.iterdir() if p.suffix in (".onnx", ".tflite"))
    bgr = shapes_image(17, 320)[0][:243]
    cv2.imwrite(str(tmp_path / "picture.ppm"), bgr)

    with open_model(artifact) as opened:
        manifest = opened.manifest
        (tmp_path / "manifest.json").write_text(manifest.to_json())
        run(segment, "prepare", tmp_path / "manifest.json", tmp_path / "picture.ppm", tmp_path / "input.bin")
        want, box = prepare(bgr, manifest)
        assert (tmp_path / "input.bin").read_bytes() == want.tobytes()
        x = np.fromfile(tmp_path / "input.bin", want.dtype).reshape(want.shape)
        outputs = [np.ascontiguousarray(o) for o in opened.runtime.run(x)]
    if "--int8" in words:
        assert {o.dtype.name for o in outputs} == {"int8"}
    names = []
    for i, array in enumerate(outputs):
        array.tofile(tmp_path / f"{i}.bin")
        names.append(f"{tmp_path / f'{i}.bin'}:{array.dtype.name}:{'x'.join(map(str, array.shape))}")
    said = run(segment, "draw", tmp_path / "manifest.json", tmp_path / "picture.ppm", tmp_path / "result.ppm", *names)

    found = postprocess(outputs, manifest, Letterbox.fit(box.source, box.size))
    lines = [line.split() for line in said.splitlines()]
    assert len(found) >= 4 and found.tiles is not None
    assert [line[0] for line in lines] == [manifest.names[c] for c in found.classes]
    assert np.allclose([[float(v) for v in line[2:6]] for line in lines], found.boxes, atol=1e-3)
    assert np.allclose([float(line[1]) for line in lines], found.scores, atol=1e-4)
    assert [int(line[6]) for line in lines] == [int(t.sum()) for t in found.tiles.tiles]
    drawn = cv2.imread(str(tmp_path / "result.ppm"))
    assert np.array_equal((drawn != bgr).any(axis=2) <= found.masks.any(axis=0), np.ones(bgr.shape[:2], bool))
