"""Named datasets: fetched once, complete or not at all, and nothing escapes from an archive."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

import edgeseg.download
from edgeseg.data import named
from edgeseg.data.dataset import load_dataset
from edgeseg.errors import EdgesegError

PIXEL = cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes()
SQUARE = [0.0, 0.0, 2.0, 0.0, 2.0, 2.0, 0.0, 2.0]


def archive(**files: bytes | str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as z:
        for name, content in files.items():
            z.writestr(name, content)
    return buffer.getvalue()


class Net:
    """Stands in for the internet."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files, self.asked = files, list[str]()

    def download(self, url: str, path: Path, sha256: str | None = None, label: str = "") -> Path:
        name = url.rsplit("/", 1)[1]
        self.asked.append(name)
        if name not in self.files:
            raise EdgesegError("offline", path=path)
        Path(path).write_bytes(self.files[name])
        return Path(path)


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Net:
    one = {"file_name": "1.png", "id": 1, "width": 4, "height": 4}
    coco = {
        "images": [one],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 90, "bbox": [0, 0, 2, 2], "segmentation": [SQUARE]}],
        "categories": [{"id": 90, "name": "toothbrush"}],
    }
    net = Net(
        {
            "coco8-seg.zip": archive(
                **{f"coco8-seg/images/{s}/1.png": PIXEL for s in ("train", "val")}
                | {"coco8-seg/labels/val/1.txt": "0 0 0 1 0 1 1", "__MACOSX/coco8-seg/._x": b"x"}
            ),
            "coco128-seg.zip": archive(**{"images/train2017/1.png": PIXEL, "labels/train2017/1.txt": ""}),
            "val2017.zip": archive(**{"val2017/1.png": PIXEL}),
            "annotations_trainval2017.zip": archive(**{"annotations/instances_val2017.json": json.dumps(coco)}),
        }
    )
    monkeypatch.setattr(edgeseg.download, "download", net.download)
    monkeypatch.setenv("EDGESEG_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return net


def test_the_class_names() -> None:
    assert len(named.COCO80_NAMES) == 80 == len(set(named.COCO80_NAMES))
    assert (named.COCO80_NAMES[0], named.COCO80_NAMES[79]) == ("person", "toothbrush")
    assert all(n == n.strip() and n for n in named.COCO80_NAMES)


def test_the_class_names_are_those_of_the_shared_dataset(shared: Path) -> None:
    assert load_dataset(shared / "data/coco100-seg/coco100-seg.yaml").names == named.COCO80_NAMES


def test_it_is_downloaded_when_images_are_asked_for_and_only_once(net: Net, tmp_path: Path) -> None:
    d = load_dataset("coco8-seg.yaml")
    assert d.nc == 80 and net.asked == []
    for _ in range(2):
        assert d.images("val") == [tmp_path / "home/datasets/coco8-seg/images/val/1.png"]
    assert d.label_path(d.images("val")[0]).read_text() == "0 0 0 1 0 1 1"
    assert load_dataset("coco8-seg").images("train") and net.asked == ["coco8-seg.zip"]
    left = sorted(
        p.name for p in (tmp_path / "home").rglob("*") if "MACOSX" in p.name or p.name.startswith(".c") or p.suffix == ".zip"
    )
    assert left == []


def test_an_archive_without_a_folder_at_its_top(net: Net) -> None:
    d = load_dataset("coco128-seg")
    assert len(d.images("val")) == 1 == len(d.images("train"))


def test_a_file_of_that_name_comes_first(net: Net, tmp_path: Path) -> None:
    (tmp_path / "coco8-seg.yaml").write_text("names: [x]\nval: images")
    assert load_dataset("coco8-seg.yaml").names == ("x",)


def test_coco_is_converted_and_fetched_by_split(net: Net, tmp_path: Path) -> None:
    d = load_dataset("coco")
    (image,) = d.images("val")
    assert d.label_path(image).read_text().startswith("79 0.000000 0.000000 0.500000")
    assert d.annotations("val") == tmp_path / "home/datasets/coco/annotations/instances_val2017.json"
    assert net.asked == ["annotations_trainval2017.zip", "val2017.zip"]


def test_a_split_that_it_does_not_have(net: Net) -> None:
    with pytest.raises(EdgesegError, match="coco has no split 'test'"):
        named.fetch("coco", ("test",))


def test_offline_leaves_nothing_behind(net: Net, tmp_path: Path) -> None:
    net.files.clear()
    with pytest.raises(EdgesegError, match="offline"):
        load_dataset("coco8-seg").images("val")
    assert not (tmp_path / "home/datasets/coco8-seg").exists()


def test_a_damaged_archive_is_removed_and_said(net: Net, tmp_path: Path) -> None:
    net.files["coco8-seg.zip"] = net.files["coco8-seg.zip"][:-60]
    with pytest.raises(EdgesegError, match="damaged") as caught:
        load_dataset("coco8-seg").images("val")
    assert "again" in caught.value.hint
    assert [p.name for p in (tmp_path / "home/datasets").iterdir()] == ["coco8-seg.yaml"]
    assert not any((tmp_path / "home/downloads").iterdir())


@pytest.mark.parametrize("name", ["../evil.txt", "/evil.txt", "a/../../evil.txt", "..\\evil.txt", "C:/evil.txt"])
def test_unsafe_archives_are_refused(tmp_path: Path, name: str) -> None:
    file = tmp_path / "x.zip"
    file.write_bytes(archive(**{name: b"evil"}))
    (tmp_path / "deep/out").mkdir(parents=True)
    with pytest.raises(EdgesegError, match="unsafe path"):
        named.extract(file, tmp_path / "deep/out")
    assert not list(tmp_path.rglob("evil*"))


def test_links_in_archives_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.zip"
    with zipfile.ZipFile(file, "w") as z:
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        z.writestr(link, "/etc")
    with pytest.raises(EdgesegError, match="holds a link"):
        named.extract(file, tmp_path / "out")
