from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from edgeseg.data.shapes import shapes_image
from edgeseg.errors import EdgesegError
from edgeseg.manifest import Manifest, Output, Tensor, write_sidecar
from edgeseg.quantize.recipe import load_recipe
from edgeseg.registry import target_by_name
from edgeseg.running.open import open_model

ov = pytest.importorskip("openvino")

RAW = [f"{role}_{stride}" for stride in (8, 16, 32) for role in ("box", "score", "coeff")] + ["proto"]


@pytest.fixture(scope="session")
def quantized_onnx(convert, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("calibration")
    images = []
    for seed in range(2):
        images.append(folder / f"{seed}.png")
        cv2.imwrite(str(images[-1]), shapes_image(seed, 96)[0])
    recipe = {**load_recipe("int8").to_dict(), "correction": {"method": "none"}}
    info = {"hash": "00", "images": 2, "source": "shapes"}
    return convert("onnx", precision="int8", recipe=recipe, calibration=tuple(images), calibration_info=info)


@pytest.mark.parametrize("head", ["raw", "decoded"])
def test_float_is_the_network(convert, opened, difference, head):
    artifact = opened(convert("openvino", source=convert("onnx", head=head), head=head))
    assert artifact.manifest.head == head and artifact.manifest.precision == "fp32"
    assert (artifact.path / "metadata.yaml").is_file() and len(list(artifact.path.glob("*.xml"))) == 1
    assert difference(artifact) < 1e-4


def test_half_weights_halve_the_folder(convert, opened, difference):
    source = convert("onnx")
    full, half = (opened(convert("openvino", source=source, precision=p)) for p in ("fp32", "fp16"))
    assert (half.path / "model.bin").stat().st_size < 0.6 * (full.path / "model.bin").stat().st_size
    assert half.manifest.precision == "fp16" and half.manifest.input.dtype == "float32"
    assert difference(half) < 1e-2


def test_dynamic_takes_any_size(convert, opened, difference):
    artifact = opened(convert("openvino", source=convert("onnx", options={"dynamic": True}), options={"dynamic": True}))
    assert artifact.manifest.dynamic and artifact.runtime.input.shape == (-1, 3, -1, -1)
    assert difference(artifact, (128, 32), 2) < 1e-4


def test_integers_run_as_integers(convert, opened, quantized_onnx):
    artifact = opened(convert("openvino", source=quantized_onnx, precision="int8"))
    manifest = artifact.manifest
    assert manifest.precision == "int8" and manifest.recipe == "int8" and manifest.calibration["images"] == 2
    core = target_by_name("openvino").load("runtime")._core()
    model = core.compile_model(str(artifact.path / "model.xml"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    precisions = Counter()
    for node in model.get_runtime_model().get_ordered_ops():
        info = node.get_rt_info()
        if info["layerType"].astype(str) == "Convolution":
            precisions[info["runtimePrecision"].astype(str)] += 1
    assert precisions["u8"] + precisions["i8"] > 0.9 * precisions.total(), precisions


def test_integers_are_close_to_those_of_the_onnx_file(convert, quantized_onnx):
    paths = [convert("onnx"), quantized_onnx, convert("openvino", source=quantized_onnx, precision="int8")]
    runtimes, squares = [open_model(p).runtime for p in paths], []
    for seed in range(3):
        image = shapes_image(seed, 96)[0]
        x = cv2.resize(image, (96, 64))[..., ::-1].transpose(2, 0, 1)[None].astype(np.float32) / 255
        runs = [[np.array(a) for a in r.run(x)] for r in runtimes]
        squares.append([(((a - b) ** 2).mean(), ((a - c) ** 2).mean()) for a, b, c in zip(*runs, strict=True)])
    for inside, fused in np.sqrt(np.mean(squares, 0)):
        # Fewer tensors are rounded here, so this network is not farther from float (by more than chance).
        assert fused < 1.5 * inside + 1e-6


def test_pairs_between_convolution_and_silu_are_gone(quantized_onnx):
    model = onnx.load(str(quantized_onnx))
    before = sum(n.op_type == "QuantizeLinear" for n in model.graph.node)
    left = target_by_name("openvino").load("qdq").keep_inputs_of_convolutions(model)
    after = {n.input[0] for n in model.graph.node if n.op_type == "QuantizeLinear"}
    assert len(after) == left < before
    made = {o: n for n in model.graph.node for o in n.output}
    assert not [t for t in after if t in made and made[t].op_type in ("Conv", "Sigmoid")]
    dequantized = {n.output[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    assert all(n.input[0] in dequantized for n in model.graph.node if n.op_type == "Conv")
    onnx.checker.check_model(model, full_check=True)


def test_pairs_stay_where_scores_are_made(quantized_onnx):
    """Scores were levelled with all pairs in place: without those of their own branch they would all rise together."""
    given = onnx.load(str(quantized_onnx))
    scores = [f"score_{stride}" for stride in (8, 16, 32)]
    made = {o: n for n in given.graph.node for o in n.output}
    found = {}
    for kept in ((), scores):
        model = onnx.load(str(quantized_onnx))
        target_by_name("openvino").load("qdq").keep_inputs_of_convolutions(model, kept)
        found[bool(kept)] = {n.input[0] for n in model.graph.node if n.op_type == "QuantizeLinear"}
        onnx.checker.check_model(model, full_check=True)
    assert found[False] < found[True]
    more = found[True] - found[False]
    # Two convolutions with a SiLU each, three levels: a pair behind each convolution and one behind its sigmoid.
    assert Counter(made[name].op_type for name in more) == {"Conv": 6, "Sigmoid": 6}
    assert all("/score." in name for name in more)


def test_a_float_source_is_refused(convert):
    with pytest.raises(EdgesegError, match="nothing in the ONNX file is integer"):
        convert("openvino", source=convert("onnx"), precision="int8")


def test_two_graphs_in_a_folder(tmp_path):
    folder = tmp_path / "x_openvino_model"
    folder.mkdir()
    for name in "ab":
        (folder / f"{name}.xml").write_text("<net/>")
    output = Output("proto", (1, 32, 16, 16), role="proto")
    write_sidecar(folder, Manifest("openvino", ("a",), (64, 64), Tensor("images", (1, 3, 64, 64)), (output,)))
    with pytest.raises(EdgesegError, match=r"2 \.xml files"):
        open_model(folder)


def test_signals_are_survived_after_a_model_was_freed_in_another_thread(convert):
    """The CPU plugin, when it goes, frees the stack that signal handlers run on."""
    script = (
        "import faulthandler, gc, os, signal, sys, threading\n"
        "from pathlib import Path\n"
        "from edgeseg.running.open import open_model\n"
        "faulthandler.enable()\n"
        "signal.signal(signal.SIGUSR1, lambda *_: None)\n"
        "held = [open_model(Path(sys.argv[1]))]\n"
        "thread = threading.Thread(target=lambda: (held.clear(), gc.collect()))\n"
        "thread.start()\n"
        "thread.join()\n"
        "os.kill(os.getpid(), signal.SIGUSR1)\n"
    )
    path = convert("openvino", source=convert("onnx"))
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, (done.returncode, done.stderr[-500:])
