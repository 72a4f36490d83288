"""TF.js: weights in files, and the runtime in node on a graph made by hand. The converter itself: test_tensorflow.py."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.environments import npm
from edgeseg.errors import EdgesegError
from edgeseg.manifest import Manifest, Output, Tensor
from edgeseg.registry import target_by_name
from edgeseg.running.open import open_model

TARGET = target_by_name("tfjs")
node = pytest.mark.skipif(
    shutil.which("node") is None or not npm.is_installed(TARGET.folder),
    reason="needs node and its packages (edgeseg toolchain install tfjs)",
)


@pytest.fixture(scope="module")
def weights():
    return TARGET.load("weights")


def b64(text: str) -> dict:
    import base64

    return {"s": base64.b64encode(text.encode()).decode()}


def constant(name: str) -> dict:
    return {"name": name, "op": "Const", "attr": {"dtype": {"type": "DT_FLOAT"}}}


def conv(name: str, op: str, inputs: list[str], stride: int, padding: str) -> dict:
    strides = {"list": {"i": ["1", str(stride), str(stride), "1"]}}
    ones = {"list": {"i": ["1", "1", "1", "1"]}}
    same = {"T": {"type": "DT_FLOAT"}, "data_format": b64("NHWC"), "padding": b64(padding)}
    return {"name": name, "op": op, "input": inputs, "attr": {**same, "strides": strides, "dilations": ones}}


def tensor(name: str, shape: tuple[int, ...]) -> dict:
    return {"name": f"{name}:0", "dtype": "DT_FLOAT", "tensorShape": {"dim": [{"size": str(n)} for n in shape]}}


OUTPUTS = {"b_small": ("Identity", (1, 8, 8, 4)), "a_large": ("Identity_1", (1, 16, 16, 5))}


def make(folder: Path, weights, seed: int = 0, sign: bool = True) -> dict[str, np.ndarray]:
    """Write images -> 3x3 convolution -> sigmoid -> (b_small, transposed convolution -> a_large); returns the kernels."""
    rng = np.random.default_rng(seed)
    kernels = {
        "k1": (rng.normal(size=(3, 3, 3, 4)) * [1, 0.1, 10, 0.01]).astype(np.float32),
        "k2": rng.normal(size=(2, 2, 5, 4)).astype(np.float32),
    }
    values = {**kernels, "sizes": np.array([1, 16, 16, 5], np.int32)}
    shape = {"shape": {"dim": [{"size": str(n)} for n in (1, 8, 8, 3)]}}
    nodes = [
        {"name": "images", "op": "Placeholder", "attr": {"dtype": {"type": "DT_FLOAT"}, "shape": shape}},
        *(constant(name) for name in values),
        conv("c1", "Conv2D", ["images", "k1"], 1, "SAME"),
        {"name": "act", "op": "Sigmoid", "input": ["c1"], "attr": {"T": {"type": "DT_FLOAT"}}},
        conv("c2", "Conv2DBackpropInput", ["sizes", "k2", "act"], 2, "VALID"),
        {"name": "Identity", "op": "Identity", "input": ["act"], "attr": {"T": {"type": "DT_FLOAT"}}},
        {"name": "Identity_1", "op": "Identity", "input": ["c2"], "attr": {"T": {"type": "DT_FLOAT"}}},
    ]
    content = {
        "format": "graph-model",
        "modelTopology": {"node": nodes, "versions": {}},
        "weightsManifest": [{"paths": [], "weights": []}],
    }
    if sign:
        outputs = {name: tensor(node, shape) for name, (node, shape) in OUTPUTS.items()}
        content["signature"] = {"inputs": {"images": tensor("images", (1, 8, 8, 3))}, "outputs": outputs}
    folder.mkdir(parents=True, exist_ok=True)
    weights.write(weights.Model(content, values), folder)
    return kernels


def expected(kernels: dict[str, np.ndarray], x: np.ndarray) -> dict[str, np.ndarray]:
    """The same by plain loops."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    small = np.zeros((1, 8, 8, 4))
    for i in range(8):
        for j in range(8):
            small[0, i, j] = np.einsum("hwc,hwco->o", padded[0, i : i + 3, j : j + 3], kernels["k1"])
    small = 1 / (1 + np.exp(-small))
    large = np.zeros((1, 16, 16, 5))
    for i in range(16):
        for j in range(16):
            large[0, i, j] = kernels["k2"][i % 2, j % 2] @ small[0, i // 2, j // 2]
    return {"b_small": small, "a_large": large}


def picture(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).random((1, 8, 8, 3), np.float32)


def run(folder: Path) -> dict[str, np.ndarray]:
    runtime = TARGET.load("runtime").Runtime(folder)
    try:
        return dict(zip((o.name for o in runtime.outputs), runtime.run(picture())))
    finally:
        runtime.close()


def rewritten(folder: Path, weights, change: str, **options) -> dict[str, np.ndarray]:
    """Apply a function of ``weights`` to a fresh model."""
    make(folder, weights)
    model = weights.read(folder)
    getattr(weights, change)(model, **options)
    weights.write(model, folder)
    return model


def stored(kernels: dict[str, np.ndarray], weights, change: str | None) -> dict[str, np.ndarray]:
    """The kernels as they are when they were stored and loaded."""
    if change == "halve":
        return {k: v.astype(np.float16).astype(np.float32) for k, v in kernels.items()}
    if change != "quantize":
        return kernels
    axes = {"k1": 3, "k2": 2}
    return {k: np.multiply(*weights._round(v, axes[k])) for k, v in kernels.items()}


def test_what_is_written_is_read(tmp_path, weights) -> None:
    kernels = make(tmp_path, weights)
    model = weights.read(tmp_path)
    assert all(np.array_equal(model.weights[k], v) for k, v in kernels.items())
    assert model.weights["sizes"].dtype == np.int32 and model.kernels() == {"k1": 3, "k2": 2}


def test_shards_of_at_most_4_mb(tmp_path, weights) -> None:
    make(tmp_path, weights)
    model = weights.read(tmp_path)
    model.weights["k1"] = np.arange(3_000_000, dtype=np.float32).reshape(1, 1, 1000, 3000)
    weights.write(model, tmp_path)
    sizes = [f.stat().st_size for f in sorted(tmp_path.glob("*.bin"))]
    assert len(sizes) == 3 and max(sizes) == 4 << 20
    assert np.array_equal(weights.read(tmp_path).weights["k1"], model.weights["k1"])
    weights.write(model, tmp_path)
    model.weights["k1"] = model.weights["k1"][:, :, :1, :1]
    weights.write(model, tmp_path)
    assert [f.name for f in tmp_path.glob("*.bin")] == ["group1-shard1of1.bin"]


def test_halves_take_half(tmp_path, weights) -> None:
    model = rewritten(tmp_path, weights, "halve")
    assert model.weights["k1"].dtype == np.float16 and model.weights["sizes"].dtype == np.int32
    entries = json.loads((tmp_path / "model.json").read_text())["weightsManifest"][0]["weights"]
    assert {w["name"]: w.get("quantization", {}).get("dtype") for w in entries} == {
        "k1": "float16",
        "k2": "float16",
        "sizes": None,
    }
    assert {w["dtype"] for w in entries} == {"float32", "int32"}


@given(seed=st.integers(0, 1000), per_channel=st.booleans())
def test_integers_are_within_half_a_step(weights, seed, per_channel) -> None:
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=(3, 3, 2, 5)) * rng.choice([1e-4, 1, 100], size=5) * rng.choice([0, 1], size=5, p=[0.2, 0.8])
    scale, integers = weights._round(kernel.astype(np.float32), 3 if per_channel else None)
    assert scale.shape == ((1, 1, 1, 5) if per_channel else (1, 1, 1, 1)) and np.abs(integers).max() <= 127
    assert (np.abs(integers * scale - kernel) <= scale * 0.5001).all()


