"""Decisions as a file: made once from the network, taken by every backend, kept, compared and used again by people.

A backend matches what it finds in its own file to the tensors and convolutions here: convolutions by a fingerprint of their
weights, tensors by one of their values on a picture that everybody can make (``probe_image``). Names of nodes, the order of
operators and the layout of tensors play no part.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeseg.errors import EdgesegError
from edgeseg.quantize.constraints import Constraints, constrain, unfollowed
from edgeseg.quantize.equalize import pairs
from edgeseg.quantize.kinds import channels
from edgeseg.quantize.learned import fingerprint
from edgeseg.quantize.recipe import Recipe
from edgeseg.quantize.simulate import QParams, fake_quantize_weight
from edgeseg.store import read_bounded, write_atomically

if TYPE_CHECKING:
    from edgeseg.quantize.decide import Decisions
    from edgeseg.quantize.flow import Flow

SCHEMA = 1
MOST_BYTES = 1 << 28
NEAR = 2e-3
"""Values of one tensor in two runtimes: their statistics differ by less than this, relative to the root mean square."""


@dataclass(frozen=True)
class Tensor:
    """One activation. ``range``: the real values that it should cover; ``grid``: how it is rounded, None: float. ``print``:
    see ``value_print``."""

    stage: str
    range: tuple[float, float] | None
    grid: QParams | None
    print: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Convolution:
    """One convolution, called like the tensor that it writes.

    Attributes:
        kind: ``conv`` or ``deconv``.
        stage: where in the network.
        behind: the tensor that its activation writes, its own where there is none.
        print: fingerprint of its float weights.
        entry: how the tensor that it reads is rounded, None: float.
        scale: step of the integers of each output channel before the gain; None: its weights stay float.
        gain: what correction multiplied each output channel by, divided and multiplied: what equalization did to output
            and input channels (None: nothing).
        bias: of each output channel.
    """

    name: str
    kind: str
    stage: str
    behind: str
    print: tuple[float, ...]
    entry: QParams | None
    bias: np.ndarray
    scale: np.ndarray | None = None
    gain: np.ndarray | None = None
    divided: np.ndarray | None = None
    multiplied: np.ndarray | None = None

    @property
    def step(self) -> np.ndarray | None:
        """Step of the stored integers of each output channel."""
        return self.scale if self.scale is None or self.gain is None else self.scale * self.gain

    def weight(self, given: np.ndarray) -> np.ndarray:
        """Float32 weights (shaped as in ``Node``) as they are to be stored, on the grid of ``step`` if there is one."""
        if self.divided is not None:
            given = given / channels(self.kind, self.divided)
        if self.multiplied is not None:
            given = given * self.multiplied.reshape(1, -1, 1, 1)
        given = given.astype(np.float32)
        if self.scale is not None:
            given = fake_quantize_weight(given, self.kind, 8, self.scale)
        return given if self.gain is None else (given * channels(self.kind, self.gain)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Carried:
    """All decisions for one network, size, recipe, calibration set and kind of integers.

    ``about`` says what they were made from (``network``: SHA-256 of its file; ``imgsz``; ``calibration``). ``notes``: the
    lines of the recipe that these integers cannot follow, with the reason.
    """

    constraints: Constraints
    recipe: Recipe
    tensors: Mapping[str, Tensor]
    convolutions: Mapping[str, Convolution]
    notes: tuple[str, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)

    def by_weights(self, weights: Iterable[tuple[str, np.ndarray]]) -> dict[str, Convolution]:
        """The convolution of each (name in the file, float weights in any order), by that name.

        Raises:
            EdgesegError: weights that the network does not have.
        """
        known: dict[tuple[float, ...], list[Convolution]] = {}
        for c in self.convolutions.values():
            known.setdefault(c.print, []).append(c)
        found = {}
        for name, weight in weights:
            same = known.get(fingerprint(weight), [])
            if not same:
                raise EdgesegError(f"the weights {name} of the file are none of the network's", hint="Export again")
            found[name] = same.pop(0) if len(same) > 1 else same[0]
        return found

    def by_values(self, seen: Mapping[str, np.ndarray]) -> dict[str, str]:
        """The network's tensor of each tensor in a file, by its name there; what the network does not have is absent.

        Args:
            seen: values of the float file's tensors on ``probe_image``, without a batch axis, in any order of their axes.
        """
        names = list(self.tensors)
        prints = np.array([self.tensors[n].print for n in names])
        found = {}
        for name, values in seen.items():
            own = np.array(value_print(values))
            gap = np.abs(prints[:, 1:] - own[1:]).max(1) / np.maximum(own[3], 1e-6)
            gap[prints[:, 0] != own[0]] = np.inf
            best = int(gap.argmin())
            if gap[best] < NEAR:
                found[name] = names[best]
        return found

    def written_by(self, tensor: str) -> Convolution | None:
        """The convolution that writes a tensor, also where it does the activation behind it too."""
        same = (c for c in self.convolutions.values() if tensor in (c.name, c.behind))
        return next(same, None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; ``convolutions`` and ``tensors`` by name."""
        tensors = {name: {k: _plain(v) for k, v in vars(t).items()} for name, t in self.tensors.items()}
        own = {
            name: {k: _plain(v) for k, v in vars(c).items() if k != "name" and v is not None}
            for name, c in self.convolutions.items()
        }
        learned = {"learned": self.recipe.learned} if self.recipe.learned else {}
        return {
            **self.about,
            "constraints": self.constraints.to_table(),
            "recipe": {**self.recipe.to_dict(), **learned},
            "notes": list(self.notes),
            "tensors": tensors,
            "convolutions": own,
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Carried:
        """Read what ``to_dict`` wrote."""
        about = {k: raw[k] for k in ("network", "imgsz", "calibration") if k in raw}
        tensors = {
            name: Tensor(t["stage"], t["range"] and tuple(t["range"]), _grid(t["grid"]), tuple(t["print"]))
            for name, t in raw["tensors"].items()
        }
        convolutions = {}
        for name, c in raw["convolutions"].items():
            values = dict(c)
            entry, seen = _grid(values.pop("entry", None)), tuple(values.pop("print"))
            kind, stage, behind = (str(values.pop(k)) for k in ("kind", "stage", "behind"))
            arrays = {k: np.array(v, np.float32 if k in ("bias", "gain") else np.float64) for k, v in values.items()}
            convolutions[name] = Convolution(name, kind, stage, behind, seen, entry, **arrays)
        recipe, limits = Recipe.from_dict(raw["recipe"]), Constraints.from_table(raw["constraints"])
        return cls(limits, recipe, tensors, convolutions, tuple(raw["notes"]), about)


def carry(
    flow: Flow,
    decisions: Decisions,
    recipe: Recipe,
    constraints: Constraints,
    imgsz: tuple[int, int],
    **about: Any,
) -> Carried:
    """What ``decide`` found for ``flow`` under ``constraints``, for a backend to take; ``about``: see ``Carried``."""
    from edgeseg.quantize.simulate import Simulator, to_tensor

    given, prints = constrain(flow, constraints), dict[str, tuple[float, ...]]()
    picture = to_tensor([probe_image(imgsz)])
    Simulator(flow).run(picture, lambda name, y: prints.__setitem__(name, value_print(y[0].numpy())))
    grids = {k: q for k, q in decisions.params(given).items() if constraints.wide or q.high <= 127}
    stages = {flow.input: "backbone", **flow.stages}
    tensors = {k: Tensor(stages[k], decisions.ranges.get(k), grids.get(k), p) for k, p in prints.items()}
    multiplied = {second.output: first.output for first, second in pairs(flow)}
    convolutions = {}
    for n in given.nodes:
        if n.weight is None or n.bias is None:
            continue
        name, gain, scale = n.output, decisions.gains.get(n.output), decisions.weight_scales.get(n.output)
        convolutions[name] = Convolution(
            name,
            n.kind,
            stages[name],
            flow.activated.get(name, name),
            fingerprint(np.asarray(flow.producer[name].weight)),
            grids.get(n.inputs[0]),
            np.asarray(decisions.biases.get(name, n.bias), np.float32),
            scale if scale is None or gain is None else scale / gain,
            gain,
            decisions.factors.get(name),
            decisions.factors.get(multiplied.get(name, "")),
        )
    notes = unfollowed(flow, recipe, constraints)
    return Carried(constraints, recipe, tensors, convolutions, tuple(notes), {**about, "imgsz": list(imgsz)})


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        # Nine digits give every float32 back.
        return [float(f"{v:.9g}") for v in value] if value.dtype == np.float32 else value.tolist()
    return [value.scale, value.zero_point, value.low, value.high] if isinstance(value, QParams) else value


def _grid(value: Sequence[Any] | None) -> QParams | None:
    return None if value is None else QParams(float(value[0]), *map(int, value[1:]))


def save(path: Path, carried: Sequence[Carried]) -> None:
    """Write decisions as JSON with a line for each tensor and each convolution, so that two files can be compared."""
    parts = []
    for one in carried:
        lines = []
        for key, value in one.to_dict().items():
            if key in ("tensors", "convolutions"):
                rows = [f"    {json.dumps(name)}: {json.dumps(row)}" for name, row in value.items()]
                lines.append(f"   {json.dumps(key)}: {{\n" + ",\n".join(rows) + "\n   }")
            else:
                lines.append(f"   {json.dumps(key)}: {json.dumps(value)}")
        parts.append("  {\n" + ",\n".join(lines) + "\n  }")
    write_atomically(path, f'{{\n "schema": {SCHEMA},\n "decisions": [\n' + ",\n".join(parts) + "\n ]\n}\n")


def load(path: Path) -> list[Carried]:
    """Read what ``save`` wrote.

    Raises:
        EdgesegError: no such file, or it is none of these.
    """
    try:
        raw = json.loads(read_bounded(path, MOST_BYTES))
        if raw["schema"] != SCHEMA:
            raise EdgesegError("these decisions were written by another version", path=path, hint="Let them be made again")
        return [Carried.from_dict(one) for one in raw["decisions"]]
    except OSError as e:
        raise EdgesegError(f"the decisions cannot be read ({e.strerror or e})", path=path) from e
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        what = f"this is no file of decisions ({type(e).__name__}: {e})"
        raise EdgesegError(what, path=path, hint="edgeseg export --int8 --decisions FILE writes one") from e


def probe_image(imgsz: tuple[int, int]) -> np.ndarray:
    """The picture on which tensors are recognised: uint8 RGB (h, w, 3), noise over coarse noise, the same everywhere."""
    random, (height, width) = np.random.default_rng(0), imgsz
    coarse = random.integers(0, 192, (-(-height // 32), -(-width // 32), 3))
    large = coarse.repeat(32, 0).repeat(32, 1)[:height, :width]
    return (large + random.integers(0, 64, (height, width, 3))).astype(np.uint8)


def value_print(values: np.ndarray) -> tuple[float, ...]:
    """What tells a tensor's values apart whatever their order: number, mean, mean magnitude, root mean square, extremes."""
    v = np.asarray(values, np.float64).ravel()
    figures = (v.mean(), np.abs(v).mean(), np.sqrt((v * v).mean()), v.min(), v.max()) if v.size else (0.0,) * 5
    return (float(v.size), *(float(f"{x:.7g}") for x in figures))
