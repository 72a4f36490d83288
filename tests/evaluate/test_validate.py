"""Validation from images to figures, with a model that knows the answer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from edgeseg.data.dataset import Dataset, load_dataset
from edgeseg.data.images import read_image
from edgeseg.data.labels import read_label_file
from edgeseg.errors import EdgesegError
from edgeseg.evaluate.validate import validate
from edgeseg.vision.detections import Detections
from edgeseg.vision.outline import fill


class Oracle:
    """Finds in each image what its labels say."""

    def __init__(self, dataset: Dataset, names: tuple[str, ...] | None = None, **settings: Any) -> None:
        self.manifest = SimpleNamespace(names=names or dataset.names)
        self.settings, self.names = settings, names or dataset.names
        self.speed = {"preprocess": 0.0, "inference": 0.0, "postprocess": 0.0}
        self.known: dict[bytes, list[Any]] = {}
        self.dataset, self.calls = dataset, 0
        for image in dataset.images("val"):
            try:
                self.known[read_image(image).tobytes()] = read_label_file(dataset.label_path(image), dataset.nc).labels
            except EdgesegError:
                continue

    def __call__(self, image: np.ndarray) -> Detections:
        self.calls += 1
        self.speed = {"preprocess": 1.0, "inference": float(self.calls), "postprocess": 2.0}
        shape = (image.shape[0], image.shape[1])
        labels = self.known[image.tobytes()]
        masks = np.array([fill([x.pixels(shape)], shape) for x in labels]).reshape(-1, *shape)
        boxes = np.array([x.box for x in labels], np.float32).reshape(-1, 4) * np.array((*shape[::-1], *shape[::-1]))
        classes = [self.names.index(self.dataset.names[x.cls]) for x in labels]
        return Detections(boxes, np.full(len(labels), 0.5), np.array(classes, np.int32), masks, self.names, shape)


def test_a_perfect_model(shapes_dataset: Dataset) -> None:
    seen: list[tuple[int, int]] = []
    r = validate(Oracle(shapes_dataset), shapes_dataset, progress=lambda a, b: seen.append((a, b)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)] and r.images == 4 and r.skipped == () and r.warnings == ()
    assert r.box.map > 0.9 and r.seg.map > 0.9 and r.seg.map50 == pytest.approx(1)
    assert r.speed_ms == {"preprocess": 1.0, "inference": 2.5, "postprocess": 2.0} == r.speed
    d = json.loads(r.to_json(path="x.onnx"))
    assert d["metrics"]["seg"]["map"] == r.seg.map and d["speed_ms"]["inference"] == 2.5 and d["path"] == "x.onnx"
    assert d["truth"].endswith("instances_val.json") and len(d["metrics"]["box"]["maps"]) == 4


def test_labels_in_place_of_annotations(shapes_dataset: Dataset) -> None:
    plain = Dataset(shapes_dataset.path, shapes_dataset.names, shapes_dataset.yaml, shapes_dataset.splits, {"val": None})
    r = validate(Oracle(plain), plain)
    assert r.truth == "labels" and r.box.map == pytest.approx(1) and r.seg.map50 == pytest.approx(1)


def test_settings_reach_a_factory(shapes_dataset: Dataset) -> None:
    made: list[Oracle] = []

    def factory(**settings: Any) -> Oracle:
        made.append(Oracle(shapes_dataset, **settings))
        return made[0]

    r = validate(factory, shapes_dataset, conf=0.01, iou=0.6, max_det=50, limit=2)
    assert made[0].settings == {"conf": 0.01, "iou": 0.6, "max_det": 50, "multi_label": True} == r.settings
    assert r.images == 2


@pytest.mark.parametrize("alone", [0, 1, 3])
def test_what_overlaps_changes_no_figure(shapes_dataset: Dataset, monkeypatch: pytest.MonkeyPatch, alone: int) -> None:
    slow = validate(Oracle(shapes_dataset), shapes_dataset)
    monkeypatch.setattr("edgeseg.evaluate.validate.TIMED", alone)
    seen: list[tuple[int, int]] = []
    r = validate(Oracle(shapes_dataset), shapes_dataset, progress=lambda a, b: seen.append((a, b)))
    assert r.metrics.to_dict() == slow.metrics.to_dict() and seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert r.speed_ms["inference"] == np.mean(range(1, max(alone, 1) + 1))  # only what had the machine for itself


def test_broken_images_are_skipped_reported_and_counted(shapes_dataset: Dataset, tmp_path: Path) -> None:
    shutil.copytree(shapes_dataset.path, tmp_path / "set")
    dataset = load_dataset(tmp_path / "set/shapes.yaml")
    first, second = dataset.images("val")[:2]
    first.write_bytes(b"")
    second.write_bytes(second.read_bytes()[:500])
    r = validate(Oracle(dataset), dataset)
    assert r.images == 2 and r.metrics.images == 2
    assert [p for p, _ in r.skipped] == [str(first), str(second)]
    assert "empty" in r.skipped[0][1] and "cut off" in r.skipped[1][1]
    assert r.seg.map50 == pytest.approx(1)  # what could not be read is not counted as missed
    for image in dataset.images("val"):
        image.write_bytes(b"")
    with pytest.raises(EdgesegError, match="none of the 4 images can be read"):
        validate(Oracle(dataset), dataset)


def test_a_bad_label_stops_before_the_model_runs(shapes_dataset: Dataset, tmp_path: Path) -> None:
    shutil.copytree(shapes_dataset.path, tmp_path / "set")
    shutil.rmtree(tmp_path / "set/annotations")
    dataset = load_dataset(tmp_path / "set/shapes.yaml")
    model = Oracle(dataset)
    label = dataset.label_path(dataset.images("val")[-1])
    label.write_text("9 0 0 1 1 0 1\n")
    with pytest.raises(EdgesegError, match=r"\.txt:1: class 9 is out of range"):
        validate(model, dataset)
    assert model.calls == 0


def test_classes_in_another_order_are_matched_by_name(shapes_dataset: Dataset) -> None:
    r = validate(Oracle(shapes_dataset, shapes_dataset.names[::-1]), shapes_dataset)
    assert r.seg.map50 == pytest.approx(1) and "another order" in r.warnings[0]


def test_another_number_of_classes_is_an_error(shapes_dataset: Dataset) -> None:
    with pytest.raises(EdgesegError, match="the model has 5 classes, the dataset has 4"):
        validate(Oracle(shapes_dataset, (*shapes_dataset.names, "more")), shapes_dataset)


def test_other_names_are_said(shapes_dataset: Dataset) -> None:
    model = Oracle(shapes_dataset)
    model.manifest = SimpleNamespace(names=("round", *shapes_dataset.names[1:]))
    assert "'round' is 'circle'" in validate(model, shapes_dataset).warnings[0]


@pytest.mark.slow
def test_the_reference_figures(shared: Path) -> None:
    from edgeseg.network.runtime import NetworkRuntime
    from edgeseg.running.pipeline import Pipeline

    reference = json.loads((shared / "reference.json").read_text())["protocol_coco"]["fp32"]
    runtime = NetworkRuntime(shared / "models/yolov8n-seg.pt")
    r = validate(Pipeline(runtime, runtime.manifest), shared / "data/coco100-seg/coco100-seg.yaml")
    assert r.box.map == pytest.approx(reference["box"], abs=1e-3)
    assert r.seg.map == pytest.approx(reference["mask"], abs=1e-3)


@pytest.mark.parametrize("rows", ["{0}{0}{0}", "{0}1 0.5 0.5 0.5 0.5 0.5 0.5\n"], ids=["repeated", "flat"])
def test_rows_that_nothing_could_find_cost_nothing(tmp_path: Path, rows: str) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for i in range(2):
        image = np.random.default_rng(i).integers(0, 255, (48, 64, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f"images/{i}.png"), image)
        (tmp_path / f"labels/{i}.txt").write_text(rows.format("0 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5\n"))
    (tmp_path / "d.yaml").write_text("train: images\nval: images\nnames: [a, b]\n")
    dataset = load_dataset(tmp_path / "d.yaml")
    r = validate(Oracle(dataset), dataset)
    assert r.box.map == pytest.approx(1) and r.seg.map == pytest.approx(1)
    left = {k: v for k, v in r.to_dict()["inventory"].items() if k in ("repeated", "flat")}
    assert left == ({"repeated": 4, "flat": 0} if "1 0.5" not in rows else {"repeated": 0, "flat": 2})


def test_more_objects_than_coco_counts(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    cv2.imwrite(str(tmp_path / "images/0.png"), np.random.default_rng(0).integers(0, 255, (240, 240, 3), np.uint8))
    spots = [(0.05 + 0.08 * (i % 12), 0.05 + 0.08 * (i // 12)) for i in range(140)]
    rows = [f"0 {x} {y} {x + 0.05} {y} {x + 0.05} {y + 0.05} {x} {y + 0.05}\n" for x, y in spots]
    (tmp_path / "labels/0.txt").write_text("".join(rows))
    (tmp_path / "d.yaml").write_text("train: images\nval: images\nnames: [a]\n")
    dataset = load_dataset(tmp_path / "d.yaml")
    r = validate(Oracle(dataset), dataset, max_det=300)
    assert r.box.map == pytest.approx(1) and "140 objects of one class" in r.warnings[0]
    few = validate(Oracle(dataset), dataset, max_det=100)
    assert few.box.map < 0.8 and "give max_det=140 or more" in few.warnings[0]


@pytest.mark.parametrize("kind", ["one of a crew", "no crew"])
def test_a_crew_finds_what_one_runtime_finds(
    artifact: Path, shapes_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Several runtimes at once, each with a thread of its own, on a real model; a broken picture among the others."""
    from edgeseg.running.open import open_model
    from edgeseg.running.runtime import Local

    images = [*shapes_dataset.images("val"), tmp_path / "broken.png", *shapes_dataset.images("val")[::-1]]
    (tmp_path / "broken.png").write_bytes(b"no picture")
    labels = Dataset(shapes_dataset.path, shapes_dataset.names, shapes_dataset.yaml, shapes_dataset.splits, {"val": None})
    crews: list[list[Local]] = []
    made = Local.crew
    monkeypatch.setattr(Local, "crew", lambda self: crews.append(made(self) if kind == "one of a crew" else []) or crews[-1])
    with open_model(artifact, threads=3) as opened:
        slow = validate(opened.pipeline(), labels, images=images)
        assert not crews  # 9 images have the machine for themselves
        monkeypatch.setattr("edgeseg.evaluate.validate.TIMED", 2)
        seen: list[Path] = []
        fast = validate(opened.pipeline(), labels, images=images, seen=lambda _, path, __: seen.append(path))
    assert [len(c) for c in crews] == [3 if kind == "one of a crew" else 0]
    assert seen == [p for p in images if p.name != "broken.png"] and fast.skipped == slow.skipped and len(slow.skipped) == 1
    assert fast.metrics.to_dict() == slow.metrics.to_dict() and slow.box.map > 0.3
    for kept in ("by_iou", "curves", "maps"):
        assert np.array_equal(getattr(fast.box, kept), getattr(slow.box, kept), equal_nan=True)
        assert np.array_equal(getattr(fast.seg, kept), getattr(slow.seg, kept), equal_nan=True)
