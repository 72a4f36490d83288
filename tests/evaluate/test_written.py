"""What a validation leaves behind: a results file that COCO's evaluation reads, charts, and the figures by their names."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeseg import EdgesegError, Model
from edgeseg.data.dataset import load_dataset
from edgeseg.data.shapes import make_shapes
from edgeseg.evaluate.curves import GRID
from edgeseg.evaluate.truth import load_truth
from edgeseg.evaluate.validate import ValidationResult
from edgeseg.resources import demo_checkpoint

pytest.importorskip("torch")
coco = pytest.importorskip("faster_coco_eval")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shapes whose JSON file numbers images and categories in its own way, and lists the categories in another order."""
    folder = tmp_path_factory.mktemp("own")
    yaml = Path(make_shapes(folder, train=1, val=6, size=160, seed=3))
    dataset = load_dataset(yaml)
    images, annotations = [], []
    truth = load_truth(replace(dataset, annotation_files={"val": None}), "val")
    for i, path in enumerate(dataset.images("val")):
        height, width = cv2.imread(str(path)).shape[:2]
        images.append({"id": 5000 - 7 * i, "file_name": path.name, "height": height, "width": width})
        for a in truth.of(path, (height, width)):
            more = {"id": len(annotations) + 1, "image_id": images[-1]["id"], "category_id": 90 - 10 * a["category_id"]}
            annotations.append({**a, **more})
    categories = [{"id": 80 - 10 * i, "name": n} for i, n in enumerate(dataset.names)]
    (folder / "own.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories[::-1]})
    )
    file = folder / "own.yaml"
    file.write_text(yaml.read_text() + f"\nannotations: {{val: {folder / 'own.json'}}}\n")
    return file


@pytest.fixture(scope="module")
def result(data: Path) -> ValidationResult:
    made = Model(demo_checkpoint()).validate(data, save_json=True, plots=True, project=data.parent / "runs", name="v")
    assert made.save_dir == data.parent / "runs" / "v"
    return made


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_the_results_file_gives_the_same_figures(kind: str, data: Path, result: ValidationResult) -> None:
    truth = coco.COCO(str(data.parent / "own.json"))
    found = truth.loadRes(str(result.save_dir / "predictions.json"))
    run = coco.COCOeval_faster(truth, found, iouType=kind)
    run.evaluate()
    run.accumulate()
    precision = np.asarray(run.eval["precision"])[:, :, :, 0, -1]
    ap = result.box if kind == "bbox" else result.seg
    assert 0.3 < ap.map < 0.99 and precision.mean() == pytest.approx(ap.map, abs=1e-9)
    assert precision[0].mean() == pytest.approx(ap.map50, abs=1e-9)
    by_name = {truth.cats[c]["name"]: precision[:, :, k].mean() for k, c in enumerate(run.params.catIds)}
    assert [by_name[n] for n in result.names.values()] == pytest.approx(ap.maps.tolist(), abs=1e-9)


def test_without_a_json_file_ids_are_those_of_the_images(tmp_path: Path) -> None:
    yaml = Path(make_shapes(tmp_path, train=1, val=2, size=160, seed=3))
    yaml.write_text(yaml.read_text() + "\nannotations: false\n")
    images = load_dataset(yaml).images("val")
    for path, stem in zip(images, ("000000017", "street")):
        path.rename(path.with_stem(stem))
        label = load_dataset(yaml).label_path(path)
        label.rename(label.with_stem(stem))
    made = Model(demo_checkpoint()).validate(yaml, save_json=True, conf=0.3, project=tmp_path / "runs")
    rows = json.loads((made.save_dir / "predictions.json").read_text())
    assert {r["image_id"] for r in rows} == {17, "street"} and {r["category_id"] for r in rows} <= {1, 2, 3, 4}
    assert {r["file_name"] for r in rows} == {"000000017.png", "street.png"} and min(r["score"] for r in rows) >= 0.3


def test_charts_are_written_and_show_something(result: ValidationResult) -> None:
    names = {f"{w}{c}_curve.png" for w in ("Box", "Mask") for c in ("PR", "P", "R", "F1")}
    names |= {"confusion_matrix.png", "confusion_matrix_normalized.png", "predictions.json"}
    assert {p.name for p in result.save_dir.iterdir()} == names
    pictures = [cv2.imread(str(result.save_dir / n)) for n in names if n.endswith(".png")]
    assert all(p.shape[0] > 300 and p.std() > 5 for p in pictures)


def test_figures_go_by_the_names_that_people_know(result: ValidationResult) -> None:
    box, at = result.box, result.box.ap_class_index
    assert at.tolist() == [0, 1, 2, 3] and result.names == {0: "circle", 1: "square", 2: "triangle", 3: "star"}
    assert box.ap.tolist() == box.maps[at].tolist() and box.ap50.tolist() == box.maps50[at].tolist()
    assert box.all_ap.shape == (4, 10) and box.all_ap.mean() == pytest.approx(box.map)
    assert box.all_ap[:, 0] == pytest.approx(box.ap50) and box.all_ap[:, 5].mean() == pytest.approx(box.map75)
    assert box.f1 == pytest.approx(2 * box.p * box.r / (box.p + box.r)) and (box.mp, box.mr) == (box.p.mean(), box.r.mean())
    assert box.f1.mean() == box.f1_curve.mean(0).max() and box.p_curve.shape == (4, len(box.px)) == (4, len(GRID))
    assert result.class_result(1) == (box.p[1], box.r[1], box.ap50[1], box.ap[1], *result.seg.class_result(1))
    assert list(result.results_dict)[:-1] == result.keys and result.results_dict["metrics/mAP50(M)"] == result.seg.map50
    assert result.mean_results()[:4] == [box.mp, box.mr, box.map50, box.map] and len(result.summary()) == 4
    assert result.summary()[3]["Mask-F1"] == result.seg.f1[3] and result.maps[2] == box.maps[2] + result.seg.maps[2]
    assert result.confusion_matrix.matrix[:, :4].sum() == result.metrics.instances
    with pytest.raises(AttributeError, match="no 'p9'"):
        box.p9  # noqa: B018


def test_across_classes_and_in_rectangles(data: Path) -> None:
    model = Model(demo_checkpoint())
    plain, agnostic, rect = (
        model.validate(data, conf=0.05, **how) for how in ({}, {"agnostic_nms": True}, {"rect": True, "imgsz": 192})
    )
    assert 0 < agnostic.confusion_matrix.matrix.sum() <= plain.confusion_matrix.matrix.sum() and rect.box.map > 0.3
    with pytest.raises(EdgesegError, match="neither agnostic_nms nor rect"):
        model.validate(data, rect=True, cluster=object())


def test_without_matplotlib_it_says_so_before_it_begins(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EdgesegError, match="plots need matplotlib"):
        Model(demo_checkpoint()).validate(data, plots=True)
