"""Operators of Core ML's model intermediate language (MIL) in NumPy, as many as segmentation networks use.

Each takes its arguments by name (tensors and constants alike) and returns one array or a list of them. Half floats are
computed in float32; the evaluator rounds the result to the type that the program declares. Maps are NCHW.
Source: coremltools, "MIL Ops" reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from edgeseg.errors import EdgesegError

Arguments = Mapping[str, Any]
Operator = Callable[[Arguments], "np.ndarray | list[np.ndarray]"]


def wide(x: np.ndarray) -> np.ndarray:
    """Half floats as float32, anything else unchanged."""
    return x.astype(np.float32) if x.dtype == np.float16 else x


def _ints(a: Arguments, key: str, default: Sequence[int]) -> list[int]:
    value = a.get(key)
    return [int(v) for v in (default if value is None else np.atleast_1d(value))]


def _int(a: Arguments, key: str, default: int = 0) -> int:
    return int(np.asarray(a[key]).reshape(-1)[0]) if a.get(key) is not None else default


def _flag(a: Arguments, key: str) -> bool:
    return bool(_int(a, key))


def _padding(a: Arguments, size: Sequence[int], kernel: Sequence[int], stride: Sequence[int]) -> list[tuple[int, int]]:
    """(before, after) of each spatial axis for ``pad_type`` valid, custom, same (the odd pixel after) or same_lower."""
    kind = str(a.get("pad_type", "valid"))
    if kind == "valid":
        return [(0, 0)] * len(size)
    if kind == "custom":
        pad = _ints(a, "pad", [0] * (2 * len(size)))
        return list(zip(pad[::2], pad[1::2]))
    if kind not in ("same", "same_lower"):
        raise EdgesegError(f"the padding {kind!r} is not known")
    found = []
    for n, k, s in zip(size, kernel, stride):
        total = max((-(-n // s) - 1) * s + k - n, 0)
        small = total // 2
        found.append((small, total - small) if kind == "same" else (total - small, small))
    return found


def windows(x: np.ndarray, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> np.ndarray:
    """Every window of a padded map (C, H, W) as a view (C, kh, kw, oh, ow)."""
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation)]
    out = [(n - r) // s + 1 for n, r, s in zip(x.shape[1:], reach, stride)]
    if min(out) < 1:
        raise EdgesegError(f"a kernel that reaches over {reach} does not fit into {list(x.shape[1:])}")
    c, h, w = x.strides
    steps = (c, h * dilation[0], w * dilation[1], h * stride[0], w * stride[1])
    return np.lib.stride_tricks.as_strided(x, (x.shape[0], *kernel, *out), steps, writeable=False)


def conv(a: Arguments) -> np.ndarray:
    """2-D convolution: ``x`` (N, C, H, W), ``weight`` (O, C/groups, kh, kw), ``bias`` (O,) or none."""
    x, weight = wide(a["x"]), wide(a["weight"])
    if x.ndim != 4 or weight.ndim != 4:
        raise EdgesegError(f"only 2-D convolutions are known, not a weight of {weight.ndim} axes")
    kernel, groups = weight.shape[2:], _int(a, "groups", 1)
    stride, dilation = _ints(a, "strides", (1, 1)), _ints(a, "dilations", (1, 1))
    pad = _padding(a, x.shape[2:], [(k - 1) * d + 1 for k, d in zip(kernel, dilation)], stride)
    x = np.pad(x, ((0, 0), (0, 0), *pad)) if any(sum(pad, ())) else np.ascontiguousarray(x)
    each = x.shape[1] // groups
    matrix = weight.reshape(groups, weight.shape[0] // groups, -1)
    images = []
    for image in x:
        parts = []
        for g in range(groups):
            columns = windows(image[g * each : (g + 1) * each], kernel, stride, dilation)
            parts.append((matrix[g] @ columns.reshape(matrix.shape[2], -1)).reshape(-1, *columns.shape[3:]))
        images.append(np.concatenate(parts) if groups > 1 else parts[0])
    return _biased(np.stack(images), a)


def conv_transpose(a: Arguments) -> np.ndarray:
    """Transposed 2-D convolution: ``weight`` (C, O/groups, kh, kw); ``pad`` is cut off, or ``output_shape`` is kept."""
    x, weight = wide(a["x"]), wide(a["weight"])
    if x.ndim != 4 or weight.ndim != 4:
        raise EdgesegError(f"only 2-D convolutions are known, not a weight of {weight.ndim} axes")
    (kh, kw), groups = weight.shape[2:], _int(a, "groups", 1)
    stride, dilation = _ints(a, "strides", (1, 1)), _ints(a, "dilations", (1, 1))
    n, channels, h, w = x.shape
    size = [(m - 1) * s + (k - 1) * d + 1 for m, s, k, d in zip((h, w), stride, (kh, kw), dilation)]
    each, out_each = channels // groups, weight.shape[1]
    out = np.zeros((n, groups * out_each, *size), np.float32)
    for g in range(groups):
        matrix = weight[g * each : (g + 1) * each].reshape(each, -1).T
        columns = matrix @ x[:, g * each : (g + 1) * each].reshape(n, each, h * w)
        columns = columns.reshape(n, out_each, kh, kw, h, w)
        part = out[:, g * out_each : (g + 1) * out_each]
        for i in range(kh):
            for j in range(kw):
                top, left = i * dilation[0], j * dilation[1]
                rows = slice(top, top + (h - 1) * stride[0] + 1, stride[0])
                part[:, :, rows, left : left + (w - 1) * stride[1] + 1 : stride[1]] += columns[:, :, i, j]
    return _biased(_cut(out, a), a)


def _cut(full: np.ndarray, a: Arguments) -> np.ndarray:
    if a.get("output_shape") is not None:
        want = _ints(a, "output_shape", ())[-2:]
    elif str(a.get("pad_type", "valid")) == "custom":
        pad = _ints(a, "pad", (0, 0, 0, 0))
        return full[:, :, pad[0] : full.shape[2] - pad[1], pad[2] : full.shape[3] - pad[3]]
    elif str(a.get("pad_type", "valid")) == "valid":
        return full
    else:
        want = [n * s for n, s in zip(a["x"].shape[2:], _ints(a, "strides", (1, 1)))]
    pad = _ints(a, "pad", (0, 0, 0, 0)) if str(a.get("pad_type")) == "custom" else [0, 0, 0, 0]
    if str(a.get("pad_type")) in ("same", "same_lower"):
        top, left = ((n - m) // 2 for n, m in zip(full.shape[2:], want))
    else:
        top, left = pad[0], pad[2]
    grown = np.pad(full, ((0, 0), (0, 0), *((0, max(0, o + m - n)) for n, m, o in zip(full.shape[2:], want, (top, left)))))
    return grown[:, :, top : top + want[0], left : left + want[1]]


def _biased(y: np.ndarray, a: Arguments) -> np.ndarray:
    bias = a.get("bias")
    if bias is not None:
        y += wide(bias).reshape(1, -1, 1, 1)
    return y


def max_pool(a: Arguments) -> np.ndarray:
    """Maximum over windows; what lies outside the map never wins."""
    x = a["x"]
    kernel = _ints(a, "kernel_sizes", ())
    stride = _ints(a, "strides", (1,) * len(kernel))
    pad = _padding(a, x.shape[2:], kernel, stride)
    if _flag(a, "ceil_mode"):
        pad = [(b, e + -(n + b + e - k) % s) for (b, e), n, k, s in zip(pad, x.shape[2:], kernel, stride)]
    low = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    x = np.pad(x, ((0, 0), (0, 0), *pad), constant_values=low)
    # A rectangle's maximum is that of its columns' maxima: kh + kw comparisons in place of kh * kw.
    for axis, (k, s) in enumerate(zip(kernel, stride), 2):
        out = (x.shape[axis] - k) // s + 1
        shifts = [x.take(range(i, i + (out - 1) * s + 1, s), axis) for i in range(k)]
        x = np.maximum.reduce(shifts)
    return x


def upsample_nearest_neighbor(a: Arguments) -> np.ndarray:
    """Each pixel repeated; whole factors only."""
    x = a["x"]
    for axis, key in ((2, "scale_factor_height"), (3, "scale_factor_width")):
        factor = float(np.asarray(a.get(key, 1)).reshape(-1)[0])
        if factor != round(factor) or factor < 1:
            raise EdgesegError(f"an enlargement by {factor} is not known, only whole factors")
        x = np.repeat(x, int(factor), axis)
    return x


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), in float32."""
    return 1.0 / (1.0 + np.exp(np.minimum(-wide(x), np.float32(88.0))))


