"""The manifest: what a reader must know of an artifact, and how it is written into files.

Two audiences read it. Tools of the ecosystem read the flat keys (``names``, ``stride``, ``imgsz`` ...); edgeseg reads its
own block, the key ``edgeseg``, a JSON object that holds the whole manifest. A target's runtime reads the metadata where its
format keeps it; the two places that several formats share, a ZIP appended to the file and a ``metadata.yaml`` beside it, are
read and written here.
"""

from __future__ import annotations

import ast
import json
import re
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, field, fields, replace
from pathlib import Path
from typing import Any

from edgeseg.errors import EdgesegError, brief
from edgeseg.record import dataclass

SCHEMA = 1
"""Number of the block's grammar, which ``decoders/manifest.schema.json`` spells out. A key that old readers may ignore is
added under the same number; where ignoring it would mislead them, the number goes up."""
ROLES = ("box", "score", "coeff", "proto", "prediction")
HEADS = ("raw", "decoded", "nms")
TASKS = ("segment", "detect")
BOXES = ("xywh", "xyxy")
LAYOUTS = ("nchw", "nhwc")
DTYPES = ("bool", *(f"{sign}int{n}" for sign in ("", "u") for n in (8, 16, 32, 64)), *(f"float{n}" for n in (16, 32, 64)))
MOST_TEXT = 8 << 20
MOST_SIDE = 1 << 16


