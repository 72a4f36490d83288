"""A model finds the dataset that it was trained on again, or says that it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeseg.data.dataset import Dataset, load_dataset
from edgeseg.data.remembered import FALLBACK, recall, remember
from edgeseg.errors import EdgesegError

MODEL = Path("model.pt")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGESEG_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_file_by_its_absolute_path_and_hash(home: Path, shapes_dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    file = home / "d.yaml"
    file.write_text("train: x\nnames: [a]\n")
    said = remember(load_dataset("d.yaml"))
    assert said["data"] == str(file)
    (home / "elsewhere").mkdir()
    monkeypatch.chdir(home / "elsewhere")
    assert recall(said, MODEL) == (str(file), "")
    file.write_text("train: x\nnames: [b]\n")
    found, note = recall(said, MODEL)
    assert found == str(file) and "has changed since" in note
    file.unlink()
    with pytest.raises(EdgesegError, match=r"it was trained on .*d\.yaml, which is not there any more"):
        recall(said, MODEL)
    # A file of a well-known name is still that file.
    with pytest.raises(EdgesegError, match="not there any more"):
        recall({**said, "data": "/gone/coco128-seg.yaml"}, MODEL)


def test_well_known_names(home: Path) -> None:
    assert remember(load_dataset("coco8-seg")) == {"data": "coco8-seg"}
    assert recall({"data": "coco8-seg"}, MODEL) == ("coco8-seg", "")
    assert recall({"data": "coco128-seg.yaml"}, MODEL) == (FALLBACK, "")
    found, note = recall({"data": "/usr/src/cfg/datasets/coco.yaml"}, MODEL)
    assert found == FALLBACK and "trained on coco, which is not here" in note
    (home / "home" / "datasets" / "coco").mkdir(parents=True)
    assert recall({"data": "coco.yaml"}, MODEL) == ("coco", "")


def test_models_that_say_nothing_or_a_relative_path(home: Path) -> None:
    found, note = recall({}, MODEL)
    assert found == FALLBACK and "names no dataset" in note
    with pytest.raises(EdgesegError, match=r"my/data\.yaml"):
        recall({"data": "my/data.yaml"}, MODEL)
    (home / "my").mkdir()
    (home / "my" / "data.yaml").write_text("x")
    found, note = recall({"data": "my/data.yaml"}, MODEL)
    assert found == "my/data.yaml" and "below the current folder" in note
