"""An ncnn network with int8 convolutions, as decided. No tool that ships with ncnn writes these: this one does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgeseg.errors import EdgesegError
from edgeseg.export.job import Job
from edgeseg.quantize.carried import Carried

from .layers import Layer, pack, read


def quantize(param: Path, weights: Path, job: Job) -> None:
    """Rewrite a float32 network in place, by the job's decisions.

    ncnn rounds what a convolution reads, symmetrically, and computes all else in float.

    Raises:
        EdgesegError: the decoded head, or weights that are not the network's.
    """
    if job.head != "raw":
        raise EdgesegError("ncnn's int8 needs the raw head", hint="Export int8 with head=raw")
    layers = read(param.read_text(encoding="utf-8"), weights.read_bytes())
    text, content = pack(*adjusted(layers, job.decisions()))
    param.write_text(text, encoding="utf-8")
    weights.write_bytes(content)


def adjusted(layers: Sequence[Layer], decisions: Carried) -> tuple[list[Layer], dict[str, tuple[np.ndarray, float]]]:
    """The layers with the decided weights and biases, and the scales of those convolutions that run in integers."""
    ours = decisions.by_weights((x.name, x.weight) for x in layers if x.weight is not None)
    made, scales = [], {}
    for layer in layers:
        if layer.weight is not None:
            c = ours[layer.name]
            order = (0, 1, 2, 3) if c.kind == "conv" else (1, 0, 2, 3)
            weight = c.weight(layer.weight.transpose(order)).transpose(order)
            layer = replace(layer, weight=weight, bias=c.bias, params={**layer.params, 5: ("1",)})
            if c.step is not None and c.entry is not None:
                scales[layer.outputs[0]] = c.step.astype(np.float32), float(c.entry.scale)
        made.append(layer)
    return made, scales
