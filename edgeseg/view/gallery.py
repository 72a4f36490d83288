"""What models find in pictures, one picture at a time: when somebody looks at it, and kept for a while."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg.data.images import decode_image, read_image
from edgeseg.errors import EdgesegError, printable
from edgeseg.report.pictures import picture
from edgeseg.running.open import Opened
from edgeseg.running.pipeline import Pipeline
from edgeseg.view.labels import Labels
from edgeseg.vision.detections import Detections

LOWEST = 0.1
"""Score from which on detections are kept: the page shows those above the score that it is set to."""
KEEP = 1 << 26
"""Bytes of results that are kept."""
LONGEST = 1600
"""Pixels of the longer side of a picture as it is shown."""


class Subject:
    """One model. Where it fails on a picture it is opened again for the next one: a process that ran it may have ended.

    Raises:
        EdgesegError: it cannot be opened.
    """

    def __init__(self, open: Callable[[], Opened]) -> None:
        self._open = open
        self._opened: Opened | None = open()
        self._pipeline: Pipeline | None = None
        self._lowest = LOWEST
        self.path, self.manifest = self._opened.path, self._opened.manifest
        self.title, self.size = self._opened.title, self._opened.size

    def at(self, imgsz: tuple[int, int], lowest: float) -> None:
        """Run at this size (height, width), where it takes any, and find from this score on."""
        self._lowest, self._pipeline = lowest, None
        if self.manifest.dynamic:
            self.manifest = replace(self.manifest, imgsz=imgsz)

    def look(self, image: np.ndarray) -> tuple[Detections, dict[str, float]]:
        """What it finds in a uint8 BGR image (h, w, 3), and the milliseconds of each stage."""
        try:
            if self._pipeline is None:
                self._pipeline = self._ready()
            return self._pipeline(image), dict(self._pipeline.speed)
        except Exception:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the model."""
        opened, self._opened, self._pipeline = self._opened, None, None
        if opened is not None:
            opened.close()

    def _ready(self) -> Pipeline:
        if self._opened is None:
            self._opened = self._open()
        pipeline = Pipeline(self._opened.runtime, self.manifest, conf=self._lowest)
        pipeline.raw(np.full((64, 64, 3), 114, np.uint8))  # the first run pays for warming up
        return pipeline


class Gallery:
    """Models, the first of which is the reference, and pictures.

    Each picture becomes one JSON object, as bytes: what ``edgeseg.report.pictures.picture`` gives, and ``about``: for each
    model ``ms`` by stage, or ``error``, or a ``note`` why there is nothing. Labels are one more model, the last. One thread
    at a time may look.

    Args:
        subjects: at least one model.
        images: files.
        labels: what the pictures are said to hold.
        lowest: score from which on detections are kept, 0..1.
        keep: bytes of results that are kept.
    """

    def __init__(
        self,
        subjects: Sequence[Subject],
        images: Sequence[Path] = (),
        labels: Labels | None = None,
        *,
        lowest: float = LOWEST,
        keep: int = KEEP,
    ) -> None:
        self.subjects, self.images, self.labels, self.lowest = list(subjects), list(images), labels, lowest
        fixed = [s.manifest.imgsz for s in self.subjects if not s.manifest.dynamic]
        for subject in self.subjects:
            subject.at((fixed or [self.subjects[0].manifest.imgsz])[0], lowest)
        lists = [s.manifest.names for s in self.subjects] + ([labels.names] if labels else [])
        self.names, self._numbers = together(lists)
        self._keep, self._kept, self._bytes = keep, OrderedDict[int, bytes](), 0

    def listed(self) -> list[str]:
        """What to call each picture: its path from the folder that holds all of them."""
        if not self.images:
            return []
        root = os.path.commonpath([p.absolute().parent for p in self.images])
        return [printable(os.path.relpath(p.absolute(), root)) for p in self.images]

    def about(self) -> list[dict[str, Any]]:
        """Each model for people: ``name``, ``format`` with its precision, ``bytes``; the labels too."""
        names = [s.path.name for s in self.subjects]
        models = [
            {"name": n if names.count(n) == 1 else str(s.path), "format": s.title, "bytes": s.size}
            for n, s in zip(names, self.subjects)
        ]
        return models + ([{"name": "labels", "format": "", "bytes": 0}] if self.labels else [])

    def warm(self) -> None:
        """Run every model once, so that the first picture need not wait for it; what fails is told with the picture."""
        for subject in self.subjects:
            with suppress(Exception):
                subject.look(np.full((64, 64, 3), 114, np.uint8))

    def of(self, index: int) -> bytes:
        """One of ``images``.

        Raises:
            IndexError: there is none. EdgesegError: it cannot be read.
        """
        if index not in self._kept:
            path = self.images[index]
            self._remember(index, self._shown(read_image(path), path.name, path))
        self._kept.move_to_end(index)
        return self._kept[index]

    def of_file(self, data: bytes, name: str) -> bytes:
        """The content of somebody's image file; nothing of it is kept.

        Raises:
            EdgesegError: it is no image that can be read.
        """
        return self._shown(decode_image(data, path=name), name)

    def close(self) -> None:
        """Let go of all models."""
        for subject in self.subjects:
            subject.close()

    def _remember(self, index: int, data: bytes) -> None:
        self._kept[index] = data
        self._bytes += len(data)
        while self._bytes > self._keep and len(self._kept) > 1:
            self._bytes -= len(self._kept.popitem(last=False)[1])

    def _shown(self, image: np.ndarray, name: str, path: Path | None = None) -> bytes:
        found: list[Detections | None] = []
        about: list[dict[str, Any]] = []
        for subject, numbers in zip(self.subjects, self._numbers):
            try:
                one, ms = subject.look(image)
            except Exception as e:  # a runtime may raise anything; the others are shown
                found.append(None)
                about.append({"error": printable(str(e)) if isinstance(e, EdgesegError) else f"{type(e).__name__}: {e}"})
            else:
                found.append(Detections(one.boxes, one.scores, numbers[one.classes], one.tiles, self.names, one.shape))
                about.append({"ms": {k: round(v, 2) for k, v in ms.items()}})
        shown = picture(image, found, name=printable(name), longest=LONGEST)
        if self.labels is not None:
            objects, told = None, {"note": "not in the data"}
            if path is not None:
                try:
                    objects, told = self.labels.of(path, image.shape[:2], self._numbers[-1]), {}
                except EdgesegError as e:
                    told = {"error": str(e)}
            shown["found"].append(objects)
            about.append(told)
        return json.dumps({**shown, "about": about}, separators=(",", ":")).encode()


def together(lists: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], list[np.ndarray]]:
    """Class names for all models, and for each model the numbers (n,) that its own become.

    Classes of the same name are the same. Where as many are named otherwise throughout, as in files that carry no names,
    they go by number.
    """
    first, numbers = list(lists[0]), []
    names = list(first)
    for own in map(list, lists):
        if own == first or (len(own) == len(first) and not set(own) & set(first)):
            numbers.append(np.arange(len(own)))
            continue
        names += [n for n in dict.fromkeys(own) if n not in names]
        numbers.append(np.array([names.index(n) for n in own]))
    return tuple(names), numbers
