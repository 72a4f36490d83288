"""The closed list of names that a foreign checkpoint may hold, and how the few constructors of plain data are read.

Nothing on the list is imported or called. Names become ``Record``s: the list is closed all the same, so that a file that was
made to do harm is recognised as such rather than half read.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeseg.network.pickles import Construct, Name, Record, Storage, hashable
from edgeseg.resources import parse_toml


@dataclass(frozen=True)
class TensorRef:
    """A tensor as a strided window on a storage; all numbers count elements."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


_STORAGES = {
    "Float": "float32", "Half": "float16", "Double": "float64", "BFloat16": "bfloat16", "Long": "int64", "Int": "int32",
    "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool",
}  # fmt: skip
# NumPy's codes of numbers, as ``struct`` has them.
_LETTERS = {
    "f8": "d", "f4": "f", "f2": "e", "i8": "q", "i4": "i", "i2": "h", "i1": "b", "u8": "Q", "u4": "I", "u1": "B", "b1": "?",
}  # fmt: skip

_MODULES: dict[str, str] = parse_toml(Path(__file__).with_name("allowlist.toml").read_text(encoding="utf-8"))
_ONCE = "ultralytics.nn.modules"  # was one file before it was a folder
_MODULES[_ONCE] = " ".join(_MODULES[f"{_ONCE}.{part}"] for part in ("block", "conv", "head"))
ALLOWED = frozenset(f"{module}.{name}" for module, names in _MODULES.items() for name in names.split())
STORAGES = {f"torch.{kind}Storage": dtype for kind, dtype in _STORAGES.items()} | {"torch.storage.UntypedStorage": "uint8"}


def _mapping(args: tuple[Any, ...]) -> dict[Any, Any]:
    found = args[-1] if args else {}
    if isinstance(found, (dict, list, tuple)):
        pairs = found.items() if isinstance(found, dict) else found
        return {hashable(key): value for key, value in pairs}
    return {}


def _set(args: tuple[Any, ...]) -> set[Any]:
    return {hashable(v) for v in args[0]} if args else set()


def _size(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(args[0]) if args and isinstance(args[0], (tuple, list)) else ()


def _encode(args: tuple[Any, ...]) -> bytes:
    text, codec = args if len(args) == 2 else (*args, "latin1")
    if codec not in ("latin1", "latin-1"):
        raise ValueError("bytes in an unusual encoding")
    if not isinstance(text, str):
        raise ValueError("bytes that are no text")
    return text.encode("latin1")


def _path(args: tuple[Any, ...]) -> str:
    if not all(isinstance(part, str) for part in args) or sum(map(len, args)) > 4096:
        raise ValueError("no path")
    return "/".join(args)


def _scalar(args: tuple[Any, ...]) -> Any:
    """A NumPy scalar as a Python number; a record when it is of another kind than a float or an integer."""
    kind, raw = args
    code = kind.args[0] if isinstance(kind, Record) and kind.cls == "numpy.dtype" and kind.args else None
    if isinstance(raw, bytes) and isinstance(code, str) and code.lstrip("<|=") in _LETTERS:
        return struct.unpack("<" + _LETTERS[code.lstrip("<|=")], raw)[0]
    return Record("numpy.scalar", args)


def _counts(value: Any) -> tuple[int, ...]:
    if isinstance(value, tuple) and len(value) <= 8 and all(type(n) is int and 0 <= n < 1 << 62 for n in value):
        return value
    raise ValueError(f"no sizes: {type(value).__name__}")


def _tensor(args: tuple[Any, ...]) -> TensorRef:
    """``(storage, offset, size, stride, ...)``; whether the window lies inside the storage is checked where it is read."""
    storage, offset, size, stride = args[:4]
    if not isinstance(storage, Storage) or len(_counts(size)) != len(_counts(stride)):
        raise ValueError("no tensor")
    return TensorRef(storage, _counts((offset,))[0], _counts(size), _counts(stride))


def _parameter(args: tuple[Any, ...]) -> Any:
    if not args:
        return Record("torch.nn.parameter.Parameter")
    if not isinstance(args[0], TensorRef):
        raise ValueError("a parameter without a tensor")
    return args[0]


def _method(args: tuple[Any, ...]) -> None:
    """A layer's own way to run, as joined layers keep it (``conv.forward = conv.forward_fuse``): nothing of it is kept."""
    if len(args) != 2 or not isinstance(args[0], Record) or args[1] not in ("forward_fuse", "forward_split", "fuseforward"):
        raise PermissionError("looks up an attribute")


def _typed_tensor(args: tuple[Any, ...]) -> Any:
    function, _, inner = args[:3]
    maker = {"torch._utils._rebuild_tensor_v2": _tensor, "torch._utils._rebuild_parameter": _parameter}
    if not isinstance(function, Name) or not isinstance(inner, tuple):
        raise ValueError("no tensor")
    return maker[function.full](inner)


CONSTRUCTORS: dict[str, Construct] = {
    "collections.OrderedDict": _mapping,
    "collections.Counter": _mapping,
    "collections.defaultdict": lambda args: {},
    "builtins.dict": _mapping,
    "builtins.getattr": _method,
    "builtins.set": _set,
    "builtins.frozenset": lambda args: frozenset(_set(args)),
    "torch.Size": _size,
    "_codecs.encode": _encode,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.nn.parameter.Parameter": _parameter,
    "torch._tensor._rebuild_from_type_v2": _typed_tensor,
    **{name: _path for name in ALLOWED if name.startswith("pathlib")},
}
