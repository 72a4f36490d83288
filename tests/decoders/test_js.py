"""The JavaScript decoder in node, against ``edgeseg.vision``: the same bytes in, the same boxes and mask pixels out."""

from __future__ import annotations

import base64
import copy
import json
import select
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeseg.manifest import Manifest, Output, Tensor
from edgeseg.vision.postprocess import postprocess
from edgeseg.vision.preprocess import Letterbox, prepare

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="needs node")
SIZE, STRIDES, NC, K, BINS = (64, 96), (8, 16, 32), 3, 8, 16


class Js:
    """A node process that answers requests."""

    def __init__(self) -> None:
        file = Path(__file__).parent / "js" / "serve.mjs"
        self.child = subprocess.Popen([str(NODE), str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, command: str, **request: Any) -> dict[str, Any]:
        assert self.child.stdin and self.child.stdout
        self.child.stdin.write(json.dumps({"command": command, **request}) + "\n")
        self.child.stdin.flush()
        ready, _, _ = select.select([self.child.stdout], [], [], 30)
        assert ready, "the decoder hangs"
        return json.loads(self.child.stdout.readline())


@pytest.fixture(scope="module")
def js() -> Iterator[Js]:
    server = Js()
    yield server
    server.child.kill()
    server.child.wait()


def packed(array: np.ndarray) -> dict[str, Any]:
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"dtype": array.dtype.name, "shape": array.shape, "data": data}


def unpacked(text: str, dtype: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype)


def manifest(head: str = "raw", layout: str = "nchw", **changes: Any) -> Manifest:
    """A manifest of a small network; shapes of its outputs are those of the arrays of ``tensors``."""
    roles = [(f"{r}_{s}", r, s) for s in STRIDES for r in ("box", "score", "coeff")] if head == "raw" else []
    if head != "raw":
        roles = [("prediction", "prediction", None)]
    if changes.get("task") == "detect":
        roles = [r for r in roles if r[1] != "coeff"]
    else:
        roles.append(("proto", "proto", None))
    outputs = tuple(Output(name, (1, 1, 1), layout=layout, role=role, stride=stride) for name, role, stride in roles)
    names = tuple(f"c{i}" for i in range(NC))
    return Manifest("onnx", names, SIZE, Tensor("images", (1, 3, *SIZE)), outputs, head=head, **changes)


