"""Accuracy-driven search: the cheapest mixed precision that loses no more than it may, by measuring real artifacts.

This is the search itself and its memory; what a measurement is, the caller knows.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from edgeseg.errors import EdgesegError
from edgeseg.quantize.flow import STAGES
from edgeseg.quantize.recipe import FLOAT, Recipe, Stage
from edgeseg.store import write_atomically

#: Artifacts whose times differ by less are equally fast: the smaller one is cheaper.
SAME_SPEED = 0.03
#: Bits of the activations of the stages that are taken out of 8 bits.
Islands = Mapping[str, int]
#: The same as sorted pairs.
Key = tuple[tuple[str, int], ...]


def key_of(islands: Islands) -> Key:
    """Islands as something that can be compared and looked up."""
    return tuple(sorted(islands.items()))


@dataclass(frozen=True)
class Measured:
    """One artifact: ``islands`` as (stage, bits), sorted; losses of AP against float in points; milliseconds; bytes; and
    its agreement with the float network, 0..1."""

    islands: Key
    box_drop: float
    mask_drop: float
    ms: float
    size: int
    path: str = ""
    agreement: float = 1.0

    @property
    def drop(self) -> float:
        """The larger of the two losses."""
        return max(self.box_drop, self.mask_drop)

    @property
    def disagreement(self) -> float:
        """One minus the agreement."""
        return 1 - self.agreement

    @property
    def title(self) -> str:
        """What is not in 8 bits, in words."""
        together: dict[int, list[str]] = {}
        for stage, bits in self.islands:
            together.setdefault(bits, []).append(stage)
        words = [f"{', '.join(s)} {'float' if bits == FLOAT else f'{bits} bit'}" for bits, s in together.items()]
        return "; ".join(words) or "all 8 bit"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with ``drop`` and ``title``."""
        return {**asdict(self), "islands": dict(self.islands), "drop": self.drop, "title": self.title}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Measured:
        """Read what ``to_dict`` wrote."""
        values = {k: v for k, v in raw.items() if k not in ("drop", "title", "islands")}
        return cls(tuple(sorted((str(k), int(v)) for k, v in raw["islands"].items())), **values)


@dataclass(frozen=True)
class Limits:
    """What a mixed precision may lose: points of AP (boxes and masks alike), agreement with float that it must keep.

    Raises:
        EdgesegError: no such number.
    """

    max_drop: float | None = None
    min_agreement: float | None = None

    def __post_init__(self) -> None:
        if self.max_drop is not None and not self.max_drop >= 0:
            raise EdgesegError(f"max_drop={self.max_drop} is no number of AP points", hint="Write --max-drop 0.5")
        if self.min_agreement is not None and not 0 <= self.min_agreement <= 1:
            raise EdgesegError(f"min_agreement={self.min_agreement} is not in 0..1", hint="Write --min-agreement 0.95")

    def __bool__(self) -> bool:
        return self.max_drop is not None or self.min_agreement is not None

    def allow(self, m: Measured) -> bool:
        """Whether it loses no more than it may."""
        return (self.max_drop is None or m.drop <= self.max_drop) and (
            self.min_agreement is None or m.agreement >= self.min_agreement
        )

    def loss(self, m: Measured) -> float:
        """What is told of its loss where one number must do: of AP where only that is limited, else of agreement."""
        return m.drop if self.max_drop is not None and self.min_agreement is None else m.disagreement

    def __str__(self) -> str:
        words = [] if self.max_drop is None else [f"loses at most {self.max_drop:g} AP points"]
        words += [] if self.min_agreement is None else [f"agrees by {self.min_agreement:g} or more"]
        return " and ".join(words) or "has no limit"


@dataclass(frozen=True)
class Found:
    """The outcome: ``best`` is the cheapest within the limits, None if there is none; ``measured`` is in order of time."""

    best: Measured | None
    measured: tuple[Measured, ...]
    limits: Limits

    @property
    def frontier(self) -> tuple[Measured, ...]:
        """Those that no other beats in loss and in time and in size, the fastest first."""
        return frontier(self.measured, self.limits)


@dataclass
class Memory:
    """Measurements on disk, so that an interrupted search goes on where it was; None keeps them in memory only."""

    file: Path | None = None
    known: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.file is not None:
            with contextlib.suppress(OSError, ValueError):
                read = json.loads(self.file.read_text(encoding="utf-8"))
                self.known = read if isinstance(read, dict) else {}

    def recall(self, name: str, make: Callable[[], Any]) -> Any:
        """The plain value called ``name``; made and written down when it is not known."""
        if name not in self.known:
            self.known[name] = make()
            if self.file is not None:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(self.file, json.dumps(self.known, indent=1))
        return self.known[name]


