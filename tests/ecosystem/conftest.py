"""Pictures with what the demo network finds in them, and packages that are installed beside the environment."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeseg.data.shapes import shapes_image
from edgeseg.model import Model
from edgeseg.predict.result import Result
from edgeseg.resources import demo_checkpoint


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of five pictures; one is empty, and one is called ``a & <b>.png``."""
    folder = tmp_path_factory.mktemp("pictures")
    for seed, name in enumerate(("a & <b>.png", "c.png", "d.png", "e.png")):
        cv2.imwrite(str(folder / name), shapes_image(seed + 40, 192)[0])
    cv2.imwrite(str(folder / "nothing.png"), np.full((96, 160, 3), 114, np.uint8))
    return folder


@pytest.fixture(scope="session")
def found(pictures: Path) -> list[Result]:
    """What the demo network finds in them."""
    results = Model(demo_checkpoint()).predict(pictures, conf=0.3)
    assert [len(r) for r in results].count(0) == 1 and sum(map(len, results)) > 6
    return results


@pytest.fixture(scope="session")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Installs packages into a folder of their own, without what they depend on; skips where that cannot be."""

    def install(*packages: str) -> Path:
        folder = tmp_path_factory.mktemp("site")
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), *packages]
        done = subprocess.run(pip, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"{packages[0]} cannot be installed here: {(done.stderr.strip().splitlines() or ['?'])[-1][:200]}")
        return folder

    return install
