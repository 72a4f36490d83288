"""From output tensors to detections on the source image: decode, suppress, map back, masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeseg.manifest import Manifest
from edgeseg.vision.decode import decode
from edgeseg.vision.detections import Detections
from edgeseg.vision.masks import masks as upsampled
from edgeseg.vision.preprocess import Letterbox

_BLOCK = 256  # boxes judged at once: the pairwise matrices stay in the cache


def nms(
    boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, iou: float, max_det: int, agnostic: bool = False
) -> np.ndarray:
    """Greedy suppression: by falling score, a box stays unless one that stayed before it, of its class, overlaps it.

    Two boxes overlap when intersection > iou * union (float32); boxes without area overlap nothing. Equal scores keep the
    order in which they came.

    Args:
        boxes: (n, 4) float32 xyxy, any unit.
        scores: (n,) float.
        classes: (n,) integers.
        iou: threshold, 0..1.
        max_det: how many to return at most.
        agnostic: of any class.

    Returns:
        (m,) intp indices, by falling score, m <= max_det.
    """
    order = np.argsort(-scores, kind="stable")
    sides = np.ascontiguousarray(boxes[order].T, dtype=np.float32)
    kinds = np.zeros(len(order), np.intp) if agnostic else classes[order]
    area = np.maximum(sides[2] - sides[0], 0) * np.maximum(sides[3] - sides[1], 0)
    kept = np.zeros(0, np.intp)
    threshold, start, limit = np.float32(iou), 0, len(order)
    while start < limit and len(kept) < max_det:
        block = np.arange(start, min(start + _BLOCK, limit))
        start += _BLOCK
        if len(kept):
            hit = _overlaps(sides, area, kinds, kept, block, threshold)
            block = block[~hit.any(axis=0)]
        stays = _greedy(np.triu(_overlaps(sides, area, kinds, block, block, threshold), 1))
        kept = np.concatenate((kept, block[stays]))
    return order[kept[:max_det]]


def _overlaps(
    sides: np.ndarray, area: np.ndarray, kinds: np.ndarray, a: np.ndarray, b: np.ndarray, threshold: np.float32
) -> np.ndarray:
    """(len(a), len(b)) bool: same class and intersection > threshold * union."""
    p, q = sides[:, a, None], sides[:, None, b]
    width = np.minimum(p[2], q[2])
    width -= np.maximum(p[0], q[0])
    height = np.minimum(p[3], q[3])
    height -= np.maximum(p[1], q[1])
    inter = np.maximum(width, 0, out=width)
    inter *= np.maximum(height, 0, out=height)
    union = area[a, None] + area[None, b]
    union -= inter
    union *= threshold
    return np.logical_and(inter > union, kinds[a, None] == kinds[None, b])


def _greedy(hits: np.ndarray) -> np.ndarray:
    """(n,) bool of who stays, from ``hits[i, j]``: i (of higher score than j) would suppress j.

    Starting from "all stay", "j stays if no staying i hits it" is repeated until nothing changes. After k rounds the first k
    boxes are settled, so the fixed point is the greedy result; chains of suppression are short, so few rounds are needed.
    """
    stays = np.ones(len(hits), bool)
    while True:
        after = np.logical_not(hits[stays].any(axis=0))
        if np.array_equal(after, stays):
            return stays
        stays = after


def postprocess(
    outputs: Sequence[np.ndarray],
    manifest: Manifest,
    letterbox: Letterbox,
    *,
    conf: float = 0.25,
    iou: float = 0.7,
    max_det: int = 300,
    multi_label: bool = False,
    masks: bool = True,
    index: int = 0,
    classes: Sequence[int] | None = None,
    agnostic: bool = False,
) -> Detections:
    """Detections of one image of the batch, on its source image.

    Args:
        outputs: the model's tensors in the manifest's order, float or quantized.
        manifest: what they mean.
        letterbox: the geometry that ``prepare`` gave for the image.
        conf: lowest score, 0..1.
        iou: boxes of one class that overlap by more are the same object, 0..1.
        max_det: how many detections at most.
        multi_label: one place may be several classes (the evaluation protocol of COCO).
        masks: False spares the masks; a detector has none in any case.
        index: which image of the batch.
        classes: only these, counted before ``max_det``; None: all.
        agnostic: boxes of any class that overlap by more than ``iou`` are the same object; also where the model suppresses.

    Returns:
        Detections by falling score. Boxes of which nothing lies in the image are left out.

    Raises:
        EdgesegError: the tensors are not what the manifest says.
    """
    found = decode(outputs, manifest, conf=conf, multi_label=multi_label, index=index)
    if classes is not None:
        found = found.take(np.flatnonzero(np.isin(found.classes, classes)))
    with np.errstate(all="ignore"):  # the area of a huge box is infinite
        # What the model suppressed is not suppressed again.
        if (manifest.head == "nms" or manifest.end2end) and not agnostic:
            keep = np.argsort(-found.scores, kind="stable")[:max_det]
        else:
            keep = nms(found.boxes, found.scores, found.classes, iou, max_det, agnostic)
        boxes = letterbox.to_source(found.boxes[keep])
    visible = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    if not visible.all():
        keep, boxes = keep[visible], boxes[visible]
    tiles = upsampled(found.proto, found.coeffs[keep], boxes, letterbox) if masks and found.proto else None
    return Detections(boxes, found.scores[keep], found.classes[keep], tiles, manifest.names, letterbox.source)
