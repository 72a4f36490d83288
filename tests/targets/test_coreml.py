"""Conversions of a tiny network to Core ML, run by the evaluator; skipped where coremltools is not installed."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgeseg.quantize.recipe import load_recipe
from edgeseg.registry import target_by_name

# Importing coremltools takes long, TensorFlow comes along where it is installed: hence no importorskip.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("coremltools") is None, reason="coremltools is not installed"),
]


def program(path: Path) -> Any:
    return target_by_name("coreml").load("program").read_program(path)


def count(path: Path) -> Counter[tuple[str, str]]:
    return Counter((op.type, op.outputs[0].dtype) for op in program(path).operations)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> tuple[Path, ...]:
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for i in range(3):
        cv2.imwrite(str(folder / f"{i}.png"), rng.integers(0, 256, (64, 96, 3), dtype=np.uint8))
    return tuple(sorted(folder.iterdir()))


@pytest.mark.parametrize("head", ["raw", "decoded"])
@pytest.mark.parametrize(("precision", "limit"), [("fp32", 1e-5), ("fp16", 2e-2)])
def test_it_computes_what_pytorch_does(convert, opened, difference, head, precision, limit):
    path = convert("coreml", precision=precision, head=head, apart=True)
    artifact = opened(path)
    assert (artifact.manifest.head, artifact.manifest.precision) == (head, precision)
    assert difference(artifact) < limit
    assert (("conv", "float16") in count(path)) == (precision == "fp16")


def test_a_batch_of_two(convert, opened, difference):
    artifact = opened(convert("coreml", batch=2, apart=True))
    assert artifact.manifest.input.shape == (2, 3, 64, 96)
    assert difference(artifact) < 1e-5


def test_boxes_are_decoded_in_float32(convert):
    operators = count(convert("coreml", precision="fp16", head="decoded", apart=True))
    assert ("softmax", "float32") in operators and ("softmax", "float16") not in operators


def test_weights_of_8_bits(convert, opened, difference):
    path = convert("coreml", precision="int8", apart=True, recipe=load_recipe("w8a32").to_dict())
    artifact, operators = opened(path), count(path)
    assert artifact.manifest.precision == "int8" and "8-bit weights" in artifact.manifest.notes[0]
    assert operators["constexpr_affine_dequantize", "float16"] == operators["conv", "float16"] + 1
    assert not operators["quantize", "int8"] and program(path).opset == "CoreML6"
    assert difference(artifact) < 0.1


@pytest.mark.parametrize("head", ["raw", "decoded"])
def test_weights_and_activations_of_8_bits(convert, opened, difference, images, head):
    recipe = {"name": "int8", "activations": {"bits": 8, "method": "minmax", "silu_input": "minmax"}}
    info = {"hash": "0", "images": 3, "source": "here"}
    job = {"recipe": recipe, "calibration": images, "calibration_info": info}
    path = convert("coreml", precision="int8", head=head, apart=True, **job)
    artifact, operators = opened(path), count(path)
    assert artifact.manifest.recipe == "int8" and artifact.manifest.calibration == info
    assert "iOS 17" in artifact.manifest.notes[0] and program(path).opset == "CoreML7"
    assert operators["quantize", "int8"] + operators["quantize", "uint8"] > 50
    assert difference(artifact) < 0.5


def test_stages_that_stay_float(convert, opened, images):
    stages = {stage: {"activations": 32, "weights": 32} for stage in ("box", "score", "coeff", "proto", "neck")}
    recipe = {"name": "mine", "activations": {"bits": 8}, "correction": {"method": "none"}, "stages": stages}
    path = convert("coreml", precision="int8", apart=True, recipe=recipe, calibration=images)
    whole, backbone = program(path), 0
    for op in whole.operations:
        if op.type == "constexpr_affine_dequantize":
            assert "backbone" in op.outputs[0].name
            backbone += 1
    assert backbone > 20 and opened(path)
