"""A Core ML package written by hand, byte by byte: read, run, damaged. No coremltools is needed."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseg.errors import EdgesegError
from edgeseg.registry import target_by_name, target_by_path
from edgeseg.running.open import open_model

FLOAT16, FLOAT32, INT32, STRING = 10, 11, 23, 2
ARRAY = {FLOAT16: 65552, FLOAT32: 65568}


def varint(n: int) -> bytes:
    out = b""
    while n > 0x7F:
        out, n = out + bytes([n & 0x7F | 0x80]), n >> 7
    return out + bytes([n])


def field(number: int, value: int | bytes | str) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def kind(dtype: int, shape: tuple[int, ...]) -> bytes:
    sizes = b"".join(field(3, field(1, field(1, n))) for n in shape)
    return field(1, field(1, dtype) + field(2, len(shape)) + sizes)


def constant(dtype: int, shape: tuple[int, ...], tensor: bytes) -> bytes:
    return field(2, kind(dtype, shape)) + field(3, field(1, tensor))


def ints(*values: int) -> bytes:
    return constant(INT32, (len(values),), field(2, field(1, b"".join(varint(v) for v in values))))


def text(value: str) -> bytes:
    return constant(STRING, (), field(4, field(1, value)))


def entry(number: int, key: str, value: bytes) -> bytes:
    return field(number, field(1, key) + field(2, value))


def operation(type: str, output: str, shape: tuple[int, ...], result: int = FLOAT32, /, **inputs: str | bytes) -> bytes:
    body = field(1, type)
    for key, value in inputs.items():
        body += entry(2, key, field(1, field(1, value) if isinstance(value, str) else field(2, value)))
    return body + field(3, field(1, output) + field(2, kind(result, shape))) + entry(5, "name", text(output))


def weights(name: str, shape: tuple[int, ...], offset: int, dtype: int = FLOAT32) -> bytes:
    value = field(2, kind(dtype, shape)) + field(5, field(1, "@model_path/weights/weight.bin") + field(2, offset))
    head = field(1, "const") + field(3, field(1, name) + field(2, kind(dtype, shape)))
    return head + entry(5, "val", value) + entry(5, "name", text(name))


def feature(name: str, shape: tuple[int, ...], dtype: int = FLOAT32) -> bytes:
    sizes = field(1, b"".join(varint(n) for n in shape))
    return field(1, name) + field(3, field(5, sizes + field(2, ARRAY[dtype])))


IN, OUT = (1, 3, 4, 4), (1, 2, 4, 4)
WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3, 1, 1) / 8


def package(root: Path, operations: list[bytes], image: bool = False, metadata: dict[str, str] | None = None) -> Path:
    """A package with a 1x1 convolution's weights; ``y`` is its output."""
    path = root / "toy.mlpackage"
    folder = path / "Data" / "com.apple.CoreML" / "weights"
    folder.mkdir(parents=True)
    head = struct.pack("<II56x", 1, 2) + struct.pack("<IIQQQ32x", 0xDEADBEEF, 2, WEIGHT.nbytes, 128, 0)
    (folder / "weight.bin").write_bytes(head + WEIGHT.tobytes())
    block = field(2, "y") + b"".join(field(3, op) for op in operations)
    function = field(1, field(1, "images") + field(2, kind(FLOAT32, IN))) + field(2, "CoreML6") + entry(3, "CoreML6", block)
    said = b"".join(field(100, field(1, k) + field(2, v)) for k, v in (metadata or {}).items())
    source = (
        field(1, "images") + field(3, field(4, field(1, 4) + field(2, 4) + field(3, 30))) if image else feature("images", IN)
    )
    description = field(1, source) + field(10, feature("y", OUT)) + field(100, said)
    spec = field(1, 7) + field(2, description) + field(502, field(1, 1) + entry(2, "main", function))
    (folder.parent / "model.mlmodel").write_bytes(spec)
    items = {
        "a": {"name": "model.mlmodel", "path": "com.apple.CoreML/model.mlmodel"},
        "b": {"name": "weights", "path": "com.apple.CoreML/weights"},
    }
    (path / "Manifest.json").write_text(json.dumps({"itemInfoEntries": items, "rootModelIdentifier": "a"}))
    return path


def conv(dtype: int = FLOAT32, shape: tuple[int, ...] = OUT) -> list[bytes]:
    call = operation("conv", "y", shape, dtype, x="images", weight="w", strides=ints(1, 1), pad_type=text("valid"))
    return [weights("w", WEIGHT.shape, 64), call]


def run(path: Path, x: np.ndarray) -> np.ndarray:
    coreml = target_by_name("coreml")
    program = coreml.load("program").read_program(path)
    return coreml.load("evaluate").Evaluator(program).run(x)[0]


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).random(IN).astype(np.float32)


def expected(x: np.ndarray) -> np.ndarray:
    return np.einsum("oc,nchw->nohw", WEIGHT[:, :, 0, 0], x)


def test_the_suffix_is_a_folders(tmp_path):
    target = target_by_path(tmp_path / "a.mlpackage")
    assert target is not None and target.name == "coreml"
    assert target.artifact_name("m") == "m.mlpackage" and target_by_name("mlpackage") is target


