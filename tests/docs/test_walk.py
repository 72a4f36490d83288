"""The walk of a newcomer: the page Start from its first line to its last, on a wheel installed into a folder of its own."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import pytest

from edgeseg.errors import EdgesegError
from edgeseg.fleet import wheels


def _load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"docs_walk_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec and spec.loader
    sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[spec.name])
    return sys.modules[spec.name]


pages, examples = _load("pages"), _load("test_examples")
START = pages.ROOT / "docs" / "start.md"


@pytest.fixture
def newcomer(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A folder to type in, and the environment: the wheel, nothing else of this checkout, a home and a cache of its own."""
    home, site, work = tmp_path / "home", tmp_path / "site", tmp_path / "work"
    for folder in (home, work):
        folder.mkdir()
    try:
        wheels.own_wheel(tmp_path / "dist")
    except EdgesegError as e:
        pytest.skip(f"edgeseg's wheel cannot be made here: {e}")
    (wheel,) = (tmp_path / "dist").glob("edgeseg-*.whl")
    assert wheel.name in START.read_text(encoding="utf-8")  # the page names the file that there will be
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(site), str(wheel)]
    subprocess.run(pip, check=True, timeout=120)
    keep = {k: v for k, v in os.environ.items() if k in ("LANG", "OMP_NUM_THREADS", "TMPDIR")}
    path = os.pathsep.join([str(site / "bin"), str(Path(sys.executable).parent), "/usr/bin", "/bin"])
    mine = {"HOME": str(home), "EDGESEG_HOME": str(home / "cache"), "PYTHONPATH": str(site), "PATH": path, "COLUMNS": "120"}
    examples._prelude(work)
    return work, keep | mine


@pytest.mark.slow
def test_every_command_of_the_start_page_does_what_the_page_says(newcomer: tuple[Path, dict[str, str]]) -> None:
    work, environment = newcomer

    def type_(text: str, *program: str) -> str:
        done = subprocess.run(
            [*program, text], cwd=work, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout + done.stderr

    where = type_("import edgeseg; print(edgeseg.__file__)", sys.executable, "-c")
    assert where.startswith(environment["PYTHONPATH"])
    said: dict[str, str] = {}
    for block in pages.blocks(START):
        if block.why_not:
            continue
        if block.language == "python":
            said["python"] = type_(block.text, sys.executable, "-c")
        else:
            for line in block.text.strip().split("\n"):
                said[line] = type_(line, "bash", "-c")
    (doctor,) = (text for line, text in said.items() if line == "edgeseg doctor")
    assert re.search(r"^tflite +yes +yes", doctor, re.M)
    onnx, int8 = work / "yolov8n-seg.onnx", work / "yolov8n-seg_int8.tflite"
    assert onnx.is_file() and int8.stat().st_size < onnx.stat().st_size / 2.5  # "a quarter of the size", for large networks
    drawn = cv2.imread(str(next((work / "runs").rglob("street.jpg"))))
    assert drawn.shape[:2] == (160, 160)
    gate = next(text for line, text in said.items() if "--int8" in line)
    assert re.search(r"agreement (9\d|100)\.\d ?%", gate)
    one, both = (text for line, text in said.items() if line.startswith("edgeseg validate"))
    assert re.search(r"0\.[5-9]\d+", one) and "yolov8n-seg_int8.tflite" in one
    assert "yolov8n-seg.onnx" in both and "yolov8n-seg_int8.tflite" in both
    box, mask = map(float, said["python"].strip().split("\n")[-1].split())
    assert 0.5 < mask <= 1 and 0.5 < box <= 1 and "'class'" in said["python"]
    assert not [
        p for p in (work.parent / "home").iterdir() if p.name not in ("cache", ".cache", ".config")
    ]  # yours is never touched
