"""The evaluator's operators against PyTorch or plain loops, and the weight file against hand-made bytes."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgeseg.errors import EdgesegError
from edgeseg.registry import target_by_name


def part(name: str) -> Any:
    return target_by_name("coreml").load(name)


def call(name: str, **arguments: Any) -> Any:
    return part("operators").OPERATORS[name](arguments)


def rand(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    pad=st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)),
    groups=st.sampled_from([1, 2]),
    seed=st.integers(0, 999),
)
def test_conv_is_torchs(kernel, stride, dilation, pad, groups, seed):
    x, weight, bias = rand(2, 4, 9, 11, seed=seed), rand(6, 4 // groups, *kernel, seed=seed + 1), rand(6, seed=seed + 2)
    top, bottom, left, right = pad
    padded = F.pad(torch.from_numpy(x), (left, right, top, bottom))
    want = F.conv2d(padded, torch.from_numpy(weight), torch.from_numpy(bias), stride, 0, dilation, groups)
    got = call(
        "conv", x=x, weight=weight, bias=bias, strides=stride, pad_type="custom", pad=pad, dilations=dilation, groups=groups
    )
    np.testing.assert_allclose(got, want.numpy(), atol=2e-5)


@pytest.mark.parametrize(("kind", "before"), [("same", 0), ("same_lower", 1)])
def test_conv_pads_as_same_says(kind, before):
    x, weight = rand(1, 1, 8, 8), rand(1, 1, 3, 3, seed=1)
    want = F.conv2d(F.pad(torch.from_numpy(x), (before, 1 - before, before, 1 - before)), torch.from_numpy(weight), stride=2)
    np.testing.assert_allclose(call("conv", x=x, weight=weight, strides=(2, 2), pad_type=kind), want.numpy(), atol=1e-5)


def test_conv_of_half_floats_is_summed_in_float32():
    x, weight = np.full((1, 4096, 1, 1), 1.0, np.float16), np.full((1, 4096, 1, 1), 1.0, np.float16)
    assert call("conv", x=x, weight=weight).item() == 4096.0


def test_a_kernel_larger_than_the_map_is_an_error():
    with pytest.raises(EdgesegError, match="does not fit"):
        call("conv", x=rand(1, 1, 2, 2), weight=rand(1, 1, 3, 3))


@given(
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.integers(1, 2),
    pad=st.integers(0, 1),
    groups=st.sampled_from([1, 2]),
)
def test_conv_transpose_is_torchs(kernel, stride, dilation, pad, groups):
    x, weight, bias = rand(2, 4, 4, 5), rand(4, 6 // groups, *kernel, seed=1), rand(6, seed=2)
    if min((n - 1) * s + (k - 1) * dilation + 1 - 2 * pad for n, s, k in zip((4, 5), stride, kernel)) < 1:
        return
    tensors = [torch.from_numpy(v) for v in (x, weight, bias)]
    want = F.conv_transpose2d(*tensors, stride, pad, 0, groups, dilation).numpy()
    same = {"x": x, "weight": weight, "bias": bias, "strides": stride, "groups": groups, "dilations": (dilation, dilation)}
    pads = {"pad_type": "custom", "pad": (pad,) * 4}
    np.testing.assert_allclose(call("conv_transpose", **same, **pads), want, atol=2e-5)
    sized = call("conv_transpose", **same, **pads, output_shape=np.array(want.shape, np.int32))
    np.testing.assert_allclose(sized, want, atol=2e-5)


@given(
    x=arrays(np.float32, (1, 2, 7, 6), elements=st.floats(-10, 10, width=32)),
    kernel=st.integers(2, 5),
    stride=st.integers(1, 3),
    ceil=st.booleans(),
)
def test_max_pool_is_torchs(x, kernel, stride, ceil):
    pad = kernel // 2
    want = F.max_pool2d(torch.from_numpy(x), kernel, stride, pad, ceil_mode=ceil).numpy()
    got = call(
        "max_pool", x=x, kernel_sizes=(kernel,) * 2, strides=(stride,) * 2, pad_type="custom", pad=(pad,) * 4, ceil_mode=ceil
    )
    # PyTorch drops a last window that lies in the padding alone.
    np.testing.assert_array_equal(got[:, :, : want.shape[2], : want.shape[3]], want)
    assert ceil or got.shape == want.shape


def test_upsample_repeats_pixels():
    x = rand(1, 2, 3, 4)
    want = F.interpolate(torch.from_numpy(x), scale_factor=(2, 3), mode="nearest").numpy()
    got = call("upsample_nearest_neighbor", x=x, scale_factor_height=np.float32(2), scale_factor_width=np.int32(3))
    np.testing.assert_array_equal(got, want)
    with pytest.raises(EdgesegError, match="whole factors"):
        call("upsample_nearest_neighbor", x=x, scale_factor_height=1.5)


def test_activations_are_torchs_also_far_out():
    x = np.array([-1e4, -90, -5, -0.5, 0, 0.5, 5, 90, 1e4], np.float32)
    t = torch.from_numpy(x)
    np.testing.assert_allclose(call("silu", x=x), F.silu(t).numpy(), rtol=1e-6, atol=1e-30)
    np.testing.assert_allclose(call("sigmoid", x=x), torch.sigmoid(t).numpy(), rtol=1e-5, atol=1e-37)
    np.testing.assert_array_equal(call("relu6", x=x), F.relu6(t).numpy())
    np.testing.assert_allclose(
        call("sigmoid_hard", x=x, alpha=np.float32(1 / 6), beta=np.float32(0.5)), F.hardsigmoid(t), atol=1e-6
    )


def test_softmax_along_an_axis():
    x = rand(1, 4, 16, 5) * 30
    want = torch.softmax(torch.from_numpy(x), 2).numpy()
    np.testing.assert_allclose(call("softmax", x=x, axis=np.int32(2)), want, atol=1e-6)


def test_split_and_concat_are_inverse():
    x = rand(1, 10, 2, 2)
    for how in ({"num_splits": np.int32(2)}, {"split_sizes": np.array([3, 7])}):
        parts = call("split", x=x, axis=np.int32(1), **how)
        np.testing.assert_array_equal(call("concat", values=parts, axis=np.int32(1)), x)
    with pytest.raises(EdgesegError, match="do not make up"):
        call("split", x=x, axis=1, split_sizes=[3, 3])


@given(st.data())
def test_slice_by_index_is_a_plain_loop(data):
    x = np.arange(5 * 6, dtype=np.float32).reshape(5, 6)
    begin = [data.draw(st.integers(0, n - 1)) for n in x.shape]
    end = [data.draw(st.integers(b + 1, n)) for b, n in zip(begin, x.shape)]
    stride = [data.draw(st.integers(1, 3)) for _ in x.shape]
    masked = [data.draw(st.booleans()) for _ in x.shape]
    got = call("slice_by_index", x=x, begin=begin, end=end, stride=stride, end_mask=masked)
    rows, columns = (range(b, n if m else e, s) for b, e, s, m, n in zip(begin, end, stride, masked, x.shape))
    assert got.tolist() == [[x[i, j] for j in columns] for i in rows]


def test_shape_operators():
    x = rand(2, 3, 4)
    assert call("reshape", x=x, shape=np.array([0, -1])).shape == (2, 12)
    assert call("transpose", x=x, perm=[2, 0, 1]).shape == (4, 2, 3)
    assert call("expand_dims", x=x, axes=[1]).shape == (2, 1, 3, 4)
    assert call("squeeze", x=x[None], axes=[0]).shape == (2, 3, 4)
    np.testing.assert_array_equal(call("slice_by_size", x=x, begin=[0, 1, 0], size=[-1, 2, 3]), x[:, 1:, :3])
    np.testing.assert_allclose(call("reduce_sum", x=x, axes=[1], keep_dims=True), x.sum(1, keepdims=True))
    assert call("cast", x=x, dtype="fp16").dtype == np.float16


@given(
    x=arrays(np.float32, (3, 5), elements=st.floats(-20, 20, width=32)),
    scale=st.floats(0.0078125, 1, width=32),
    zero=st.integers(-128, 127),
)
def test_quantize_and_back_is_a_plain_loop(x, scale, zero):
    scale, zero_point = np.float32(scale), np.int8(zero)
    q = call("quantize", input=x, scale=scale, zero_point=zero_point, output_dtype="int8")
    assert q.dtype == np.int8
    for value, got in zip(x.ravel(), q.ravel()):
        assert got == max(-128, min(127, int(np.rint(value / scale)) + zero))
    real = call("dequantize", input=q, scale=scale, zero_point=zero_point)
    assert real.dtype == np.float32
    np.testing.assert_allclose(real, [[(int(v) - zero) * float(scale) for v in row] for row in q], rtol=1e-6)


def test_quantize_per_channel():
    x = np.array([[1.0, 1.0], [4.0, 4.0]], np.float32)
    q = call("quantize", input=x, scale=np.array([0.5, 2.0], np.float32), axis=np.int32(0), output_dtype="uint8")
    assert q.tolist() == [[2, 2], [2, 2]]


def test_compressed_constants():
    constants, data = part("operators").CONSTANTS, np.arange(-4, 4, dtype=np.int8).reshape(2, 4)
    scale = np.array([0.5, 2.0], np.float16)
    affine = constants["constexpr_affine_dequantize"](
        {"quantized_data": data, "scale": scale, "zero_point": np.int8(1), "axis": np.int32(0)}
    )
    np.testing.assert_array_equal(affine, (data - 1.0) * scale[:, None])
    blocks = np.array([[0.5, 1.0], [2.0, 4.0]], np.float16)
    shifted = constants["constexpr_blockwise_shift_scale"](
        {"data": data, "scale": blocks, "offset": np.ones((2, 1), np.int8)}
    )
    np.testing.assert_array_equal(shifted, (data - 1.0) * np.repeat(blocks, 2, 1))


def test_palettes():
    dense = part("operators").CONSTANTS["constexpr_lut_to_dense"]
    lut = np.array([10, 20, 30, 40], np.float16)
    # 2-bit indices 0, 1, 2, 3, 3, 0: from the lowest bit up.
    packed = np.array([0b11100100, 0b00000011], np.uint8)
    assert dense({"lut": lut, "indices": packed, "shape": np.array([2, 3])}).tolist() == [[10, 20, 30], [40, 40, 10]]
    blocks = np.stack([lut, lut * 2]).reshape(2, 1, 4, 1)
    index = np.array([[0, 3], [1, 2]], np.uint8)
    assert dense({"lut": blocks, "indices": index}).tolist() == [[10, 40], [40, 60]]


def record(kind: int, data: bytes, offset: int = 64, padding: int = 0) -> bytes:
    return struct.pack("<IIQQQ32x", 0xDEADBEEF, kind, len(data), offset + 64, padding) + data


def blob(tmp_path: Path, content: bytes, version: int = 2) -> Any:
    file = tmp_path / "weight.bin"
    file.write_bytes(struct.pack("<II56x", 1, version) + content)
    return part("blob").BlobFile(file)


@pytest.mark.parametrize(("kind", "dtype"), [(1, "float16"), (2, "float32"), (3, "uint8"), (4, "int8"), (14, "int32")])
def test_blobs_of_every_type(tmp_path, kind, dtype):
    values = np.array([1, 2, 3, 100], dtype)
    got = blob(tmp_path, record(kind, values.tobytes())).read(64)
    assert got.dtype == np.dtype(dtype) and got.tolist() == values.tolist()


def test_blobs_below_a_byte(tmp_path):
    assert blob(tmp_path, record(8, bytes([0x1F, 0x08]), padding=4)).read(64).tolist() == [-1, 1, -8]
    assert blob(tmp_path, record(9, bytes([0b101]), padding=5)).read(64).tolist() == [1, 0, 1]
    assert blob(tmp_path, record(12, bytes([0b11_010_001, 0]), padding=7)).read(64).tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("content", "offset", "what"),
    [
        (record(2, bytes(8))[:70], 64, "truncated"),
        (record(2, bytes(8)), 128, "no record"),
        (record(2, bytes(8)), 65, "no record"),
        (b"\0" * 64, 64, "damaged"),
        (record(99, bytes(8)), 64, "no type"),
        (record(2, bytes(7)), 64, "no type"),
    ],
)
def test_damaged_blobs(tmp_path, content, offset, what):
    with pytest.raises(EdgesegError, match=what):
        blob(tmp_path, content).read(offset)


def test_files_that_are_no_blobs(tmp_path):
    with pytest.raises(EdgesegError, match="version 7"):
        blob(tmp_path, b"", version=7)
    (tmp_path / "short").write_bytes(b"abc")
    with pytest.raises(EdgesegError, match="truncated"):
        part("blob").BlobFile(tmp_path / "short")
    with pytest.raises(EdgesegError, match="missing"):
        part("blob").BlobFile(tmp_path / "none")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_clear_error(data):
    try:
        message = part("wire").Message(data)
        for number in range(1, 20):
            message.integers(number)
    except EdgesegError:
        pass


def test_a_message_is_read_as_it_was_written():
    # Field 1: varint 300; field 2: text "hi"; field 3: packed floats; field 4: -1 as a 64-bit integer.
    data = (
        bytes([0x08, 0xAC, 0x02, 0x12, 2])
        + b"hi"
        + bytes([0x1A, 8])
        + struct.pack("<2f", 0.5, -2)
        + b"\x20"
        + b"\xff" * 9
        + b"\x01"
    )
    message = part("wire").Message(data)
    assert (message.integer(1), message.text(2), message.floats(3), message.integer(4)) == (300, "hi", [0.5, -2.0], -1)
    assert 5 not in message and message.integer(5) == 0 and message.text(5) == ""
