"""The JavaScript decoder on the golden vectors: masks to the pixel, boxes and scores to 1e-4, inputs to the byte."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="needs node")


@pytest.fixture(scope="module")
def said(vectors: Path) -> dict[str, Any]:
    script = Path(__file__).parent / "js" / "vectors.mjs"
    done = subprocess.run([str(NODE), str(script), str(vectors)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_detections_are_those_of_vision(said: dict[str, Any]) -> None:
    cases = said["cases"]
    assert not {name: case for name, case in cases.items() if "error" in case}
    refused = {name: case for name, case in cases.items() if "refused" in case}
    assert len(refused) >= 9 and all(case["known"] for case in refused.values()), refused
    found = [case for case in cases.values() if "refused" not in case]
    assert sum(case["found"] for case in found) > 500
    assert max(case["boxes"] for case in found) <= 1e-4
    assert max(case["scores"] for case in found) <= 1e-4
    assert sum(case["pixels"] for case in found) == 0


def test_input_tensors_have_the_same_bytes(said: dict[str, Any]) -> None:
    assert said["inputs"] and set(said["inputs"].values()) == {0}
