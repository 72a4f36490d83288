"""Figures of a network in training: loss on the validation split, average precision through the shared postprocess."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from edgeseg.data.augment import clipped
from edgeseg.data.cache import Record
from edgeseg.data.dataset import Dataset
from edgeseg.data.images import read_image
from edgeseg.data.loader import Item, collate, to_item
from edgeseg.data.polygons import area
from edgeseg.evaluate.confusion import Confusion
from edgeseg.evaluate.metrics import MetricsMeter, Told, measured
from edgeseg.evaluate.truth import Truth, load_truth
from edgeseg.manifest import Tensor
from edgeseg.network.model import Network
from edgeseg.network.runtime import network_manifest
from edgeseg.training.distributed import Processes
from edgeseg.training.loop import prepare as to_device
from edgeseg.training.loss import PARTS, LossGains, network_loss
from edgeseg.vision.detections import Detections
from edgeseg.vision.postprocess import postprocess
from edgeseg.vision.preprocess import Letterbox, letterbox

SAMPLES = 16
"""Images whose masks are kept for pictures."""


Found = tuple[Path, Told]


@dataclass
class Validator:
    """Measures a network on a split. Every process takes a part of the images; all get the same figures.

    Images of similar shape share a batch, padded to the smallest multiple of 32 around them (no square).

    Attributes:
        dataset, split, records: what to measure on. imgsz: pixels of the longer side. batch: images at once.
        found: what the latest call detected, in the main process; ``confusion``: of its classes;
            ``samples``: a few images' detections above 0.25.
    """

    dataset: Dataset
    records: Sequence[Record]
    imgsz: int
    batch: int
    processes: Processes
    split: str = "val"
    gains: LossGains = field(default_factory=LossGains)
    conf: float = 0.001
    iou: float = 0.7
    max_det: int = 300
    found: list[Found] = field(default_factory=list)
    samples: list[tuple[Path, Detections]] = field(default_factory=list)
    confusion: Confusion | None = None
    _truth: Truth | None = None

    def __call__(self, network: Network) -> dict[str, float]:
        """Losses ``val/*``, ``box/map``, ``box/map50``, ``fitness``, and for segmentation ``seg/map``, ``seg/map50``."""
        sums, found = torch.zeros(len(PARTS) + 1, device=self.processes.device), []
        network.eval()
        self.samples = []
        with torch.inference_mode():
            for items, boxes in self._batches():
                parts, detected = self._run(network, items, boxes)
                sums += torch.cat((parts * len(items), parts.new_tensor([float(len(items))])))
                found += detected
        losses = self.processes.sum(sums).tolist()
        row = {f"val/{k}": v / max(losses[-1], 1) for k, v in zip(PARTS, losses)}
        self.found = _gather(found, self.processes)
        return self.processes.share(lambda: {**row, **self._precision(network.task == "segment")})

    @property
    def truth(self) -> Truth:
        """The split's annotations, read once."""
        if self._truth is None:
            self._truth = load_truth(self.dataset, self.split, [r.path for r in self.records])
        return self._truth

    def _precision(self, masks: bool) -> dict[str, float]:
        meter = MetricsMeter(self.truth, masks=masks)
        for path, detections in self.found:
            meter.add(path, detections)
        m = meter.result()
        self.confusion = m.confusion
        figures = {"box/map": m.box.map, "box/map50": m.box.map50}
        figures |= {"seg/map": m.seg.map, "seg/map50": m.seg.map50} if masks else {}
        return {**figures, "fitness": m.fitness}

    def _batches(self) -> Iterator[tuple[list[tuple[Path, Item]], list[Letterbox]]]:
        """This process's images with their targets, batch by batch, in the order of their aspect."""
        ordered = sorted(self.records, key=lambda r: (r.shape[0] / r.shape[1], str(r.path)))
        starts = range(self.processes.rank * self.batch, len(ordered), self.batch * self.processes.world)
        for start in starts:
            records = ordered[start : start + self.batch]
            size = common_size([r.shape for r in records], self.imgsz)
            made = [fitted(r, read_image(r.path), size) for r in records]
            yield [(r.path, item) for r, (item, _) in zip(records, made)], [geometry for _, geometry in made]

    def _run(
        self, network: Network, items: list[tuple[Path, Item]], geometry: list[Letterbox]
    ) -> tuple[torch.Tensor, list[Found]]:
        images, targets = to_device(collate([item for _, item in items]), self.processes.device)
        output = network(images)
        parts = network_loss(output, targets, network.strides, self.gains).parts
        outputs = [t.float().cpu().numpy() for t in output.flat()]
        manifest = network_manifest(network, Tensor("images", (-1, 3, -1, -1)), network.outputs("raw", None, batch=-1))
        found = []
        for i, (path, _) in enumerate(items):
            detections = postprocess(
                outputs, manifest, geometry[i], conf=self.conf, iou=self.iou, max_det=self.max_det, multi_label=True, index=i
            )
            found.append((path, measured(self.truth, path, detections)[1]))
            if len(self.samples) < SAMPLES:
                self.samples.append((path, detections[detections.scores >= 0.25]))
        return parts, found


def common_size(shapes: Sequence[tuple[int, int]], imgsz: int) -> tuple[int, int]:
    """The smallest (height, width) in multiples of 32 that holds all images with their longer side at ``imgsz``."""
    scaled = [(h * imgsz / max(h, w), w * imgsz / max(h, w)) for h, w in shapes]
    return tuple(max(32, math.ceil(max(s[i] for s in scaled) / 32 - 1e-6) * 32) for i in range(2))  # type: ignore[return-value]


def fitted(record: Record, image: np.ndarray, size: tuple[int, int]) -> tuple[Item, Letterbox]:
    """An image and its outlines letterboxed to ``size``, and the geometry that leads back."""
    boxed, geometry = letterbox(image, size)
    height, width = geometry.resized
    outlines = [[o * np.array((width, height), np.float64) + geometry.pad] for o in record.outlines]
    return to_item(clipped(boxed, record.classes, outlines, [area(o) for o in outlines])), geometry


def _gather(found: list[Found], processes: Processes) -> list[Found]:
    """All processes' detections in the main process, in the order of the paths."""
    if processes.world > 1:
        parts: list[list[Found]] | None = [[] for _ in range(processes.world)] if processes.main else None
        dist.gather_object(found, parts, dst=0)
        found = [f for part in parts or [] for f in part]
    return sorted(found, key=lambda f: str(f[0]))