def search(
    order: Sequence[str],
    measure: Callable[[Islands], Measured | None],
    limits: Limits,
    *,
    bits: Sequence[int] = (FLOAT, 16),
    say: Callable[[str], None] = lambda text: None,
) -> Found:
    """Find the cheapest islands that lose no more than they may.

    First all in 8 bits; then stages are taken out in ``order`` until the loss is within the limit. Then each of those, the
    least sensitive first, is put back if the loss stays within. At last the islands that remain are tried with other bits.

    Args:
        order: stages, the most sensitive first.
        measure: makes and measures one artifact; None where that cannot be.
        limits: what may be lost.
        bits: of the islands' activations, the usual one first.
        say: told of each step.
    """
    seen: dict[Key, Measured] = {}

    def fits(islands: Islands) -> bool:
        key = key_of(islands)
        if key not in seen:
            m = measure(islands)
            if m is None:
                return False
            seen[key] = m
            say(told(m))
        return limits.allow(seen[key])

    islands: dict[str, int] = {}
    enough = fits(islands)
    for stage in order:
        if enough:
            break
        islands[stage] = bits[0]
        enough = fits(islands)
    if enough:
        # The last one taken out was needed: without it the loss was too large.
        for stage in list(islands)[-2::-1]:
            fewer = {k: v for k, v in islands.items() if k != stage}
            if fits(fewer):
                islands = fewer
        for other in bits[1:] if islands else ():
            fits(dict.fromkeys(islands, other))
    return Found(cheapest(seen.values(), limits), tuple(seen.values()), limits)


def told(m: Measured) -> str:
    """One line of what was measured."""
    losses = f"box {-m.box_drop:+.2f}, mask {-m.mask_drop:+.2f} points, agreement {m.agreement:.3f}"
    return f"{m.title}: {losses}, {m.ms:.1f} ms, {m.size / 1e6:.2f} MB"


def outline(order: Sequence[str], bits: int = FLOAT) -> list[dict[str, int]]:
    """What shows the frontier with few measurements: stages taken out one after the other in ``order``, and each alone."""
    growing = [dict.fromkeys(order[:n], bits) for n in range(len(order))]
    return [*growing, *({stage: bits} for stage in order[1:])]


def cheapest(measured: Iterable[Measured], limits: Limits) -> Measured | None:
    """The fastest within the limits; of those that are as fast, the smallest."""
    good = sorted((m for m in measured if limits.allow(m)), key=lambda m: m.ms)
    fast = [m for m in good if m.ms <= good[0].ms * (1 + SAME_SPEED)]
    return min(fast, key=lambda m: (m.size, m.ms), default=None)


def frontier(measured: Iterable[Measured], limits: Limits) -> tuple[Measured, ...]:
    """The measurements that no other one beats or equals in loss, time and size at once, the fastest first."""
    every = [((limits.loss(m), m.ms, m.size), m) for m in measured]

    def beaten(mine: tuple[float, float, int]) -> bool:
        return any(all(a <= b for a, b in zip(other, mine)) and other != mine for other, _ in every)

    return tuple(sorted((m for mine, m in every if not beaten(mine)), key=lambda m: m.ms))


def with_islands(recipe: Recipe, islands: Islands) -> Recipe:
    """The recipe with other bits for the activations of some stages, and a name that says so."""
    stages = {**recipe.stages}
    for stage, bits in islands.items():
        stages[stage] = replace(stages.get(stage, Stage()), activations=bits)
    words = [f"{stage}-{'float' if bits == FLOAT else bits}" for stage, bits in sorted(islands.items())]
    made = replace(recipe, name="-".join([recipe.name, *words]), stages=stages)
    usual = {made.activation_bits(stage) for stage in STAGES}
    if len(usual) > 1:
        return made
    # No stage is an exception any more.
    stages = {k: replace(v, activations=0) for k, v in stages.items() if v.weights}
    return replace(made, activations=replace(recipe.activations, bits=usual.pop()), stages=stages)


def to_toml(recipe: Recipe) -> str:
    """A recipe as the text of its file."""
    # What a network learned is its own: no file gives it.
    values = {k: v for k, v in asdict(recipe).items() if k not in ("name", "learned")}
    lines: list[str] = []
    _table(values, "", lines)
    return "\n".join(lines) + "\n"


def _table(values: Mapping[str, Any], name: str, lines: list[str]) -> None:
    plain = {k: v for k, v in values.items() if not isinstance(v, Mapping)}
    if name and (plain or not values):
        lines += ["", f"[{name}]"]
    for key, value in plain.items():
        text = str(value).lower() if isinstance(value, bool) else repr(value)
        lines.append(f"{key} = {json.dumps(value, ensure_ascii=False) if isinstance(value, str) else text}")
    for key, value in values.items():
        if isinstance(value, Mapping):
            _table(value, f"{name}.{key}" if name else key, lines)