def test_the_graph_multiplies_integers_by_scales(tmp_path, weights) -> None:
    model = rewritten(tmp_path, weights, "quantize")
    by_name = {n["name"]: n for n in model.nodes}
    assert by_name["k1"]["op"] == "Mul" and by_name["k1"]["input"] == ["k1/integers", "k1/scale"]
    assert model.weights["k1/integers"].dtype == np.uint8 and model.weights["k2/scale"].shape == (1, 1, 5, 1)
    assert (
        "k1" not in model.weights and sum(f.stat().st_size for f in tmp_path.glob("*.bin")) < 108 + 80 + 4 * (4 + 5 + 4) + 1
    )


def test_overlapping_transposed_convolutions_stay(tmp_path, weights) -> None:
    make(tmp_path, weights)
    model = weights.read(tmp_path)
    model.weights["k2"] = np.ones((3, 3, 5, 4), np.float32)
    assert weights.unfold(model) == 0 and "DepthToSpace" not in {n["op"] for n in model.nodes}


def test_the_converter_follows_the_recipe_or_says_why(tmp_path, weights) -> None:
    """Without TensorFlow: only what becomes of the weights."""
    from edgeseg.export.job import Job

    convert = TARGET.load("convert")
    recipe = {"weights": {"bits": 16, "granularity": "tensor"}, "activations": {"bits": 8}, "clips": {}}
    job = Job("tfjs", tmp_path, "saved_model", tmp_path, tmp_path, "int8", recipe=recipe)
    make(tmp_path, weights)
    model = weights.read(tmp_path)
    notes = convert._shrink(weights, model, job)
    assert model.weights["k1/scale"].shape == (1, 1, 1, 1)
    assert "16 bits" in notes[0] and "one scale per tensor" in notes[1] and "activations are not followed" in notes[2]
    assert convert._shrink(weights, weights.read(tmp_path), Job("tfjs", tmp_path, "x", tmp_path, tmp_path)) == []


