"""Random heads in every layout and dtype, with the manifests that explain them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from edgeseg.manifest import Manifest, Output, Tensor

QUANTIZED = ("int8", "uint8", "int16")


def quantize(values: np.ndarray, dtype: str) -> tuple[np.ndarray, float | None, int | None]:
    """Values in ``dtype`` with the scale and zero point of their range."""
    if dtype not in QUANTIZED:
        return values.astype(dtype), None, None
    limits = np.iinfo(dtype)
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0, 1e-3)
    scale = (high - low) / (limits.max - limits.min)
    zero = round(limits.min - low / scale)
    q = np.clip(np.rint(values.astype(np.float64) / scale) + zero, limits.min, limits.max).astype(dtype)
    return q, float(scale), int(zero)


def output(name: str, values: np.ndarray, role: str, layout: str, dtype: str, stride: int | None = None):
    """(array, Output) of NCHW or (1, C, N) ``values`` in another layout and dtype."""
    q, scale, zero = quantize(values, dtype)
    if layout == "nhwc":
        q = np.ascontiguousarray(np.moveaxis(q, 1, -1))
    return q, Output(name, q.shape, dtype, layout, scale, zero, role, stride)


def manifest_of(specs, head: str, nc: int, imgsz: tuple[int, int], **more) -> Manifest:
    names = tuple(f"class{i}" for i in range(nc))
    image = Tensor("images", (1, 3, *imgsz))
    return Manifest("test", names, imgsz, image, tuple(specs), head=head, **more)


def raw_head(seed: int, *, nc=3, imgsz=(64, 96), layout="nchw", dtype="float32", mean=-2.0, spread=2.0):
    """Random tensors of the raw head: (list of arrays, Manifest)."""
    rng = np.random.default_rng(seed)
    arrays, specs = [], []
    for stride in (8, 16, 32):
        h, w = imgsz[0] // stride, imgsz[1] // stride
        for role, channels, centre, width in (("box", 64, 0, 2), ("score", nc, mean, spread), ("coeff", 32, 0, 1)):
            values = rng.normal(centre, width, (1, channels, h, w)).astype(np.float32)
            array, spec = output(f"{role}_{stride}", values, role, layout, dtype, stride)
            arrays.append(array)
            specs.append(spec)
    values = rng.normal(0, 1, (1, 32, imgsz[0] // 4, imgsz[1] // 4)).astype(np.float32)
    array, spec = output("proto", values, "proto", layout, dtype)
    return [*arrays, array], manifest_of([*specs, spec], "raw", nc, imgsz)


def decoded_head(seed: int, *, nc=3, imgsz=(64, 96), layout="nchw", dtype="float32", normalized=False):
    """Random tensors of the decoded head: (list of arrays, Manifest)."""
    rng = np.random.default_rng(seed)
    n = sum((imgsz[0] // s) * (imgsz[1] // s) for s in (8, 16, 32))
    prediction = np.empty((1, 4 + nc + 32, n), np.float32)
    size = np.array((imgsz[1], imgsz[0]), np.float32)[:, None]
    prediction[0, :2], prediction[0, 2:4] = rng.uniform(0, 1, (2, n)) * size, rng.uniform(0, 0.6, (2, n)) * size
    if normalized:
        prediction[0, :2] /= size
        prediction[0, 2:4] /= size
    prediction[0, 4 : 4 + nc] = rng.uniform(0, 1, (nc, n)) ** 3
    prediction[0, 4 + nc :] = rng.normal(0, 1, (32, n))
    a = output("prediction", prediction, "prediction", layout, dtype)
    values = rng.normal(0, 1, (1, 32, imgsz[0] // 4, imgsz[1] // 4)).astype(np.float32)
    b = output("proto", values, "proto", layout, dtype)
    return [a[0], b[0]], manifest_of([a[1], b[1]], "decoded", nc, imgsz, normalized_boxes=normalized)


def real(array: np.ndarray, spec: Output) -> np.ndarray:
    """All of a tensor as float32, channels first."""
    values = array.astype(np.float32)
    if spec.scale is not None:
        values = (values - np.float32(spec.zero_point)) * np.float32(spec.scale)
    return np.moveaxis(values, -1, 1) if spec.layout == "nhwc" else values


@pytest.fixture(scope="session")
def heads() -> SimpleNamespace:
    """Makers of heads: ``raw``, ``decoded``, ``real``, ``quantize``, ``manifest``."""
    return SimpleNamespace(
        raw=raw_head, decoded=decoded_head, real=real, quantize=quantize, manifest=manifest_of, output=output
    )
