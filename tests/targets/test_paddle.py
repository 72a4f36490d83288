"""PaddlePaddle through its toolchain, and back: paddle2onnx reads our folder, ONNX Runtime gives the same numbers."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgeseg.environments.toolchains import install, interpreter_for, is_offline, toolchain_of
from edgeseg.errors import EdgesegError
from edgeseg.export.api import export
from edgeseg.export.options import ExportOptions
from edgeseg.network.checkpoint import load_checkpoint
from edgeseg.registry import target_by_name
from edgeseg.running.open import open_model

pytestmark = pytest.mark.slow
SIZE = (64, 96)
# Its own requirements contradict Paddle's newest; and beside TensorFlow it crashes, hence a process of its own.
CONVERTER = "paddle2onnx==2.1.0"
BACK = """
import sys
sys.path.insert(0, sys.argv[1])
import paddle, paddle2onnx
folder = sys.argv[2]
paddle2onnx.export(f"{folder}/model.json", f"{folder}/model.pdiparams", save_file=f"{folder}/back.onnx", opset_version=17)
"""


@pytest.fixture(scope="module")
def python() -> Path:
    """The interpreter of the toolchain, which is installed on first use."""
    chain = toolchain_of(target_by_name("paddle"))
    if chain.unmet() and not chain.installed:
        if is_offline():
            pytest.skip("no toolchain of PaddlePaddle, and offline")
        install("paddle")
    return interpreter_for(chain)[0]


@pytest.fixture(scope="module")
def converter(python, tmp_path_factory) -> Path:
    """A folder with paddle2onnx alone; skips where it cannot be had."""
    folder = tmp_path_factory.mktemp("paddle2onnx")
    pip = [python, "-m", "pip", "install", "-q", "--no-deps", "--target", folder, CONVERTER]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no paddle2onnx here: {(done.stderr.strip().splitlines() or ['pip failed'])[-1]}")
    return folder


def single(node: Any) -> int:
    """Make the scales of nearest_interp single floats: Paddle writes and reads doubles, paddle2onnx singles only."""
    found = 0
    if isinstance(node, dict):
        if node.get("#") == "1.nearest_interp":
            for value in next(a for a in node["A"] if a["N"] == "scale")["AT"]["D"]:
                value["#"], found = "0.a_f32", found + 1
        return found + sum(single(v) for v in node.values())
    return sum(single(v) for v in node) if isinstance(node, list) else 0


@pytest.mark.parametrize("head", ["raw", "decoded"])
def test_back_into_onnx_runtime(head, python, converter, tiny, tmp_path) -> None:
    import onnxruntime

    (result,) = export(tiny, ["paddle"], ExportOptions(imgsz=SIZE, head=head), out=tmp_path)
    assert result.ok, result.error
    folder = tmp_path / "back"
    shutil.copytree(result.path, folder)
    graph = json.loads((folder / "model.json").read_text())
    assert single(graph) == 4  # two upsamplings
    (folder / "model.json").write_text(json.dumps(graph))
    done = subprocess.run([python, "-c", BACK, converter, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    session = onnxruntime.InferenceSession(folder / "back.onnx", providers=["CPUExecutionProvider"])
    x = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        wanted = load_checkpoint(tiny).fuse().view(head)(x)
    got = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert len(got) == len(wanted) == (2 if head == "decoded" else 10)
    for a, b in zip(got, wanted):
        assert np.abs(a - b.numpy()).max() < 1e-4 * np.abs(b.numpy()).max()


def test_a_folder_of_ours_says_that_its_metadata_was_lost(python, tiny, tmp_path) -> None:
    (result,) = export(tiny, ["paddle"], ExportOptions(imgsz=SIZE), out=tmp_path)
    (result.path / "metadata.yaml").unlink()
    with pytest.raises(EdgesegError, match="that file is missing"):
        open_model(result.path)
