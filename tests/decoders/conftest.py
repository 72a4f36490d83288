"""The golden vectors, made from ``edgeseg.vision`` as it is now."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of all golden vectors (edgeseg/decoders/README.md). Do not write into it."""
    folder = tmp_path_factory.mktemp("golden") / "vectors"
    command = [sys.executable, "-W", "ignore", ROOT / "scripts" / "make_vectors.py", folder]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder
