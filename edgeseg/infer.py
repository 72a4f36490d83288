"""A manifest for files that other tools exported: roles from shapes, the rest from their metadata and one probe run.

What was inferred, and from what, is said aloud in ``Manifest.notes``.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeseg.errors import EdgesegError
from edgeseg.manifest import Manifest, Output, Tensor

if TYPE_CHECKING:
    from edgeseg.artifact import Runtime
    from edgeseg.registry import Target

COEFFS = 32
BOX = 64
STRIDES = (8, 16, 32)
EXPECTED = (
    "expected a YOLOv8-seg network: (1, 4+nc+32, anchors) and a 32-channel map at a quarter of the input, "
    "or box, score and coeff maps of strides 8, 16, 32 with that map"
)
HINT = "Export it again from its checkpoint: edgeseg export <checkpoint>.pt"


@dataclass(frozen=True)
class _Head:
    """What the outputs turned out to be; ``nc`` is the number of classes that the tensors have."""

    outputs: tuple[Output, ...]
    layout: str
    nc: int


def infer_manifest(path: Path, target: Target, runtime: Runtime, names: tuple[str, ...] | None = None) -> Manifest:
    """The manifest of an artifact that carries none of ours.

    Args:
        path: the file, for messages.
        target: its target.
        runtime: the opened file; it is run once on a grey image (114/255) where its tensors alone do not tell.
        names: class names; they win over those of the metadata.

    Raises:
        EdgesegError: this is no YOLOv8-seg network (says what was found), its task is another, or ``names`` do not fit.
    """
    metadata, notes = dict(runtime.metadata), [f"manifest inferred: {path.name} was not written by edgeseg"]
    task = str(metadata.get("task", "segment"))
    if task != "segment":
        raise EdgesegError(f"its task is {task!r}, not instance segmentation", path=path, hint="Use a -seg model")
    entry, dynamic = _input(runtime.input, metadata, path, notes)
    probe = _Probe(runtime, entry)
    shapes = [o.shape if min(o.shape, default=-1) > 0 else probe.outputs[i].shape for i, o in enumerate(runtime.outputs)]
    head = _head(runtime.outputs, shapes, entry, path, notes)
    outputs, normalized = head.outputs, False
    if head.layout == "decoded":
        normalized = _normalized(outputs, probe, notes)
    else:
        _check_logits(outputs, probe, path)
    return Manifest(
        format=target.name,
        names=_fitting_names(metadata, names, head.nc, path, notes),
        imgsz=entry.hw,
        input=replace(entry, shape=tuple(runtime.input.shape)) if dynamic else entry,
        outputs=outputs,
        head=head.layout,
        precision={"int8": "int8", "uint8": "int8", "float16": "fp16"}.get(entry.dtype, "fp32"),
        stride=max(STRIDES),
        batch=entry.shape[0],
        dynamic=dynamic,
        normalized_boxes=normalized,
        description=str(metadata.get("description", "")),
        author=str(metadata.get("author", "")),
        date=str(metadata.get("date", "")),
        version=str(metadata.get("version", "")),
        license=str(metadata.get("license", "")),
        notes=tuple(notes),
    )


class _Probe:
    """One run on a grey image, made when it is first needed."""

    def __init__(self, runtime: Runtime, entry: Tensor) -> None:
        self._runtime, self._entry = runtime, entry
        self._outputs: list[np.ndarray] | None = None

    @property
    def outputs(self) -> list[np.ndarray]:
        if self._outputs is None:
            grey, entry = 114 / 255, self._entry
            if entry.scale is not None and entry.zero_point is not None:
                limits = np.iinfo(entry.dtype)
                grey = float(np.clip(round(grey / entry.scale) + entry.zero_point, limits.min, limits.max))
            self._outputs = self._runtime.run(np.full(entry.shape, grey, dtype=entry.dtype))
        return self._outputs

    def real_range(self, index: int, spec: Output, where: tuple[slice, ...] = ()) -> tuple[float, float]:
        """Smallest and largest value that an output took, dequantized."""
        values = self.outputs[index][where]
        low, high = float(values.min()), float(values.max())
        if spec.scale is not None and spec.zero_point is not None:
            low, high = ((v - spec.zero_point) * spec.scale for v in (low, high))
        return low, high


def _input(raw: Tensor, metadata: Mapping[str, Any], path: Path, notes: list[str]) -> tuple[Tensor, bool]:
    """The input with its layout and a concrete shape, and whether its height or width are free."""
    shape = tuple(raw.shape)
    if len(shape) != 4 or 3 not in (shape[1], shape[3]):
        raise EdgesegError(f"input {raw.name} {shape} is no image of 3 channels; {EXPECTED}", path=path, hint=HINT)
    layout = "nchw" if shape[1] == 3 else "nhwc"
    sides = shape[2:] if layout == "nchw" else shape[1:3]
    dynamic = min(sides) < 1
    if dynamic:
        sides = _imgsz(metadata.get("imgsz"))
        notes.append(
            f"input size is free; {sides[0]}x{sides[1]} taken from " + ("imgsz" if metadata.get("imgsz") else "habit")
        )
    batch = max(shape[0], 1)
    full = (batch, 3, *sides) if layout == "nchw" else (batch, *sides, 3)
    scale, zero_point = raw.scale, raw.zero_point
    if raw.dtype in ("uint8", "int8") and scale is None:
        scale, zero_point = 1 / 255, 0 if raw.dtype == "uint8" else -128
        notes.append(f"input {raw.dtype} without quantization parameters: 0..255 taken as 0..1")
    elif raw.dtype not in ("float32", "float16", "uint8", "int8"):
        raise EdgesegError(f"input {raw.name} is {raw.dtype}, which no image is fed as", path=path, hint=HINT)
    return Tensor(raw.name, full, raw.dtype, layout, scale, zero_point), dynamic


def _imgsz(value: Any) -> tuple[int, int]:
    value = _literal(value)
    try:
        sides = [int(v) for v in value] if isinstance(value, Sequence) else [int(value)] * 2
        return (sides[0], sides[1]) if min(sides[:2]) > 0 else (640, 640)
    except (TypeError, ValueError, IndexError):
        return 640, 640


def _head(raw: Sequence[Tensor], shapes: list[tuple[int, ...]], entry: Tensor, path: Path, notes: list[str]) -> _Head:
    hw = entry.hw
    anchors = sum(math.ceil(hw[0] / s) * math.ceil(hw[1] / s) for s in STRIDES)
    found = ", ".join(f"{o.name} {s}" for o, s in zip(raw, shapes))
    flat = [i for i, s in enumerate(shapes) if len(s) == 3]
    if len(shapes) == 2 and len(flat) == 1:
        head = _decoded(raw, shapes, entry, anchors, flat[0])
    elif len(shapes) == 10:
        head = _raw(raw, shapes, entry, notes)
    else:
        head = None
    if head is None:
        end_to_end = any(len(s) == 3 and 6 in (s[2], s[2] - COEFFS) for s in shapes)
        more = " (boxes after NMS: export it without NMS)" if end_to_end else ""
        more = " (a detection network)" if len(shapes) == 1 and anchors in shapes[0] else more
        raise EdgesegError(f"outputs {found}{more}; {EXPECTED}", path=path, hint=HINT)
    notes.append(f"{head.layout} head and roles inferred from shapes: {found}")
    return head


def _proto_layout(shape: tuple[int, ...], entry: Tensor) -> str | None:
    """Layout of the prototypes, None if it is another tensor; at 128 px both fit and the input decides."""
    quarter = tuple(math.ceil(side / 4) for side in entry.hw)
    fits = {"nchw": shape[1:] == (COEFFS, *quarter), "nhwc": shape[1:] == (*quarter, COEFFS)}
    if all(fits.values()):
        return entry.layout
    return next((layout for layout, fit in fits.items() if fit), None)


def _output(raw: Tensor, layout: str, role: str, stride: int | None = None) -> Output:
    return Output(raw.name, raw.shape, raw.dtype, layout, raw.scale, raw.zero_point, role=role, stride=stride)


def _decoded(raw: Sequence[Tensor], shapes: list[tuple[int, ...]], entry: Tensor, anchors: int, index: int) -> _Head | None:
    shape, proto = shapes[index], _proto_layout(shapes[1 - index], entry)
    layout = {shape[2]: "nchw", shape[1]: "nhwc"}.get(anchors)
    if proto is None or layout is None:
        return None
    nc = (shape[1] if layout == "nchw" else shape[2]) - 4 - COEFFS
    if nc < 1:
        return None
    made = {index: _output(raw[index], layout, "prediction"), 1 - index: _output(raw[1 - index], proto, "proto")}
    return _Head((made[0], made[1]), "decoded", nc)


def _raw(raw: Sequence[Tensor], shapes: list[tuple[int, ...]], entry: Tensor, notes: list[str]) -> _Head | None:
    hw, made = entry.hw, dict[int, Output]()
    for i, shape in enumerate(shapes):
        layout = _proto_layout(shape, entry)
        if layout is not None:
            made[i] = _output(raw[i], layout, "proto")
    counts: set[int] = set()
    for stride in STRIDES:
        cells = (math.ceil(hw[0] / stride), math.ceil(hw[1] / stride))
        first = [i for i, s in enumerate(shapes) if i not in made and len(s) == 4 and s[2:] == cells]
        last = [i for i, s in enumerate(shapes) if i not in made and len(s) == 4 and s[1:3] == cells]
        group, layout = (first, "nchw") if len(first) == 3 else (last, "nhwc")
        if len(group) != 3:
            return None
        channels = {i: shapes[i][1] if layout == "nchw" else shapes[i][3] for i in group}
        roles = _roles(channels, raw, stride, notes)
        if roles is None:
            return None
        made |= {i: _output(raw[i], layout, role, stride) for i, role in roles.items()}
        counts.add(next(channels[i] for i, role in roles.items() if role == "score"))
    if len(made) != len(shapes) or len(counts) != 1:
        return None
    return _Head(tuple(made[i] for i in range(len(shapes))), "raw", counts.pop())


def _roles(channels: Mapping[int, int], raw: Sequence[Tensor], stride: int, notes: list[str]) -> dict[int, str] | None:
    """Role by index of the three maps of a stride: by channels; where 64 or 32 classes tie, by name, else in our order."""
    known = {"box": BOX, "coeff": COEFFS}
    ways = [
        dict(zip(channels, roles))
        for roles in permutations(("box", "score", "coeff"))
        if all(known.get(role, count) == count for role, count in zip(roles, channels.values()))
    ]
    if len(ways) > 1:
        by_name = [w for w in ways if all(role in raw[i].name.lower() for i, role in w.items())]
        if not by_name:
            order = ", ".join(ways[0].values())
            notes.append(f"stride {stride}: channels alone do not tell the roles; taken in the order {order}")
        ways = by_name or ways
    return ways[0] if ways else None


def _normalized(outputs: Sequence[Output], probe: _Probe, notes: list[str]) -> bool:
    """Whether boxes are in 0..1: anchors cover the image, so that in pixels some centre lies far beyond 2."""
    (index,) = (i for i, o in enumerate(outputs) if o.role == "prediction")
    spec = outputs[index]
    where = (slice(None), slice(0, 2)) if spec.layout == "nchw" else (slice(None), slice(None), slice(0, 2))
    normalized = probe.real_range(index, spec, where)[1] <= 2.0
    notes.append(f"boxes are {'normalized to 0..1' if normalized else 'in input pixels'} (one run on a grey image)")
    return normalized


def _check_logits(outputs: Sequence[Output], probe: _Probe, path: Path) -> None:
    """Scores must be logits, negative nearly everywhere on a grey image; after a sigmoid none is."""
    scores = [(i, o) for i, o in enumerate(outputs) if o.role == "score"]
    if all(probe.real_range(i, o)[0] >= 0 for i, o in scores):
        raise EdgesegError("its score maps hold probabilities where logits are expected", path=path, hint=HINT)


def _literal(value: Any) -> Any:
    """A value that was written as text (JSON or a Python literal), else itself."""
    if not isinstance(value, str):
        return value
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(value)
        except (ValueError, SyntaxError):
            continue
    return value


def _listed(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    value = _literal(metadata.get("names"))
    if isinstance(value, Mapping):
        try:
            return tuple(str(v) for _, v in sorted((int(k), v) for k, v in value.items()))
        except (TypeError, ValueError):
            return ()
    return tuple(str(v) for v in value) if isinstance(value, (list, tuple)) else ()


def _fitting_names(
    metadata: Mapping[str, Any], names: tuple[str, ...] | None, nc: int, path: Path, notes: list[str]
) -> tuple[str, ...]:
    if names:
        if len(names) != nc:
            raise EdgesegError(
                f"it has {nc} classes, but {len(names)} names were given",
                path=path,
                hint="Give the data.yaml it was trained on",
            )
        return names
    listed = _listed(metadata)
    if len(listed) == nc:
        notes.append("class names taken from its metadata")
        return listed
    why = f"its metadata names {len(listed)} classes, its tensors have {nc}" if listed else "it names no classes"
    notes.append(f"{why}: class0 to class{nc - 1} used")
    return tuple(f"class{i}" for i in range(nc))
