"""Emulated Raspberry Pis find what this machine finds, with as many instructions as before, from what a board installs."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"
MOST_MB, MOST_DISTRIBUTIONS = 160, 10


def script(name: str, *words: str) -> str:
    """Output of a script; skips where the emulated machines cannot be made."""
    done = subprocess.run([sys.executable, SCRIPTS / f"{name}.py", *words], capture_output=True, text=True, timeout=1700)
    if done.returncode == 2:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """``scripts/board_proof.py`` and ``board_counts.py`` as modules."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    spec = importlib.util.spec_from_file_location("board_counts", SCRIPTS / "board_counts.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_a_board_finds_what_this_machine_finds(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [line for line in script("board_proof").splitlines() if line.startswith("Raspberry Pi")]
    with capsys.disabled():
        print("", *rows, sep="\n")
    assert len(rows) == 2 * 2 * 5 and not [row for row in rows if "DIFFERS" in row]
    for row in rows:
        ours = int(row.split(" here")[0].rpartition(" ")[2])
        assert ours > 60, row
        if "int8" in row and "ncnn" not in row:
            assert f"{ours} there, {ours} identical" in row and "worst 0 px, 0 of score" in row


@pytest.mark.slow
def test_a_frame_and_a_cold_start_take_as_many_instructions_as_before(capsys: pytest.CaptureFixture[str]) -> None:
    table = script("board_counts")
    with capsys.disabled():
        print("", table, sep="\n")
    assert "cold start" in table


@pytest.mark.slow
def test_what_a_board_installs_is_small(loaded: ModuleType) -> None:
    """The wheel with ``[tflite]`` on 64-bit ARM, for both Pythons: what pip unpacks, and what runs without typer."""
    arm64 = sys.modules["arm64"]
    for python in arm64.DEBIANS:
        try:
            machine = arm64.make_machine(arm64.ROOT, "cortex-a76", python)
            place = loaded.site(arm64.ROOT, python, ("tflite",))
        except arm64.CannotBeMade as e:
            pytest.skip(str(e))
        found = sorted(p.name for p in place.glob("*.dist-info") if not p.name.startswith("pip-"))
        files = [
            p for p in place.rglob("*") if p.is_file() and p.suffix != ".pyc" and "pip" not in p.relative_to(place).parts[0]
        ]
        size = sum(p.stat().st_size for p in files) / 1e6
        assert len(found) <= MOST_DISTRIBUTIONS and size <= MOST_MB, (python, size, found)
        assert not {"typer", "rich", "click"} & {p.name for p in place.iterdir()}
        for words, code, said in (
            (["doctor"], 0, "tflite"),
            (["predict", "--help"], 0, "--save-txt"),
            (["export", "a.pt"], 2, 'pip install "edgeseg[export]"'),
        ):
            done = machine.run((place,), ["-m", "edgeseg", *words], capture_output=True, cwd=arm64.ROOT)
            assert done.returncode == code and said in done.stdout + done.stderr, (words, done.stderr)


def test_the_comparison_sees_what_differs(loaded: ModuleType) -> None:
    proof = sys.modules["board_proof"]
    one = {"class": 0, "box": [10.0, 10.0, 50.0, 50.0], "score": 0.9, "rle": {"counts": "a"}}
    ours = [{"path": "/a/1.png", "detections": [one, {**one, "class": 1, "score": 0.5}]}]
    same = proof.agreement(ours, [{**ours[0], "path": "/b/1.png"}])
    assert (same.ours, same.theirs, same.identical, same.matched, same.box, same.score) == (2, 2, 2, 2, 0, 0)
    assert all(good(same) for good in proof.EXPECTED.values())
    for change, verdicts in {
        ("rle", "counts"): {"tflite int8": False, "onnx fp32": True, "ncnn int8": True},
        ("score", 0.95): {"tflite int8": False, "onnx fp32": False, "ncnn int8": True},
        ("box", (10.0, 10.0, 50.5, 50.0)): {"onnx int8": False, "onnx fp32": False, "ncnn int8": True},
        ("box", (60.0, 60.0, 90.0, 90.0)): {"onnx int8": False, "onnx fp32": False, "ncnn int8": False},
        ("class", 2): {"onnx int8": False, "onnx fp32": False, "ncnn int8": False},
    }.items():
        other = [{"path": "1.png", "detections": [{**one, change[0]: change[1]}, ours[0]["detections"][1]]}]
        found = proof.agreement(ours, other)
        assert {name: proof.EXPECTED[name](found) for name in verdicts} == verdicts, change
    with pytest.raises(SystemExit):
        proof.agreement(ours, [{**ours[0], "path": "2.png"}])


def test_a_figure_that_drifts_is_named(loaded: ModuleType) -> None:
    golden = json.loads(loaded.GOLDEN.read_text(encoding="utf-8"))
    figures = json.loads(json.dumps(golden["figures"]))
    assert set(figures) == {"cortex-a72", "cortex-a76"} and loaded.drifted(figures, golden) == []
    figures["cortex-a76"]["inference"] *= 1.2
    figures["cortex-a72"]["preprocess"] += 0.1  # within what is left open below
    (line,) = loaded.drifted(figures, golden)
    assert line.startswith("cortex-a76: inference")
    figures = json.loads(json.dumps(golden["figures"]))
    figures["cortex-a76"]["cold start"] = 451.0
    assert any("more than 450" in line for line in loaded.drifted(figures, golden))
