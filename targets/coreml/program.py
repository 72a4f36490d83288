"""A saved Core ML package read into plain values: tensors, operations, weights and metadata. No coremltools is needed.

Field numbers are those of Model.proto, FeatureTypes.proto and MIL.proto in coremltools.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from edgeseg.errors import EdgesegError
from edgeseg.manifest import Tensor

from . import wire
from .blob import BlobFile

WEIGHTS_HASH = "edgeseg.weights"
"""Key in the user's metadata: SHA-256 of the weight file as it was exported."""
AGAIN = "Copy the whole folder again, or export again"
_DTYPES = {
    1: "bool", 2: "string", 10: "float16", 11: "float32", 12: "float64", 21: "int8", 22: "int16", 23: "int32", 24: "int64",
    25: "int4", 31: "uint8", 32: "uint16", 33: "uint32", 34: "uint64", 35: "uint4", 36: "uint2", 37: "uint1", 38: "uint6",
    39: "uint3",
}  # fmt: skip
_NARROW = {"int4": "int8", "uint4": "uint8", "uint2": "uint8", "uint1": "uint8", "uint6": "uint8", "uint3": "uint8"}
_ARRAYS = {65568: "float32", 65600: "float64", 131104: "int32", 131080: "int8", 65552: "float16"}
_RGB, _BGR = 20, 30


@dataclass(frozen=True)
class Value:
    """Name, dtype (a NumPy name, or ``string``) and shape (-1: unknown) of a tensor in the program."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Operation:
    """One operation. An argument is a list of names (``str``) of earlier tensors and of constants (arrays or text).

    ``blocks`` tells that it has nested blocks (control flow).
    """

    type: str
    name: str
    arguments: Mapping[str, tuple[Any, ...]]
    outputs: tuple[Value, ...]
    blocks: bool = False


@dataclass(frozen=True)
class Name:
    """A reference to an earlier tensor, to tell it from a constant string."""

    name: str


@dataclass(frozen=True, eq=False)
class Program:
    """The one function of a package. ``image`` is None for an array input, else ``rgb`` or ``bgr`` with values 0..255."""

    path: Path
    opset: str
    input: Tensor
    outputs: tuple[Tensor, ...]
    operations: tuple[Operation, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)
    image: str | None = None


def read_program(path: Path) -> Program:
    """Read an ``.mlpackage`` folder.

    Raises:
        EdgesegError: files are missing, truncated, changed or no ML program with one image as input.
    """
    spec_file, weights = _items(path)
    try:
        model = wire.Message(spec_file.read_bytes())
        description = model.message(2)
        metadata = description.message(100).text_mapping(100)
        if 502 not in model:
            raise EdgesegError("the package holds no ML program", path=path, hint="Export it as an ML program (.mlpackage)")
        _check_weights(metadata, weights)
        return _program(path, model, metadata, weights)
    except EdgesegError as e:
        if e.path is not None:
            raise
        raise EdgesegError(f"the specification is damaged ({e.what})", path=spec_file, hint=AGAIN) from e


def _items(path: Path) -> tuple[Path, Path]:
    """The specification and the folder of weights, as the package's own list names them."""
    listing = path / "Manifest.json"
    try:
        listed = json.loads(listing.read_text(encoding="utf-8"))
        entries, root = listed["itemInfoEntries"], listed["rootModelIdentifier"]
        places = [PurePosixPath(entries[root]["path"])]
        places += [PurePosixPath(e["path"]) for e in entries.values() if e.get("name") == "weights"]
    except FileNotFoundError as e:
        raise EdgesegError("no Core ML package: Manifest.json is missing", path=path, hint=AGAIN) from e
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise EdgesegError("the list of the package's files cannot be read", path=listing, hint=AGAIN) from e
    if any(p.is_absolute() or ".." in p.parts for p in places):
        raise EdgesegError("the package names files outside of it", path=listing, hint=AGAIN)
    spec = path / "Data" / places[0]
    if not spec.is_file():
        raise EdgesegError("the specification is missing", path=spec, hint=AGAIN)
    return spec, path / "Data" / places[1] if len(places) > 1 else spec.parent / "weights"


def weights_file(path: Path) -> Path | None:
    """The weight file of a package, None where all weights lie in the specification."""
    file = _items(path)[1] / "weight.bin"
    return file if file.is_file() else None