def tensors(
    m: Manifest, rng: np.random.Generator, dtype: str = "float32", batch: int = 1
) -> tuple[Manifest, list[np.ndarray]]:
    """Noise that gives some tens of detections, and the manifest with its shapes, scales and zero points."""
    k = 0 if m.task == "detect" else K
    channels = {"box": 4 * m.reg_max, "score": NC, "coeff": K, "proto": K}
    cells = sum(SIZE[0] * SIZE[1] // s**2 for s in STRIDES)
    outputs, arrays = [], []
    for spec in m.outputs:
        if spec.role == "prediction":
            n, c = (60, 6 + k) if m.head == "nms" else (cells, 4 + NC + k)
            real = rng.normal(0, 1, (batch, n, c))
            real[..., :2], real[..., 2:4] = rng.uniform(0, 64, (2, batch, n, 2))
            if m.head == "nms" or m.boxes == "xyxy":
                real[..., 2:4] += real[..., :2]
            if m.normalized_boxes:
                real[..., :4] /= 64
            scores = rng.uniform(0, 1.02, (batch, n, 1 if m.head == "nms" else NC)) ** 3
            if m.head == "nms":
                real[..., 4:5], real[..., 5] = scores, rng.integers(-1, NC + 1, (batch, n))
            else:
                real[..., 4 : 4 + NC] = np.log(scores / (1.07 - scores) + 1e-9) if m.score_logits else scores
            real = real.transpose(0, 2, 1) if spec.layout == "nchw" else real
        else:
            h, w = (
                (SIZE[0] // s for s in (4, 4)) if spec.role == "proto" else (SIZE[0] // spec.stride, SIZE[1] // spec.stride)
            )
            w = SIZE[1] // 4 if spec.role == "proto" else w
            real = rng.normal(-2.5 if spec.role == "score" else 0, 2, (batch, h, w, channels[spec.role]))
            real = np.abs(real) if spec.role == "box" and m.reg_max == 1 else real
            real = real.transpose(0, 3, 1, 2) if spec.layout == "nchw" else real
        if dtype in ("float32", "float16"):
            array, scale, zero = real.astype(dtype), None, None
        else:
            limits, scale = np.iinfo(dtype), float(np.ptp(real)) / (120 if dtype == "int8" else 250)
            zero = int(rng.integers(limits.min // 4, limits.max // 4)) if dtype == "int8" else int(-real.min() / scale)
            array = np.clip(np.rint(real / scale) + zero, limits.min, limits.max).astype(dtype)
        array = np.ascontiguousarray(array)
        outputs.append(replace(spec, shape=array.shape, dtype=dtype, scale=scale, zero_point=zero))
        arrays.append(array)
    return replace(m, outputs=tuple(outputs)), arrays


def check(
    js: Js, m: Manifest, arrays: list[np.ndarray], source: tuple[int, int], size: tuple[int, int] = SIZE, **options: Any
) -> int:
    """The two decoders agree; how many detections that were."""
    words = {"maxDet": "max_det", "multiLabel": "multi_label"}
    given = {words.get(k, k): v for k, v in options.items()}
    wanted = postprocess(arrays, m, Letterbox.fit(source, size), **given)
    got = js.ask(
        "detect", manifest=m.to_json(), outputs=[packed(a) for a in arrays], source=source, size=size, options=options
    )
    assert "error" not in got, got
    assert np.array_equal(unpacked(got["classes"], "int32"), wanted.classes)
    assert np.abs(unpacked(got["scores"], "float32") - wanted.scores).max(initial=0) < 1e-6
    assert np.abs(unpacked(got["boxes"], "float32").reshape(-1, 4) - wanted.boxes).max(initial=0) < 1e-4
    assert (got["masks"] is None) == (wanted.tiles is None)
    for mask, tile, corner in zip(
        got["masks"] or (), wanted.tiles.tiles if wanted.tiles else (), wanted.tiles.corners if wanted.tiles else ()
    ):
        assert (mask["height"], mask["width"]) == tile.shape
        assert not tile.size or (mask["x"], mask["y"]) == tuple(corner)
        assert np.array_equal(unpacked(mask["data"], "uint8").reshape(tile.shape), tile)
    return len(wanted.scores)


HEADS = [
    {},
    {"layout": "nhwc"},
    {"reg_max": 1, "end2end": True},
    {"task": "detect"},
    {"head": "decoded"},
    {"head": "decoded", "layout": "nhwc", "normalized_boxes": True},
    {"head": "decoded", "boxes": "xyxy", "score_logits": True},
    {"head": "decoded", "task": "detect"},
    {"head": "nms", "layout": "nhwc"},
    {"head": "nms", "layout": "nhwc", "normalized_boxes": True},
    {"head": "nms", "layout": "nhwc", "task": "detect"},
]


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "uint8"])
@pytest.mark.parametrize("changes", HEADS, ids=lambda c: "-".join(f"{k}={v}" for k, v in c.items()) or "raw")
def test_every_head_in_every_dtype(js, changes, dtype) -> None:
    rng = np.random.default_rng(5)
    m, arrays = tensors(manifest(**changes), rng, dtype, batch=2)
    found = check(js, m, arrays, (61, 45), index=1, conf=0.3)
    assert found > 2
    many = check(js, m, arrays, (480, 640), conf=0.05, multiLabel=True, maxDet=300)
    assert many > 2
    assert check(js, m, arrays, (61, 45), classes=[1], masks=False) > 0


@given(
    seed=st.integers(0, 10_000),
    source=st.tuples(st.integers(1, 400), st.integers(1, 400)),
    conf=st.sampled_from([0.0, 0.01, 0.25, 0.5, 0.9, 1.0]),
    iou=st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    most=st.sampled_from([0, 1, 20, 300]),
    which=st.integers(0, len(HEADS) - 1),
    dtype=st.sampled_from(["float32", "int8", "uint8"]),
    multi=st.booleans(),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_source_and_threshold(js, seed, source, conf, iou, most, which, dtype, multi) -> None:
    m, arrays = tensors(manifest(**HEADS[which]), np.random.default_rng(seed), dtype)
    check(js, m, arrays, source, conf=conf, iou=iou, maxDet=most, multiLabel=multi)


@given(seed=st.integers(0, 10_000), which=st.integers(0, len(HEADS) - 1))
def test_tensors_with_anything_in_them(js, seed, which) -> None:
    """Not a number, infinities and huge values fall out of both alike."""
    rng = np.random.default_rng(seed)
    m, arrays = tensors(manifest(**HEADS[which]), rng)
    for array, spec in zip(arrays, m.outputs):
        if spec.role != "proto":
            odd = rng.random(array.shape) < 0.01
            array[odd] = rng.choice([np.nan, np.inf, -np.inf, 3e38, -3e38, 0], odd.sum())
    with np.errstate(all="ignore"):
        check(js, m, arrays, (50, 70), conf=0.2, masks=False)


def test_ties_come_in_order(js) -> None:
    m, arrays = tensors(manifest(), np.random.default_rng(1))
    for array, spec in zip(arrays, m.outputs):
        if spec.role == "score":
            array[:] = np.round(array)
    assert check(js, m, arrays, (64, 96), iou=1.0, maxDet=50) == 50


def test_a_dynamic_size(js) -> None:
    m, arrays = tensors(manifest("decoded", normalized_boxes=True, dynamic=True), np.random.default_rng(2))
    assert check(js, replace(m, imgsz=(640, 640)), arrays, (100, 90)) > 5


def test_a_prototype_of_one_cell(js) -> None:
    m, arrays = tensors(manifest(), np.random.default_rng(3))
    arrays[-1] = arrays[-1][:, :, :1, :1].copy()
    assert check(js, m, arrays, (64, 96)) > 5


def test_nothing_found(js) -> None:
    m, arrays = tensors(manifest(), np.random.default_rng(4))
    assert check(js, m, [np.full_like(a, -30) for a in arrays], (64, 96)) == 0


@given(
    seed=st.integers(0, 10_000),
    shape=st.tuples(st.integers(1, 90), st.integers(1, 130)),
    size=st.sampled_from([(32, 32), (64, 96), (96, 64), (160, 128)]),
    layout=st.sampled_from(["nchw", "nhwc"]),
    kind=st.sampled_from(
        [("float32", None, None), ("uint8", 1 / 255, 0), ("int8", 1 / 255, -128), ("int8", 0.0079, 3), ("uint8", 0.02, 7)]
    ),
    colour=st.sampled_from(["rgb", "bgr"]),
    channels=st.sampled_from([1, 3, 4]),
    top=st.sampled_from([1.0, 255.0]),
)
def test_the_input_tensor_has_the_same_bytes(js, seed, shape, size, layout, kind, colour, channels, top) -> None:
    """OpenCV's bit-exact bilinear resize, up and down, and every way to fill the input."""
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (*shape, 4), np.uint8)
    tensor = Tensor("images", (1, channels, *size) if layout == "nchw" else (1, *size, channels), kind[0], layout, *kind[1:])
    m = replace(manifest(), imgsz=size, input=tensor, colour=colour, input_max=top, pad_value=int(rng.integers(256)))
    wanted, box = prepare(np.ascontiguousarray(picture[..., 2::-1]), m)
    got = js.ask("prepare", manifest=m.to_json(), image=packed(picture))
    assert "error" not in got, got
    assert got["shape"] == list(wanted.shape)
    assert got["letterbox"]["resized"] == list(box.resized) and got["letterbox"]["pad"] == list(box.pad)
    assert np.array_equal(unpacked(got["data"], wanted.dtype.name).reshape(wanted.shape), wanted)


def test_a_photograph_of_many_pixels(js) -> None:
    rng = np.random.default_rng(7)
    picture, m = rng.integers(0, 256, (701, 1279, 4), np.uint8), replace(manifest(), imgsz=(640, 640), dynamic=True)
    wanted, _ = prepare(np.ascontiguousarray(picture[..., 2::-1]), m, (320, 416))
    got = js.ask("prepare", manifest=m.to_json(), image=packed(picture), size=(320, 416))
    assert np.array_equal(unpacked(got["data"], "float32").reshape(wanted.shape), wanted)


ODD = [None, -1, 0, 1.5, "x", "", [], [0], {}, True, 1 << 40, -(1 << 40), 1e308, [1 << 16, 1 << 16], ["a"] * 3, [[]]]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where every value of a manifest lies."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(p for k, v in inner for p in places(v, (*path, k)))]


@given(seed=st.integers(0, 10_000), which=st.integers(0, len(HEADS) - 1), data=st.data())
def test_hostile_manifests_and_tensors_are_errors(js, seed, which, data) -> None:
    m, arrays = tensors(manifest(**HEADS[which]), np.random.default_rng(seed), "uint8")
    raw, outputs = json.loads(m.to_json()), [packed(a) for a in arrays]
    for _ in range(data.draw(st.integers(0, 3))):
        *path, last = data.draw(st.sampled_from(places(raw)[1:]))
        inner = raw
        for key in path:
            inner = inner[key]
        inner[last] = copy.deepcopy(data.draw(st.sampled_from(ODD)))  # it may be changed in turn
    for _ in range(data.draw(st.integers(0, 2))):
        outputs[data.draw(st.integers(0, len(outputs) - 1))]["shape"] = data.draw(
            st.lists(st.sampled_from([-1, 0, 1, 2, 8, 12, 64, 1 << 30, 1.5]), max_size=6)
        )
    if data.draw(st.booleans()):
        del outputs[data.draw(st.integers(0, len(outputs) - 1))]
    text = json.dumps(raw)
    if data.draw(st.integers(0, 9)) == 0:
        text = text[: data.draw(st.integers(0, len(text)))]
    for got in (
        js.ask("detect", manifest=text, outputs=outputs, source=(30, 40), size=SIZE, options={"maxDet": 5}),
        js.ask("prepare", manifest=text, image=packed(np.zeros((3, 4, 4), np.uint8)), size=None),
    ):
        assert got.get("kind", "EdgesegError") == "EdgesegError", got
        if "boxes" in got:
            assert np.isfinite(unpacked(got["boxes"], "float32")).all() and len(unpacked(got["scores"], "float32")) <= 5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"options": {"conf": 2}}, "conf 2 is not in 0..1"),
        ({"options": {"iou": "x"}}, "iou x is not in 0..1"),
        ({"options": {"maxDet": -1}}, "maxDet -1 is no whole number"),
        ({"options": {"index": 3}}, "has 1 images, none of index 3"),
        ({"outputs": []}, "the model gave 0 outputs"),
        ({"source": (0, 5)}, "an image of 5x0 pixels does not fit"),
        ({"manifest": "{"}, "the manifest is no JSON"),
        ({"manifest": "[]"}, "no JSON object"),
        ({"manifest": '{"schema": 2}'}, "manifest schema 2 is not 1"),
        ({"manifest": manifest(task="detect").to_json()}, "the model gave"),
    ],
)
def test_errors_say_what_to_do(js, change, said) -> None:
    m, arrays = tensors(manifest(), np.random.default_rng(0))
    request = {
        "manifest": m.to_json(),
        "outputs": [packed(a) for a in arrays],
        "source": (9, 9),
        "size": SIZE,
        "options": {},
    }
    got = js.ask("detect", **{**request, **change})
    assert got["kind"] == "EdgesegError" and said in got["error"]


@pytest.mark.parametrize("shape", [(3, 4, 3), (0, 4, 4), (4,)])
def test_no_picture(js, shape) -> None:
    got = js.ask("prepare", manifest=manifest().to_json(), image={**packed(np.zeros(shape, np.uint8)), "shape": (3, 4)})
    assert "an image is {data, width, height}" in got["error"]
