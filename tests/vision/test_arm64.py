"""The golden tensors and detections on an emulated Raspberry Pi 4 and 5, with the oldest and the newest OpenCV."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_pixels_of_a_raspberry_pi_are_ours():
    done = subprocess.run([sys.executable, ROOT / "scripts" / "arm64.py"], capture_output=True, text=True, timeout=1500)
    if done.returncode == 2:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("the same: aarch64") == 4
