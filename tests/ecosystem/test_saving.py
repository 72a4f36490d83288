"""``predict --save-as``: files for FiftyOne, Label Studio and CVAT, read back by other code than what wrote them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tracemalloc
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import cv2
import numpy as np
import pytest
from faster_coco_eval import COCO
from faster_coco_eval.core import mask as coco_mask

from edgeseg import cli
from edgeseg.data.convert import convert_coco
from edgeseg.ecosystem.saving import FORMATS, SavedAs
from edgeseg.errors import EdgesegError
from edgeseg.predict.result import Result, predict_frame
from edgeseg.resources import demo_checkpoint
from edgeseg.vision.detections import Detections
from edgeseg.vision.outline import fill


def saved(results: list[Result], format: str, folder: Path) -> Path:
    with SavedAs(format, folder, "best.pt") as file:
        for result in results:
            file.write(result)
    assert file.path is not None and not list(folder.glob(".*.part"))
    return file.path


def painted(shape: ET.Element, size: tuple[int, int]) -> np.ndarray:
    """A CVAT mask as its documentation says: runs row by row inside the frame, zeros first."""
    left, top, width, height = (int(shape.attrib[k]) for k in ("left", "top", "width", "height"))
    bits = [k % 2 for k, n in enumerate(shape.attrib["rle"].split(",")) for _ in range(int(n))]
    mask = np.zeros(size, bool)
    mask[top : top + height, left : left + width] = np.array(bits).reshape(height, width)
    return mask


def test_cvat_has_each_picture_and_the_very_masks(found: list[Result], tmp_path: Path) -> None:
    root = ET.parse(saved(found, "cvat", tmp_path)).getroot()
    assert [n.text for n in root.iterfind("meta/task/labels/label/name")] == list(found[0].detections.names)
    images = root.findall("image")
    assert [i.attrib["name"] for i in images] == [r.name for r in found]
    for image, result in zip(images, found):
        assert (int(image.attrib["height"]), int(image.attrib["width"])) == result.orig_shape
        masks = result.detections.masks
        assert masks is not None and len(image) == len(masks)
        for shape, mask, cls in zip(image, masks, result.detections.classes):
            assert shape.attrib["label"] == result.names[cls]
            assert np.array_equal(painted(shape, result.orig_shape), mask)


def test_fiftyone_gets_coco_with_scores_which_is_training_data_too(
    found: list[Result], pictures: Path, tmp_path: Path
) -> None:
    path = saved(found, "fiftyone", tmp_path)
    coco = COCO(str(path))
    assert [i["file_name"] for i in coco.loadImgs(coco.getImgIds())] == [str(pictures / r.name) for r in found]
    for key, result in zip(coco.getImgIds(), found):
        rows = coco.loadAnns(coco.getAnnIds(imgIds=[key]))
        assert [r["score"] for r in rows] == result.detections.scores.tolist()
        assert [r["category_id"] - 1 for r in rows] == result.detections.classes.tolist()
        for row, box, mask in zip(rows, result.detections.boxes, result.detections.masks if len(result) else ()):  # type: ignore[arg-type]
            assert np.array_equal(coco_mask.decode(row["segmentation"]).astype(bool), mask)
            np.testing.assert_allclose(np.add(row["bbox"], [0, 0, *row["bbox"][:2]]), box, atol=2e-3)
    body = json.loads(path.read_text())
    for image in body["images"]:
        image["file_name"] = Path(image["file_name"]).name
    path.write_text(json.dumps(body))
    made = convert_coco({"train": path}, {"train": pictures}, tmp_path / "data")
    assert made.splits["train"].objects == sum(map(len, found))
    labels = (tmp_path / "data/labels/train/c.txt").read_text().splitlines()
    assert len(labels) == len(found[1])


def test_label_studio_gets_tasks_and_their_configuration(found: list[Result], pictures: Path, tmp_path: Path) -> None:
    tasks = json.loads(saved(found, "labelstudio", tmp_path).read_text())
    config = ET.parse(tmp_path / "labelstudio.xml").getroot()
    tag = config.find("PolygonLabels")
    assert tag is not None and [e.attrib["value"] for e in tag] == list(found[0].detections.names)
    for task, result in zip(tasks, found, strict=True):
        (prediction,) = task["predictions"]
        assert "/" + parse_qs(urlsplit(task["data"]["image"]).query)["d"][0] == str(pictures / result.name)
        assert prediction["model_version"] == "best.pt" and 0 <= prediction["score"] <= 1
        height, width = result.orig_shape
        drawn = np.zeros((len(result), height, width), bool)
        for region in prediction["result"]:
            i = int(region["id"].split("-")[1])
            assert (region["original_height"], region["original_width"]) == result.orig_shape
            assert region["value"]["polygonlabels"] == [result.names[result.detections.classes[i]]]
            assert region["score"] == pytest.approx(float(result.detections.scores[i]))
            points = np.array(region["value"]["points"]) / 100
            assert points.min() >= 0 and points.max() <= 1
            drawn[i] |= fill([points * (width, height)], result.orig_shape)
        for mask, back in zip(result.detections.masks if len(result) else (), drawn):  # type: ignore[arg-type]
            assert (mask & back).sum() / (mask | back).sum() > 0.95


def test_frames_have_numbers_pictures_and_ids(found: list[Result], tmp_path: Path) -> None:
    def video(path: str, first: int) -> list[Result]:
        return [
            replace(found[n], path=path, name=path, number=first + n, fps=5.0, ids=np.arange(len(found[n])) + 3)
            for n in range(3)
        ]

    frames = [*video("a.mp4", 0), *video("b.mp4", 0)]
    root = ET.parse(saved(frames, "cvat", tmp_path / "cvat")).getroot()
    assert [i.attrib["id"] for i in root.iter("image")] == list("012345")
    assert [i.attrib["name"] for i in root.iter("image")] == [f"frame_{n:06d}" for n in range(6)]
    groups = [[int(s.attrib["group_id"]) for s in i] for i in root.iter("image")]
    assert groups == [(r.ids if r.ids is not None else np.array([])).tolist() for r in frames]
    coco = json.loads(saved(frames, "fiftyone", tmp_path / "fo").read_text())
    for image, result in zip(coco["images"], frames):
        assert cv2.imread(image["file_name"]).shape == result.image.shape
    assert [a["track_id"] for a in coco["annotations"]] == [k for group in groups for k in group]
    tasks = json.loads(saved(frames, "labelstudio", tmp_path / "ls").read_text())
    assert tasks[0]["predictions"][0]["result"][0]["meta"] == {"text": ["id 3"]}


def test_boxes_of_a_detector_and_masks_of_nothing(tmp_path: Path) -> None:
    boxes, scores, image = np.array([[1, 2, 31, 22.5]]), np.array([0.75]), np.zeros((40, 80, 3), np.uint8)

    def one(masks: Any) -> list[Result]:
        return [Result(Detections(boxes, scores, [0], masks, ("x",), (40, 80)), image, "x.png", "x.png")]

    for number, masks in enumerate((None, np.zeros((1, 40, 80), bool))):
        root = ET.parse(saved(one(masks), "cvat", tmp_path / f"{number}c")).getroot()
        assert [(b.attrib["xtl"], b.attrib["ybr"]) for b in root.iter("box")] == [("1.00", "22.50")]
        (row,) = json.loads(saved(one(masks), "fiftyone", tmp_path / f"{number}f").read_text())["annotations"]
        assert row["bbox"] == [1, 2, 30, 20.5] and "segmentation" not in row
        (task,) = json.loads(saved(one(masks), "labelstudio", tmp_path / f"{number}l").read_text())
        value = task["predictions"][0]["result"][0]["value"]
        if masks is None:
            assert (value["x"], value["y"], value["width"], value["height"]) == pytest.approx((1.25, 5, 37.5, 51.25))
        else:
            assert value["points"] == [[1.25, 5], [38.75, 5], [38.75, 56.25], [1.25, 56.25]]


@pytest.mark.parametrize("format", FORMATS)
def test_hostile_names_are_safe(format: str, tmp_path: Path) -> None:
    names = ('</label><script x="1">&amp;', "tab\tnull\0bell\a", "\ud800half", "日本 ]]>")
    boxes = np.tile([[1, 1, 5, 5]], (4, 1))
    found = Detections(boxes, np.full(4, 0.5), np.arange(4), None, names, (8, 8))
    path = saved([Result(found, np.zeros((8, 8, 3), np.uint8), "\udce4<&>.png", "\udce4<&>.png")], format, tmp_path)
    for file in path.parent.glob("*.xml"):
        text = [v for e in ET.parse(file).getroot().iter() for v in (e.text, *e.attrib.values())]
        assert names[0] in text and names[3] in text and not list(ET.parse(file).getroot().iter("script"))
    if path.suffix == ".json":
        json.loads(path.read_text())


@pytest.mark.parametrize("format", FORMATS)
def test_whole_or_not_at_all(format: str, found: list[Result], tmp_path: Path) -> None:
    before = saved(found[:1], format, tmp_path).read_bytes()
    with pytest.raises(FileExistsError, match="mine"), SavedAs(format, tmp_path) as file:
        file.write(found[1])
        raise FileExistsError("mine")  # not the file's affair
    assert (tmp_path / FORMATS[format].file).read_bytes() == before and not list(tmp_path.glob(".*"))
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(EdgesegError, match="cannot be"), SavedAs(format, blocked / "below") as file:
        file.write(found[0])


@pytest.mark.parametrize("format", FORMATS)
def test_memory_does_not_grow_with_the_images(format: str, found: list[Result], tmp_path: Path) -> None:
    peaks, one = [], found[0][:1]
    for count in (40, 40, 240):
        tracemalloc.start()
        with SavedAs(format, tmp_path) as file:
            for n in range(count):
                file.write(replace(one, path="https://x/y.png" if format != "cvat" else "", name=f"{n}.png"))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # CVAT remembers names, so that no two pictures have the same; the rest is what no collection has taken away yet.
    assert peaks[2] - peaks[1] < 150_000, peaks


def test_the_command(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["predict", str(demo_checkpoint()), str(pictures), "--no-save"]
    assert cli.run([*words, "--save-as", "cvat"]) == 0
    path = Path("runs/predict/exp/cvat.xml")
    assert f"cvat: {path}" in capsys.readouterr().out and len(ET.parse(path).getroot().findall("image")) == 5
    assert [p.name for p in Path("runs/predict").iterdir()] == ["exp"] and len(list(path.parent.iterdir())) == 1
    assert cli.run([*words, "save_as=cvat", "--json", "o.json"]) == 0
    assert json.loads(Path("o.json").read_text())["saved_as"] == "runs/predict/exp2/cvat.xml"
    assert cli.run([*words, "--save-as", "fifty"]) == 2
    assert re.search("fifty.*fiftyone", capsys.readouterr().err) and not Path("runs/predict/exp3").exists()


def test_an_interrupted_command_completes_what_is_done(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(9))

    def stops(*words: Any) -> Any:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return predict_frame(*words)

    monkeypatch.setattr("edgeseg.predict.result.predict_frame", stops)
    words = ["predict", str(demo_checkpoint()), str(pictures), "--no-save", "--save-as", "cvat", "--out", str(tmp_path)]
    assert cli.run(words) == 130
    assert len(ET.parse(tmp_path / "cvat.xml").getroot().findall("image")) == 2


@pytest.mark.slow
def test_datumaro_reads_the_cvat_file(
    beside: Callable[..., Path], found: list[Result], pictures: Path, tmp_path: Path
) -> None:
    site = beside(
        *("datumaro", "attrs", "defusedxml", "imagesize", "json-stream", "json-stream-rs-tokenizer", "lxml", "networkx"),
        *("nibabel", "orjson", "pandas", "pycocotools", "python-dateutil", "pytz", "shapely", "six", "tqdm", "tzdata"),
    )
    saved(found, "cvat", tmp_path)
    shutil.copytree(pictures, tmp_path / "images")
    code = (
        "import sys, json; from datumaro.components.dataset import Dataset\n"
        "print(json.dumps({i.id: [[a.type.name, a.label, a.attributes['score'], int(a.image.sum())] for a in i.annotations]"
        " for i in Dataset.import_from(sys.argv[1], 'cvat')}))"
    )
    read = json.loads(by_others(site, code, str(tmp_path)))
    assert read == {
        Path(r.name).stem: [
            ["mask", int(c), f"{s:.5f}", int(m.sum())]
            for c, s, m in zip(r.detections.classes, r.detections.scores, r.detections.masks if len(r) else ())  # type: ignore[arg-type]
        ]
        for r in found
    }


@pytest.mark.slow
def test_label_studio_s_own_package_finds_no_fault(beside: Callable[..., Path], found: list[Result], tmp_path: Path) -> None:
    site = beside(
        *("label-studio-sdk", "annotated-types", "anyio", "appdirs", "certifi", "cffi", "cryptography", "faker", "h11"),
        *("httpcore", "httpx", "idna", "ijson", "jsf", "lxml", "pycparser", "pydantic", "PyJWT", "pyjson5", "rstr"),
        *("smart-open", "sniffio", "typing-extensions", "typing-inspection", "ujson", "wrapt", "xmljson"),
    )
    pinned = subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--upgrade", "--target", str(site), "pydantic"], capture_output=True
    )
    assert pinned.returncode == 0
    path = saved(found, "labelstudio", tmp_path)
    code = (
        "import sys, json; from label_studio_sdk.label_interface import LabelInterface\n"
        "rules = LabelInterface(open(sys.argv[2]).read()); rules.validate(); tasks = json.load(open(sys.argv[1]))\n"
        "found = [rules.validate_prediction(p, return_errors=True) for t in tasks for p in t['predictions']]\n"
        "bad = dict(tasks[0]['predictions'][0]); bad['result'] = [dict(bad['result'][0], type='rectanglelabels')]\n"
        "print(json.dumps([found, bool(rules.validate_prediction(bad, return_errors=True))]))"
    )
    assert json.loads(by_others(site, code, str(path), str(path.with_suffix(".xml")))) == [[[]] * len(found), True]


def by_others(site: Path, code: str, *words: str) -> str:
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(site)!r})\n{code}", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=site)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]
