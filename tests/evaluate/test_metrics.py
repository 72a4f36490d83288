"""Average precision on cases whose answer is known, and against a plain-loop version."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseg.data.dataset import Dataset
from edgeseg.data.labels import Label
from edgeseg.errors import EdgesegError
from edgeseg.evaluate.metrics import IOUS, Metrics, MetricsMeter, reaching
from edgeseg.evaluate.truth import Truth, load_truth
from edgeseg.vision import rle
from edgeseg.vision.detections import Detections

NAMES = ("a", "b", "c")
SHAPE = (40, 60)
Box = tuple[float, float, float, float]
Found = tuple[Box, int, float]


def square(box: Box, cls: int = 0) -> Label:
    x1, y1, x2, y2 = box
    points = np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)]) / (SHAPE[1], SHAPE[0])
    return Label(cls, points.astype(np.float32))


def detections(found: list[Found], masks: bool = True) -> Detections:
    found = sorted(found, key=lambda f: -f[2])
    full = np.zeros((len(found), *SHAPE), bool)
    for mask, ((x1, y1, x2, y2), _, _) in zip(full, found):
        mask[round(y1) : round(y2), round(x1) : round(x2)] = True
    return Detections(
        np.array([f[0] for f in found], np.float32).reshape(-1, 4),
        np.array([f[2] for f in found], np.float32),
        np.array([f[1] for f in found], np.int32),
        full if masks else None,
        NAMES,
        SHAPE,
    )


def measure(images: list[tuple[list[Label], list[Found]]], masks: bool = True, intervals: bool = False) -> Metrics:
    paths = [Path(f"{i}.png") for i in range(len(images))]
    meter = MetricsMeter(Truth(NAMES, labels={p: labels for p, (labels, _) in zip(paths, images)}))
    for path, (_, found) in zip(paths, images):
        meter.add(path, detections(found, masks))
    return meter.result(intervals=intervals)


A, B, C = (2, 2, 22, 22), (30, 5, 50, 35), (25, 2, 29, 12)


def test_drawn_images_are_measured_as_if_they_were_the_dataset() -> None:
    """Against the slow way: each draw measured anew, with images that were drawn twice there twice."""
    random = np.random.default_rng(3)
    images = []
    for _ in range(6):
        x, y = random.integers(0, 20, 2)
        box, near = (x, y, x + 18, y + 15), (x + 3, y, x + 20, y + 16)
        wrong = [(C, 0, float(random.random()))] if random.random() < 0.5 else []
        images.append(([square(box, 0), square(B, 1)], [(near, 0, float(random.random())), *wrong, (B, 1, 0.4)]))
    m = measure(images, intervals=True)
    assert len(m.box.drawn) == len(m.seg.drawn) == 200
    for ap in (m.box, m.seg):  # the area below a curve is the class's AP at IoU 0.50
        assert ap.curves.shape == (3, 101) and np.allclose(ap.curves.mean(1), ap.maps50, equal_nan=True, atol=1e-6)
    assert m.confusion is not None and m.confusion.matrix[:, :3].sum() == 12
    assert list(m.confusion.mistakes) == [f"{i}.png" for i in range(6)]
    draws = np.random.default_rng(0)
    for i in range(8):
        slow = measure([images[j] for j in draws.integers(0, 6, 6)])
        assert (m.box.drawn[i], m.seg.drawn[i]) == pytest.approx((slow.box.map, slow.seg.map), abs=1e-12)


def test_the_difference_of_two_models_has_an_interval() -> None:
    truth = [([square(A, 0)], (A, 0, 0.9)) for _ in range(12)]
    good = measure([(labels, [found]) for labels, found in truth], intervals=True)
    worse = measure([(labels, [found] if i % 3 else []) for i, (labels, found) in enumerate(truth)], intervals=True)
    assert good.box.less(good.box) == (0, 0, 0)
    difference, low, high = worse.box.less(good.box) or (0, 0, 0)
    assert difference == pytest.approx(worse.box.map - good.box.map) and low < difference < high < 0.05 and low < -0.5
    assert good.box.less(measure([(truth[0][0], [])]).box) is None


def test_perfect_detections_have_ap_1() -> None:
    m = measure([([square(A, 0), square(B, 2)], [(A, 0, 0.9), (B, 2, 0.4)]), ([square(C, 0)], [(C, 0, 0.3)])])
    for part in (m.box, m.seg):
        assert (part.map, part.map50, part.map75) == pytest.approx((1, 1, 1))
        np.testing.assert_allclose(part.maps, [1, np.nan, 1])
        np.testing.assert_allclose(part.maps50, [1, np.nan, 1])
    assert (m.images, m.instances) == (2, 3)


def test_one_of_two_objects_missed() -> None:
    m = measure([([square(A), square(B)], [(A, 0, 0.9)])])
    # Recall reaches 0.5: of the 101 recall levels, 0.00 to 0.50 have precision 1.
    assert m.box.map == pytest.approx(51 / 101) == m.seg.map


def test_a_false_alarm_with_a_higher_score_halves_precision() -> None:
    m = measure([([square(A)], [(B, 0, 0.9), (A, 0, 0.8)])])
    assert m.box.map == pytest.approx(0.5) == m.seg.map


def test_a_second_detection_of_one_object_is_a_false_alarm() -> None:
    m = measure([([square(A), square(B)], [(A, 0, 0.9), (A, 0, 0.8), (B, 0, 0.7)])])
    assert m.box.map == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_iou_thresholds() -> None:
    m = measure([([square((0, 0, 20, 20))], [((0, 0, 20, 15), 0, 0.9)])])  # IoU 0.75, for boxes and masks
    assert (m.box.map50, m.seg.map50) == pytest.approx((1, 1))
    assert m.seg.map == pytest.approx(0.6)  # 0.50, 0.55 ... 0.75
    m = measure([([square((0, 0, 20, 20))], [((0, 0, 20, 12), 0, 0.9)])])  # IoU 0.6
    assert (m.box.map50, m.box.map75, m.seg.map75) == pytest.approx((1, 0, 0))


def test_boxes_alone_have_no_mask_ap() -> None:
    m = measure([([square(A)], [(A, 0, 0.9)])], masks=False)
    assert m.box.map == pytest.approx(1) and np.isnan(m.seg.map) and np.isnan(m.seg.maps).all()


def test_nothing_found_and_nothing_there() -> None:
    m = measure([([square(A)], []), ([], [])])
    assert m.box.map == 0 == m.seg.map and np.isnan(m.box.maps[1:]).all()
    m = measure([([], [(A, 0, 0.9)])])
    assert np.isnan(m.box.map) and np.isnan(m.seg.map50)
    with pytest.raises(EdgesegError, match="no image"):
        MetricsMeter(Truth(NAMES)).result()


def test_to_dict_is_json() -> None:
    d = measure([([square(A, 1)], [(A, 1, 0.9)])]).to_dict()
    again = json.loads(json.dumps(d, allow_nan=False))
    assert again["box"]["map"] == pytest.approx(1) and again["seg"]["maps"] == [None, pytest.approx(1), None]
    assert list(again["classes"]) == ["b"] and again["classes"]["b"]["seg"] == pytest.approx(1)


def plain_ap(images: list[tuple[list[Box], list[tuple[Box, float]]]], threshold: float) -> float:
    """AP of one class at one IoU with plain loops, as the COCO API defines it."""

    def iou(a: Box, b: Box) -> float:
        w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        shared = max(w, 0) * max(h, 0)
        return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)

    rows = []
    for truths, found in images:
        free = list(truths)
        for box, score in sorted(found, key=lambda f: -f[1]):
            best = max(free, key=lambda t: iou(box, t), default=None)
            hit = best is not None and iou(box, best) >= threshold
            if hit and best is not None:
                free.remove(best)
            rows.append((score, hit))
    rows.sort(key=lambda r: -r[0])
    total = sum(len(t) for t, _ in images)
    points, hits = [], 0
    for count, (_, hit) in enumerate(rows, 1):
        hits += hit
        points.append((hits / total, hits / count))
    levels = [max((p for r, p in points if r >= level - 1e-12), default=0.0) for level in np.linspace(0, 1, 101)]
    return float(np.mean(levels))


@st.composite
def scenes(draw: st.DrawFn) -> list[tuple[list[Box], list[tuple[Box, float]]]]:
    scores = iter(draw(st.permutations(range(1, 40))))  # all different, so that the order is certain

    def box() -> Box:
        x, y = draw(st.integers(0, 40)), draw(st.integers(0, 20))
        return (x, y, x + draw(st.integers(6, 20)), y + draw(st.integers(6, 20)))

    images = []
    for _ in range(draw(st.integers(1, 3))):
        truths = list(dict.fromkeys(box() for _ in range(draw(st.integers(0, 3)))))
        found = [(box(), next(scores) / 64) for _ in range(draw(st.integers(0, 4)))]
        for x1, y1, x2, y2 in truths:  # near the truth, so that there are hits
            if draw(st.booleans()):
                found.append(((x1, y1, x2 - draw(st.integers(0, 3)), y2 - draw(st.integers(0, 3))), next(scores) / 64))
        images.append((truths, found))
    return images


@settings(max_examples=25)
@given(scenes())
def test_against_plain_loops(images: list[tuple[list[Box], list[tuple[Box, float]]]]) -> None:
    if not any(t for t, _ in images):
        return
    m = measure([([square(t) for t in truths], [(b, 0, s) for b, s in found]) for truths, found in images])
    # float32 labels: a hair off exact ties of IoU and threshold, which integer boxes can produce.
    expected = [plain_ap(images, t) for t in IOUS]
    nudged = [plain_ap(images, t + 1e-6) for t in IOUS], [plain_ap(images, t - 1e-6) for t in IOUS]
    if expected == nudged[0] == nudged[1]:
        assert m.box.map == pytest.approx(np.mean(expected), abs=1e-9)
        assert m.box.map50 == pytest.approx(expected[0], abs=1e-9)


def _coco(dataset: Dataset) -> dict[str, Any]:
    file = dataset.annotations("val")
    assert file is not None
    return json.loads(file.read_text())


def test_coco_annotations_and_labels_agree(shapes_dataset: Dataset) -> None:
    exact = load_truth(shapes_dataset, "val")
    rough = load_truth(
        Dataset(shapes_dataset.path, shapes_dataset.names, shapes_dataset.yaml, shapes_dataset.splits, {"val": None}), "val"
    )
    assert exact.source is not None and rough.source is None
    for image in shapes_dataset.images("val"):
        a, b = exact.of(image, (96, 96)), rough.of(image, (96, 96))
        assert [x["category_id"] for x in a] == [x["category_id"] for x in b] != []
        for x, y in zip(a, b):
            np.testing.assert_allclose(x["bbox"], y["bbox"], atol=1.6)


def _with(dataset: Dataset, tmp_path: Path, coco: dict[str, Any], names: tuple[str, ...] | None = None) -> Dataset:
    file = tmp_path / "x.json"
    file.write_text(json.dumps(coco))
    return Dataset(dataset.path, names or dataset.names, dataset.yaml, dataset.splits, {"val": file})


def test_categories_are_found_by_name(shapes_dataset: Dataset, tmp_path: Path) -> None:
    coco, image = _coco(shapes_dataset), shapes_dataset.images("val")[0]
    before = load_truth(shapes_dataset, "val").of(image, (96, 96))
    coco["categories"] = [{"id": c["id"] + 50, "name": c["name"]} for c in coco["categories"]]
    for a in coco["annotations"]:
        a["category_id"] += 50
    after = load_truth(_with(shapes_dataset, tmp_path, coco), "val").of(image, (96, 96))
    assert [a["category_id"] for a in after] == [a["category_id"] for a in before]


def test_wrong_truth(shapes_dataset: Dataset, tmp_path: Path) -> None:
    coco = _coco(shapes_dataset)
    with pytest.raises(EdgesegError, match=r"categories .* are no classes of the dataset"):
        load_truth(_with(shapes_dataset, tmp_path, coco, ("w", "x", "y", "z")), "val")
    with pytest.raises(EdgesegError, match="two classes have the same name"):
        load_truth(_with(shapes_dataset, tmp_path, coco, ("w", "x", "y", "y")), "val")
    with pytest.raises(EdgesegError, match="1 of 4 images are not in the annotations") as caught:
        load_truth(_with(shapes_dataset, tmp_path, {**coco, "images": coco["images"][1:]}), "val")
    assert "annotations: false" in caught.value.hint
    for key, what in (("segmentation", "no segmentation"), ("bbox", "no bbox")):
        broken = json.loads(json.dumps(coco))
        del broken["annotations"][0][key]
        with pytest.raises(EdgesegError, match=what):
            load_truth(_with(shapes_dataset, tmp_path, broken), "val")


def test_crowds_are_neither_hit_nor_missed(shapes_dataset: Dataset, tmp_path: Path) -> None:
    coco = _coco(shapes_dataset)
    for a in coco["annotations"]:
        a["iscrowd"] = 1
    dataset = _with(shapes_dataset, tmp_path, coco)
    meter = MetricsMeter(load_truth(dataset, "val"))
    for image in dataset.images("val"):
        meter.add(image, Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0), None, dataset.names, (96, 96)))
    m = meter.result()
    assert m.instances == 0 and np.isnan(m.box.map)


def test_no_labels_at_all(tmp_path: Path, shapes_dataset: Dataset) -> None:
    image = tmp_path / "images" / "a.png"
    image.parent.mkdir()
    image.write_bytes(shapes_dataset.images("val")[0].read_bytes())
    dataset = Dataset(tmp_path, ("a",), tmp_path / "d.yaml", {"val": (image.parent,)})
    with pytest.raises(EdgesegError, match="none of the 1 images of split 'val' has labels"):
        load_truth(dataset, "val")


def test_objects_that_are_boxes_have_box_ap_alone(tmp_path: Path, shapes_dataset: Dataset) -> None:
    """A detector that finds nothing gives no mask either way: the truth tells that there are none."""
    file = tmp_path / "boxes.json"
    image = shapes_dataset.images("val")[0]
    content = {
        "images": [{"id": 1, "file_name": image.name, "height": 96, "width": 96}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [8, 8, 20, 20], "iscrowd": 0, "area": 400}],
        "categories": [{"id": i + 1, "name": n} for i, n in enumerate(shapes_dataset.names)],
    }
    file.write_text(json.dumps(content))
    dataset = replace(shapes_dataset, annotation_files={"val": file})
    with pytest.raises(EdgesegError, match="no segmentation"):
        load_truth(dataset, "val", [image])
    meter = MetricsMeter(load_truth(dataset.for_task("detect"), "val", [image]))
    meter.add(image, Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), None, dataset.names, (96, 96)))
    m = meter.result()
    assert m.box.map == 0 and np.isnan(m.seg.map)


def test_precision_and_recall_are_of_the_best_point_of_the_curve():
    from edgeseg.evaluate.metrics import _best, fitness

    curve = np.zeros(101)
    curve[:61] = 0.8  # precise up to recall 0.6, nothing beyond
    assert _best(curve) == (pytest.approx(0.8), pytest.approx(0.6))
    falling = np.linspace(1, 0, 101)
    assert _best(falling) == (pytest.approx(0.5), pytest.approx(0.5))
    assert fitness(0.5, 0.6, float("nan"), float("nan")) == pytest.approx(0.51)


@given(st.integers(0, 1 << 30))
@settings(max_examples=15, deadline=None)
def test_masks_that_are_not_built_change_no_figure(seed: int) -> None:
    """Against all masks at full size: random ones near polygons, run lengths and crowds, and far from them."""
    random = np.random.default_rng(seed)
    annotations: dict[Path, list[dict[str, Any]]] = {}
    found = []
    for n in range(3):
        true = [np.sort(random.integers(0, (60, 40), (2, 2)), 0).ravel() for _ in range(3)]
        full = np.zeros((12, *SHAPE), bool)
        for i, mask in enumerate(full):
            x1, y1, x2, y2 = np.clip(true[i % 3] + random.integers(-4, 5, 4) * (i < 9) + 15 * (i >= 9), 0, (60, 40, 60, 40))
            mask[y1:y2, x1:x2] = random.random((max(y2 - y1, 0), max(x2 - x1, 0))) < 0.9
        there = []
        for k, (x1, y1, x2, y2) in enumerate(true):
            shape = rle.encode(full[k]) if random.random() < 0.5 else [[float(v) for v in (x1, y1, x2, y1, x2, y2, x1, y2)]]
            box = [float(v) for v in (x1, y1, x2 - x1, y2 - y1)]
            crowd = int(k == 2 and isinstance(shape, dict))
            there.append({"category_id": k % 2 + 1, "iscrowd": crowd, "bbox": box, "area": 1.0, "segmentation": shape})
        annotations[Path(f"{n}.png")] = there
        boxes = np.tile((0, 0, 60, 40), (12, 1)).astype(np.float32)
        scores = np.sort(random.random(12).astype(np.float32))[::-1]
        found.append(Detections(boxes, scores.copy(), random.integers(0, 2, 12), full, NAMES, SHAPE))
    truth = Truth(NAMES, source=Path("x.json"), annotations=annotations)
    lazy, whole = MetricsMeter(truth), MetricsMeter(truth)
    for image, d in zip(annotations, found):
        there, _ = lazy.add(image, d)
        whole.add(image, d, whole=True)
        objects = np.array([rle.decode(a["segmentation"]) for a in there])
        near = reaching(d, there)
        assert d.masks is not None
        for mask, cls, reaches in zip(d.masks, d.classes, near):
            for object, a in zip(objects, there):
                if a["category_id"] == cls + 1 and not reaches:
                    assert (
                        not (mask & object).any()
                        if a["iscrowd"]
                        else 2 * (mask & object).sum() < (mask | object).sum() or not mask.any()
                    )
    a, b = lazy.result().seg, whole.result().seg
    for key in ("maps", "maps50", "curves", "by_iou"):
        assert np.array_equal(getattr(a, key), getattr(b, key), equal_nan=True)
