"""``supervision.Detections`` become ours; the other way is ``to_supervision`` of results and detections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeseg.errors import EdgesegError
from edgeseg.vision.detections import Detections


def from_supervision(found: Any, shape: tuple[int, int], names: Sequence[str] | None = None) -> Detections:
    """Detections of one image from those of ``supervision``, by falling score; boxes end at the image's edges.

    Args:
        found: ``supervision.Detections``: ``xyxy`` (n, 4) pixels, ``mask`` (n, H, W) or None, ``confidence`` (n,) or None
            (taken as 1), ``class_id`` (n,) or None (taken as 0), ``data["class_name"]`` where there is one.
        shape: (H, W) of the image in pixels.
        names: name of each class; None: what ``data`` says, and a class's number where it says nothing.

    Raises:
        EdgesegError: it does not fit the image, or the names.
    """
    boxes, n = np.asarray(found.xyxy, np.float32).reshape(-1, 4), len(found.xyxy)
    scores = np.ones(n, np.float32) if found.confidence is None else np.asarray(found.confidence, np.float32)
    classes = np.zeros(n, np.int32) if found.class_id is None else np.asarray(found.class_id, np.int32)
    if names is None:
        known = dict(zip(classes.tolist(), map(str, found.data.get("class_name", ()))))
        names = [known.get(c, str(c)) for c in range(max(classes.tolist(), default=-1) + 1)]
    order = np.argsort(-scores, kind="stable")
    masks = None if found.mask is None else np.asarray(found.mask, bool)[order]
    edges = (shape[1], shape[0], shape[1], shape[0])
    try:
        return Detections(np.clip(boxes, 0, edges)[order], scores[order], classes[order], masks, tuple(names), shape)
    except ValueError as e:
        raise EdgesegError(f"no detections on an image of {shape[1]}x{shape[0]}: {e}", hint="Give shape=(H, W)") from e
