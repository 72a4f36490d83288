"""The CMake example on artifacts of the demo network, with the libraries of ONNX Runtime, LiteRT and ncnn, and without."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeseg.data.shapes import make_shapes, shapes_image
from edgeseg.demo import CHECKPOINT
from edgeseg.manifest import Manifest
from edgeseg.running.open import open_model
from edgeseg.vision.detections import Detections
from edgeseg.vision.postprocess import postprocess
from edgeseg.vision.preprocess import Letterbox, prepare

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "edgeseg" / "decoders" / "cpp" / "examples"
RUNTIMES = {"onnx": "onnxruntime", "tflite": "litert", "ncnn": "ncnn"}

pytestmark = pytest.mark.slow

Program = Callable[[str], Path]


def run(*words: object) -> str:
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """``program(format)``: the example for a format (``""``: without a runtime), built with all warnings as errors."""
    if shutil.which("cmake") is None or shutil.which("g++") is None:
        pytest.skip("no cmake or g++ (Debian: apt-get install cmake g++)")
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        runtimes = importlib.import_module("cpp_runtimes")
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    build = tmp_path_factory.mktemp("example")

    def make(format: str) -> Path:
        name = f"segment_{format}" if format else "segment"
        options = []
        if format:
            try:
                place = runtimes.make(ROOT / "build" / "runtimes", RUNTIMES[format])
            except runtimes.CannotBeHad as e:
                pytest.skip(str(e))
            options = [f"-DEDGESEG_{RUNTIMES[format].upper()}={place}"]
        run("cmake", "-S", EXAMPLES, "-B", build, "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror", *options)
        run("cmake", "--build", build, "--target", name)
        return build / name

    return make


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Files of the demo network at 160 px by format and precision."""
    root, found = tmp_path_factory.mktemp("artifacts"), {}
    data = make_shapes(root / "data", train=40, val=4, size=160, seed=5)
    for precision, words in (("float", ()), ("int8", ("--int8", f"data={data}"))):
        folder = root / precision
        folder.mkdir()
        shutil.copy(CHECKPOINT, folder / "demo-seg.pt")
        cli = (sys.executable, "-m", "edgeseg.cli", "export", folder / "demo-seg.pt", "--imgsz", 160, "--force")
        run(*cli, "--format", ",".join(RUNTIMES), *words)
        for path in folder.iterdir():
            if path.suffix != ".pt":
                found["ncnn" if path.is_dir() else path.suffix[1:], precision] = path
    return found


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A PPM of 320x243 pixels, and what is in it, BGR."""
    path, bgr = tmp_path_factory.mktemp("picture") / "picture.ppm", shapes_image(17, 320)[0][:243]
    cv2.imwrite(str(path), bgr)
    return path, bgr


def runs(tile: np.ndarray) -> list[int]:
    flat = tile.ravel()
    return np.diff(np.flatnonzero(np.diff(flat, prepend=False)), prepend=0, append=len(flat)).tolist()


def agrees(said: str, found: Detections, manifest: Manifest) -> None:
    """Boxes and scores to 1e-4, masks to the pixel."""
    lines = [json.loads(line) for line in said.splitlines()]
    assert len(found) >= 4 and found.tiles is not None
    assert [line["name"] for line in lines] == [manifest.names[c] for c in found.classes]
    assert np.allclose([line["box"] for line in lines], found.boxes, atol=1e-4, rtol=0)
    assert np.allclose([line["score"] for line in lines], found.scores, atol=1e-4, rtol=0)
    for line, corner, tile in zip(lines, found.tiles.corners.tolist(), found.tiles.tiles):
        assert line["mask"] == {"corner": corner, "size": list(tile.shape), "runs": runs(tile)}


def farthest(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> float:
    """Root mean square of the difference, as a share of that of the tensor; the worst tensor."""
    pairs = [(a.astype(np.float64), b.astype(np.float64)) for a, b in zip(ours, theirs)]
    return max(float(np.sqrt(((a - b) ** 2).mean() / (b**2).mean())) for a, b in pairs)


@pytest.mark.parametrize("precision", ("float", "int8"))
@pytest.mark.parametrize("format", RUNTIMES)
def test_detections_of_a_runtimes_c_interface_are_pythons(
    format: str,
    precision: str,
    program: Program,
    artifacts: dict[tuple[str, str], Path],
    picture: tuple[Path, np.ndarray],
    tmp_path: Path,
) -> None:
    """Of the tensors that the program had, Python finds the same; and those tensors are Python's.

    With ONNX Runtime and LiteRT to the last bit, for the library is the same; ncnn is built here with other instructions,
    and where one of its INT8 layers rounds the other way, the layers behind it differ by steps: noise of a few hundredths.
    """
    artifact, (ppm, bgr) = artifacts[format, precision], picture
    said = run(program(format), artifact, ppm, tmp_path)
    with open_model(artifact) as opened:
        manifest = opened.manifest
        x, box = prepare(bgr, manifest)
        theirs = opened.runtime.run(x)
    ours = [np.fromfile(tmp_path / f"{i}.bin", a.dtype).reshape(a.shape) for i, a in enumerate(theirs)]
    agrees(said, postprocess(ours, manifest, box), manifest)
    integers = {a.dtype.kind for a in ours} == {"i"}
    assert integers == (format == "tflite" and precision == "int8")
    far = farthest(ours, theirs)
    print(f"{format}, {precision}: tensors differ by {far:.3g} of their size at most")
    assert far <= ((0.05 if precision == "int8" else 1e-5) if format == "ncnn" else 0), far


@pytest.mark.parametrize(("format", "precision"), (("onnx", "float"), ("tflite", "int8")))
def test_a_runtime_of_ones_own_between_the_two_halves(
    format: str,
    precision: str,
    program: Program,
    artifacts: dict[tuple[str, str], Path],
    picture: tuple[Path, np.ndarray],
    tmp_path: Path,
) -> None:
    segment, artifact, (ppm, bgr) = program(""), artifacts[format, precision], picture
    with open_model(artifact) as opened:
        manifest = opened.manifest
        (tmp_path / "manifest.json").write_text(manifest.to_json())
        run(segment, "prepare", tmp_path / "manifest.json", ppm, tmp_path / "input.bin")
        want, box = prepare(bgr, manifest)
        assert (tmp_path / "input.bin").read_bytes() == want.tobytes()
        x = np.fromfile(tmp_path / "input.bin", want.dtype).reshape(want.shape)
        outputs = [np.ascontiguousarray(o) for o in opened.runtime.run(x)]
    if precision == "int8":
        assert {o.dtype.name for o in outputs} == {"int8"}
    names = []
    for i, array in enumerate(outputs):
        array.tofile(tmp_path / f"{i}.bin")
        names.append(f"{tmp_path / f'{i}.bin'}:{array.dtype.name}:{'x'.join(map(str, array.shape))}")
    said = run(segment, "draw", tmp_path / "manifest.json", ppm, tmp_path / "result.ppm", *names)

    found = postprocess(outputs, manifest, Letterbox.fit(box.source, box.size))
    lines = [line.split() for line in said.splitlines()]
    assert len(found) >= 4 and found.tiles is not None
    assert [line[0] for line in lines] == [manifest.names[c] for c in found.classes]
    assert np.allclose([[float(v) for v in line[2:6]] for line in lines], found.boxes, atol=1e-3)
    assert np.allclose([float(line[1]) for line in lines], found.scores, atol=1e-4)
    assert [int(line[6]) for line in lines] == [int(t.sum()) for t in found.tiles.tiles]
    drawn = cv2.imread(str(tmp_path / "result.ppm"))
    assert np.array_equal((drawn != bgr).any(axis=2) <= found.masks.any(axis=0), np.ones(bgr.shape[:2], bool))
