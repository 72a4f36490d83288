"""Weights of a TF.js graph model made smaller: half floats, or 8-bit integers with one scale per output channel.

TF.js turns both back into floats when it loads the model, so the arithmetic stays float. Its own quantization knows one
scale per tensor, which costs YOLOv8n-seg every eighth detection. Here integers are stored with scale 1, and the graph gets
a multiplication by the channels' scales: a few million products an image, against billions in the convolutions.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

# Browsers cache files of up to 4 MB; the official converter cuts there too.
SHARD = 4 << 20
#: Axis of the output channels in the kernel of each operator (TensorFlow's HWIO, and HWOI where it is transposed).
KERNELS = {"_FusedConv2D": 3, "Conv2D": 3, "Conv2DBackpropInput": 2}
_LEVELS = 127
# Strings in the JSON of a graph are base64.
_NHWC, _VALID = (base64.b64encode(word).decode() for word in (b"NHWC", b"VALID"))


@dataclass
class Model:
    """A graph model: ``model.json`` and its weights by name. ``stored`` says how a weight is kept that is not as it is."""

    json: dict[str, Any]
    weights: dict[str, np.ndarray]
    stored: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def nodes(self) -> list[dict[str, Any]]:
        """The graph's nodes."""
        nodes: list[dict[str, Any]] = self.json["modelTopology"]["node"]
        return nodes

    def kernels(self) -> dict[str, int]:
        """Names of the convolutions' kernels that are weights, with the axis of their output channels."""
        found = {n["input"][1]: KERNELS[n["op"]] for n in self.nodes if n["op"] in KERNELS}
        return {name: axis for name, axis in found.items() if name in self.weights}


def read(folder: Path) -> Model:
    """Read a model whose weights are float32 and int32, as the converter writes them."""
    content = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    weights, offset = {}, 0
    group = content["weightsManifest"][0]
    data = b"".join((folder / p).read_bytes() for p in group["paths"])
    for w in group["weights"]:
        count = int(np.prod(w["shape"], dtype=np.int64))
        weights[w["name"]] = np.frombuffer(data, np.dtype(w["dtype"]), count, offset).reshape(w["shape"])
        offset += weights[w["name"]].nbytes
    return Model(content, weights)


def write(model: Model, folder: Path) -> None:
    """Write the model in place of the one that is there."""
    for old in model.json["weightsManifest"][0]["paths"]:
        (folder / old).unlink(missing_ok=True)
    entries, parts = [], []
    for name, value in model.weights.items():
        entry: dict[str, Any] = {"name": name, "shape": list(value.shape), "dtype": str(value.dtype)}
        if name in model.stored:
            entry |= {"dtype": "float32", "quantization": dict(model.stored[name])}
        entries.append(entry)
        parts.append(value.tobytes())
    data = b"".join(parts)
    cuts = range(0, max(len(data), 1), SHARD)
    paths = [f"group1-shard{i}of{len(cuts)}.bin" for i in range(1, len(cuts) + 1)]
    for name, start in zip(paths, cuts):
        (folder / name).write_bytes(data[start : start + SHARD])
    model.json["weightsManifest"] = [{"paths": paths, "weights": entries}]
    (folder / "model.json").write_text(json.dumps(model.json, separators=(",", ":")), encoding="utf-8")


def unfold(model: Model) -> int:
    """Turn transposed convolutions whose windows do not overlap into pointwise ones and DepthToSpace; how many there were.

    The kernel of TF.js for the former took a sixth of the time of the whole YOLOv8n-seg (WebAssembly).
    """
    count = 0
    for node in [n for n in model.nodes if n["op"] == "Conv2DBackpropInput"]:
        _, name, source = node["input"][:3]
        kernel = model.weights.get(name)
        strides = [int(n) for n in node["attr"]["strides"]["list"]["i"]]
        if kernel is None or strides != [1, kernel.shape[0], kernel.shape[1], 1] or strides[1] != strides[2]:
            continue
        block, _, filters, channels = kernel.shape
        # (row, column, out, in) -> (in, row, column, out): DepthToSpace spreads channels in this order.
        flat = np.ascontiguousarray(kernel.transpose(3, 0, 1, 2).reshape(1, 1, channels, block * block * filters))
        model.weights[name] = flat
        made = f"{node['name']}/pointwise"
        kind, ones = {"type": "DT_FLOAT"}, {"list": {"i": ["1", "1", "1", "1"]}}
        same = {"T": kind, "data_format": {"s": _NHWC}}
        attributes = {**same, "strides": ones, "dilations": ones, "padding": {"s": _VALID}}
        model.nodes.append({"name": made, "op": "Conv2D", "input": [source, name], "attr": attributes})
        node.update(op="DepthToSpace", input=[made], attr={**same, "block_size": {"i": str(block)}})
        count += 1
    return count


def halve(model: Model) -> int:
    """Store the kernels as half floats; the number of weights stored so."""
    for name in model.kernels():
        model.weights[name] = model.weights[name].astype(np.float16)
        model.stored[name] = {"dtype": "float16", "original_dtype": "float32"}
    return sum(model.weights[name].size for name in model.stored)


def quantize(model: Model, *, per_channel: bool = True) -> int:
    """Store the kernels as 8-bit integers, symmetric around zero; the number of weights stored so.

    A channel's largest weight becomes 127. Narrower ranges with less squared error were tried: they find no more.
    """
    count = 0
    for name, axis in model.kernels().items():
        kernel = model.weights.pop(name)
        scale, integers = _round(kernel, axis if per_channel else None)
        # Stored unsigned: q * 1 - 127 is an integer that float32 holds exactly.
        model.weights[f"{name}/integers"] = (integers + _LEVELS).astype(np.uint8)
        model.stored[f"{name}/integers"] = {
            "dtype": "uint8",
            "min": -float(_LEVELS),
            "scale": 1.0,
            "original_dtype": "float32",
        }
        model.weights[f"{name}/scale"] = scale
        node = next(n for n in model.nodes if n["name"] == name)
        shapes = {f"{name}/integers": kernel.shape, f"{name}/scale": scale.shape}
        model.nodes.extend(_constant(n, shape) for n, shape in shapes.items())
        node.update(op="Mul", input=list(shapes), attr={"T": {"type": "DT_FLOAT"}})
        count += kernel.size
    return count


def _round(kernel: np.ndarray, axis: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Scales, shaped to be multiplied with the kernel, and integers in -127..127."""
    rest = tuple(i for i in range(kernel.ndim) if i != axis)
    largest = np.maximum(np.abs(kernel).max(rest, keepdims=True), np.float32(1e-12))
    scale = (largest / _LEVELS).astype(np.float32)
    return scale, np.clip(np.round(kernel / scale), -_LEVELS, _LEVELS)


def _constant(name: str, shape: tuple[int, ...]) -> dict[str, Any]:
    sides = [{"size": str(n)} for n in shape]
    value = {"tensor": {"dtype": "DT_FLOAT", "tensorShape": {"dim": sides}}}
    return {"name": name, "op": "Const", "attr": {"dtype": {"type": "DT_FLOAT"}, "value": value}}
