"""How close two models' output tensors are, role by role: signal-to-noise ratio and cosine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from edgeseg.errors import EdgesegError
from edgeseg.manifest import Manifest, Output
from edgeseg.quantize.relevance import relevant

_JOINED = ("box", "score", "coeff")
"""What ``prediction`` consists of, in its order."""


@dataclass(frozen=True)
class Closeness:
    """Agreement of one group of tensors with the reference.

    ``snr_db`` is 10 log10(sum r^2 / sum (r - o)^2) in decibel (infinite when equal, NaN for a reference of zeros);
    ``cosine`` is in -1..1; ``largest`` is the largest absolute difference; ``count`` the number of values compared.
    """

    snr_db: float
    cosine: float
    largest: float
    count: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, None in place of NaN and infinity."""
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(self).items()}


@dataclass
class _Sums:
    """One number an image and sum: added exactly at the end, so that the order of the images cannot be seen."""

    signal: list[float] = field(default_factory=list)
    power: list[float] = field(default_factory=list)
    noise: list[float] = field(default_factory=list)
    dot: list[float] = field(default_factory=list)
    largest: float = 0.0
    count: int = 0

    def add(self, reference: np.ndarray, other: np.ndarray) -> None:
        r, o = (np.array(a, np.float64, order="C").ravel() for a in (reference, other))
        # NumPy's own sums: those of BLAS depend on its number of threads. In place: fresh memory costs more than the sums.
        product = r * r
        self.signal.append(float(product.sum()))
        self.power.append(float(np.multiply(o, o, out=product).sum()))
        self.dot.append(float(np.multiply(r, o, out=product).sum()))
        d = np.subtract(r, o, out=r)
        self.noise.append(float(np.multiply(d, d, out=product).sum()))
        self.largest = max(self.largest, float(d.max(initial=0.0)), -float(d.min(initial=0.0)))
        self.count += r.size

    def join(self, more: _Sums) -> None:
        for key in ("signal", "power", "noise", "dot"):
            getattr(self, key).extend(getattr(more, key))
        self.largest, self.count = max(self.largest, more.largest), self.count + more.count

    def closeness(self) -> Closeness:
        signal, power, noise, dot = (_exact(v) for v in (self.signal, self.power, self.noise, self.dot))
        length = math.sqrt(signal * power)
        if noise == 0:
            snr = math.inf
        else:
            snr = 10 * math.log10(signal / noise) if signal else math.nan
        cosine = dot / length if length else (1.0 if noise == 0 else math.nan)
        return Closeness(snr, cosine, self.largest, self.count)


def _exact(values: list[float]) -> float:
    """Their sum, rounded once; infinite numbers are summed as they come."""
    return math.fsum(values) if all(map(math.isfinite, values)) else sum(values)


