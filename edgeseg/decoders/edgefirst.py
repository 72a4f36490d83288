"""What EdgeFirst's decoder must know of an artifact: ``edgefirst.json`` in its schema version 2, and ``labels.txt``.

Its readers look for both in the ZIP behind a TF Lite file, and for ``edgefirst`` and ``labels`` among an ONNX file's
properties. The grammar: https://docs.rs/edgefirst-decoder, module ``schema``.
"""

from __future__ import annotations

import json
from typing import Any

from edgeseg.manifest import Manifest, Output, Tensor

_TYPES = {"box": "boxes", "score": "scores", "coeff": "mask_coefs", "proto": "protos", "prediction": "detection"}
_CHANNELS = {"box": "num_features", "score": "num_classes", "coeff": "num_protos", "proto": "num_protos"}


def texts(manifest: Manifest) -> dict[str, str]:
    """``edgefirst.json`` and ``labels.txt`` by name; {} for what it does not read: other heads, batches, dynamic sizes."""
    if manifest.head == "nms" or manifest.end2end or manifest.dynamic or manifest.batch != 1:
        return {}
    return {"edgefirst.json": json.dumps(schema(manifest)), "labels.txt": "\n".join(map(_line, manifest.names)) + "\n"}


def properties(manifest: Manifest) -> dict[str, str]:
    """The same as properties of an ONNX file: ``edgefirst`` and, a JSON list, ``labels``."""
    said = texts(manifest)
    return {"edgefirst": said["edgefirst.json"], "labels": json.dumps(list(manifest.names))} if said else {}


def schema(manifest: Manifest) -> dict[str, Any]:
    """The ``edgefirst.json`` of a raw or decoded head."""
    cells = sum((manifest.imgsz[0] // s) * (manifest.imgsz[1] // s) for s in (8, 16, 32))
    outputs: list[dict[str, Any]] = []
    for role in dict.fromkeys(o.role for o in manifest.outputs):
        tensors = sorted((o for o in manifest.outputs if o.role == role), key=lambda o: o.stride or 0)
        outputs.append(_split(role, tensors, manifest, cells) if tensors[0].stride else _whole(tensors[0], manifest))
    return {
        "schema_version": 2,
        "decoder_version": "yolov8",  # what needs suppression, of whatever family
        "nms": "class_aware",
        "input": {
            "shape": list(manifest.input.shape),
            "dshape": _named(manifest.input, "num_features"),
            "cameraadaptor": "rgb",
        },
        "outputs": outputs,
    }


def _split(role: str, tensors: list[Output], manifest: Manifest, cells: int) -> dict[str, Any]:
    """One logical output that consists of a map for each stride."""
    channels = 4 if role == "box" else tensors[0].channels
    name = "box_coords" if role == "box" else _CHANNELS[role]
    about: dict[str, Any] = {"name": _TYPES[role], "type": _TYPES[role], "decoder": "ultralytics"}
    about |= {"shape": [1, channels, cells], "dshape": [{"batch": 1}, {name: channels}, {"num_boxes": cells}]}
    if role == "box":
        about |= {"encoding": "dfl" if manifest.reg_max > 1 else "direct", "normalized": True}
    if role == "score":
        about |= {"score_format": "per_class", "activation_required": "sigmoid"}
    inner = name if role == "box" and manifest.reg_max == 1 else _CHANNELS[role]
    parts = [
        {**_tensor(o, inner), "type": _TYPES[role], "stride": o.stride, "scale_index": i} for i, o in enumerate(tensors)
    ]
    return {**about, "outputs": parts}


def _whole(o: Output, manifest: Manifest) -> dict[str, Any]:
    """One logical output that is a tensor of the file."""
    if o.role == "proto":
        return {**_tensor(o, _CHANNELS["proto"]), "type": "protos", "stride": 4}
    channels = "box_coords" if o.role == "box" else _CHANNELS.get(o.role, "num_features")
    about = {**_tensor(o, channels), "type": _TYPES[o.role], "decoder": "ultralytics"}
    if o.role in ("box", "prediction"):
        about["normalized"] = manifest.normalized_boxes
    if o.role == "box":
        about["encoding"] = "direct"
    if o.role == "score":
        about |= {"score_format": "per_class", "activation_applied": "sigmoid"}
    return about


def _tensor(o: Output, channels: str) -> dict[str, Any]:
    scale, zero_point = (1.0, 0) if o.scale is None else (o.scale, o.zero_point)
    step = {"scale": scale, "zero_point": zero_point, "dtype": o.dtype}
    return {"name": o.name, "shape": list(o.shape), "dshape": _named(o, channels), "dtype": o.dtype, "quantization": step}


def _named(o: Tensor, channels: str) -> list[dict[str, int]]:
    """The dimensions with their names, in order."""
    places = ["num_boxes"] if len(o.shape) == 3 else ["height", "width"]
    names = ["batch", channels, *places] if o.layout == "nchw" else ["batch", *places, channels]
    return [{name: size} for name, size in zip(names, o.shape)]


def _line(name: str) -> str:
    return " ".join(name.split()) or "_"
