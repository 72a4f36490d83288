"""SIGTERM and Ctrl-C: what was begun is completed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeseg.kernel import Stopping

NUMBERS = (signal.SIGINT, signal.SIGTERM)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_waits_until_it_is_allowed(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Stopping() as stopping:
        os.kill(os.getpid(), number)
        assert stopping.asked
        with pytest.raises(KeyboardInterrupt), stopping.allowed():
            pytest.fail("the signal came before")
    with Stopping() as stopping:
        with pytest.raises(KeyboardInterrupt), stopping.allowed():
            os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("number", NUMBERS)
def test_predict_completes_its_files(tmp_path: Path, tiny: Path, number: signal.Signals) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 64))
    for _ in range(3000):
        writer.write(np.zeros((64, 64, 3), np.uint8))
    writer.release()
    words = [
        sys.executable,
        "-m",
        "edgeseg.cli",
        "predict",
        str(tiny),
        "v.avi",
        "json=o.json",
        "out=o",
        "conf=0",
        "max_det=2",
    ]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.send_signal(number)
        process.stdout.read()
        assert process.stderr.read().endswith(b"interrupted\n")
    assert process.returncode == 130
    found = json.loads((tmp_path / "o.json").read_text())
    assert 0 < found["count"] == len(found["images"]) < 3000
    capture = cv2.VideoCapture(str(tmp_path / "o/v.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == found["count"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["o", "o.json", "v.avi"]
