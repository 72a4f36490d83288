from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import types
import zipfile

import numpy as np
import pytest

from edgeseg.errors import EdgesegError
from edgeseg.manifest import Output, read_zip
from edgeseg.registry import target_by_name
from edgeseg.running.open import open_model

RAW = [f"{role}_{stride}" for stride in (8, 16, 32) for role in ("box", "score", "coeff")] + ["proto"]


@pytest.fixture(scope="module")
def flatbuffer():
    return target_by_name("tflite").load("flatbuffer")


@pytest.fixture(scope="module")
def raw(convert):
    return convert("tflite", imgsz=(64, 64), apart=True)


def test_raw_head_is_the_network(raw, opened, difference):
    artifact = opened(raw)
    assert [o.name for o in artifact.manifest.outputs] == RAW and {o.layout for o in artifact.manifest.outputs} == {"nhwc"}
    assert artifact.manifest.outputs[1].shape == (1, 8, 8, 3) and artifact.manifest.input.shape == (1, 64, 64, 3)
    assert artifact.manifest.input.name == "images" and difference(artifact) < 1e-5


def test_raw_head_has_no_transpositions(raw, flatbuffer):
    found = flatbuffer.operators(raw.read_bytes())
    assert found["TRANSPOSE"] == 0 and found["CONV_2D"] > 60 and found["TRANSPOSE_CONV"] == 1


def test_signature_speaks_of_roles(raw):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(raw))
    (signature,) = interpreter.get_signature_list().values()
    assert signature["inputs"] == ["images"] and sorted(signature["outputs"]) == sorted(RAW)
    details = interpreter.get_signature_runner().get_output_details()
    assert all(details[name]["name"] == name for name in RAW)


def test_metadata_is_an_appended_zip(raw):
    with zipfile.ZipFile(raw) as z:
        assert z.namelist() == ["metadata.json", "edgefirst.json", "labels.txt"]
        said = json.loads(z.read("metadata.json"))
        assert z.read("labels.txt").decode().splitlines() == ["cat", "dog", 'o"dd, näme']
    assert said["task"] == "segment" and said["names"] == {"0": "cat", "1": "dog", "2": 'o"dd, näme'}
    assert not said["author"], "readers of other layouts take an author that is not theirs for a stranger's file"
    assert read_zip(raw)["stride"] == 32


def test_describe_refuses_what_is_not_expected(raw, flatbuffer):
    content = raw.read_bytes()
    manifest = open_model(raw).manifest
    with pytest.raises(EdgesegError, match="unexpected output"):
        flatbuffer.describe(content, manifest.outputs[1:])
    extra = Output("more", (1, 4, 2, 2), role="proto")
    with pytest.raises(EdgesegError, match="10 outputs where 11"):
        flatbuffer.describe(content, (*manifest.outputs, extra))
    wrong = Output("box_8", (1, 32, 8, 8), role="box", stride=8)
    with pytest.raises(EdgesegError, match="box_8 has shape"):
        flatbuffer.describe(content, (wrong, *manifest.outputs[1:]))


def test_packing_keeps_constants_behind_the_flatbuffer(raw, flatbuffer):
    """Some writers put constants after the flatbuffer: they must be inside after one round."""
    content = raw.read_bytes()
    model = flatbuffer.read(content)
    tail, offset = b"", len(content) * 2
    for buffer in model.buffers:
        if buffer.data is not None and np.size(buffer.data) > 1000:
            data = np.asarray(buffer.data, np.uint8).tobytes()
            buffer.data, buffer.offset, buffer.size = None, offset + len(tail), len(data)
            tail += data
    assert tail
    moved = flatbuffer.pack(model)
    moved += bytes(offset - len(moved)) + tail
    assert flatbuffer.pack(flatbuffer.read(moved)) == flatbuffer.pack(flatbuffer.read(content))


