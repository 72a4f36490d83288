"""Which head the outputs of a stranger's file are, from their shapes; what shapes leave open, one run decides."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeseg.errors import EdgesegError
from edgeseg.manifest import Output, Tensor
from edgeseg.running.infer.entry import HINT

if TYPE_CHECKING:
    from edgeseg.running.runtime import Runtime


GREY = 114


class Probe:
    """The outputs for one grey image, computed when they are first needed."""

    def __init__(self, runtime: Runtime, entry: Tensor, input_max: float = 1.0) -> None:
        self._runtime, self._entry, self._max = runtime, entry, input_max
        self._outputs: list[np.ndarray] | None = None

    @property
    def outputs(self) -> list[np.ndarray]:
        """The arrays, in the order of the runtime's outputs."""
        if self._outputs is None:
            entry, grey = self._entry, self._max * GREY / 255
            if entry.scale is not None and entry.zero_point is not None:
                limits = np.iinfo(entry.dtype)
                grey = float(np.clip(round(GREY / 255 / entry.scale) + entry.zero_point, limits.min, limits.max))
            # A copy: what a runtime gives may be overwritten by its next run.
            self._outputs = [np.array(a) for a in self._runtime.run(np.full(entry.shape, grey, dtype=entry.dtype))]
        return self._outputs

    def real(self, index: int, spec: Output) -> np.ndarray:
        """One output as float64, dequantized, channels first; of a batch the first image: (C, ...)."""
        values = self.outputs[index][0].astype(np.float64)
        if spec.scale is not None and spec.zero_point is not None:
            values = (values - spec.zero_point) * spec.scale
        return np.moveaxis(values, -1, 0) if spec.layout == "nhwc" else values


PYRAMIDS = ((8, 16, 32), (4, 8, 16, 32), (8, 16, 32, 64))
"""Strides of the heads that are trained: the usual one, with P2 and with P6."""
BOXES = (64, 4)
"""Channels of a raw box map: 16 bins a side, or the distances themselves."""
MOST_COEFFS = 256

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Head:
    """What the outputs turned out to be; ``nc`` is the number of classes that the tensors have."""

    outputs: tuple[Output, ...]
    layout: str
    nc: int
    reg_max: int = 16
    strides: tuple[int, ...] = PYRAMIDS[0]
    task: str = "segment"


def find_head(
    raw: Sequence[Tensor], shapes: Sequence[Shape], entry: Tensor, probe: Probe, path: Path, notes: list[str]
) -> Head:
    """The head that tensors of these shapes make.

    Args:
        raw: the outputs. shapes: theirs, without free sizes. entry: the input, concrete.
        probe: one run, looked at only where shapes leave a choice. path: for messages. notes: gets what was decided.

    Raises:
        EdgesegError: none that edgeseg decodes; says what it is.
    """
    found = ", ".join(f"{o.name} {s}" for o, s in zip(raw, shapes))
    ways = [*_decoded(raw, shapes, entry), *_apart(raw, shapes, entry), *_suppressed(raw, shapes, entry)]
    ways = ways or list(_raw(raw, shapes, entry, notes)) or list(_detected(raw, shapes, entry))
    if not ways:
        raise EdgesegError(f"{what_it_is(shapes, entry)}: outputs {found}", path=path, hint=HINT)
    head = ways[0]
    if len(ways) > 1:
        head = max(ways, key=lambda w: _plausible(w, probe))  # of equal ones the first: the layout of the input
        axis = {"nchw": "first", "nhwc": "last"}[head.outputs[0].layout]
        notes.append(f"shapes leave a choice: channels {axis}, {head.nc} classes, as one run on a grey image shows")
    notes.append(f"{head.layout} head and roles inferred from shapes: {found}")
    if head.strides != PYRAMIDS[0]:
        notes.append(f"strides {', '.join(map(str, head.strides))}")
    return head


def anchors(hw: tuple[int, int], strides: Sequence[int]) -> int:
    """Cells of all maps of an input of (height, width)."""
    return sum(math.ceil(hw[0] / s) * math.ceil(hw[1] / s) for s in strides)


def _output(raw: Tensor, layout: str, role: str, stride: int | None = None) -> Output:
    return Output(raw.name, raw.shape, raw.dtype, layout, raw.scale, raw.zero_point, role=role, stride=stride)


def _protos(shapes: Sequence[Shape], entry: Tensor) -> Iterator[tuple[int, str, int]]:
    """Outputs that may be the prototypes: index, layout and channels; at a quarter of the input, of P2 heads at half."""
    for part in (4, 2):
        grid = tuple(math.ceil(side / part) for side in entry.hw)
        for i, s in enumerate(shapes):
            if len(s) != 4:
                continue
            fits = {"nchw": s[2:] == grid and s[1] <= MOST_COEFFS, "nhwc": s[1:3] == grid and s[3] <= MOST_COEFFS}
            if all(fits.values()):
                yield i, entry.layout, s[1] if entry.layout == "nchw" else s[3]
            else:
                yield from ((i, layout, s[1] if layout == "nchw" else s[3]) for layout, fit in fits.items() if fit)


def _layouts(entry: Tensor) -> tuple[str, str]:
    return ("nchw", "nhwc") if entry.layout == "nchw" else ("nhwc", "nchw")


def _decoded(raw: Sequence[Tensor], shapes: Sequence[Shape], entry: Tensor) -> Iterator[Head]:
    """(1, 4+nc+k, anchors) or its transpose, and prototypes of k channels."""
    if len(shapes) != 2:
        return
    for proto, proto_layout, k in _protos(shapes, entry):
        index, shape = 1 - proto, shapes[1 - proto]
        if len(shape) != 3:
            continue
        for strides in PYRAMIDS:
            count = anchors(entry.hw, strides)
            for layout in _layouts(entry):
                channels, cells = (shape[1], shape[2]) if layout == "nchw" else (shape[2], shape[1])
                if cells == count and channels - 4 - k >= 1:
                    made = {
                        index: _output(raw[index], layout, "prediction"),
                        proto: _output(raw[proto], proto_layout, "proto"),
                    }
                    yield Head((made[0], made[1]), "decoded", channels - 4 - k, strides=strides)


def _apart(raw: Sequence[Tensor], shapes: Sequence[Shape], entry: Tensor) -> Iterator[Head]:
    """Boxes, scores and coefficients of all anchors as outputs of their own, and the prototypes."""
    if len(shapes) != 4:
        return
    for proto, proto_layout, k in _protos(shapes, entry):
        rest = [i for i in range(4) if i != proto]
        if any(len(shapes[i]) != 3 for i in rest):
            continue
        for strides in PYRAMIDS:
            count = anchors(entry.hw, strides)
            for layout in _layouts(entry):
                axis, cells = (1, 2) if layout == "nchw" else (2, 1)
                if any(shapes[i][cells] != count for i in rest):
                    continue
                roles = _roles({i: shapes[i][axis] for i in rest}, {"box": (4,), "coeff": (k,)}, raw)
                if roles is None:
                    continue
                made = {i: _output(raw[i], layout, role) for i, role in roles.items()}
                made[proto] = _output(raw[proto], proto_layout, "proto")
                nc = next(shapes[i][axis] for i, role in roles.items() if role == "score")
                yield Head(tuple(made[i] for i in range(4)), "decoded", nc, strides=strides)


def _suppressed(raw: Sequence[Tensor], shapes: Sequence[Shape], entry: Tensor) -> Iterator[Head]:
    """(1, K, 6+k) after NMS, and prototypes of k channels. The number of classes is not in the shapes."""
    if len(shapes) != 2:
        return
    for proto, proto_layout, k in _protos(shapes, entry):
        index, shape = 1 - proto, shapes[1 - proto]
        if len(shape) == 3 and shape[2] == 6 + k and shape[1] not in {anchors(entry.hw, s) for s in PYRAMIDS}:
            made = {index: _output(raw[index], "nhwc", "prediction"), proto: _output(raw[proto], proto_layout, "proto")}
            yield Head((made[0], made[1]), "nms", 0)


