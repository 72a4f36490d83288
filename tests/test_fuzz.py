"""Changed inputs of every kind: exit codes 0, 1 and 2 only, no signal, no hang (``scripts/fuzz.py``)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).resolve().parents[1] / "scripts" / "fuzz.py"
pytestmark = pytest.mark.skipif(os.name != "posix", reason="cases run in forked children")


def fuzz(*words: str) -> None:
    done = subprocess.run([sys.executable, str(FUZZ), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_text_and_checkpoints() -> None:
    pytest.importorskip("torch")
    fuzz("labels", "yaml", "coco", "definition", "recipe", "checkpoint", "--cases", "15", "--seed", "1")


@pytest.mark.slow
@pytest.mark.parametrize(
    "kinds", ["labels yaml coco definition recipe checkpoint caches", "onnx", "tflite", "openvino", "ncnn manifest"]
)
def test_a_hundred_cases_of_each_kind(kinds: str) -> None:
    pytest.importorskip("torch")
    for module, kind in (("onnxruntime", "onnx"), ("ai_edge_litert", "tflite"), ("openvino", "openvino"), ("ncnn", "ncnn")):
        if kind in kinds.split():
            pytest.importorskip(module)
    fuzz(*kinds.split(), "--cases", "100", "--seed", "2")


def test_a_fault_is_found(tmp_path: Path) -> None:
    """The harness itself: a command that fails by our own fault, one that is killed, and one that is fine."""
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); import fuzz; from pathlib import Path; where = Path(sys.argv[2]);"
        "ends = {'fault': lambda *a: 70, 'killed': lambda *a: os.abort(), 'fine': lambda *a: 2};"
        "print([(setattr(fuzz, '_command', end), fuzz._child([], where)[0])[1] for end in ends.values()])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(FUZZ.parent), str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "['exit code 70', 'signal 6', '']"
