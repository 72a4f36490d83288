"""The cases of the golden vectors: heads of every kind with tensors from integers, and those of trained networks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg.data.shapes import shapes_image
from edgeseg.manifest import Manifest, Output, Tensor
from edgeseg.vision.preprocess import prepare

HERE = Path(__file__).resolve().parents[1]
SIZE = (64, 96)
ALL = slice(None)


@dataclass(frozen=True)
class Case:
    """Outputs of one head and how they are to be decoded: ``settings`` are keywords of ``postprocess``."""

    name: str
    outputs: list[np.ndarray]
    manifest: Manifest
    source: tuple[int, int]
    size: tuple[int, int]
    settings: dict[str, Any] = field(default_factory=dict)


def uniform(seed: int, shape: Sequence[int], low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """float64 in low..high on a grid of 2^-24: multiplications and shifts of integers that wrap around alike everywhere."""
    x = np.arange(int(np.prod(shape)), dtype=np.uint64) + np.uint64(1 + (seed << 32))
    for factor in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB):
        x = (x ^ (x >> np.uint64(29))) * np.uint64(factor)
    return ((x >> np.uint64(40)).astype(np.float64) / (1 << 24) * (high - low) + low).reshape(shape)


def bell(seed: int, shape: Sequence[int], centre: float = 0.0, width: float = 1.0) -> np.ndarray:
    """float64 around ``centre`` with the standard deviation ``width``: sums of four uniform numbers."""
    return uniform(seed, (4, *shape), -1, 1).sum(0) * (0.75**0.5 * width) + centre


def smooth(seed: int, shape: Sequence[int]) -> np.ndarray:
    """A prototype (1, k, h, w) whose neighbours are alike, so that masks have insides."""
    values = bell(seed, (*shape[:2], -(-shape[2] // 4) + 1, -(-shape[3] // 4) + 1))
    return np.repeat(np.repeat(values, 4, 2), 4, 3)[:, :, 1 : 1 + shape[2], 2 : 2 + shape[3]] + bell(seed + 1, shape) / 8


def output(role: str, values: np.ndarray, kind: str, layout: str, stride: int | None = None) -> tuple[np.ndarray, Output]:
    """(array, Output) of channels-first ``values`` in a dtype and layout; integers get the scale of the values' range."""
    scale = zero = None
    if kind.startswith("float"):
        q = values.astype(kind)
    else:
        limits = np.iinfo(kind)
        low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0, 1e-3)
        scale = (high - low) / (limits.max - limits.min)
        zero = round(limits.min - low / scale)
        q = np.clip(np.rint(values / scale) + zero, limits.min, limits.max).astype(kind)
    if layout == "nhwc":
        q = np.moveaxis(q, 1, -1)
    q = np.ascontiguousarray(q)
    return q, Output(f"{role}{stride or ''}", q.shape, kind, layout, scale, zero, role, stride)


def manifest_of(
    parts: Sequence[tuple[np.ndarray, Output]], head: str, nc: int, size: tuple[int, int], **more: Any
) -> Manifest:
    image = Tensor("images", (1, 3, *size))
    return Manifest("test", tuple(f"class {i}" for i in range(nc)), size, image, tuple(o for _, o in parts), head, **more)