def _raw(raw: Sequence[Tensor], shapes: Sequence[Shape], entry: Tensor, notes: list[str]) -> Iterator[Head]:
    """box, score and coeff maps of each stride, and the prototypes."""
    for strides in PYRAMIDS:
        if len(shapes) != 3 * len(strides) + 1:
            continue
        for proto, proto_layout, k in _protos(shapes, entry):
            head = _maps(raw, shapes, entry, strides, (proto, proto_layout, k), notes)
            if head is not None:
                yield head
                return


def _detected(raw: Sequence[Tensor], shapes: Sequence[Shape], entry: Tensor) -> Iterator[Head]:
    """Heads of detectors: one tensor (1, 4+nc, anchors), (1, K, 6) after NMS, or box and score maps of each stride."""
    for strides in PYRAMIDS:
        count = anchors(entry.hw, strides)
        if len(shapes) == 1 and len(shapes[0]) == 3:
            for layout in _layouts(entry):
                channels, cells = shapes[0][1:] if layout == "nchw" else shapes[0][:0:-1]
                if cells == count and channels > 4:
                    yield Head((_output(raw[0], layout, "prediction"),), "decoded", channels - 4, 16, strides, "detect")
        elif len(shapes) == 2 * len(strides) and all(len(s) == 4 for s in shapes):
            head = _box_maps(raw, shapes, entry, strides)
            if head is not None:
                yield head
    cells_of_all = {anchors(entry.hw, s) for s in PYRAMIDS}
    if len(shapes) == 1 and len(shapes[0]) == 3 and shapes[0][2] == 6 and shapes[0][1] not in cells_of_all:
        yield Head((_output(raw[0], "nhwc", "prediction"),), "nms", 0, task="detect")


