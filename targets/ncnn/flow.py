"""ncnn's text graph and its weights: read, seen as a ``Flow``, and written with int8 convolutions.

The graph is a text of one layer a line; the weights follow one another in a binary file in the order of the layers. A weight
begins with a tag that names its type; a bias has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from edgeseg.errors import EdgesegError
from edgeseg.quantize.flow import Flow, Node

MAGIC = "7767517"
FLOAT32, INT8 = 0, 0x000D4B38
#: Number of a convolution's parameter that says that weights are int8, and the value that stands for one scale a channel.
INT8_TERM, PER_CHANNEL = 8, 2
EVENLY = -233
#: The first convolutions, of which each reads the one before only.
STEM = 3
_ARRAYS = -23300
_WEIGHTED = ("Convolution", "Deconvolution")
_PLAIN = ("Swish", "Sigmoid", "Split", "Slice", "Concat", "BinaryOp", "Pooling", "Interp", "Input")

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
        EdgesegError: not ncnn's, or it holds layers or weights of a kind that the quantizer does not know.
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
        elif kind not in _PLAIN:
            raise EdgesegError(f"the quantizer does not know ncnn's layer {kind} ({name})", hint="Export with head=raw")
        layers.append(layer)
    if at != len(content):
        raise EdgesegError(f"{len(content) - at} bytes of ncnn's weights belong to no layer")
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


def as_flow(layers: Sequence[Layer], imgsz: tuple[int, int], outputs: Sequence[str], roles: Sequence[str]) -> Flow:
    """The layers as a ``Flow`` whose tensors are blobs; blobs that ``Split`` copies go by the name of the first.

    What ncnn keeps in float is marked: all but the copies that its convolutions read.
    """
    same: dict[str, str] = {}
    shapes: dict[str, tuple[int, int, int]] = {}
    nodes: list[Node] = []
    source = ""
    for layer in layers:
        inputs = tuple(same.get(b, b) for b in layer.inputs)
        if layer.kind == "Input":
            source = layer.outputs[0]
            shapes[source] = (3, *imgsz)
        elif layer.kind == "Split":
            same.update(dict.fromkeys(layer.outputs, inputs[0]))
        else:
            nodes += _nodes(layer, inputs, shapes)
    every = {source, *(n.output for n in nodes)}
    floating = frozenset(n.output for n in nodes if n.kind == "deconv")
    # Of an image's 255 steps the symmetric grid would keep 127, and the noise of the stem reaches everything: rounding the
    # inputs of its second and third convolution alone costs scores 1.7 dB and prototypes 2.8 dB. Stem and last convolutions
    # are 3 and 2 % of the work; what is rounded just before the last is averaged by nothing any more.
    convolutions = [n for n in nodes if n.kind == "conv"]
    floating |= {n.output for n in convolutions if n.output in outputs} | {n.output for n in convolutions[:STEM]}
    channels = {name: shapes[name][0] for name in every}
    nodes = _with_copies(nodes, floating, channels)
    return Flow(tuple(nodes), source, tuple(outputs), tuple(roles), channels, frozenset(every), floating, symmetric=True)


def _with_copies(nodes: Sequence[Node], floating: frozenset[str], channels: dict[str, int]) -> list[Node]:
    """The nodes with a copy before every convolution in integers: it rounds what it reads for itself, sums and joined
    tensors get the float values, and no two tensors need the same scale."""
    made: list[Node] = []
    copies: dict[str, str] = {}
    for n in nodes:
        if n.kind == "conv" and n.output not in floating:
            blob = n.inputs[0]
            if blob not in copies:
                copies[blob] = f"{blob} rounded"
                channels[copies[blob]] = channels[blob]
                made.append(Node("copy", (blob,), copies[blob]))
            n = replace(n, inputs=(copies[blob],))
        made.append(n)
    return made


def _unknown(layer: Layer, what: str) -> EdgesegError:
    return EdgesegError(f"ncnn's layer {layer.name} ({layer.kind}) {what}, which the quantizer does not know")


def _nodes(layer: Layer, inputs: tuple[str, ...], shapes: dict[str, tuple[int, int, int]]) -> list[Node]:
    """One layer as nodes of a flow; writes the shapes (channels, height, width) of its outputs."""
    output, (c, h, w) = layer.outputs[0], shapes[inputs[0]]
    if layer.kind in ("Swish", "Sigmoid"):
        gate = f"{output}/sigmoid" if layer.kind == "Swish" else output
        shapes[gate] = shapes[output] = (c, h, w)
        made = [Node("sigmoid", inputs, gate)]
        return made if layer.kind == "Sigmoid" else [*made, Node("mul", (inputs[0], gate), output)]
    if layer.kind == "BinaryOp":
        if layer.number(0) not in (0, 2) or len(inputs) != 2:
            raise _unknown(layer, "neither adds nor multiplies")
        shapes[output] = (c, h, w)
        return [Node("add" if layer.number(0) == 0 else "mul", inputs, output)]
    if layer.kind == "Concat":
        if layer.number(0):
            raise _unknown(layer, "joins along another axis than the channels")
        shapes[output] = (sum(shapes[b][0] for b in inputs), h, w)
        return [Node("concat", inputs, output)]
    if layer.kind == "Slice":
        return _slices(layer, inputs, shapes)
    if layer.kind == "Interp":
        if layer.number(0) != 1 or 3 in layer.params:
            raise _unknown(layer, "interpolates or has a fixed size")
        size = tuple(round(n * float(layer.params.get(k, ("1",))[0])) for n, k in ((h, 1), (w, 2)))
        shapes[output] = (c, size[0], size[1])
        return [Node("resize", inputs, output, {"size": size})]
    kernel = layer.number(11, layer.number(1)), layer.number(1)
    if layer.kind == "Pooling":
        stride = layer.number(12, layer.number(2, 1)), layer.number(2, 1)
        left = layer.number(3)
        pad = layer.number(13, left), left, layer.number(15, layer.number(13, left)), layer.number(14, left)
        if layer.number(0) or layer.number(4) or layer.number(5) != 1:
            raise _unknown(layer, "is no plain maximum")
    else:
        stride = layer.number(13, layer.number(3, 1)), layer.number(3, 1)
        left = layer.number(4)
        pad = layer.number(14, left), left, layer.number(16, layer.number(14, left)), layer.number(15, left)
        if layer.number(2, 1) != 1 or layer.number(12, 1) != 1 or layer.number(9):
            raise _unknown(layer, "is dilated or has an activation of its own")
    if layer.kind == "Deconvolution":
        if any(pad) or kernel != stride or layer.weight is None:
            raise _unknown(layer, "has a kernel that is not its stride")
        shapes[output] = (layer.number(0), h * stride[0], w * stride[1])
        weight = np.ascontiguousarray(layer.weight.transpose(1, 0, 2, 3))
        return [Node("deconv", inputs, output, {"stride": stride}, weight, layer.bias)]
    size = ((h + pad[0] + pad[2] - kernel[0]) // stride[0] + 1, (w + pad[1] + pad[3] - kernel[1]) // stride[1] + 1)
    if layer.kind == "Pooling":
        shapes[output] = (c, *size)
        return [Node("maxpool", inputs, output, {"kernel": kernel, "stride": stride, "pad": pad})]
    shapes[output] = (layer.number(0), *size)
    return [Node("conv", inputs, output, {"stride": stride, "pad": pad}, layer.weight, layer.bias)]


def _slices(layer: Layer, inputs: tuple[str, ...], shapes: dict[str, tuple[int, int, int]]) -> list[Node]:
    c, h, w = shapes[inputs[0]]
    counts = [int(v) for v in layer.params.get(_ARRAYS, ())]
    if layer.number(1) or len(counts) != len(layer.outputs):
        raise _unknown(layer, "divides another axis than the channels")
    made, at = [], 0
    for i, (count, output) in enumerate(zip(counts, layer.outputs)):
        count = (c - at) // (len(counts) - i) if count == EVENLY else count
        shapes[output] = (count, h, w)
        made.append(Node("slice", inputs, output, {"begin": at, "count": count}))
        at += count
    return made