def test_a_package_is_read_and_run(tmp_path, x):
    path = package(tmp_path, conv(), metadata={"names": "{0: 'a'}"})
    program = target_by_name("coreml").load("program").read_program(path)
    assert (program.opset, program.image, program.metadata) == ("CoreML6", None, {"names": "{0: 'a'}"})
    assert (program.input.name, program.input.shape, program.input.dtype) == ("images", IN, "float32")
    assert [(o.name, o.shape, o.dtype) for o in program.outputs] == [("y", OUT, "float32")]
    np.testing.assert_allclose(run(path, x), expected(x), rtol=1e-6)


def test_half_floats_are_rounded_where_the_program_says_so(tmp_path, x):
    operations = [*conv(FLOAT16)[:1], operation("cast", "h", IN, FLOAT16, x="images", dtype=text("fp16"))]
    operations += [operation("conv", "c", OUT, FLOAT16, x="h", weight="w", pad_type=text("valid"))]
    operations += [operation("cast", "y", OUT, x="c", dtype=text("fp32"))]
    got = run(package(tmp_path, operations), x)
    half = expected(x.astype(np.float16).astype(np.float32)).astype(np.float16)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, half.astype(np.float32), rtol=1e-3)
    assert np.array_equal(got, got.astype(np.float16).astype(np.float32)) and not np.array_equal(got, expected(x))


def test_an_image_input_takes_0_to_1_and_turns_channels(tmp_path, x):
    got = run(package(tmp_path, conv(), image=True), x)
    np.testing.assert_allclose(got, expected(np.rint(x * 255)[:, ::-1]), rtol=1e-5)


def test_tensors_are_watched_by_name(tmp_path, x):
    coreml, seen = target_by_name("coreml"), {}
    program = coreml.load("program").read_program(package(tmp_path, conv()))
    coreml.load("evaluate").Evaluator(program).run(x, lambda name, value: seen.update({name: value.shape}))
    assert seen == {"images": IN, "y": OUT}


def test_operators_that_are_not_known_are_named(tmp_path):
    path = package(tmp_path, [operation("einsum", "a", OUT), operation("gru", "y", OUT, x="a")])
    with pytest.raises(EdgesegError, match="einsum, gru") as e:
        open_model(path)
    assert e.value.path == path


def test_a_result_of_another_shape_than_declared(tmp_path, x):
    with pytest.raises(EdgesegError, match=r"conv y: it gives \[1, 2, 4, 4\] where .* \[1, 2, 4, 5\]"):
        run(package(tmp_path, conv(shape=(1, 2, 4, 5))), x)


def test_a_missing_argument(tmp_path, x):
    with pytest.raises(EdgesegError, match="conv y cannot be computed"):
        run(package(tmp_path, [operation("conv", "y", OUT, x="images")]), x)


def test_an_input_of_another_shape(tmp_path):
    with pytest.raises(EdgesegError, match=r"\[1, 3, 4, 8\] where \[1, 3, 4, 4\]"):
        run(package(tmp_path, conv()), np.zeros((1, 3, 4, 8), np.float32))


def spec_of(path: Path) -> Path:
    return path / "Data" / "com.apple.CoreML" / "model.mlmodel"


def weights_of(path: Path) -> Path:
    return spec_of(path).parent / "weights" / "weight.bin"


def cut(file: Path, keep: float) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * keep)])


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda p: (p / "Manifest.json").unlink(), "Manifest.json is missing"),
        (lambda p: (p / "Manifest.json").write_text("{"), "cannot be read"),
        (
            lambda p: (p / "Manifest.json").write_text('{"itemInfoEntries": [], "rootModelIdentifier": "a"}'),
            "cannot be read",
        ),
        (lambda p: spec_of(p).unlink(), "specification is missing"),
        (lambda p: cut(spec_of(p), 0.6), "damaged"),
        (lambda p: spec_of(p).write_bytes(b"\xff" * 50), "damaged"),
        (lambda p: spec_of(p).write_bytes(b""), "no ML program"),
        (lambda p: weights_of(p).unlink(), "weight file is missing"),
        (lambda p: cut(weights_of(p), 0.9), "truncated"),
        (lambda p: cut(weights_of(p), 0.1), "truncated"),
    ],
)
def test_damaged_packages(tmp_path, damage, what):
    path = package(tmp_path, conv())
    damage(path)
    with pytest.raises(EdgesegError, match=what) as e:
        open_model(path)
    assert str(path) in str(e.value)


def test_a_package_cannot_name_files_outside_of_it(tmp_path):
    path = package(tmp_path, conv())
    listing = path / "Manifest.json"
    listing.write_text(listing.read_text().replace("com.apple.CoreML/model", "../../../model"))
    with pytest.raises(EdgesegError, match="outside"):
        open_model(path)


def test_weights_changed_after_the_export(tmp_path):
    program: Any = target_by_name("coreml").load("program")
    first = package(tmp_path / "a", conv())
    told = {program.WEIGHTS_HASH: program.weights_hash(weights_of(first))}
    path = package(tmp_path / "b", conv(), metadata=told)
    program.read_program(path)
    data = bytearray(weights_of(path).read_bytes())
    data[-1] ^= 1
    weights_of(path).write_bytes(data)
    with pytest.raises(EdgesegError, match="changed after the export"):
        program.read_program(path)
    weights_of(path).unlink()
    with pytest.raises(EdgesegError, match="missing"):
        program.read_program(path)


def test_every_truncation_of_the_specification_is_a_clear_error(tmp_path):
    path = package(tmp_path, conv())
    whole = spec_of(path).read_bytes()
    for size in range(0, len(whole) - 1, 3):
        spec_of(path).write_bytes(whole[:size])
        with pytest.raises(EdgesegError):
            open_model(path)
