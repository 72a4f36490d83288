"""ONNX -> Keras, operator by operator: feature maps channels last, convolutions as layers that own their weights.

General converters guess the layout of every tensor and pay with transpositions and a minute of trial runs. What our own
networks are made of is little, so that here each operator has one rule, and another operator is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import onnx
from keras import layers, ops
from onnx import numpy_helper

from edgeseg.errors import EdgesegError

#: NCHW axis -> axis of the same tensor channels last.
_LAST = {0: 0, 1: 3, 2: 1, 3: 2}
_TO_LAST, _TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
_HINT = "Export from the checkpoint (.pt)"


@dataclass(frozen=True)
class Value:
    """A tensor of the graph. ``last``: its four axes are channels last, where ONNX has them channels first."""

    tensor: Any
    last: bool = False

    @property
    def plain(self) -> Any:
        """The tensor with its axes as in ONNX."""
        return ops.transpose(self.tensor, _TO_FIRST) if self.last else self.tensor

    @property
    def map(self) -> Any:
        """The tensor channels last, as far as it has four axes."""
        return self.tensor if self.last or len(self.tensor.shape) != 4 else ops.transpose(self.tensor, _TO_LAST)


class Builder:
    """Builds one Keras model from an ONNX graph of static shapes; its input is (N, 3, H, W) there and (N, H, W, 3) here."""

    def __init__(self, model: onnx.ModelProto, batch: int, size: tuple[int, int]) -> None:
        graph = model.graph
        self._graph = graph
        self._constants = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
        self._values: dict[str, Value] = {}
        (entry,) = (i for i in graph.input if i.name not in self._constants)
        self._input = keras.Input(batch_shape=(batch, *size, 3), name=entry.name)
        self._values[entry.name] = Value(self._input, last=True)

    def build(self) -> keras.Model:
        """The model, its outputs in the order of the ONNX graph.

        Raises:
            EdgesegError: an operator, or a use of one, that none of our networks has.
        """
        for node in self._graph.node:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type == "Constant":
                self._constants[node.output[0]] = numpy_helper.to_array(attributes["value"])
                continue
            rule = _RULES.get(node.op_type)
            if rule is None:
                raise EdgesegError(f"the ONNX operator {node.op_type} ({node.name}) cannot be converted", hint=_HINT)
            made = rule(self, node, attributes)
            for name, value in zip(node.output, made if isinstance(made, list) else [made]):
                self._values[name] = value
        outputs = [self._values[o.name] for o in self._graph.output]
        # An output that another operator reads too would otherwise lose its own name.
        return keras.Model(self._input, [v.tensor for v in outputs], name="network")

    def value(self, name: str) -> Value:
        """The tensor called ``name``."""
        return self._values[name]

    def map(self, node: onnx.NodeProto, index: int = 0) -> Any:
        """An input that must be a feature map, channels last."""
        value = self._values.get(node.input[index])
        if value is None or len(value.tensor.shape) != 4:
            raise _cannot(node, "its input is no feature map")
        return value.map

    def constant(self, node: onnx.NodeProto, index: int) -> np.ndarray | None:
        """An input that must be a constant, None where it is left out."""
        name = node.input[index] if len(node.input) > index else ""
        if not name:
            return None
        if name not in self._constants:
            raise _cannot(node, f"its input {name} is no constant")
        return self._constants[name]

    def is_constant(self, name: str) -> bool:
        """Whether ``name`` is a constant."""
        return name in self._constants


def _cannot(node: onnx.NodeProto, why: str) -> EdgesegError:
    return EdgesegError(f"the ONNX operator {node.op_type} ({node.name}) cannot be converted: {why}", hint=_HINT)


Attributes = Mapping[str, Any]
Made = Value | list[Value]


def _conv(b: Builder, node: onnx.NodeProto, a: Attributes) -> Value:
    kernel, bias, x = b.constant(node, 1), b.constant(node, 2), b.map(node)
    if kernel is None:
        raise _cannot(node, "it has no kernel")
    filters, _, *size = kernel.shape
    strides, dilations = list(a.get("strides", [1, 1])), list(a.get("dilations", [1, 1]))
    top, left, bottom, right = a.get("pads", [0, 0, 0, 0])
    # TensorFlow's SAME pads evenly, as ONNX does, only where nothing is skipped.
    even = [top, left, bottom, right] == [(k - 1) // 2 * d for k, d in zip(size, dilations)] * 2 and all(k % 2 for k in size)
    same = strides == [1, 1] and even
    if not same and any((top, left, bottom, right)):
        x = layers.ZeroPadding2D(((top, bottom), (left, right)))(x)
    groups, usual = int(a.get("group", 1)), {"strides": strides, "dilation_rate": dilations, "use_bias": bias is not None}
    usual["padding"] = "same" if same else "valid"
    if groups == filters == x.shape[-1]:
        layer, order = layers.DepthwiseConv2D(size, **usual), (2, 3, 0, 1)
    else:
        layer, order = layers.Conv2D(filters, size, groups=groups, **usual), (2, 3, 1, 0)
    made = layer(x)
    layer.set_weights([kernel.transpose(order), *([] if bias is None else [bias])])
    return Value(made, last=True)


def _conv_transpose(b: Builder, node: onnx.NodeProto, a: Attributes) -> Value:
    kernel, bias = b.constant(node, 1), b.constant(node, 2)
    strides = list(a.get("strides", [1, 1]))
    if kernel is None or any(a.get("pads", [0])) or a.get("group", 1) != 1 or list(kernel.shape[2:]) != strides:
        raise _cannot(node, "kernel and stride differ, or it pads")
    layer = layers.Conv2DTranspose(kernel.shape[1], kernel.shape[2:], strides=strides, use_bias=bias is not None)
    made = layer(b.map(node))
    layer.set_weights([kernel.transpose(2, 3, 1, 0), *([] if bias is None else [bias])])
    return Value(made, last=True)


def _max_pool(b: Builder, node: onnx.NodeProto, a: Attributes) -> Value:
    size, strides = list(a["kernel_shape"]), list(a.get("strides", [1, 1]))
    if strides != [1, 1] or list(a.get("pads", [0, 0, 0, 0])) != [(k - 1) // 2 for k in size] * 2:
        raise _cannot(node, "only windows of stride 1 that keep the size are")
    return Value(layers.MaxPooling2D(size, strides=1, padding="same")(b.map(node)), last=True)


def _resize(b: Builder, node: onnx.NodeProto, a: Attributes) -> Value:
    scales = b.constant(node, 2)
    exact = [] if scales is None else [float(s) for s in scales]
    factor = [int(s) for s in exact]
    if a.get("mode") != b"nearest" or factor[:2] != [1, 1] or factor != exact:
        raise _cannot(node, "only nearest neighbours with whole factors are")
    tensor = b.map(node)
    size = [int(n) * f for n, f in zip(tensor.shape[1:3], factor[2:])]
    # The layer UpSampling2D tiles instead, which costs TF.js an eighth of the network's time.
    return Value(ops.image.resize(tensor, size, interpolation="nearest", data_format="channels_last"), last=True)


def _elementwise(function: Callable[[Any, Any], Any]) -> Callable[[Builder, onnx.NodeProto, Attributes], Value]:
    def rule(b: Builder, node: onnx.NodeProto, a: Attributes) -> Value:
        del a
        known = [b.value(n) for n in node.input if not b.is_constant(n)]
        last = any(v.last for v in known) and all(len(v.tensor.shape) == 4 for v in known)
        both = [_side(b, n, last) for n in node.input]
        return Value(function(*both), last=last)

    return rule


def _side(b: Builder, name: str, last: bool) -> Any:
    if not b.is_constant(name):
        return b.value(name).map if last else b.value(name).plain
    array = b._constants[name]
    if array.size == 1:
        return float(array.reshape(()))
    return array.transpose(_TO_LAST) if last and array.ndim == 4 else array


def _unary(function: Callable[[Any], Any]) -> Callable[[Builder, onnx.NodeProto, Attributes], Value]:
    def rule(b: Builder, node: onnx.NodeProto, a: Attributes) -> Value:
        del a
        value = b.value(node.input[0])
        return Value(function(value.tensor), last=value.last)

    return rule


def _hard_sigmoid(b: Builder, node: onnx.NodeProto, a: Attributes) -> Value:
    if abs(a.get("alpha", 0.2) - 1 / 6) > 1e-6 or a.get("beta", 0.5) != 0.5:
        raise _cannot(node, "only the slope 1/6 is")
    return _unary(ops.hard_sigmoid)(b, node, a)


def _clip(b: Builder, node: onnx.NodeProto, a: Attributes) -> Value:
    low, high = b.constant(node, 1), b.constant(node, 2)
    if low is None or high is None:
        raise _cannot(node, "it has no bounds")
    return _unary(lambda x: ops.clip(x, float(low), float(high)))(b, node, a)


def _axis(value: Value, axis: int) -> int:
    axis %= len(value.tensor.shape)
    return _LAST[axis] if value.last else axis


def _concat(b: Builder, node: onnx.NodeProto, a: Attributes) -> Value:
    values = [b.value(n) for n in node.input]
    if not all(v.last for v in values):
        values = [Value(v.plain) for v in values]
    return Value(layers.Concatenate(axis=_axis(values[0], int(a["axis"])))([v.tensor for v in values]), last=values[0].last)


def _slice(b: Builder, node: onnx.NodeProto, a: Attributes) -> Value:
    del a
    value = b.value(node.input[0])
    starts, ends, axes, steps = (b.constant(node, i) for i in range(1, 5))
    if starts is None or ends is None:
        raise _cannot(node, "it has no bounds")
    rank = len(value.tensor.shape)
    index = [slice(None)] * rank
    along = range(len(starts)) if axes is None else [int(n) for n in axes]
    for i, axis in enumerate(along):
        step = 1 if steps is None else int(steps[i])
        whole = int(value.tensor.shape[_axis(value, axis)])
        start, end, step = slice(int(starts[i]), int(ends[i]), step).indices(whole)
        index[_axis(value, axis)] = slice(start, end, step)
    return Value(value.tensor[tuple(index)], last=value.last)


def _split(b: Builder, node: onnx.NodeProto, a: Attributes) -> list[Value]:
    value, sizes = b.value(node.input[0]), b.constant(node, 1)
    axis = _axis(value, int(a.get("axis", 0)))
    cuts = len(node.output) if sizes is None else [int(n) for n in np.cumsum(sizes)[:-1]]
    return [Value(t, last=value.last) for t in ops.split(value.tensor, cuts, axis=axis)]


def _reshape(b: Builder, node: onnx.NodeProto, a: Attributes) -> Value:
    shape, tensor = b.constant(node, 1), b.value(node.input[0]).plain
    if shape is None or a.get("allowzero", 0):
        raise _cannot(node, "its shape is not fixed")
    return Value(ops.reshape(tensor, [int(tensor.shape[i]) if n == 0 else int(n) for i, n in enumerate(shape)]))


def _transpose(b: Builder, node: onnx.NodeProto, a: Attributes) -> Value:
    return Value(ops.transpose(b.value(node.input[0]).plain, [int(n) for n in a["perm"]]))


def _softmax(b: Builder, node: onnx.NodeProto, a: Attributes) -> Value:
    value = b.value(node.input[0])
    return Value(ops.softmax(value.tensor, axis=_axis(value, int(a.get("axis", -1)))), last=value.last)


def _reduce_sum(b: Builder, node: onnx.NodeProto, a: Attributes) -> Value:
    axes, tensor = b.constant(node, 1), b.value(node.input[0]).plain
    axis: Sequence[int] | None = a.get("axes") if axes is None else [int(n) for n in axes]
    return Value(ops.sum(tensor, axis=None if axis is None else tuple(axis), keepdims=bool(a.get("keepdims", 1))))


def _matmul(b: Builder, node: onnx.NodeProto, a: Attributes) -> Value:
    del a
    return Value(ops.matmul(*(b.value(n).plain for n in node.input)))


_RULES: dict[str, Callable[[Builder, onnx.NodeProto, Attributes], Made]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _max_pool,
    "Resize": _resize,
    "Add": _elementwise(ops.add),
    "Sub": _elementwise(ops.subtract),
    "Mul": _elementwise(ops.multiply),
    "Div": _elementwise(ops.divide),
    "Sigmoid": _unary(ops.sigmoid),
    "Relu": _unary(ops.relu),
    "HardSwish": _unary(ops.hard_swish),
    "HardSigmoid": _hard_sigmoid,
    "Clip": _clip,
    "Identity": _unary(lambda x: x),
    "Concat": _concat,
    "MatMul": _matmul,
    "Slice": _slice,
    "Split": _split,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Softmax": _softmax,
    "ReduceSum": _reduce_sum,
}