def softmax(a: Arguments) -> np.ndarray:
    """exp(x) / sum(exp(x)) along ``axis``."""
    x, axis = wide(a["x"]), _int(a, "axis", -1)
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def concat(a: Arguments) -> np.ndarray:
    """``values`` joined along ``axis``."""
    if _flag(a, "interleave"):
        raise EdgesegError("an interleaved concatenation is not known")
    return np.concatenate(a["values"], _int(a, "axis"))


def split(a: Arguments) -> list[np.ndarray]:
    """``x`` in ``num_splits`` equal parts, or in parts of ``split_sizes``, along ``axis``."""
    x, axis = a["x"], _int(a, "axis")
    if a.get("split_sizes") is not None:
        sizes = _ints(a, "split_sizes", ())
        if sum(sizes) != x.shape[axis]:
            raise EdgesegError(f"parts of {sizes} do not make up {x.shape[axis]}")
        return np.split(x, np.cumsum(sizes)[:-1].tolist(), axis)
    return np.split(x, _int(a, "num_splits"), axis)


def slice_by_index(a: Arguments) -> np.ndarray:
    """``x[begin:end:stride]`` on every axis; a masked end is open, a squeezed axis gives one element."""
    x = a["x"]
    index: list[int | slice] = []
    begin, end = _ints(a, "begin", ()), _ints(a, "end", ())
    stride = _ints(a, "stride", (1,) * x.ndim)
    open_begin, open_end, squeeze = (_ints(a, k, (0,) * x.ndim) for k in ("begin_mask", "end_mask", "squeeze_mask"))
    for i in range(x.ndim):
        if squeeze[i]:
            index.append(begin[i])
        else:
            # An end of -1 with a negative step would be the last element again, not before the first.
            index.append(slice(None if open_begin[i] else begin[i], None if open_end[i] else end[i], stride[i]))
    return x[tuple(index)]


