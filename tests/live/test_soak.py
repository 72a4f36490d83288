"""An hour's worth of frames at full speed: the memory of the process stays where it was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
FRAMES, WARM = 10_000, 2_000
SOAK = """
import itertools, json, os, sys
import cv2
from edgeseg.live import Events, JsonLines, Loop, Video, open_camera
from edgeseg.running.open import open_model
from edgeseg.vision.track import Tracker

model, clip, folder, frames = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
pictures, capture = [], cv2.VideoCapture(clip)
while (read := capture.read())[0]:
    pictures.append(read[1])
resident = []

class Memory:
    def put(self, result):
        if result.number % 100 == 0:
            pages = int(open("/proc/self/statm").read().split()[1])
            resident.append(pages * os.sysconf("SC_PAGE_SIZE"))
    def close(self):
        pass

pipeline, camera = open_model(model, threads=1).pipeline(), open_camera(itertools.cycle(pictures))
loop = Loop(pipeline, camera, frames=frames, tracker=Tracker())
loop.sinks += [JsonLines(f"{folder}/found.jsonl"), Video(f"{folder}/seen.mkv"), Events(f"{folder}/events"), Memory()]
stats = loop.run()
print(json.dumps({"stats": stats, "resident": resident}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory as Linux tells it")
def test_memory_is_flat(artifact: Path, clip: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", SOAK, str(artifact), str(clip), str(tmp_path), str(FRAMES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["stats"]["frames"] == FRAMES and told["stats"]["dropped"] == 0
    with (tmp_path / "found.jsonl").open() as lines:
        assert sum(json.loads(line)["frame"] == n for n, line in enumerate(lines)) == FRAMES
    resident = np.array(told["resident"][WARM // 100 :])
    slope = np.polyfit(np.arange(len(resident)) * 100, resident, 1)[0]
    print(f"{told['stats']['fps']} fps, {resident[-1] / 1e6:.1f} MB, {slope:.0f} bytes a frame")
    # A leaked picture would be 76,800 bytes, a leaked result some thousand.
    assert slope < 200 and resident[-1] - resident[0] < 4e6
