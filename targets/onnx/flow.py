"""A float ONNX graph as a ``Flow``: what the quantizer sees of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from edgeseg.errors import EdgesegError
from edgeseg.manifest import Manifest
from edgeseg.quantize.flow import Flow, Node

_SIMPLE = {"Sigmoid": "sigmoid", "Mul": "mul", "Add": "add", "HardSwish": "hardswish"}


def constants(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    """Values of the initializers and of ``Constant`` nodes, by tensor name."""
    found = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            value = _attributes(node).get("value")
            if isinstance(value, onnx.TensorProto):
                found[node.output[0]] = numpy_helper.to_array(value)
    return found


def read(path: Path, imgsz: tuple[int, int], metadata: Mapping[str, Any] | None = None) -> Flow:
    """The network in a float file with the raw head; ``metadata`` in place of the file's own.

    Raises:
        EdgesegError: no manifest tells the outputs, the head is another one, or an operator is not known.
    """
    import onnxslim

    model = onnx.load(str(path))
    manifest = Manifest.from_metadata(metadata or {p.key: p.value for p in model.metadata_props}, path=str(path))
    if manifest is None or manifest.head != "raw" or manifest.precision != "fp32":
        hint = "Export int8 from the checkpoint (.pt)"
        raise EdgesegError(
            "integers can be decided for float32 files of edgeseg with the raw head only", path=path, hint=hint
        )
    names = [o.name for o in model.graph.output]
    return read_flow(onnxslim.slim(model), imgsz, names, [o.role for o in manifest.outputs])


def read_flow(model: onnx.ModelProto, imgsz: tuple[int, int], outputs: Sequence[str], roles: Sequence[str]) -> Flow:
    """The part of a simplified graph that leads to ``outputs``, as a ``Flow`` for images of ``imgsz``.

    Args:
        model: float32, its only input (N, 3, H, W); batch, height and width may be free or fixed.
        imgsz: (height, width) for which sizes are worked out.
        outputs: names of the tensors where the quantized part ends.
        roles: role of each.

    Raises:
        EdgesegError: an operator, or a form of it, that the quantizer does not know.
    """
    shapes = _shapes(model, imgsz)
    known = constants(model.graph)
    needed = set(outputs)
    chosen: list[onnx.NodeProto] = []
    for node in reversed(model.graph.node):
        if any(o in needed for o in node.output) and node.op_type != "Constant":
            chosen.append(node)
            needed.update(i for i in node.input if i and i not in known)
    nodes: list[Node] = []
    for node in reversed(chosen):
        nodes += _nodes(node, known, shapes)
    names = {model.graph.input[0].name, *(n.output for n in nodes)}
    missing = [name for name in outputs if name not in names]
    if missing:
        raise EdgesegError(f"the graph has no tensor {', '.join(missing)}")
    channels = {name: shapes[name][1] for name in names}
    return Flow(tuple(nodes), model.graph.input[0].name, tuple(outputs), tuple(roles), channels)


def _shapes(model: onnx.ModelProto, imgsz: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors for one image of ``imgsz``."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    for dim, size in zip(bare.graph.input[0].type.tensor_type.shape.dim, (1, 3, *imgsz)):
        dim.Clear()
        dim.dim_value = size
    for value in bare.graph.output:
        value.type.tensor_type.ClearField("shape")
    graph = onnx.shape_inference.infer_shapes(bare, data_prop=True).graph
    every = [*graph.input, *graph.output, *graph.value_info]
    return {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in every}


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def _unknown(node: onnx.NodeProto, what: str) -> EdgesegError:
    return EdgesegError(f"{node.op_type} {node.name or node.output[0]} {what}, which the quantizer does not know")


def _nodes(node: onnx.NodeProto, known: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]]) -> list[Node]:
    """One ONNX node as nodes of a flow (a ``Split`` becomes several)."""
    a, output = _attributes(node), node.output[0]
    x = tuple(i for i in node.input if i and i not in known)
    if node.op_type in _SIMPLE:
        if len(x) != len(node.input):
            raise _unknown(node, "has a constant operand")
        return [Node(_SIMPLE[node.op_type], x, output)]
    if node.op_type == "Clip":
        limits = [known[i].ravel().tolist() if i in known else None for i in node.input[1:]]
        if limits != [[0.0], [6.0]]:
            raise _unknown(node, "clips to something else than 0..6")
        return [Node("relu6", x, output)]
    if node.op_type in ("Conv", "ConvTranspose"):
        return [_convolution(node, a, known)]
    if node.op_type == "Concat":
        if a["axis"] not in (1, -3):
            raise _unknown(node, "joins along another axis than the channels")
        return [Node("concat", x, output)]
    if node.op_type == "Slice":
        begin, end = (int(known[node.input[i]].ravel()[0]) for i in (1, 2))
        axes = known[node.input[3]].ravel().tolist() if len(node.input) > 3 else [0]
        steps = known[node.input[4]].ravel().tolist() if len(node.input) > 4 else [1]
        total = shapes[x[0]][1]
        if axes not in ([1], [-3]) or steps != [1]:
            raise _unknown(node, "takes something else than a row of channels")
        begin, end, _ = slice(begin, end).indices(total)
        return [Node("slice", x, output, {"begin": begin, "count": end - begin})]
    if node.op_type == "Split":
        if a.get("axis", 0) not in (1, -3):
            raise _unknown(node, "divides another axis than the channels")
        made, at = [], 0
        for name in node.output:
            count = shapes[name][1]
            made.append(Node("slice", x, name, {"begin": at, "count": count}))
            at += count
        return made
    if node.op_type == "MaxPool":
        if a.get("ceil_mode") or set(a.get("dilations", [1])) != {1}:
            raise _unknown(node, "rounds up or is dilated")
        pad = tuple(a.get("pads", (0, 0, 0, 0)))
        return [Node("maxpool", x, output, {"kernel": a["kernel_shape"], "stride": a.get("strides", [1, 1]), "pad": pad})]
    if node.op_type == "Resize":
        if a.get("mode", b"nearest") != b"nearest":
            raise _unknown(node, "interpolates")
        return [Node("resize", x, output, {"size": shapes[output][2:]})]
    raise _unknown(node, "is an operator")


def _convolution(node: onnx.NodeProto, a: dict[str, Any], known: dict[str, np.ndarray]) -> Node:
    weight = known[node.input[1]]
    kind = "conv" if node.op_type == "Conv" else "deconv"
    outputs = weight.shape[0] if kind == "conv" else weight.shape[1]
    bias = known[node.input[2]] if len(node.input) > 2 else np.zeros(outputs, np.float32)
    pad, stride = tuple(a.get("pads", (0, 0, 0, 0))), tuple(a.get("strides", (1, 1)))
    if a.get("group", 1) != 1 or set(a.get("dilations", [1])) != {1}:
        raise _unknown(node, "is grouped or dilated")
    if kind == "deconv" and (any(pad) or any(a.get("output_padding", [0])) or tuple(weight.shape[2:]) != stride):
        raise _unknown(node, "has a kernel that is not its stride")
    return Node(kind, (node.input[0],), node.output[0], {"stride": stride, "pad": pad}, weight, bias)