def raw(
    name: str, seed: int, kind: str = "float32", layout: str = "nchw", *, size: tuple[int, int] = SIZE, nc: int = 3,
    k: int = 32, reg_max: int = 16, mean: float = -2.0, batch: int = 1, source: tuple[int, int] = (427, 640),
    settings: dict[str, Any] | None = None, **more: Any,
) -> Case:  # fmt: skip
    """The raw head: box, score and coeff by stride, and proto; ``task="detect"`` has the first two."""
    parts, segment = [], more.get("task") != "detect"
    for i, stride in enumerate((8, 16, 32)):
        grid = (size[0] // stride, size[1] // stride)
        box = bell(seed + i, (batch, 4 * reg_max, *grid), 0, 2)
        parts.append(output("box", np.abs(box) * 2 if reg_max == 1 else box, kind, layout, stride))
        parts.append(output("score", bell(seed + i + 10, (batch, nc, *grid), mean, 2), kind, layout, stride))
        if segment:
            parts.append(output("coeff", bell(seed + i + 20, (batch, k, *grid)), kind, layout, stride))
    if segment:
        parts.append(output("proto", smooth(seed + 30, (batch, k, size[0] // 4, size[1] // 4)), kind, layout))
    manifest = manifest_of(parts, "raw", nc, size, reg_max=reg_max, batch=batch, **more)
    return Case(name, [a for a, _ in parts], manifest, source, size, settings or {})


def boxes_of(seed: int, n: int, size: tuple[int, int], unit: tuple[float, float], boxes: str) -> np.ndarray:
    """(4, n) boxes about an input of ``size``, as shares of it times ``unit`` (height, width); some reach out of it."""
    scale = np.array((unit[1], unit[0]))[:, None]
    centre, sides = uniform(seed, (2, n), -0.05, 1.05) * scale, uniform(seed + 1, (2, n), 0.0, 0.6) * scale
    return np.concatenate((centre, sides) if boxes == "xywh" else (centre - sides / 2, centre + sides / 2))


def decoded(
    name: str, seed: int, kind: str = "float32", layout: str = "nchw", *, size: tuple[int, int] = SIZE, nc: int = 3,
    k: int = 32, apart: bool = False, source: tuple[int, int] = (427, 640),
    settings: dict[str, Any] | None = None, **more: Any,
) -> Case:  # fmt: skip
    """The decoded head: ``prediction``, or box, score and coeff apart, and proto."""
    n, segment = sum((size[0] // s) * (size[1] // s) for s in (8, 16, 32)), more.get("task") != "detect"
    unit = (1.0, 1.0) if more.get("normalized_boxes") else (float(size[0]), float(size[1]))
    box = boxes_of(seed, n, size, unit, more.get("boxes", "xywh"))[None]
    score = bell(seed + 2, (1, nc, n), -2, 2) if more.get("score_logits") else uniform(seed + 2, (1, nc, n)) ** 3
    coeff = bell(seed + 3, (1, k, n))
    pieces = {"box": box, "score": score, **({"coeff": coeff} if segment else {})}
    whole = {"prediction": np.concatenate(list(pieces.values()), 1)}
    parts = [output(role, values, kind, layout) for role, values in (pieces if apart else whole).items()]
    if segment:
        parts.append(output("proto", smooth(seed + 4, (1, k, size[0] // 4, size[1] // 4)), kind, layout))
    return Case(name, [a for a, _ in parts], manifest_of(parts, "decoded", nc, size, **more), source, size, settings or {})


def suppressed(
    name: str, seed: int, kind: str = "float32", layout: str = "nhwc", *, nc: int = 3, source: tuple[int, int] = (101, 67),
    settings: dict[str, Any] | None = None, **more: Any,
) -> Case:  # fmt: skip
    """The head after NMS: 40 rows of x1, y1, x2, y2, score, class and coefficients, the last five unused."""
    n, segment = 40, more.get("task") != "detect"
    unit = (1.0, 1.0) if more.get("normalized_boxes") else (float(SIZE[0]), float(SIZE[1]))
    rows = np.zeros((1, 6 + 32 * segment, n))
    rows[0, :4] = boxes_of(seed, n, SIZE, unit, "xyxy")
    rows[0, 4], rows[0, 5] = uniform(seed + 2, (n,)), np.arange(n) % (nc + 1)
    rows[0, 4:, -5:] = 0
    if segment:
        rows[0, 6:, :-5] = bell(seed + 3, (32, n - 5))
    parts = [output("prediction", rows, kind, layout)]
    if segment:
        parts.append(output("proto", smooth(seed + 4, (1, 32, SIZE[0] // 4, SIZE[1] // 4)), kind, layout))
    return Case(name, [a for a, _ in parts], manifest_of(parts, "nms", nc, SIZE, **more), source, SIZE, settings or {})


SOURCES = ((427, 640), (41, 150), (33, 47), (64, 96), (201, 77), (1, 1))


def usual() -> Iterator[Case]:
    """Every head in every dtype and layout, on pictures that are reduced, enlarged, wide and narrow."""
    for i, kind in enumerate(("float32", "int8", "uint8", "int16", "float16")):
        for j, layout in enumerate(("nchw", "nhwc")):
            seed, end = 1000 * i + 100 * j, f"{kind}-{layout}"
            source, other = SOURCES[(2 * i + j) % 5], SOURCES[(2 * i + j + 2) % 6]
            yield raw(f"raw-{end}", seed, kind, layout, source=source)
            yield raw(f"raw-bins1-{end}", seed + 40, kind, layout, reg_max=1, source=other, size=(96, 64))
            yield raw(f"raw-end2end-{end}", seed + 80, kind, layout, reg_max=1, end2end=True, source=other)
            yield raw(f"raw-detect-{end}", seed + 300, kind, layout, task="detect", source=other)
            shares = kind in ("int8", "uint8")  # pixels and scores under one scale leave nothing of the scores
            yield decoded(f"decoded-{end}", seed + 400, kind, layout, normalized_boxes=shares, source=source)
            yield decoded(f"decoded-apart-{end}", seed + 410, kind, layout, apart=True, source=other)
            yield suppressed(f"nms-{end}", seed + 500, kind, layout, normalized_boxes=kind != "float32", source=source)
    yield decoded("decoded-logits-xyxy", 20, score_logits=True, boxes="xyxy")
    yield decoded("decoded-logits-int8", 21, "int8", "nhwc", score_logits=True, apart=True)
    yield decoded("decoded-detect", 22, layout="nhwc", task="detect", source=(33, 47))
    yield decoded("decoded-normalized-xyxy", 23, boxes="xyxy", normalized_boxes=True, source=(201, 77))
    yield suppressed("nms-detect", 24, task="detect")


def limits() -> Iterator[Case]:
    """Settings, numbers of detections and sizes at their ends."""
    for name, settings in {
        "multi-label": {"multi_label": True, "conf": 0.05, "iou": 0.9},
        "some-classes": {"classes": [0, 2, 7], "conf": 0.1},
        "no-classes": {"classes": []},
        "no-masks": {"masks": False},
        "most-one": {"max_det": 1, "conf": 0.001},
        "none-found": {"conf": 0.99999},
        "conf-0": {"conf": 0.0, "iou": 0.0},
        "conf-1": {"conf": 1.0},
        "iou-1": {"iou": 1.0, "conf": 0.3},
    }.items():
        more: dict[str, Any] = {"settings": settings, "source": (142, 213)}
        yield raw(f"set-{name}", 40, **more)
        yield decoded(f"set-decoded-{name}", 41, "int8", "nhwc", normalized_boxes=True, **more)
        yield suppressed(f"set-nms-{name}", 42, settings=settings)
    many = {"conf": 0.001, "iou": 0.95, "max_det": 300}
    yield raw("many-float32", 50, size=(160, 224), nc=20, mean=1, source=(240, 320), settings=many)
    yield raw("many-int8", 51, "int8", "nhwc", size=(224, 160), nc=20, mean=1, source=(321, 199), settings=many)
    most = {"conf": 0.0, "iou": 0.6, "multi_label": True}  # more than 30,000 candidates
    yield raw("more-than-candidates", 52, "int8", "nhwc", size=(640, 640), nc=5, reg_max=1, task="detect", settings=most)
    stay = {"conf": 0.3, "iou": 0.9, "max_det": 20_000, "masks": False}
    shape = {"size": (320, 320), "nc": 2, "reg_max": 1, "mean": 1}
    yield raw("more-than-few-stay", 62, "int8", "nhwc", **shape, task="detect", settings=stay)
    yield replace(raw("second-of-batch", 53, batch=2), settings={"index": 1})
    yield replace(raw("second-of-batch-int8", 54, "int8", "nhwc", batch=2), settings={"index": 1})
    yield raw("one-class", 55, nc=1)
    yield raw("eighty-classes", 56, "int8", "nhwc", nc=80, mean=-4)
    yield raw("eight-coefficients", 57, k=8)
    yield raw("dynamic", 58, size=(96, 128), dynamic=True)
    yield decoded("dynamic-normalized", 59, size=(96, 128), dynamic=True, normalized_boxes=True)
    for source in ((1, 1), (1, 500), (500, 1), (63, 95), (65, 97), (128, 192), (1000, 30), (2, 3)):
        yield raw(f"source-{source[0]}x{source[1]}", 60, source=source, settings={"conf": 0.4})
    yield raw("smallest-input", 61, size=(32, 32), settings={"conf": 0.1})


def changed(case: Case, role: str, values: list[tuple[tuple[Any, ...], float]], stride: int | None = None) -> Case:
    """The case with some values of one output replaced."""
    outputs = [a.copy() for a in case.outputs]
    for a, spec in zip(outputs, case.manifest.outputs):
        if spec.role == role and spec.stride == stride:
            for at, value in values:
                a[at] = value
    return replace(case, outputs=outputs)


def hostile() -> Iterator[Case]:
    """Values that no network should give."""
    nan, inf = float("nan"), float("inf")
    everywhere = [((0, 0, 1, ALL), nan), ((0, 1, 2), inf), ((0, 2, 3), -inf), ((0, ALL, 5), nan)]
    for layout in ("nchw", "nhwc"):
        for several in (False, True):
            settings = {"multi_label": several}
            name = f"scores-not-finite-{layout}{'-multi' if several else ''}"
            yield changed(raw(name, 70, layout=layout, settings=settings), "score", everywhere, 8)
            case = decoded(f"decoded-{name}", 71, layout=layout, apart=True, settings=settings)
            few = [((0, 0, slice(0, 9)), nan), ((0, 1, slice(4, 6)), inf), ((0, 2, 1), -inf), ((0, slice(0, 2), 2), nan)]
            yield changed(case, "score", few)
        few = [((0, ALL, slice(0, 3)), nan), ((0, ALL, slice(8, 12)), inf)]
        yield changed(raw(f"boxes-not-finite-{layout}", 72, layout=layout), "box", few, 8)
    huge = [((0, 0), 0.0), ((0, 1), 3e38), ((0, 2), -3e38), ((0, 3), 1e30)]
    yield changed(raw("huge-boxes", 73, reg_max=1), "box", huge, 8)
    no_area = [((0, ALL, slice(0, 9)), 0.0), ((0, ALL, slice(9, 15)), -1.0), ((0, 2, slice(20, 40)), -200.0)]
    yield changed(raw("boxes-without-area", 74, reg_max=1), "box", no_area, 8)
    yield changed(raw("equal-scores", 75), "score", [((0,), 1.5)], 8)
    ties = raw("equal-scores-int8", 76, "int8", "nhwc", settings={"max_det": 20, "iou": 0.99})
    yield changed(ties, "score", [((0,), 127)], 8)
    yield changed(decoded("scores-over-1", 77, apart=True), "score", [((0, 1), 1.25)])
    rows = [((0, ALL, 4), nan), ((0, ALL, 5), inf), ((0, slice(5, 20), 4), inf)]
    strange = [((0, 3 + i, 4), v) for i, v in enumerate((nan, inf, -inf, 3.0))]
    strange += [((0, 7 + i, 5), v) for i, v in enumerate((nan, inf, -1.0, 1.5, 2.5))]
    yield changed(suppressed("nms-strange-rows", 78), "prediction", [*strange, ((0, 12, 0), nan)])
    yield changed(suppressed("nms-no-sound-row", 79), "prediction", rows)
    proto = [((0, 3, 2), nan), ((0, 4, 5), inf), ((0, 5, 5), inf), ((0, 6, 7), -inf)]
    yield changed(raw("proto-not-finite", 80), "proto", proto)
    yield changed(raw("coeff-zero", 81, settings={"conf": 0.4}), "coeff", [((0,), 0.0)], 8)
    halves = [((0, 3, 2), nan), ((0, 4, 5), inf), ((0, 6, 7), -inf)]
    halves += [((0, 8, ALL, slice(0, 6)), 3e-7), ((0, 9, ALL, 0), 65504.0)]
    yield changed(raw("halves", 82, "float16"), "proto", halves)
    yield changed(raw("halves-small", 83, "float16", "nhwc"), "proto", [((0, ALL, slice(0, 12)), 1e-7), ((0, 5), -6e-8)])
    yield changed(raw("halves-scores", 84, "float16"), "score", [*everywhere, ((0, 1, 0), 6e4)], 8)
    yield from misfits()


def misfits() -> Iterator[Case]:
    """Tensors that are not what the manifest says: an error, no detections."""
    base = raw("", 90)
    o, specs = base.outputs, base.manifest.outputs

    def case(name: str, outputs: list[np.ndarray], of: Sequence[Output] = specs) -> Case:
        return replace(base, name=f"misfit-{name}", outputs=outputs, manifest=replace(base.manifest, outputs=tuple(of)))

    yield case("fewer-outputs", o[:-1])
    yield case("channels", [o[1], o[0], *o[2:]])
    yield case("no-scale", [np.zeros(o[0].shape, np.int8), *o[1:]])
    yield case("no-scale-proto", [*o[:-1], np.zeros(o[-1].shape, np.uint8)])
    yield case("role-twice", o, [replace(specs[0], role="score"), *specs[1:]])
    yield case("proto-of-three", [*o[:-1], o[-1][..., 0]])
    yield replace(base, name="misfit-conf", settings={"conf": 1.5})
    yield replace(base, name="misfit-head", manifest=replace(base.manifest, head="decoded"))
    yield replace(base, name="misfit-task", manifest=replace(base.manifest, task="detect"))


def networks() -> Iterator[Case]:
    """The demo network and the small trained ones of the tests, in float and in integers, on generated pictures."""
    demo = HERE / "edgeseg" / "demo" / "demo-seg.pt"
    for i, file in enumerate((demo, *sorted((HERE / "tests" / "networks").glob("*.pt")))):
        picture = shapes_image(7 + i, 220)[0][: (150, 220, 187, 220)[i % 4]]
        for head in ("raw", "decoded"):
            yield from run_on(picture, file, head, (128, 160), f"{file.stem}-{head}")
    yield from run_on(shapes_image(31, 640)[0][:480], demo, "raw", (320, 320), f"{demo.stem}-320")


def run_on(picture: np.ndarray, file: Path, head: str, size: tuple[int, int], name: str) -> Iterator[Case]:
    from edgeseg.network.runtime import NetworkRuntime

    runtime = NetworkRuntime(file, head=head)
    manifest = replace(runtime.manifest, imgsz=size)
    x, box = prepare(picture, manifest, size)
    arrays = [a.astype(np.float64) for a in runtime.run(x)]
    for kind, layout in (("float32", "nchw"), ("int8", "nhwc"), ("uint8", "nchw")):
        if head == "decoded" and kind != "float32":
            continue  # under one scale with pixels no score is left
        parts = [output(o.role, a, kind, layout, o.stride) for a, o in zip(arrays, runtime.manifest.outputs)]
        used = replace(manifest, outputs=tuple(p[1] for p in parts))
        yield Case(f"{name}-{kind}", [p[0] for p in parts], used, box.source, size)


PICTURES = (
    *((33, 47), (32, 48), (64, 96), (65, 97), (66, 98), (128, 192), (192, 288), (101, 67)),
    *((150, 41), (40, 301), (1, 1), (1, 50), (50, 1), (1, 999), (427, 640)),
)


def inputs() -> Iterator[tuple[str, np.ndarray, Manifest]]:
    """Pictures (h, w, 3) BGR and manifests of an input: what ``prepare`` makes of them is compared byte by byte."""
    kinds = {
        "float32": ("float32", None, None), "int8": ("int8", 1 / 255, -128), "uint8": ("uint8", 1 / 255, 0),
        "int8-other": ("int8", 0.00784, -3), "uint8-other": ("uint8", 0.0171247, 114),
    }  # fmt: skip
    parts = decoded("", 0).manifest
    for i, shape in enumerate(PICTURES):
        picture = (uniform(i, (*shape, 3)) * 256).astype(np.uint8)
        for kind, (dtype, scale, zero) in kinds.items():
            if kind.endswith("other") and i % 4:
                continue
            for layout in ("nchw", "nhwc") if i % 2 else ("nhwc",):
                image = Tensor("images", (1, 3, *SIZE) if layout == "nchw" else (1, *SIZE, 3), dtype, layout, scale, zero)
                colour, top = "bgr" if i % 5 == 3 else "rgb", 255.0 if i % 6 == 5 else 1.0
                manifest = replace(parts, input=image, colour=colour, input_max=top, pad_value=114 if i % 3 else 0)
                yield f"input-{shape[0]}x{shape[1]}-{kind}-{layout}", picture, manifest