@dataclass
class TensorMeter:
    """Compares the outputs of two models image by image; sums only are kept.

    Args:
        outputs: names and roles, in the order in which tensors are added.
    """

    outputs: Sequence[Output]
    _sums: dict[str, _Sums] = field(default_factory=dict)

    def add(self, reference: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> None:
        """Add one image's outputs, dequantized, of equal layout on both sides.

        Raises:
            EdgesegError: a different number or shape of tensors.
        """
        if not len(reference) == len(other) == len(self.outputs):
            raise EdgesegError(
                f"{len(reference)} and {len(other)} tensors cannot be compared as {len(self.outputs)} outputs"
            )
        for output, r, o in zip(self.outputs, reference, other):
            if r.shape != o.shape:
                raise EdgesegError(f"output {output.name}: shapes {r.shape} and {o.shape} differ")
            self._sums.setdefault(output.name, _Sums()).add(r, o)

    def join(self, later: TensorMeter) -> None:
        """Take over what another meter of the same outputs has seen."""
        for name, sums in later._sums.items():
            self._sums.setdefault(name, _Sums()).join(sums)

    def by_output(self) -> dict[str, Closeness]:
        """Closeness of each output by its name."""
        return {name: s.closeness() for name, s in self._sums.items()}

    def by_role(self) -> dict[str, Closeness]:
        """Closeness of each role, over all of its outputs."""
        roles: dict[str, _Sums] = {}
        for output in self.outputs:
            s, total = self._sums.get(output.name), roles.setdefault(output.role, _Sums())
            if s is not None:
                total.join(s)
        return {role: s.closeness() for role, s in roles.items() if s.count}


def plain(manifest: Manifest, outputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Outputs as ``whole`` names them: float32 with channels first, dequantized, boxes in pixels."""
    found = []
    for spec, array in zip(manifest.outputs, outputs, strict=True):
        a = np.asarray(array, np.float32)
        if spec.scale is not None and spec.zero_point is not None:
            a = (a - spec.zero_point) * np.float32(spec.scale)
        a = np.moveaxis(a, -1, 1) if spec.layout == "nhwc" else a
        if manifest.normalized_boxes and spec.role in ("prediction", "box"):
            height, width = manifest.imgsz
            shares = np.array([width, height, width, height], np.float32).reshape(1, 4, 1)
            a = np.concatenate((a[:, :4] * shares, a[:, 4:]), 1)
        found.append(a)
    if whole(manifest) is manifest.outputs:
        return found
    by_role = {o.role: a for o, a in zip(manifest.outputs, found)}
    rest = [a for o, a in zip(manifest.outputs, found) if o.role not in _JOINED]
    return [np.concatenate([by_role[r] for r in _JOINED if r in by_role], 1), *rest]


def whole(manifest: Manifest) -> tuple[Output, ...]:
    """The outputs; where a decoded head's ``prediction`` is in parts, it in their place, as most files have it."""
    if manifest.head != "decoded" or all(o.role != "box" for o in manifest.outputs):
        return manifest.outputs
    rest = (o for o in manifest.outputs if o.role not in _JOINED)
    return (Output("prediction", (1, -1, -1), role="prediction"), *rest)


def same_order(reference: Sequence[Output], other: Sequence[Output]) -> list[int]:
    """Index into ``other`` of the output with the role and stride of each output of ``reference``."""
    index = {(o.role, o.stride): i for i, o in enumerate(other)}
    return [index[(o.role, o.stride)] for o in reference]


def parts_of(manifest: Manifest) -> list[Output]:
    """The tensors by role: those of the raw head; of the decoded one, ``prediction`` taken apart."""
    if manifest.head == "raw":
        return list(manifest.outputs)
    by_role = {o.role: o for o in whole(manifest)}
    roles = ("box", "score", *(("coeff",) if "proto" in by_role else ()))
    rest = [o for o in by_role.values() if o.role != "prediction"]
    return [replace(by_role["prediction"], name=role, role=role) for role in roles] + rest


def apart(manifest: Manifest, outputs: list[np.ndarray]) -> list[np.ndarray]:
    """One image's ``plain`` outputs as ``parts_of`` names them."""
    if manifest.head == "raw":
        return outputs
    by_role = {o.role: a for o, a in zip(whole(manifest), outputs)}
    p = by_role["prediction"]
    if "proto" not in by_role:
        return [p[:, :4], p[:, 4:]]
    return [p[:, :4], p[:, 4 : 4 + manifest.nc], p[:, 4 + manifest.nc :], by_role["proto"]]


class Beside:
    """The tensors of a model beside those of its reference: in one order and form, whole, and as far as they count.

    ``comparable``: both mean the same, a head of equal layout and classes. ``parts`` are the outputs of what is ``judged``.
    """

    def __init__(self, reference: Manifest, other: Manifest) -> None:
        self.reference, self.other = reference, other
        self.comparable = reference.head == other.head and reference.nc == other.nc
        self.parts = parts_of(reference)

    def plain(self, theirs: Sequence[np.ndarray], ours: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The reference's outputs and the model's as ``whole`` names them, those of the model in the reference's order."""
        mine = plain(self.other, ours)
        order = same_order(whole(self.reference), whole(self.other))
        return plain(self.reference, theirs), [mine[i] for i in order]

    def apart(self, theirs: list[np.ndarray], ours: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """``plain`` ones of one image by ``parts``."""
        return apart(self.reference, theirs), apart(self.reference, [a[:1] for a in ours])

    def judged(self, theirs: Sequence[np.ndarray], ours: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """What of those parts is compared (see ``edgeseg.quantize.relevance``)."""
        roles, logits = [o.role for o in self.parts], self.reference.head == "raw"
        return relevant(roles, theirs, theirs, logits=logits), relevant(roles, theirs, ours, logits=logits)
