from __future__ import annotations

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseg.manifest import TASKS, Tensor
from edgeseg.network.definition import FAMILIES, Definition
from edgeseg.network.model import Network
from edgeseg.network.runtime import network_manifest
from edgeseg.network.views import FixedDecodedView, decode_boxes
from edgeseg.vision.decode import decode


def slow_boxes(box: np.ndarray, stride: int) -> np.ndarray:
    """One cell and one side at a time, in double precision."""
    _, height, width = box.shape
    out = np.zeros((4, height * width))
    for row in range(height):
        for column in range(width):
            sides = []
            for side in range(4):
                logits = [float(v) for v in box[side * 16 : side * 16 + 16, row, column]]
                top = max(logits)
                weights = [math.exp(v - top) for v in logits]
                sides.append(sum(i * w for i, w in enumerate(weights)) / sum(weights))
            left, up, right, down = (s * stride for s in sides)
            x, y = (column + 0.5) * stride, (row + 0.5) * stride
            x1, y1, x2, y2 = x - left, y - up, x + right, y + down
            out[:, row * width + column] = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
    return out


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.sampled_from([8, 16, 32]), st.floats(0.1, 30), st.integers(0, 2**31))
def test_boxes_equal_the_slow_decoding(height: int, width: int, stride: int, spread: float, seed: int) -> None:
    box = (np.random.default_rng(seed).normal(size=(2, 64, height, width)) * spread).astype(np.float32)
    fast = decode_boxes(torch.from_numpy(box), stride, 16).numpy()
    for image in range(2):
        np.testing.assert_allclose(fast[image], slow_boxes(box[image], stride), atol=2e-3, rtol=1e-5)


@torch.no_grad()
def test_decoded_view_is_the_raw_view_decoded(small: Network) -> None:
    x = torch.rand(1, 3, 64, 96)
    raw, (prediction, proto) = small.view("raw")(x), small.view("decoded")(x)
    assert torch.equal(raw[-1], proto)
    boxes = np.concatenate([slow_boxes(raw[3 * i][0].numpy(), s) for i, s in enumerate((8, 16, 32))], 1)
    np.testing.assert_allclose(prediction[0, :4], boxes, atol=1e-3)
    scores = torch.cat([raw[3 * i + 1][0].flatten(1).sigmoid() for i in range(3)], 1)
    torch.testing.assert_close(prediction[0, 4:7], scores)
    assert torch.equal(prediction[0, 7:], torch.cat([raw[3 * i + 2][0].flatten(1) for i in range(3)], 1))


@torch.no_grad()
def test_fixed_view_is_the_decoded_view(small: Network) -> None:
    x = torch.rand(2, 3, 64, 96)
    wanted, proto = small.view("decoded")(x)
    for normalized in (False, True):
        found, other = FixedDecodedView(small, (64, 96), normalized=normalized)(x)
        units = torch.tensor([96, 64, 96, 64]).view(1, 4, 1) if normalized else 1
        torch.testing.assert_close(found[:, :4] * units, wanted[:, :4])
        assert torch.equal(other, proto) and torch.equal(found[:, 4:], wanted[:, 4:])


@pytest.mark.parametrize("head", ["raw", "decoded"])
def test_traced_view_takes_other_sizes(small: Network, head: str) -> None:
    view = small.fuse().view(head)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(view, torch.rand(1, 3, 64, 64))
        for shape in ((1, 3, 64, 64), (2, 3, 96, 160)):
            x = torch.rand(shape)
            for a, b in zip(traced(x), view(x)):
                torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("head", ["raw", "decoded"])
def test_exported_program(small: Network, head: str) -> None:
    view, x = small.fuse().view(head).eval(), torch.rand(1, 3, 64, 96)
    program = torch.export.export(view, (x,)).module()
    with torch.no_grad():
        for a, b in zip(program(x), view(x)):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("head", ["raw", "decoded"])
def test_onnx_with_dynamic_sizes(small: Network, head: str, tmp_path) -> None:
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    view, names = small.fuse().view(head), [o.name for o in small.outputs(head, 64)]
    free = {"images": {0: "batch", 2: "height", 3: "width"}}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = tmp_path / "net.onnx"
        torch.onnx.export(
            view,
            (torch.rand(1, 3, 64, 64),),
            str(file),
            input_names=["images"],
            output_names=names,
            dynamic_axes=free,
            opset_version=17,
            dynamo=False,
        )
        session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        for shape in ((1, 3, 64, 64), (2, 3, 96, 160)):
            x = torch.rand(shape)
            for a, b in zip(session.run(names, {"images": x.numpy()}), view(x)):
                np.testing.assert_allclose(a, b.numpy(), atol=1e-3, rtol=1e-3)


def test_half_precision_keeps_the_anchors(small: Network) -> None:
    prediction, _ = small.fuse().half().view("decoded")(torch.rand(1, 3, 64, 64).half())
    assert prediction.dtype == torch.float16 and bool(torch.isfinite(prediction).all())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("task", TASKS)
@torch.no_grad()
def test_the_views_of_every_family_and_task_say_the_same(family: str, task: str) -> None:
    network = Network(Definition("tiny", 3, "silu", 0.33, 0.125, 256, family, task)).eval()
    x = torch.rand(1, 3, 64, 96)
    raw, decoded, fixed = network.view("raw")(x), network.view("decoded")(x), FixedDecodedView(network, (64, 96))(x)
    for head, tensors in (("raw", raw), ("decoded", decoded)):
        assert [tuple(t.shape) for t in tensors] == [o.shape for o in network.outputs(head, (64, 96))]
    for a, b in zip(decoded, fixed):
        torch.testing.assert_close(a, b)
    manifest = network_manifest(network, Tensor("images", (1, 3, 64, 96)), network.outputs("raw", (64, 96)))
    found = [
        decode([t.numpy() for t in tensors], replace(manifest, outputs=network.outputs(head, (64, 96)), head=head), conf=0)
        for head, tensors in (("raw", raw), ("decoded", decoded))
    ]
    np.testing.assert_allclose(found[0].boxes, found[1].boxes, atol=1e-3)
    np.testing.assert_allclose(found[0].scores, found[1].scores, atol=1e-5)
    assert found[0].coeffs.shape == (126, 32 if task == "segment" else 0)
