"""Many models in one command: globs, one table, a line of JSON each, one that fails among others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from edgeseg import cli
from edgeseg.cli.many import expanded
from edgeseg.errors import EdgesegError
from edgeseg.resources import demo_checkpoint


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGESEG_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    for name in "ab":
        shutil.copy(demo_checkpoint(), tmp_path / "models" / f"{name}.pt")
    return tmp_path / "models"


def test_globs_and_words_name_each_model_once(models: Path) -> None:
    assert expanded(["models/*.pt", "models/a.pt", "yolov8n-seg.pt"]) == ["models/a.pt", "models/b.pt", "yolov8n-seg.pt"]
    with pytest.raises(EdgesegError, match="no model matches"):
        expanded(["models/*.onnx"])


def test_one_table_and_a_line_of_json_each(models: Path, capsys: Any) -> None:
    (models / "c.pt").write_bytes(b"no network")
    words = ["export", "models/*.pt", "--format", "torchscript", "--imgsz", "64"]
    assert cli.run([*words, "--json", "found.jsonl"]) == 1
    said = capsys.readouterr()
    assert "models/c.pt: torchscript" in said.err and "3 models, 1 with failures" in said.out
    found = {line["model"]: line for line in map(json.loads, Path("found.jsonl").read_text().splitlines())}
    assert set(found) == {"models/a.pt", "models/b.pt", "models/c.pt"} and found["models/c.pt"]["exports"][0]["error"]
    (first,), (second,) = (found[f"models/{n}.pt"]["exports"] for n in "ab")
    assert (models / "a.torchscript").exists() and (models / "b.torchscript").exists()
    assert (first["cached"], second["cached"]) == (False, True) and first["key"] == second["key"]  # equal weights
    (models / "c.pt").unlink()
    assert cli.run([*words, "--json", "-"]) == 0  # the same again: nothing is left to do
    assert [line["exports"][0]["cached"] for line in map(json.loads, capsys.readouterr().out.splitlines())] == [True, True]


def test_two_models_of_one_name_do_not_share_a_folder(models: Path, capsys: Any) -> None:
    (models / "other").mkdir()
    shutil.copy(models / "a.pt", models / "other" / "a.pt")
    words = ["export", "models/a.pt", "models/other/a.pt", "--format", "torchscript", "--out", "made"]
    assert cli.run(words) == 2 and "two models are called a" in capsys.readouterr().err
    assert not Path("made").exists()


def test_a_search_is_for_one_model(models: Path, capsys: Any) -> None:
    assert cli.run(["export", "models/*.pt", "--format", "tflite", "--int8", "--max-drop", "1"]) == 2
    assert "a search is for one model" in capsys.readouterr().err