def test_no_model_in_the_folder(tmp_path) -> None:
    folder = tmp_path / "x_web_model"
    folder.mkdir()
    with pytest.raises(EdgesegError, match=r"no model\.json|node is needed"):
        open_model(folder)


def test_without_node(tmp_path, weights, monkeypatch) -> None:
    make(tmp_path / "x_web_model", weights)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EdgesegError, match="node is needed"):
        open_model(tmp_path / "x_web_model")


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_without_packages_and_network(tmp_path, weights, monkeypatch) -> None:
    make(tmp_path / "x_web_model", weights)
    monkeypatch.setenv("EDGESEG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("EDGESEG_OFFLINE", "1")
    with pytest.raises(EdgesegError, match="offline") as caught:
        open_model(tmp_path / "x_web_model")
    assert "edgeseg toolchain install tfjs" in caught.value.hint


@node
@pytest.mark.parametrize("backend", ["wasm", "cpu"])
@pytest.mark.parametrize("change", [None, "unfold", "halve", "quantize"])
def test_node_computes_the_graph(tmp_path, weights, monkeypatch, change, backend) -> None:
    monkeypatch.setenv("EDGESEG_TFJS_BACKEND", backend)
    kernels = make(tmp_path, weights)
    if change:
        rewritten(tmp_path, weights, change)
    found, wanted = run(tmp_path), expected(stored(kernels, weights, change), picture())
    for name, value in wanted.items():
        assert found[name].shape == value.shape and found[name].dtype == np.float32
        assert np.abs(found[name] - value).max() < 1e-5, name


@node
def test_unfolded_and_quantized_together(tmp_path, weights) -> None:
    kernels = make(tmp_path, weights)
    model = weights.read(tmp_path)
    assert weights.unfold(model) == 1 and "Conv2DBackpropInput" not in {n["op"] for n in model.nodes}
    weights.quantize(model)
    weights.write(model, tmp_path)
    found, wanted = run(tmp_path), expected(stored(kernels, weights, "quantize"), picture())
    # Unfolded, each position of the 2x2 window has scales of its own.
    assert np.abs(found["b_small"] - wanted["b_small"]).max() < 1e-5
    assert np.abs(found["a_large"] - wanted["a_large"]).max() < 4 * 0.5 * np.abs(kernels["k2"]).max() / 127 * 2


@node
def test_outputs_come_in_the_manifests_order(tmp_path, weights) -> None:
    make(tmp_path, weights)
    outputs = tuple(Output(n, s, layout="nhwc", role="proto") for n, (_, s) in reversed(OUTPUTS.items()))
    manifest = Manifest("tfjs", ("a",), (8, 8), Tensor("images", (1, 8, 8, 3), layout="nhwc"), outputs)
    (tmp_path / "metadata.yaml").write_text(manifest.to_yaml())
    assert list(run(tmp_path)) == ["a_large", "b_small"]
    (tmp_path / "metadata.yaml").unlink()
    content = json.loads((tmp_path / "model.json").read_text())
    content["userDefinedMetadata"] = {"edgeseg": manifest.to_json(), "structuredOutputKeys": ["a_large", "b_small"]}
    (tmp_path / "model.json").write_text(json.dumps(content))
    runtime = TARGET.load("runtime").Runtime(tmp_path)
    assert [o.name for o in runtime.outputs] == ["a_large", "b_small"] and list(runtime.metadata) == ["edgeseg"]
    wrong = manifest.with_tensors(manifest.input, outputs[:1])
    (tmp_path / "metadata.yaml").write_text(wrong.to_yaml())
    with pytest.raises(EdgesegError, match="not those of its manifest"):
        TARGET.load("runtime").Runtime(tmp_path)


@node
def test_a_file_without_signature(tmp_path, weights) -> None:
    kernels = make(tmp_path, weights, sign=False)
    runtime = TARGET.load("runtime").Runtime(tmp_path)
    assert runtime.input.shape == (1, 8, 8, 3) and runtime.metadata == {}
    found = dict(zip((o.name for o in runtime.outputs), runtime.run(picture())))
    assert np.abs(found["Identity"] - expected(kernels, picture())["b_small"]).max() < 1e-5


@node
def test_arrays_of_an_earlier_run_stay(tmp_path, weights) -> None:
    make(tmp_path, weights)
    runtime = TARGET.load("runtime").Runtime(tmp_path)
    first = runtime.run(picture())
    kept = [a.copy() for a in first]
    runtime.run(picture(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, kept))


@node
def test_wrong_shape_is_an_error_and_the_next_run_works(tmp_path, weights) -> None:
    make(tmp_path, weights)
    runtime = TARGET.load("runtime").Runtime(tmp_path)
    with pytest.raises(EdgesegError, match="shape"):
        runtime.run(np.zeros((1, 9, 8, 3), np.float32))
    assert len(runtime.run(picture())) == 2


@node
@pytest.mark.parametrize("damage", ["not json", "layers-model", "weights missing", "unknown operator"])
def test_damaged_files(tmp_path, weights, damage) -> None:
    folder = tmp_path / "x_web_model"
    make(folder, weights)
    content = json.loads((folder / "model.json").read_text())
    if damage == "layers-model":
        content["format"] = damage
    elif damage == "unknown operator":
        next(n for n in content["modelTopology"]["node"] if n["name"] == "act")["op"] = "Sigmoidal"
    elif damage == "weights missing":
        next(folder.glob("*.bin")).unlink()
    (folder / "model.json").write_text("{" if damage == "not json" else json.dumps(content))
    with pytest.raises(EdgesegError) as caught:
        artifact = open_model(folder)
        artifact.runtime.run(picture())
    assert "\n" not in str(caught.value) and "x_web_model" in str(caught.value)


@node
def test_a_killed_node_is_an_error(tmp_path, weights) -> None:
    make(tmp_path, weights)
    runtime = TARGET.load("runtime").Runtime(tmp_path)
    os.kill(runtime._child.pid, signal.SIGKILL)
    with pytest.raises(EdgesegError, match="node ended with code -9"):
        runtime.run(picture())


@node
def test_node_ends_with_its_runtime(tmp_path, weights) -> None:
    make(tmp_path, weights)
    runtime = TARGET.load("runtime").Runtime(tmp_path)
    child = runtime._child
    del runtime
    gc.collect()
    for _ in range(50):
        if child.poll() is not None:
            break
        time.sleep(0.1)
    assert child.poll() is not None


@node
def test_a_slower_backend_is_said(tmp_path, weights, monkeypatch) -> None:
    make(tmp_path, weights)
    monkeypatch.setenv("EDGESEG_TFJS_BACKEND", "webgl,cpu")
    with pytest.warns(UserWarning, match="slower backend cpu"):
        runtime = TARGET.load("runtime").Runtime(tmp_path)
    assert runtime.backend == "cpu" and runtime.version == "4.22.0"


def test_outputs_of_one_shape_keep_their_names() -> None:
    """tensorflowjs tells outputs apart by shape; of equal ones it leaves TensorFlow's words for the order of the names."""
    outputs = tuple(Output(name, (1,)) for name in ("box_8", "score_8", "proto"))
    manifest = Manifest("tfjs", ("a",) * 4, (64, 64), Tensor("images", (1, 3, 64, 64)), outputs)
    signature = {"outputs": {"Identity:0": {"box": 1}, "Identity_2:0": {"score": 1}, "proto": {"proto": 1}}}
    TARGET.load("convert")._name(signature, manifest)
    assert signature["outputs"] == {"box_8": {"box": 1}, "score_8": {"score": 1}, "proto": {"proto": 1}}