def slice_by_size(a: Arguments) -> np.ndarray:
    """``size`` elements of each axis from ``begin``; -1 takes all that follow."""
    size = _ints(a, "size", ())
    return a["x"][tuple(slice(b, None if n < 0 else b + n) for b, n in zip(_ints(a, "begin", ()), size))]


def reshape(a: Arguments) -> np.ndarray:
    """``x`` in another shape; 0 keeps a size, -1 is what is left."""
    x = a["x"]
    return x.reshape([x.shape[i] if n == 0 else n for i, n in enumerate(_ints(a, "shape", ()))])


def cast(a: Arguments) -> np.ndarray:
    """``x`` as another type (``fp16``, ``fp32``, or a NumPy name)."""
    name = str(a["dtype"])
    with np.errstate(over="ignore"):
        return a["x"].astype({"fp16": "float16", "fp32": "float32"}.get(name, name))


def _along(x: np.ndarray, parameter: np.ndarray, axis: int) -> np.ndarray:
    """A per-channel vector shaped to broadcast along ``axis``; a scalar stays one."""
    if parameter.ndim == 0 or parameter.size == 1:
        return parameter.reshape(())
    return parameter.reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])


def quantize(a: Arguments) -> np.ndarray:
    """``clip(round(input / scale) + zero_point)`` to int8 or uint8."""
    x, axis = wide(a["input"]), _int(a, "axis")
    limits = np.iinfo(str(a["output_dtype"]))
    q = np.rint(x / _along(x, wide(np.asarray(a["scale"])), axis))
    if a.get("zero_point") is not None:
        q = q + _along(x, np.asarray(a["zero_point"]), axis).astype(np.float32)
    return np.clip(q, limits.min, limits.max).astype(limits.dtype)


def dequantize(a: Arguments, key: str = "input") -> np.ndarray:
    """``scale * (input - zero_point)``, with the subtraction exact."""
    x, axis = a[key], _int(a, "axis")
    real = x.astype(np.float32)
    if a.get("zero_point") is not None:
        real = real - _along(x, np.asarray(a["zero_point"]), axis).astype(np.float32)
    return real * _along(x, wide(np.asarray(a["scale"])), axis)


