"""Labels beside what models find: which pictures, in which order, and what is drawn of the labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgeseg.data.dataset import Dataset
from edgeseg.evaluate.truth import load_truth
from edgeseg.evaluate.validate import validate
from edgeseg.resources import demo_checkpoint
from edgeseg.running.open import open_model
from edgeseg.view.mistakes import mistakes

pytest.importorskip("torch")


def test_the_pictures_with_most_mistakes_come_first(shapes_dataset: Dataset) -> None:
    opened = open_model(demo_checkpoint())
    models = [opened.sized((size, size)) for size in (32, 64)]
    metrics = [validate(m.pipeline, shapes_dataset).metrics for m in models]
    (section,) = mistakes(models, metrics, shapes_dataset, "val")
    names = [p["name"] for p in section["pictures"]]
    assert len(set(names)) == len(names) and section["models"][0]["name"] == "labels"
    for m, order in zip(metrics, section["orders"][1:]):
        by_name = {path.rsplit("/", 1)[-1]: n for path, n in m.confusion.mistakes.items()}
        counts = [by_name[names[i]] for i in order]
        assert counts == sorted((n for n in by_name.values() if n), reverse=True) and counts
    images = shapes_dataset.images("val")
    truth = load_truth(shapes_dataset, "val", images)
    for picture in section["pictures"]:
        image = next(i for i in images if i.name == picture["name"])
        there = truth.of(image, (picture["height"], picture["width"]))
        assert [section["names"][o["class"]] for o in picture["found"][0]] == [
            shapes_dataset.names[a["category_id"] - 1] for a in there
        ]
        for drawn, a in zip(picture["found"][0], there):
            x, y, w, h = a["bbox"]
            assert drawn["box"] == pytest.approx([x, y, x + w, y + h], abs=0.1) and len(drawn["rings"][0]) >= 6
    (one,) = mistakes(models, metrics, shapes_dataset, "val", most=1)
    assert len(one["pictures"]) == 1
    right = [replace(m, confusion=replace(m.confusion, mistakes=dict.fromkeys(m.confusion.mistakes, 0))) for m in metrics]
    assert mistakes(models, right, shapes_dataset, "val") == []


def test_classes_in_another_order_are_matched_by_name(shapes_dataset: Dataset) -> None:
    opened = open_model(demo_checkpoint()).sized((64, 64))
    names = opened.manifest.names
    turned = replace(shapes_dataset, names=tuple(reversed(shapes_dataset.names)))
    metrics = validate(opened.pipeline, shapes_dataset).metrics
    (section,) = mistakes([opened], [metrics], turned, "val")
    assert tuple(section["names"]) == turned.names and set(names) == set(turned.names)
    found = [d["class"] for p in section["pictures"] for d in p["found"][1]]
    (same,) = mistakes([opened], [metrics], shapes_dataset, "val")
    straight = [d["class"] for p in same["pictures"] for d in p["found"][1]]
    assert found and np.array_equal([section["names"][c] for c in found], [same["names"][c] for c in straight])
