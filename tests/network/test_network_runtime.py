from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgeseg.errors import EdgesegError
from edgeseg.manifest import Manifest
from edgeseg.network.checkpoint import save_checkpoint
from edgeseg.network.model import Network
from edgeseg.network.runtime import NetworkRuntime, trained_imgsz


def test_runs_any_size_like_an_artifact(small: Network, tmp_path: Path) -> None:
    small.info = {"imgsz": 300}
    runtime = NetworkRuntime(save_checkpoint(tmp_path / "net.pt", small))
    assert runtime.manifest.names == small.names and runtime.manifest.imgsz == (320, 320)
    assert runtime.manifest.head == "raw" and runtime.manifest.dynamic and runtime.manifest.precision == "fp32"
    assert runtime.manifest.outputs == runtime.outputs and runtime.manifest.input == runtime.input
    assert Manifest.from_metadata(runtime.metadata) == runtime.manifest
    for shape in ((1, 3, 64, 64), (2, 3, 96, 32)):
        x = np.random.default_rng(0).random(shape, dtype=np.float32)
        with torch.no_grad():
            expected = small.view("raw")(torch.from_numpy(x))
        for a, b in zip(runtime.run(x), expected):
            np.testing.assert_allclose(a, b.numpy(), atol=1e-4)


def test_takes_a_network_and_leaves_it_alone(small: Network) -> None:
    runtime = NetworkRuntime(small.train())
    assert small.training and not small.fused and runtime.network.fused and not runtime.network.training


def test_wrong_input(small: Network) -> None:
    runtime = NetworkRuntime(small)
    for bad in (np.zeros((1, 3, 60, 64), np.float32), np.zeros((1, 64, 64, 3), np.float32), np.zeros((1, 3, 64, 64))):
        with pytest.raises(EdgesegError, match="multiples of 32"):
            runtime.run(bad)


def test_trained_size(small: Network) -> None:
    small.info = {}
    assert trained_imgsz(small) == (640, 640)
    small.info = {"imgsz": [100, 320]}
    assert trained_imgsz(small) == (128, 320)
