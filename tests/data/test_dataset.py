"""Dataset files: where things are found, and what is said when they are not."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from edgeseg.data.dataset import load_dataset
from edgeseg.errors import EdgesegError

PIXEL = cv2.imencode(".png", np.zeros((2, 2, 3), np.uint8))[1].tobytes()


def put(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(PIXEL)


def write(folder: Path, **body: object) -> Path:
    file = folder / "data.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump({"train": "images/train", "val": "images/val", "names": ["a", "b"]} | body))
    return file


def test_folders_names_and_label_paths(tmp_path: Path) -> None:
    put(tmp_path / "images/val/b.png", tmp_path / "images/val/a.png")
    d = load_dataset(write(tmp_path, nc=2, download="https://example.org/x.zip"))
    assert d.names == ("a", "b") and d.nc == 2 and d.path == tmp_path
    assert [p.name for p in d.images("val")] == ["a.png", "b.png"]
    assert d.label_path(d.images("val")[0]) == tmp_path / "labels/val/a.txt"
    assert d.label_path(Path("/images/x/images/y/a.b.jpg")) == Path("/images/x/labels/y/a.b.txt")
    assert d.label_path(Path("/other/a.jpg")) == Path("/other/a.txt")


def test_names_as_a_mapping(tmp_path: Path) -> None:
    assert load_dataset(write(tmp_path, names={1: "b", 0: 7})).names == ("7", "b")


def test_path_is_looked_for_beside_the_file_then_here_then_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGESEG_HOME", str(tmp_path / "home"))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    file = write(tmp_path / "yaml", path="set")
    cached, local, beside = tmp_path / "home/datasets/set", here / "set", tmp_path / "yaml/set"
    for place in (cached, local, beside):
        put(place / "images/val/x.png")
        assert load_dataset(file).images("val")[0].resolve() == (place / "images/val/x.png").resolve()


def test_patterns(tmp_path: Path) -> None:
    put(tmp_path / "images/a.png", tmp_path / "images/b.jpg", tmp_path / "more1/c.png", tmp_path / "more2/d.png")
    d = load_dataset(write(tmp_path, val="images/*.png", train=["more?", "images/*"], test="none/*.jpg"))
    assert [p.name for p in d.images("val")] == ["a.png"]
    assert [p.name for p in d.images("train")] == ["c.png", "d.png", "a.png", "b.jpg"]
    with pytest.raises(EdgesegError, match="nothing matches the pattern of split 'test'"):
        d.images("test")


def test_paths_as_windows_writes_them(tmp_path: Path) -> None:
    put(tmp_path / "images/val/a.png", tmp_path / "images/val/b.png")
    (tmp_path / "list.txt").write_bytes(b"# all\r\nimages\\val\\b.png\r\n")
    d = load_dataset(write(tmp_path, path="C:\\Users\\me\\data", val="images\\val", train="list.txt"))
    assert [p.name for p in d.images("val")] == ["a.png", "b.png"]
    assert d.images("train") == [tmp_path / "images/val/b.png"]


def test_a_missing_dataset_says_where_to_download_it(tmp_path: Path) -> None:
    d = load_dataset(write(tmp_path, val="images/val", download="https://example.org/x.zip\n"))
    with pytest.raises(EdgesegError, match=r"Download and unpack https://example\.org/x\.zip, or correct"):
        d.images("val")
    assert not load_dataset(write(tmp_path, val="v", download="import os; print(yaml)")).link


def test_lists_of_files_and_of_folders(tmp_path: Path) -> None:
    put(tmp_path / "images/a.png", tmp_path / "images/b.png", tmp_path / "more/c.png", tmp_path / "lists/images/d.png")
    (tmp_path / "lists/val.txt").write_text(f"images/b.png\n\n./images/d.png\n{tmp_path}/images/a.png\nimages/gone.png\n")
    d = load_dataset(write(tmp_path, val="lists/val.txt", train=["more", "lists/val.txt"], test="more"))
    assert [p.name for p in d.images("val")] == ["b.png", "d.png", "a.png", "gone.png"]
    assert [p.name for p in d.images("train")] == ["c.png", "b.png", "d.png", "a.png", "gone.png"]
    assert [p.name for p in d.images("test")] == ["c.png"]


def test_annotations(tmp_path: Path) -> None:
    put(tmp_path / "images/val/a.png", tmp_path / "other.json", tmp_path / "annotations/instances_val.json")
    assert load_dataset(write(tmp_path)).annotations("val") == tmp_path / "annotations/instances_val.json"
    assert load_dataset(write(tmp_path)).annotations("train") is None
    assert load_dataset(write(tmp_path, annotations=False)).annotations("val") is None
    assert load_dataset(write(tmp_path, annotations="other.json")).annotations("train") == tmp_path / "other.json"
    per_split = load_dataset(write(tmp_path, annotations={"train": "other.json", "val": False}))
    assert per_split.annotations("train") == tmp_path / "other.json" and per_split.annotations("val") is None
    with pytest.raises(EdgesegError, match=r"gone\.json: the COCO annotations are missing"):
        load_dataset(write(tmp_path, annotations="gone.json")).annotations("val")


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ({"names": None}, "no class names"),
        ({"names": []}, "no class names"),
        ({"names": "cat"}, "neither a list nor a mapping"),
        ({"names": {0: "a", 2: "b"}}, "not 0 to 1"),
        ({"names": {"x": "a"}}, "not 0 to 0"),
        ({"nc": 3}, "nc is 3, but names has 2"),
        ({"train": None, "val": None}, "neither train nor val"),
        ({"val": 5}, "val is neither a folder"),
        ({"path": 5}, "path is no text"),
        ({"annotations": 5}, "annotations is neither"),
    ],
)
def test_wrong_content(tmp_path: Path, body: dict[str, object], what: str) -> None:
    file = write(tmp_path, **body)
    with pytest.raises(EdgesegError, match=what) as caught:
        load_dataset(file)
    assert str(file) in str(caught.value) and caught.value.hint


def test_wrong_files(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("names: [a\nval: x: y")
    with pytest.raises(EdgesegError, match=r"bad\.yaml:2: no valid YAML"):
        load_dataset(bad)
    bad.write_text("- a\n- b")
    with pytest.raises(EdgesegError, match="no mapping"):
        load_dataset(bad)
    bad.write_bytes(b"\xff\xfe\x00names")
    with pytest.raises(EdgesegError, match=r"cannot be read|no valid YAML|no text in UTF-8"):
        load_dataset(bad)
    with pytest.raises(EdgesegError, match="no such dataset") as caught:
        load_dataset(tmp_path / "none.yaml")
    assert "coco8-seg" in caught.value.hint
    (tmp_path / "folder").mkdir()
    with pytest.raises(EdgesegError, match="this is a folder"):
        load_dataset(tmp_path / "folder")


def test_a_folder_with_one_yaml_file_will_do(tmp_path: Path) -> None:
    assert load_dataset(write(tmp_path).parent).names == ("a", "b")


def test_missing_splits_folders_and_images(tmp_path: Path) -> None:
    (tmp_path / "images/val").mkdir(parents=True)
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "gone.txt").write_text("images/no.png\n")
    d = load_dataset(write(tmp_path, test=["empty.txt"]))
    for split, what in (
        ("train", r"images/train: the image folder of split 'train' is missing"),
        ("val", "no images in this folder"),
        ("test", "the list of images is empty"),
        ("other", "no split 'other'"),
    ):
        with pytest.raises(EdgesegError, match=what) as caught:
            d.images(split)
        assert caught.value.hint
    with pytest.raises(EdgesegError, match="none of the 1 listed images exists"):
        load_dataset(write(tmp_path, test="gone.txt")).images("test")


def test_the_shared_dataset(shared: Path) -> None:
    d = load_dataset(shared / "data/coco100-seg/coco100-seg.yaml")
    assert d.nc == 80 and len(d.images("val")) == 60 and len(d.images("train")) == 100
    assert all(d.label_path(p).is_file() for p in d.images("val"))
    found = d.annotations("val")
    assert found is not None and found.name == "instances_val2017.json"


def test_names_that_yaml_takes_for_something_else(tmp_path: Path) -> None:
    file = write(tmp_path)
    file.write_text("train: images/train\nnames:\n  - yes\n  - 7\n  - 1.10\n  - 'no'\n")
    dataset = load_dataset(file)
    assert dataset.names == ("yes", "7", "1.10", "no")
    assert len(dataset.warnings) == 3 and "the class name yes is True to YAML" in dataset.warnings[0]
    for wrong in ("[a, [b]]", "[a, '']", "{0: a, 1: {}}", "[a, ~]"):
        file.write_text(f"train: images/train\nnames: {wrong}\n")
        if wrong == "[a, ~]":  # written as a word
            assert load_dataset(file).names == ("a", "~")
            continue
        with pytest.raises(EdgesegError, match="the name of class 1 is no text"):
            load_dataset(file)


def test_roboflows_folders(tmp_path: Path) -> None:
    put(tmp_path / "export" / "train" / "images" / "a.png", tmp_path / "export" / "valid" / "images" / "b.png")
    file = write(tmp_path / "export", train="../train/images", val="../valid/images")
    dataset = load_dataset(file)
    assert [p.name for s in ("train", "val") for p in dataset.images(s)] == ["a.png", "b.png"]
    # What it says is taken first where it is there.
    put(tmp_path / "train" / "images" / "c.png")
    assert [p.name for p in load_dataset(file).images("train")] == ["c.png"]


def test_links_that_lead_back_are_visited_once(tmp_path: Path) -> None:
    put(tmp_path / "images" / "train" / "a.png", tmp_path / "elsewhere" / "b.png")
    (tmp_path / "images" / "train" / "loop").symlink_to(tmp_path / "images")
    (tmp_path / "images" / "train" / "more").symlink_to(tmp_path / "elsewhere")
    found = load_dataset(write(tmp_path)).images("train")
    assert [p.name for p in found] == ["a.png", "b.png"]


@pytest.mark.parametrize("entry", ["~nosuchuser/x", "a\0b", "x" * 5000])
def test_entries_that_are_no_paths(tmp_path: Path, entry: str) -> None:
    for body in ({"train": entry}, {"path": entry}):
        with pytest.raises(EdgesegError, match="is no path"):
            load_dataset(write(tmp_path, **body))
