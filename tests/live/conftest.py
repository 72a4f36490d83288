"""What the tests of the loop share: a clip of generated pictures, the demo network, a tiny camera server."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from edgeseg.data.images import read_image
from edgeseg.data.shapes import make_shapes
from edgeseg.demo import CHECKPOINT
from edgeseg.running.open import Opened, open_model
from edgeseg.running.pipeline import Pipeline

FPS = 20


@pytest.fixture(scope="session")
def servers() -> ModuleType:
    spec = importlib.util.spec_from_file_location("live_servers", Path(__file__).with_name("servers.py"))
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[np.ndarray]:
    """Eight pictures of 160 px with shapes, uint8 BGR."""
    folder = tmp_path_factory.mktemp("live") / "shapes"
    make_shapes(folder, train=1, val=8, size=160, seed=5)
    return [read_image(p) for p in sorted((folder / "images" / "val").iterdir())]


@pytest.fixture(scope="session")
def clip(pictures: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 40 frames, two seconds: each picture five times."""
    file = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_clip(file, [p for p in pictures for _ in range(5)])
    return file


def write_clip(file: Path, frames: list[np.ndarray], fps: int = FPS) -> None:
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"mp4v"), fps, frames[0].shape[1::-1])
    for frame in frames:
        writer.write(frame)
    writer.release()


@pytest.fixture(scope="session")
def demo() -> Iterator[Opened]:
    """The demo network, opened."""
    pytest.importorskip("torch")
    with open_model(CHECKPOINT, threads=1) as opened:
        yield opened.sized((160, 160))


@pytest.fixture
def pipeline(demo: Opened) -> Pipeline:
    return demo.pipeline()


@pytest.fixture
def small(demo: Opened) -> Pipeline:
    """The demo network at 64 px, for tests of the loop rather than of what it finds."""
    return demo.sized((64, 64)).pipeline()
