"""ncnn's text graph and its weights: read, and written with int8 convolutions.

The graph is a text of one layer a line; the weights follow one another in a binary file in the order of the layers. A weight
begins with a tag that names its type; a bias has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from edgeseg.errors import EdgesegError

MAGIC = "7767517"
FLOAT32, INT8 = 0, 0x000D4B38
#: Number of a convolution's parameter that says that weights are int8, and the value that stands for one scale a channel.
INT8_TERM, PER_CHANNEL = 8, 2
_ARRAYS = -23300
_WEIGHTED = ("Convolution", "ConvolutionDepthWise", "Deconvolution")

Value = tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Layer:
    """One line of the graph; ``params`` maps a parameter's number to its words (several for an array)."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    params: Mapping[int, Value] = field(default_factory=dict)
    weight: np.ndarray | None = None
    bias: np.ndarray | None = None

    def number(self, key: int, default: int = 0) -> int:
        """A whole number among the parameters."""
        return int(self.params[key][0]) if key in self.params else default

    def line(self) -> str:
        """The layer as it stands in the file."""
        words = []
        for key, values in self.params.items():
            array = key <= _ARRAYS
            words.append(f"{key}={','.join([str(len(values)), *values]) if array else values[0]}")
        blobs = [str(len(self.inputs)), str(len(self.outputs)), *self.inputs, *self.outputs]
        return f"{self.kind:<24} {self.name:<24} {' '.join([*blobs, *words])}"


def read(text: str, content: bytes) -> list[Layer]:
    """The layers of a float32 network.

    Raises:
        EdgesegError: not ncnn's, or it holds weights that are not float32, or of layers that are no convolutions.
    """
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if not lines or lines[0] != [MAGIC]:
        raise EdgesegError("this is no ncnn graph", hint="Export the model again")
    layers, at = [], 0
    for kind, name, n, m, *words in lines[2:]:
        count = int(n) + int(m)
        params: dict[int, Value] = {}
        for word in words[count:]:
            key, _, value = word.partition("=")
            values = tuple(value.split(","))
            params[int(key)] = values[1:] if int(key) <= _ARRAYS else values
        layer = Layer(kind, name, tuple(words[: int(n)]), tuple(words[int(n) : count]), params)
        if kind in _WEIGHTED:
            layer, at = _weights(layer, content, at)
        layers.append(layer)
    if at != len(content):
        raise EdgesegError(f"{len(content) - at} bytes of ncnn's weights belong to no convolution")
    return layers


def _weights(layer: Layer, content: bytes, at: int) -> tuple[Layer, int]:
    size, outputs = layer.number(6), layer.number(0)
    if int.from_bytes(content[at : at + 4], "little") != FLOAT32 or layer.number(INT8_TERM):
        raise EdgesegError(f"the weights of {layer.name} are not float32: only those can be quantized")
    weight = np.frombuffer(content, "<f4", size, at + 4)
    at += 4 + 4 * size
    bias = np.zeros(outputs, np.float32)
    if layer.number(5):
        bias = np.frombuffer(content, "<f4", outputs, at)
        at += 4 * outputs
    height, width = layer.number(11, layer.number(1)), layer.number(1)
    return replace(layer, weight=weight.reshape(outputs, -1, height, width), bias=bias), at


def pack(layers: Sequence[Layer], scales: Mapping[str, tuple[np.ndarray, float]]) -> tuple[str, bytes]:
    """Text and weights of a network.

    Args:
        layers: the layers, with weights and biases as they should be.
        scales: for each convolution that runs in integers, by its output blob: the steps of the output channels and
            that of its input. ncnn stores their reciprocals.
    """
    lines, parts = [], []
    for layer in layers:
        found = scales.get(layer.outputs[0])
        if layer.weight is not None and layer.bias is not None:
            if found is None:
                parts += [FLOAT32.to_bytes(4, "little"), np.asarray(layer.weight, "<f4").tobytes()]
            else:
                layer = replace(layer, params={**layer.params, INT8_TERM: (str(PER_CHANNEL),)})
                values = np.clip(np.rint(layer.weight / found[0].reshape(-1, 1, 1, 1)), -127, 127).astype(np.int8)
                parts += [INT8.to_bytes(4, "little"), values.tobytes(), b"\0" * (-values.size % 4)]
            if layer.number(5):
                parts.append(np.asarray(layer.bias, "<f4").tobytes())
            if found is not None:
                parts += [(1 / found[0]).astype("<f4").tobytes(), np.array([1 / found[1]], "<f4").tobytes()]
        lines.append(layer.line())
    blobs = sum(len(layer.outputs) for layer in layers)
    return "\n".join([MAGIC, f"{len(layers)} {blobs}", *lines]) + "\n", b"".join(parts)
