"""The pictures on which models are wrong most often, with what a dataset says is in them, for a page that is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg.data.dataset import Dataset
from edgeseg.data.images import read_image
from edgeseg.evaluate.confusion import CONF
from edgeseg.evaluate.metrics import Metrics
from edgeseg.report.page import Section
from edgeseg.report.pictures import picture
from edgeseg.report.sections import PICTURES, titles
from edgeseg.running.open import Opened
from edgeseg.view.gallery import together
from edgeseg.view.labels import Labels
from edgeseg.vision.detections import Detections


def mistakes(
    models: Sequence[Opened], metrics: Sequence[Metrics], dataset: Dataset, split: str, most: int = PICTURES
) -> list[Section]:
    """A viewer of the labels beside what models find at score 0.25: every model looks at these pictures once more.

    Args:
        models: at the size at which they were measured. metrics: of each, measured on the split.
        dataset, split: what is in the pictures. most: pictures in all; the worst of each model, in turn.

    Returns:
        One section, or none where no model makes a mistake.

    Raises:
        EdgesegError: a picture or its labels cannot be read, or a model fails.
    """
    wrong = [m.confusion.mistakes if m.confusion is not None else {} for m in metrics]
    images = _chosen(wrong, most)
    if not images:
        return []
    task = models[0].manifest.task
    labels = Labels(dataset.for_task(task), split, images)
    names, numbers = together([labels.names, *(one.manifest.names for one in models)])
    pipelines = [one.pipeline(conf=CONF) for one in models]
    pictures = []
    for image in images:
        pixels = read_image(image)
        there = labels.of(image, pixels.shape, numbers[0])
        first = _boxes(there, names, (pixels.shape[0], pixels.shape[1]))
        found = [p(pixels) for p in pipelines]
        found = [Detections(f.boxes, f.scores, n[f.classes], f.tiles, names, f.shape) for f, n in zip(found, numbers[1:])]
        shown = picture(pixels, [first, *found], name=image.name)
        shown["found"][0] = [{**mine, "rings": theirs["rings"]} for mine, theirs in zip(shown["found"][0], there)]
        pictures.append(shown)
    titled = zip(titles([m.path for m in models]), (m.manifest for m in models))
    sides = [{"name": name, "format": m.format, "precision": m.precision} for name, m in titled]
    orders = [_order(images, counts) for counts in wrong]
    return [
        {
            "kind": "viewer",
            "title": "Where they are wrong",
            "note": f"Labels on the left; the pictures with most mistakes come first, at score {CONF:g}.",
            "names": list(names),
            "models": [{"name": "labels", "format": "", "precision": ""}, *sides],
            "pictures": pictures,
            "orders": [list(range(len(images))), *orders],
        }
    ]


def _chosen(wrong: Sequence[Mapping[Any, int]], most: int) -> list[Path]:
    """The worst of each model, in turn."""
    ranked = [sorted((p for p, n in counts.items() if n), key=lambda p: -counts[p]) for counts in wrong]
    in_turn = (r[i] for i in range(max(map(len, ranked), default=0)) for r in ranked if i < len(r))
    return [Path(p) for p in list(dict.fromkeys(in_turn))[:most]]


def _order(images: Sequence[Path], counts: Mapping[Any, int]) -> list[int]:
    return [
        i for i in sorted(range(len(images)), key=lambda i: -counts.get(str(images[i]), 0)) if counts.get(str(images[i]))
    ]


def _boxes(objects: Sequence[Mapping[str, Any]], names: tuple[str, ...], shape: tuple[int, int]) -> Detections:
    """Labels as detections without masks; a box that leaves the picture ends at its edge."""
    boxes = np.array([o["box"] for o in objects], np.float32).reshape(-1, 4)
    boxes = boxes.clip(0, np.array((shape[1], shape[0]) * 2, np.float32))
    classes = np.array([o["class"] for o in objects], np.int32)
    return Detections(boxes, np.ones(len(objects), np.float32), classes, None, names, shape)
