"""``edgeseg data convert``: what was written, what was left out and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgeseg import cli

BOX = [[2.0, 2.0, 8.0, 2.0, 8.0, 8.0]]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "imgs").mkdir()
    for name in ("a", "b"):
        cv2.imencode(".jpg", np.zeros((20, 30, 3), np.uint8))[1].tofile(tmp_path / f"imgs/{name}.jpg")
    return tmp_path


def coco(name: str, image: str, *annotations: dict[str, Any]) -> str:
    images = [{"id": 1, "file_name": image, "height": 20, "width": 30}]
    things = [{"id": k, "image_id": 1, "category_id": 0, "segmentation": BOX, **a} for k, a in enumerate(annotations)]
    Path(name).write_text(json.dumps({"images": images, "annotations": things, "categories": [{"id": 0, "name": "x"}]}))
    return name


def test_the_table_says_what_was_left_out(here: Path, capsys: Any) -> None:
    files = [coco("train.json", "a.jpg", {}, {}, {"image_id": 9}), coco("val.json", "b.jpg", {})]
    assert cli.run(["data", "convert", *files, "--images", "imgs", "--out", "ds"]) == 0
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines()]
    assert ["train", "1", "1"] in rows and ["val", "1", "1"] in rows
    assert ["train", "left", "out", "repeated", "objects", "1", "1"] in rows
    assert ["train", "left", "out", "objects", "of", "no", "listed", "image", "1", "2"] in rows
    assert ["val", "left", "out", "files", "that", "are", "not", "listed", "1", "a.jpg"] in rows
    assert "use it with data=ds/ds.yaml" in out


def test_crowds_alone_are_pointed_out(here: Path, capsys: Any) -> None:
    file = coco("train.json", "a.jpg", {"iscrowd": 1})
    assert cli.run(["data", "convert", file, "--images", "imgs", "--out", "ds"]) == 0
    assert "--crowds" in capsys.readouterr().err
    assert cli.run(["data", "convert", file, "--images", "imgs", "--out", "ds2", "--crowds"]) == 0
    assert Path("ds2/labels/train/a.txt").read_text().startswith("0 ")


def test_refusals_are_one_line(here: Path, capsys: Any) -> None:
    file = coco("train.json", "a.jpg", {"category_id": float("inf")})
    assert cli.run(["data", "convert", file, "--images", "imgs", "--out", "ds"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1 and not Path("ds").exists()
    two = [coco(f"{s}.json", "a.jpg", {}) for s in ("train", "val")]
    assert cli.run(["data", "convert", *two]) == 2 and "0 image folders" in capsys.readouterr().err
