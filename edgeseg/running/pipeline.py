"""A runtime with the shared pre- and postprocess around it: a picture in, detections out. This is what a board runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import numpy as np

from edgeseg.errors import EdgesegError
from edgeseg.manifest import Manifest, Tensor
from edgeseg.running.runtime import Runtime
from edgeseg.vision.detections import Detections
from edgeseg.vision.postprocess import postprocess
from edgeseg.vision.preprocess import Letterbox, input_size, prepare


class Pipeline:
    """Calls one model on images.

    Args:
        runtime: what runs the model.
        manifest: what its tensors mean.
        conf: lowest score, 0..1.
        iou: overlap above which two boxes of a class are one object, 0..1.
        max_det: detections an image at most.
        multi_label: one place may be several classes (COCO's evaluation protocol).
        masks: False spares the masks.
        classes: only these class numbers; None: all.
        size: (height, width) or one number for a square, for models with a dynamic input; None: the manifest's.
        agnostic: boxes of any class that overlap by more than ``iou`` are one object.
        rect: pad each picture no further than to a multiple of the stride, within ``size``; for models with a dynamic input.

    Attributes:
        speed: milliseconds of the last image: ``preprocess``, ``inference``, ``postprocess``. Masks are built when they are
            asked for, and are in none of these; ``Detections.tiles.seconds`` is what that took.

    Raises:
        EdgesegError: the runtime's tensors are not those of the manifest, or a setting is out of range.
    """

    def __init__(
        self,
        runtime: Runtime,
        manifest: Manifest,
        *,
        conf: float = 0.25,
        iou: float = 0.7,
        max_det: int = 300,
        multi_label: bool = False,
        masks: bool = True,
        classes: Sequence[int] | None = None,
        size: int | tuple[int, int] | None = None,
        agnostic: bool = False,
        rect: bool = False,
    ) -> None:
        if not 0 <= conf <= 1 or not 0 <= iou <= 1:
            raise EdgesegError(f"conf {conf} and iou {iou} must both be in 0..1")
        if max_det < 1:
            raise EdgesegError(f"max_det {max_det} is below 1")
        self.runtime, self.manifest = runtime, manifest
        self.conf, self.iou, self.max_det = conf, iou, max_det
        self.multi_label, self.masks, self.classes = multi_label, masks, classes
        self.agnostic, self.rect = agnostic, rect
        self.size = input_size(manifest, size)
        if rect and not manifest.dynamic:
            fixed = "x".join(map(str, self.size))
            raise EdgesegError(f"rect=True: this model takes {fixed} only", hint="Leave it out, or export with dynamic=True")
        self.speed: dict[str, float] = {"preprocess": 0.0, "inference": 0.0, "postprocess": 0.0}
        if runtime.input.shape and not _fits(runtime.input.shape, manifest.input.shape):
            raise _strange("input", manifest.input, runtime.input)
        self._order = output_order(runtime.outputs, manifest)
        self._batch = max(1, manifest.input.shape[0] if manifest.input.shape else 1)
        self._tensor: np.ndarray | None = None  # reused: a fresh one costs more than filling it

    @property
    def kept(self) -> dict[str, Any]:
        """The settings that stay when one is made anew with other thresholds."""
        return {k: getattr(self, k) for k in ("size", "masks", "agnostic", "rect")}

    def raw(self, image: np.ndarray) -> tuple[list[np.ndarray], Letterbox]:
        """The model's outputs for one image, in the manifest's order (valid until the next call), and its geometry.

        ``image`` is uint8 BGR (h, w, 3). Sets ``speed``'s preprocess and inference.
        """
        start = perf_counter()
        size = rectangle(image.shape, self.size, self.manifest.stride) if self.rect else self.size
        if self._batch == 1:
            tensor, letterbox = prepare(image, self.manifest, size, out=self._tensor)
            self._tensor = tensor
        else:  # a fixed batch: the one image, and the rest repeats it
            one, letterbox = prepare(image, self.manifest, size)
            tensor = np.repeat(one, self._batch, axis=0)
        middle = perf_counter()
        outputs = self.runtime.run(tensor)
        if len(outputs) != len(self._order):
            raise EdgesegError(f"the runtime gave {len(outputs)} outputs, the manifest names {len(self._order)}")
        outputs = [outputs[i] for i in self._order]
        # The runtime's own time: of one in another process without the pipes.
        self.speed = {"preprocess": 1e3 * (middle - start), "inference": 1e3 * self.runtime.seconds, "postprocess": 0.0}
        return outputs, letterbox

    def __call__(self, image: np.ndarray) -> Detections:
        """Detections of one uint8 BGR image (h, w, 3), in its own pixels. Sets ``speed``."""
        outputs, letterbox = self.raw(image)
        start = perf_counter()
        found = postprocess(
            outputs,
            self.manifest,
            letterbox,
            conf=self.conf,
            iou=self.iou,
            max_det=self.max_det,
            multi_label=self.multi_label,
            masks=self.masks,
            classes=self.classes,
            agnostic=self.agnostic,
        )
        self.speed["postprocess"] = 1e3 * (perf_counter() - start)
        return found


def rectangle(shape: Sequence[int], size: tuple[int, int], stride: int) -> tuple[int, int]:
    """The smallest (height, width), multiples of ``stride``, that hold an image (h, w, ...) as large as it fits ``size``."""
    ratio = min(size[0] / shape[0], size[1] / shape[1])
    height, width = (max(1, math.ceil(side * ratio / stride - 1e-9)) * stride for side in shape[:2])
    return height, width


def output_order(outputs: Sequence[Tensor], manifest: Manifest) -> list[int]:
    """For each output of the manifest, which of the runtime's ``outputs`` it is: by name, or by order where names differ.

    Some runtimes rename outputs, some cannot tell their shapes: an empty shape fits everything, -1 any size.

    Raises:
        EdgesegError: another number of outputs, or shapes that differ.
    """
    if not outputs:
        return list(range(len(manifest.outputs)))
    if len(outputs) != len(manifest.outputs):
        raise EdgesegError(
            f"the model has {len(outputs)} outputs, its manifest names {len(manifest.outputs)}", hint="Export it again"
        )
    by_name = {o.name: i for i, o in enumerate(outputs)}
    named = len(by_name) == len(outputs) and all(o.name in by_name for o in manifest.outputs)
    order = [by_name[o.name] for o in manifest.outputs] if named else list(range(len(outputs)))
    for i, spec in zip(order, manifest.outputs):
        found = outputs[i]
        if found.shape and not _fits(found.shape, spec.shape):
            raise _strange("output", spec, found)
    return order


def _fits(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return len(a) == len(b) and all(m == n or -1 in (m, n) for m, n in zip(a, b))


def _strange(kind: str, spec: Tensor, found: Tensor) -> EdgesegError:
    return EdgesegError(
        f"{kind} {found.name} has shape {found.shape}, the manifest says {spec.shape} for {spec.name}",
        hint="Export it again",
    )