def test_older_runtime_will_do(raw, monkeypatch):
    """Where only tflite-runtime is installed, it runs the same file."""
    import ai_edge_litert.interpreter as real

    older = types.ModuleType("tflite_runtime.interpreter")
    older.Interpreter = real.Interpreter
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    monkeypatch.setitem(sys.modules, "tflite_runtime", types.ModuleType("tflite_runtime"))
    monkeypatch.setitem(sys.modules, "tflite_runtime.interpreter", older)
    spec = importlib.util.spec_from_file_location("older_runtime", target_by_name("tflite").folder / "runtime.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    runtime = module.Runtime(raw, threads=1)
    assert [o.name for o in runtime.outputs] == RAW
    assert runtime.run(np.zeros((1, 64, 64, 3), np.float32))[-1].shape == (1, 16, 16, 32)


def test_arrays_stay_while_held(raw):
    runtime = open_model(raw).runtime
    first = runtime.run(np.zeros((1, 64, 64, 3), np.float32))
    kept = [a.copy() for a in first]
    runtime.run(np.ones((1, 64, 64, 3), np.float32))
    assert all(np.array_equal(a, b) for a, b in zip(first, kept))


def test_a_board_needs_no_torch(raw):
    code = f"""
import sys
for name in ("torch", "tensorflow", "onnx", "litert_torch", "ai_edge_quantizer"):
    sys.modules[name] = None
import numpy as np
from edgeseg.running.open import open_model
from edgeseg.running.pipeline import Pipeline
artifact = open_model({str(raw)!r})
found = Pipeline(artifact.runtime, artifact.manifest, conf=0.0, max_det=5)(np.full((40, 50, 3), 90, np.uint8))
assert len(found) <= 5 and found.shape == (40, 50)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_default_threads_are_real_cores():
    assert 1 <= target_by_name("tflite").load("runtime").physical_cores() <= 4096


def test_no_tflite_at_all(tmp_path):
    file = tmp_path / "no.tflite"
    file.write_bytes(b"not a model")
    with pytest.raises(EdgesegError, match="cannot load") as caught:
        open_model(file)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(("head", "batch"), [("raw", 2), ("decoded", 1), ("decoded", 2)])
def test_other_heads_and_batches(convert, opened, difference, head, batch):
    artifact = opened(convert("tflite", head=head, batch=batch, apart=True))
    assert artifact.manifest.batch == batch and difference(artifact) < 1e-5
    assert artifact.manifest.outputs[-1].layout == "nhwc" and artifact.manifest.outputs[-1].channels == 32


@pytest.mark.slow
@pytest.mark.parametrize("head", ["raw", "decoded"])
def test_half_halves_the_weights(convert, opened, difference, head, flatbuffer):
    full, half = convert("tflite", head=head, apart=True), convert("tflite", head=head, precision="fp16", apart=True)
    artifact = opened(half)
    assert artifact.manifest.input.dtype == "float32" and artifact.manifest.precision == "fp16"
    assert half.stat().st_size < 0.7 * full.stat().st_size and 1e-7 < difference(artifact) < 5e-3
    assert flatbuffer.operators(half.read_bytes())["DEQUANTIZE"] > 60


@pytest.mark.slow
def test_names_do_not_cross_where_shapes_are_equal(tmp_path, convert, opened):
    """64 classes: box and score have the same shape, so that only the order tells them apart."""
    import torch

    from edgeseg.network.checkpoint import load_checkpoint, save_checkpoint
    from edgeseg.network.definition import Definition
    from edgeseg.network.model import Network

    torch.manual_seed(0)
    source = save_checkpoint(tmp_path / "c64.pt", Network(Definition(variant="n", nc=64, depth=0.33, width=0.125)))
    artifact = open_model(convert("tflite", source=source, imgsz=(64, 64), apart=True))
    x = np.random.default_rng(0).random((1, 64, 64, 3), np.float32)
    with torch.no_grad():
        wanted = load_checkpoint(source).fuse().view("raw")(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
    for a, b in zip(artifact.runtime.run(x), wanted, strict=True):
        np.testing.assert_allclose(a, b.numpy().transpose(0, 2, 3, 1), atol=1e-4)