@dataclass(frozen=True)
class Tensor:
    """One input or output tensor of an artifact.

    ``shape`` has the batch first; -1 stands for a dynamic size. ``layout`` says where the channels are: ``nchw`` is channels
    first, ``nhwc`` channels last, for 3-D tensors such as ``(1, 4+nc+32, N)`` too. Quantized values mean
    ``real = scale * (q - zero_point)``; both are None for float tensors. ``dtype`` is a NumPy name.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    layout: str = "nchw"
    scale: float | None = None
    zero_point: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        if not isinstance(self.name, str) or len(self.shape) > 8 or any(not -1 <= n <= 1 << 31 for n in self.shape):
            raise EdgesegError(f"tensor {brief(self.name)} has no shape that a tensor can have")
        if self.dtype not in DTYPES:
            raise EdgesegError(f"tensor {self.name}: dtype {brief(self.dtype)} is none of {', '.join(DTYPES)}")
        if self.scale is not None and not 0 < float(self.scale) < float("inf"):
            raise EdgesegError(f"tensor {self.name}: scale {brief(self.scale)} is no positive number")
        if self.layout not in LAYOUTS:
            raise EdgesegError(f"tensor {self.name}: layout {self.layout!r} is none of {', '.join(LAYOUTS)}")
        if (self.scale is None) != (self.zero_point is None):
            raise EdgesegError(f"tensor {self.name}: scale and zero_point come together")

    @property
    def hw(self) -> tuple[int, int]:
        """(height, width) of a 4-D tensor."""
        return (self.shape[2], self.shape[3]) if self.layout == "nchw" else (self.shape[1], self.shape[2])

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.shape[1] if self.layout == "nchw" else self.shape[-1]


@dataclass(frozen=True)
class Output(Tensor):
    """An output tensor with its ``role`` and, for ``box``, ``score`` and ``coeff``, the ``stride`` in input pixels."""

    role: str = "prediction"
    stride: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.role not in ROLES:
            raise EdgesegError(f"output {self.name}: role {self.role!r} is none of {', '.join(ROLES)}")


@dataclass(frozen=True)
class Manifest:
    """What a reader must know of one artifact.

    ``imgsz`` is (height, width) in pixels. ``names[i]`` is the name of class i. ``normalized_boxes`` is for the ``decoded``
    head of some formats: xywh in 0..1 in place of input pixels. The input holds RGB values in 0..1 (float) or their
    quantized form; the image is letterboxed with ``pad_value``, centred.

    Head layouts: ``raw`` is box, score and coeff maps by stride; ``decoded`` one ``prediction`` (1, 4+nc+k, N), or ``box``,
    ``score`` and ``coeff`` of those channels apart; ``nms`` one ``prediction`` (1, K, 6+k) of detections that are left after
    suppression: x1, y1, x2, y2, score, class, coefficients. Each with ``proto``, k channels. Where ``task`` is ``detect``
    there are neither coefficients nor ``proto``. ``reg_max`` is the number of bins of a box side, 1 for plain distances.

    Files of other tools may differ in more: ``boxes`` of the decoded head (``xywh`` about the centre, or ``xyxy``),
    ``score_logits`` (its scores are before the sigmoid), ``input_max`` (what a float input has for white: 1 or 255).
    ``end2end``: each object has one box, nothing is to be suppressed.
    """

    format: str
    names: tuple[str, ...]
    imgsz: tuple[int, int]
    input: Tensor
    outputs: tuple[Output, ...]
    head: str = "raw"
    precision: str = "fp32"
    stride: int = 32
    task: str = "segment"
    batch: int = 1
    channels: int = 3
    reg_max: int = 16
    dynamic: bool = False
    normalized_boxes: bool = False
    pad_value: int = 114
    colour: str = "rgb"
    description: str = ""
    author: str = ""
    date: str = ""
    version: str = ""
    license: str = ""
    args: Mapping[str, Any] = field(default_factory=dict)
    recipe: str | None = None
    calibration: Mapping[str, Any] | None = None
    tools: Mapping[str, str] = field(default_factory=dict)
    source: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    boxes: str = "xywh"
    score_logits: bool = False
    input_max: float = 1.0
    end2end: bool = False

    def __post_init__(self) -> None:
        if self.boxes not in BOXES:
            raise EdgesegError(f"boxes {self.boxes!r} are none of {', '.join(BOXES)}")
        if self.task not in TASKS:
            raise EdgesegError(f"task {brief(self.task)} is none of {', '.join(TASKS)}")
        if self.head not in HEADS:
            raise EdgesegError(f"head layout {self.head!r} is none of {', '.join(HEADS)}")
        numbers = (*self.imgsz, self.stride, self.reg_max, self.channels)
        whole = all(isinstance(n, int) and 0 < n <= MOST_SIDE for n in numbers) and len(self.imgsz) == 2
        words = all(isinstance(n, str) for n in (*self.names, *self.notes, self.format, self.precision, self.colour))
        if not whole or not words or not isinstance(self.args, Mapping) or not 0 <= self.pad_value <= 255:
            raise EdgesegError("the manifest holds a value that none can have")

    @property
    def nc(self) -> int:
        """Number of classes."""
        return len(self.names)

    def with_tensors(self, input: Tensor, outputs: tuple[Output, ...]) -> Manifest:
        """The same manifest with the tensors that the finished file really has."""
        return replace(self, input=input, outputs=outputs)

    def to_metadata(self) -> dict[str, str]:
        """Flat string keys as the ecosystem's tools read them, and the key ``edgeseg`` with everything (JSON).

        ``author`` is empty unless somebody is known: readers take a name that is not their own for a layout of another kind.
        """
        plain = ("description", "author", "date", "version", "license", "stride", "task", "batch")
        return {
            **{key: str(getattr(self, key)) for key in plain},
            "imgsz": str(list(self.imgsz)),
            "names": str(dict(enumerate(self.names))),
            "args": str(dict(self.args)),
            "channels": str(self.channels),
            "edgeseg": self.to_json(),
        }

    def to_json(self) -> str:
        """The whole manifest as one JSON object."""
        values = asdict(self)
        if not self.end2end:
            del values["end2end"]  # what has no such head can be read by releases that know of none
        return json.dumps({"schema": SCHEMA, **values}, separators=(",", ":"), default=str)

    def to_native(self) -> dict[str, Any]:
        """``to_metadata`` where files hold more than text: numbers, lists and objects as such, our block a JSON string."""
        native = {"stride": self.stride, "batch": self.batch, "imgsz": list(self.imgsz), "channels": self.channels}
        return {**self.to_metadata(), **native, "names": dict(enumerate(self.names)), "args": dict(self.args)}

    def to_yaml(self) -> str:
        """The text of a sidecar ``metadata.yaml``."""
        import yaml

        return yaml.safe_dump(self.to_native(), sort_keys=False, allow_unicode=True, width=10_000)

    @classmethod
    def from_json(cls, text: str, *, path: str | None = None) -> Manifest:
        """Read what ``to_json`` wrote in any release: unknown keys are left out, missing ones have their default.

        Raises:
            EdgesegError: no JSON object, a newer schema, or a value that no manifest of this schema has.
        """
        try:
            if len(text) > MOST_TEXT:
                raise EdgesegError("its manifest is too large", path=path, hint="Export the model again")
            raw = json.loads(text)
            schema = raw["schema"]
            if isinstance(schema, int) and schema > SCHEMA:
                what = f"its manifest has schema {schema}, and this edgeseg reads {SCHEMA}: a newer one wrote it"
                raise EdgesegError(what, path=path, hint="Update edgeseg here, or export the model again with this one")
            if schema != SCHEMA:
                what = f"manifest schema {brief(schema)} is not {SCHEMA}"
                raise EdgesegError(what, path=path, hint="Export the model again")
            raw = _known(cls, raw)
            raw["input"] = Tensor(**_known(Tensor, raw["input"]))
            raw["outputs"] = tuple(Output(**_known(Output, o)) for o in raw["outputs"])
            for key in ("names", "imgsz", "notes"):
                if key in raw:
                    raw[key] = tuple(raw[key])
            return cls(**raw)
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as e:
            what = f"the manifest cannot be read ({str(e)[:100]})"
            raise EdgesegError(what, path=path, hint="Export the model again") from e

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], *, path: str | None = None) -> Manifest | None:
        """The manifest in a file's metadata, or None when edgeseg did not write that file."""
        text = metadata.get("edgeseg")
        return None if text is None else cls.from_json(str(text), path=path)