def _box_maps(raw: Sequence[Tensor], shapes: Sequence[Shape], entry: Tensor, strides: tuple[int, ...]) -> Head | None:
    made: dict[int, Output] = {}
    counts: set[tuple[int, int]] = set()
    for stride in strides:
        cells = tuple(math.ceil(side / stride) for side in entry.hw)
        first = [i for i, s in enumerate(shapes) if s[2:] == cells]
        last = [i for i, s in enumerate(shapes) if s[1:3] == cells]
        group, layout = (first, "nchw") if len(first) == 2 else (last, "nhwc")
        channels = {i: shapes[i][1] if layout == "nchw" else shapes[i][3] for i in group}
        roles = _roles(channels, {"box": BOXES}, raw, names=("box", "score")) if len(group) == 2 else None
        if roles is None:
            return None
        made |= {i: _output(raw[i], layout, role, stride) for i, role in roles.items()}
        by_role = {role: channels[i] for i, role in roles.items()}
        counts.add((by_role["score"], by_role["box"]))
    if len(made) != len(shapes) or len(counts) != 1:
        return None
    nc, box = counts.pop()
    return Head(tuple(made[i] for i in range(len(shapes))), "raw", nc, box // 4, strides, "detect")


def _maps(
    raw: Sequence[Tensor],
    shapes: Sequence[Shape],
    entry: Tensor,
    strides: tuple[int, ...],
    proto: tuple[int, str, int],
    notes: list[str],
) -> Head | None:
    index, proto_layout, k = proto
    made = {index: _output(raw[index], proto_layout, "proto")}
    counts: set[tuple[int, int]] = set()
    said: list[str] = []
    for stride in strides:
        cells = tuple(math.ceil(side / stride) for side in entry.hw)
        first = [i for i, s in enumerate(shapes) if i not in made and len(s) == 4 and s[2:] == cells]
        last = [i for i, s in enumerate(shapes) if i not in made and len(s) == 4 and s[1:3] == cells]
        group, layout = (first, "nchw") if len(first) == 3 else (last, "nhwc")
        if len(group) != 3:
            return None
        channels = {i: shapes[i][1] if layout == "nchw" else shapes[i][3] for i in group}
        roles = _roles(channels, {"box": BOXES, "coeff": (k,)}, raw, f"stride {stride}", said)
        if roles is None:
            return None
        made |= {i: _output(raw[i], layout, role, stride) for i, role in roles.items()}
        by_role = {role: channels[i] for i, role in roles.items()}
        counts.add((by_role["score"], by_role["box"]))
    if len(made) != len(shapes) or len(counts) != 1:
        return None
    notes += said
    nc, box = counts.pop()
    return Head(tuple(made[i] for i in range(len(shapes))), "raw", nc, box // 4, strides)


def _roles(
    channels: Mapping[int, int],
    known: Mapping[str, tuple[int, ...]],
    raw: Sequence[Tensor],
    where: str = "outputs",
    said: list[str] | None = None,
    names: Sequence[str] = ("box", "score", "coeff"),
) -> dict[int, str] | None:
    """Role by index of tensors: by channels; where classes tie with another role, by name, else in our order."""
    ways = [
        dict(zip(channels, roles))
        for roles in permutations(names)
        if all(count in known.get(role, (count,)) for role, count in zip(roles, channels.values()))
    ]
    # Of 64 and 4 channels, 64 are the box: four classes are common, 64 classes with plain distances are not.
    boxes = known["box"]
    ways.sort(key=lambda w: boxes.index(next(channels[i] for i, role in w.items() if role == "box")))
    if len(ways) > 1:
        by_name = [w for w in ways if all(role in raw[i].name.lower() for i, role in w.items())]
        if not by_name and said is not None:
            order = ", ".join(ways[0].values())
            said.append(f"{where}: channels alone do not tell the roles; taken in the order {order}")
        ways = by_name or ways
    return ways[0] if ways else None


def _plausible(head: Head, probe: Probe) -> int:
    """How well the values of one run fit a decoded head: scores all in 0..1, boxes that have an extent."""
    spec = next((o for o in head.outputs if o.role == "prediction"), None)
    if spec is None:
        return 0
    values = probe.real(head.outputs.index(spec), spec)
    scores = values[4 : 4 + head.nc]
    inside = float(np.mean((scores >= -1e-3) & (scores <= 1 + 1e-3))) == 1.0
    spread = bool(values[:4].max() > 2.0 >= scores.max()) or bool(values[:4].max() <= 2.0)
    return 2 * inside + spread + (float(np.mean(values[2:4] >= 0)) == 1.0)


def what_it_is(shapes: Sequence[Shape], entry: Tensor) -> str:
    """What a network with these outputs is, as far as its shapes tell, in words."""
    counts = {anchors(entry.hw, s) for s in PYRAMIDS}
    if len(shapes) == 1:
        s = shapes[0]
        if len(s) == 2:
            return f"a classification network of {s[1]} classes"
        if len(s) == 3 and s[2] == 7:
            return "a detection network with NMS inside, for oriented boxes"
        if len(s) == 3 and counts & set(s[1:]):
            return "a network that gives boxes without classes"
        if len(s) == 4:
            return "a network that gives one map (semantic segmentation, depth or the like), no single objects"
    maps = [s for s in shapes if len(s) == 4]
    if len(maps) == len(shapes) and len(shapes) in (3, 6, 9) and not list(_protos(shapes, entry)):
        return "a detection network before decoding, of another kind"
    if len(shapes) == 2 and any(len(s) == 3 for s in shapes) and maps:
        return "boxes and a map that do not belong together as one segmentation head"
    return "no head that edgeseg knows"