def weights_hash(file: Path) -> str:
    """SHA-256 of the weight file, as the metadata carries it."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _check_weights(metadata: Mapping[str, str], folder: Path) -> None:
    file = folder / "weight.bin"
    told = metadata.get(WEIGHTS_HASH)
    if told and not file.is_file():
        raise EdgesegError("the weight file is missing", path=file, hint=AGAIN)
    if told and weights_hash(file) != told:
        raise EdgesegError("the weight file is truncated or was changed after the export", path=file, hint=AGAIN)


def _program(path: Path, model: Any, metadata: Mapping[str, str], weights: Path) -> Program:
    functions = model.message(502).mapping(2)
    description = model.message(2)
    name = description.text(21) or "main"
    if name not in functions:
        raise EdgesegError(f"the program has no function {name!r}")
    function = functions[name]
    opset, blocks = function.text(2), function.mapping(3)
    if opset not in blocks:
        raise EdgesegError(f"the program has no block for its operator set {opset!r}")
    block = blocks[opset]
    entries = [_named_type(m) for m in function.messages(1)]
    features = description.messages(1) or [f for d in description.messages(20) for f in d.messages(2)]
    if len(entries) != 1 or len(features) != 1:
        found = ", ".join(e.name for e in entries)
        raise EdgesegError(f"{len(entries)} inputs ({found}) where one image is expected", path=path)
    entry, image = entries[0], _image(features[0])
    dtype = "float32" if image else _ARRAYS.get(features[0].message(3).message(5).integer(2), entry.dtype)
    reader = _Reader(weights)
    operations = tuple(reader.operation(m) for m in block.messages(3))
    known = {v.name: v for op in operations for v in op.outputs} | {entry.name: entry}
    declared = description.messages(10) or [f for d in description.messages(20) for f in d.messages(3)]
    order = [m.text(1) for m in declared] or block.texts(2)
    if missing := [n for n in order if n not in known]:
        raise EdgesegError(f"no operation writes the outputs {missing}")
    types = {m.text(1): _ARRAYS.get(m.message(3).message(5).integer(2)) for m in declared}
    outputs = tuple(Tensor(n, known[n].shape, types.get(n) or known[n].dtype) for n in order)
    return Program(path, opset, Tensor(entry.name, entry.shape, dtype), outputs, operations, metadata, image)


def _image(feature: Any) -> str | None:
    kind = feature.message(3)
    if 4 not in kind:
        return None
    space = kind.message(4).integer(3)
    if space not in (_RGB, _BGR):
        raise EdgesegError(f"the image input has colour space {space}, neither RGB nor BGR")
    return "bgr" if space == _BGR else "rgb"


def _type(message: Any) -> tuple[str, tuple[int, ...]]:
    """dtype and shape of a ValueType; lists and tuples of values (constants only) count as what they hold."""
    tensor = message.message(1)
    number = tensor.integer(1)
    if 1 in message and number not in _DTYPES:
        raise EdgesegError(f"a tensor has the type {number}, which is not known")
    shape = tuple(d.message(1).integer(1) if 1 in d else -1 for d in tensor.messages(3))
    return _DTYPES.get(number, "string"), shape


def _named_type(message: Any) -> Value:
    return Value(message.text(1), *_type(message.message(2)))


class _Reader:
    """Reads operations and the constants in them."""

    def __init__(self, weights: Path) -> None:
        self.weights = weights
        self.blobs: dict[str, Any] = {}

    def operation(self, message: Any) -> Operation:
        arguments: dict[str, tuple[Any, ...]] = {}
        for key, value in message.mapping(5).items():
            arguments[key] = (self.value(value),)
        for key, argument in message.mapping(2).items():
            bound = argument.messages(1)
            arguments[key] = tuple(self.value(b.message(2)) if 2 in b else Name(b.text(1)) for b in bound)
        outputs = tuple(_named_type(m) for m in message.messages(3))
        name = arguments.pop("name", ("",))[0]
        return Operation(message.text(1), str(name) or outputs[0].name, arguments, outputs, 4 in message)

    def value(self, message: Any) -> Any:
        """A constant: text for a single string, else an array of the declared type and shape."""
        dtype, shape = _type(message.message(2))
        if 5 in message:
            return self._blob(message.message(5), dtype, shape)
        immediate = message.message(3)
        if 3 in immediate or 2 in immediate:
            parts = immediate.message(3 if 3 in immediate else 2).messages(1)
            return [self.value(p) for p in parts]
        tensor = immediate.message(1)
        if dtype == "string":
            texts = tensor.message(4).texts(1)
            return texts[0] if len(texts) == 1 and not shape else texts
        return _shaped(_numbers(tensor, dtype), dtype, shape, "a constant")

    def _blob(self, message: Any, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
        name = PurePosixPath(message.text(1)).name
        if name not in self.blobs:
            self.blobs[name] = BlobFile(self.weights / name)
        offset = message.integer(2)
        return _shaped(self.blobs[name].read(offset), dtype, shape, f"the weights at {offset} in {name}")


def _numbers(tensor: Any, dtype: str) -> np.ndarray:
    narrow = _NARROW.get(dtype, dtype)
    if 7 in tensor:
        data = tensor.message(7).bytes(1)
        if len(data) % np.dtype(narrow).itemsize:
            raise EdgesegError(f"{len(data)} bytes are no {dtype} values")
        return np.frombuffer(data, np.dtype(narrow).newbyteorder("<"))
    if 1 in tensor:
        return np.array(tensor.message(1).floats(1), np.float32)
    kind = next((k for k in (2, 5, 3) if k in tensor), None)
    values = [] if kind is None else tensor.message(kind).integers(1)
    return np.array(values, np.int64).astype(narrow)


def _shaped(values: np.ndarray, dtype: str, shape: tuple[int, ...], what: str) -> np.ndarray:
    narrow = np.dtype(_NARROW.get(dtype, dtype))
    if values.size != math.prod(shape) or (values.dtype != narrow and values.dtype.kind != narrow.kind):
        raise EdgesegError(f"{what}: {values.size} values of {values.dtype} where {dtype} {list(shape)} is declared")
    return values.astype(narrow, copy=False).reshape(shape)
