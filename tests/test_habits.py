"""Command lines and options of people who come from other YOLO tools."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgeseg import EdgesegError
from edgeseg.cli import COMMANDS, run
from edgeseg.habits import PREDICTION, VALIDATION, check, command_line


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        ("segment train data=a.yaml model=b.pt", "train data=a.yaml model=b.pt task=segment"),
        ("detect train data=a.yaml", "train data=a.yaml task=detect"),
        ("detect predict model=b.pt source=c.jpg", "predict model=b.pt source=c.jpg"),
        ("segment val model=b.pt", "val model=b.pt"),
        ("val segment model=b.pt", "val model=b.pt"),
        ("train segment data=a.yaml", "train data=a.yaml task=segment"),
        ("task=segment mode=train data=a.yaml", "train data=a.yaml task=segment"),
        ("mode=predict model=b.pt source=c.jpg", "predict model=b.pt source=c.jpg"),
        ("export model=b.pt format=onnx", "export model=b.pt format=onnx"),
        ("val task=segment", "val"),
        ("--version", "--version"),
        ("", ""),
    ],
)
def test_their_command_lines(words: str, ours: str) -> None:
    assert command_line(words.split(), list(COMMANDS)) == ours.split()


@pytest.mark.parametrize("words", ["obb train data=a", "val pose", "task=obb mode=train", "classify predict x.jpg"])
def test_other_tasks_are_refused(words: str) -> None:
    with pytest.raises(EdgesegError, match="is not to be had"):
        command_line(words.split(), list(COMMANDS))


def test_other_modes_and_files_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EdgesegError, match="no command 'track'"):
        command_line(["segment", "track", "x"], list(COMMANDS))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "segment").mkdir()
    assert command_line(["predict", "segment"], list(COMMANDS)) == ["predict", "segment"]


@pytest.mark.parametrize(
    ("given", "known"),
    [
        ({"batch": 16, "verbose": False, "save_txt": False, "half": False, "workers": 8}, VALIDATION),
        ({"retina_masks": True, "batch": 1, "visualize": False, "augment": False, "half": None}, PREDICTION),
    ],
)
def test_what_is_done_anyway_is_accepted(given: dict[str, Any], known: Any) -> None:
    check("val", given, known)


@pytest.mark.parametrize(("key", "value"), [("half", True), ("single_cls", True), ("augment", True), ("half", 0)])
def test_what_is_not_done_says_what_to_use(key: str, value: Any) -> None:
    with pytest.raises(EdgesegError, match=f"cannot do {key}={value}") as error:
        check("val", {key: value}, VALIDATION)
    assert error.value.hint
    with pytest.raises(EdgesegError, match="no option 'nonsense'"):
        check("val", {"nonsense": 1}, VALIDATION)


def test_a_whole_command_line(tiny: Path, shapes_yaml: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    raw, data = yaml.safe_load(shapes_yaml.read_text()), tmp_path / "two.yaml"
    data.write_text(yaml.safe_dump({**raw, "path": str(shapes_yaml.parent / raw.get("path", "."))}))
    assert run(["segment", "val", f"model={tiny}", f"data={data}", "batch=16", "augment=True"]) == 2
    assert "cannot do augment=True" in capsys.readouterr().err
    assert run(["val", "segment", f"model={tiny}", f"data={data}", "batch=1", "device=cuda:9"]) == 2
    assert "device=cuda:9 is not to be had here" in capsys.readouterr().err
    assert run(["segment", "predict", f"model={tiny}", "source=nothing.jpg", "--verbose", "device=cpu", "half=True"]) == 2
    assert "cannot do half=True" in capsys.readouterr().err
    assert run(["val", f"model={tiny}", "cnof=1"]) == 2
    assert "Did you mean" in capsys.readouterr().err


def test_as_a_module_and_the_shells_completion() -> None:
    def out(*words: str, **env: str) -> str:
        command = [sys.executable, "-m", "edgeseg", *words]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env})
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert out("--version").startswith("edgeseg ")
    for line, wanted in (("edgeseg ex", "export"), ("edgeseg export --im", "--imgsz")):
        assert wanted in out(_EDGESEG_COMPLETE="bash", COMP_LINE=line)
    assert "--install-completion" in out("--help")