def blockwise_shift_scale(a: Arguments) -> np.ndarray:
    """``scale * (data - offset)`` where ``scale`` and ``offset`` have one entry for each block of ``data``."""
    data, scale = a["data"].astype(np.float32), wide(a["scale"])
    for key, part in (("offset", a.get("offset")), ("scale", scale)):
        if part is None:
            continue
        part = wide(part).astype(np.float32)
        for axis, (n, m) in enumerate(zip(data.shape, part.shape)):
            part = np.repeat(part, n // m, axis) if m > 1 else part
        data = data - part if key == "offset" else data * part
    return data


def lut_to_dense(a: Arguments) -> np.ndarray:
    """A palette: ``indices`` packed into bytes with a ``shape`` (iOS 16), or one per weight and a ``lut`` for each block."""
    lut = a["lut"]
    if "shape" in a:
        shape = _ints(a, "shape", ())
        bits = int(lut.size).bit_length() - 1
        stream = np.unpackbits(a["indices"].view(np.uint8), bitorder="little")[: int(np.prod(shape)) * bits]
        index = (stream.reshape(-1, bits).astype(np.int32) << np.arange(bits)).sum(1)
        return lut[index].reshape(shape)
    index = a["indices"].astype(np.int64)
    if a.get("vector_axis") is not None and lut.shape[-1] != 1:
        raise EdgesegError("a palette of vectors is not known")
    places = np.ix_(*(np.arange(n) // (n // m) for n, m in zip(index.shape, lut.shape)))
    return lut[(*places, index, 0)]


def _binary(function: Callable[..., np.ndarray]) -> Operator:
    return lambda a: function(wide(np.asarray(a["x"])), wide(np.asarray(a["y"])))


def _unary(function: Callable[[np.ndarray], np.ndarray]) -> Operator:
    return lambda a: function(wide(a["x"]))


def _reduce(function: Callable[..., np.ndarray]) -> Operator:
    def run(a: Arguments) -> np.ndarray:
        x = wide(a["x"])
        axes = tuple(_ints(a, "axes", range(x.ndim)))
        return function(x, axis=axes, keepdims=_flag(a, "keep_dims"))

    return run


def _scalar(a: Arguments, key: str, default: float) -> np.float32:
    return np.float32(default if a.get(key) is None else np.asarray(a[key]).reshape(-1)[0])


# Constants that a converter compressed: evaluated once, when the program is loaded.
CONSTANTS: dict[str, Operator] = {
    "const": lambda a: a["val"],
    "constexpr_affine_dequantize": lambda a: dequantize(a, "quantized_data"),
    "constexpr_blockwise_shift_scale": blockwise_shift_scale,
    "constexpr_lut_to_dense": lut_to_dense,
    "constexpr_cast": lambda a: np.asarray(a["source_val"]).astype(str(a["output_dtype"]).replace("fp", "float")),
}

OPERATORS: dict[str, Operator] = {
    "conv": conv,
    "conv_transpose": conv_transpose,
    "max_pool": max_pool,
    "upsample_nearest_neighbor": upsample_nearest_neighbor,
    "silu": lambda a: wide(a["x"]) * sigmoid(a["x"]),
    "sigmoid": lambda a: sigmoid(a["x"]),
    "sigmoid_hard": lambda a: np.clip(_scalar(a, "alpha", 0.2) * wide(a["x"]) + _scalar(a, "beta", 0.5), 0, 1),
    "relu": _unary(lambda x: np.maximum(x, 0)),
    "relu6": _unary(lambda x: np.clip(x, 0, 6)),
    "clip": lambda a: np.clip(wide(a["x"]), _scalar(a, "alpha", -np.inf), _scalar(a, "beta", np.inf)),
    "exp": _unary(np.exp),
    "softmax": softmax,
    "add": _binary(np.add),
    "sub": _binary(np.subtract),
    "mul": _binary(np.multiply),
    "real_div": _binary(np.divide),
    "maximum": _binary(np.maximum),
    "minimum": _binary(np.minimum),
    "matmul": lambda a: np.matmul(
        wide(a["x"]).swapaxes(-1, -2) if _flag(a, "transpose_x") else wide(a["x"]),
        wide(a["y"]).swapaxes(-1, -2) if _flag(a, "transpose_y") else wide(a["y"]),
    ),
    "concat": concat,
    "stack": lambda a: np.stack(a["values"], _int(a, "axis")),
    "split": split,
    "slice_by_index": slice_by_index,
    "slice_by_size": slice_by_size,
    "reshape": reshape,
    "transpose": lambda a: a["x"].transpose(_ints(a, "perm", ())),
    "expand_dims": lambda a: np.expand_dims(a["x"], tuple(_ints(a, "axes", ()))),
    "squeeze": lambda a: np.squeeze(a["x"], tuple(_ints(a, "axes", ())) or None),
    "reduce_sum": _reduce(np.sum),
    "reduce_mean": _reduce(np.mean),
    "reduce_max": _reduce(np.max),
    "cast": cast,
    "identity": lambda a: a["x"],
    "quantize": quantize,
    "dequantize": dequantize,
}