def _known(cls: type[Any], raw: Mapping[str, Any]) -> dict[str, Any]:
    return {f.name: raw[f.name] for f in fields(cls) if f.name in raw}


def imgsz_of(value: Any) -> tuple[int, int]:
    """(height, width) from metadata as a list, its text, or one number; 640 x 640 where there is none."""
    value = literal(value)
    try:
        sides = [int(v) for v in value] if isinstance(value, Sequence) else [int(value)] * 2
        return (sides[0], sides[1]) if min(sides[:2]) > 0 and max(sides[:2]) <= 1 << 14 else (640, 640)
    except (TypeError, ValueError, IndexError, OverflowError):
        return 640, 640


def literal(value: Any) -> Any:
    """A value that was written as text (JSON or a Python literal), else itself."""
    if not isinstance(value, str) or len(value) > 1 << 20:
        return value
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return value


SIDECAR = "metadata.yaml"
SIDECAR_BYTES = 8 << 20
ZIP_MEMBER = "metadata.json"
MOST_METADATA = 8 << 20
_OURS = re.compile(r"(box|score|coeff)_\d+|prediction|proto")


def size_on_disk(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file())


def append_zip(path: Path, manifest: Manifest, others: Mapping[str, str] | None = None) -> None:
    """Append the metadata to a file as a ZIP archive; flatbuffer readers ignore what follows their data.

    ``metadata.json`` is its first member; ``others`` are texts for readers of other tools, by their names in the archive.
    """
    with zipfile.ZipFile(path, "a") as z:
        for name, text in {ZIP_MEMBER: json.dumps(manifest.to_native(), default=str), **(others or {})}.items():
            z.writestr(zipfile.ZipInfo(name), text)


def read_zip(path: Path) -> dict[str, Any]:
    """Metadata from a ZIP appended to the file, {} when there is none. Reads Python literals of older tools too."""
    if not zipfile.is_zipfile(path):
        return {}
    try:
        with zipfile.ZipFile(path) as z:
            members = z.infolist()
            member = next((m for m in members if m.filename == ZIP_MEMBER), members[0])
            if member.file_size > MOST_METADATA:
                return {}
            text = z.read(member).decode("utf-8")
        value = json.loads(text) if text.lstrip().startswith('{"') else ast.literal_eval(text)
    except (ArithmeticError, EOFError, LookupError, MemoryError, NotImplementedError, OSError, RuntimeError):
        return {}
    except (SyntaxError, ValueError, zipfile.BadZipFile, zlib.error):
        return {}
    return value if isinstance(value, dict) else {}


def write_sidecar(path: Path, manifest: Manifest) -> Path:
    """Write ``metadata.yaml`` into a folder artifact, or ``<file>.yaml`` beside a file, and return where it is."""
    file = _sidecar(path)
    file.write_text(manifest.to_yaml(), encoding="utf-8")
    return file


def read_sidecar(path: Path, *, ours: bool = False) -> dict[str, Any]:
    """Metadata beside or inside ``path``, {} when there is none.

    Args:
        ours: edgeseg wrote the model (``named_by_us``, or a mark of the format's own), so there was metadata.

    Raises:
        EdgesegError: the file is no YAML mapping, or ``ours`` and it is not there.
    """
    file = _sidecar(path)
    if not file.is_file():
        if ours:
            what = "edgeseg wrote this model and, beside it, its classes, size and tensors: that file is missing"
            raise EdgesegError(what, path=file, hint=f"Copy {file.name} too, from where the model was exported")
        return {}
    from edgeseg.yaml_file import load_yaml  # a tenth of a cold start, and files carry their metadata inside

    value = load_yaml(file, limit_bytes=SIDECAR_BYTES, hint="Export the model again")
    if not isinstance(value, dict):
        raise EdgesegError("no YAML mapping", path=file, hint="Export the model again")
    return value


def named_by_us(outputs: Iterable[str]) -> bool:
    """Whether edgeseg gives outputs these names: ``box_8``, ``score_8`` ... ``proto``, or ``prediction`` and ``proto``."""
    names = set(outputs)
    return len(names) > 1 and all(_OURS.fullmatch(name) for name in names)


def _sidecar(path: Path) -> Path:
    return path / SIDECAR if path.is_dir() else path.with_name(path.name + ".yaml")
