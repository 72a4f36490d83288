"""From output tensors to detections on the source image: decode, suppress, map back, masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeseg.manifest import Manifest
from edgeseg.vision.decode import decode
from edgeseg.vision.detections import Detections
from edgeseg.vision.letterbox import Letterbox
from edgeseg.vision.masks import masks as upsampled
from edgeseg.vision.nms import nms


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
