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

from edgeseg.quantize.flow import STAGES
from edgeseg.quantize.recipe import FLOAT, Recipe, Stage
from edgeseg.store import write_atomically

#: Artifacts whose times differ by less are equally fast: the smaller one is cheaper.
SAME_SPEED = 0.03
#: Bits of the activations of the stages that are taken out of 8 bits.
Islands = Mapping[str, int]


@dataclass(frozen=True)
class Measured:
    """One artifact: ``islands`` as (stage, bits), sorted; losses of AP against float in points; milliseconds; bytes."""

    islands: tuple[tuple[str, int], ...]
    box_drop: float
    mask_drop: float
    ms: float
    size: int
    path: str = ""

    @property
    def drop(self) -> float:
        """The larger of the two losses."""
        return max(self.box_drop, self.mask_drop)

    @property
    def title(self) -> str:
        """What is not in 8 bits, in words."""
        words = [f"{stage} {'float' if bits == FLOAT else f'{bits} bit'}" for stage, bits in self.islands]
        return ", ".join(words) or "all 8 bit"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with ``drop`` and ``title``."""
        return {**asdict(self), "islands": dict(self.islands), "drop": self.drop, "title": self.title}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Measured:
        """Read what ``to_dict`` wrote."""
        values = {k: v for k, v in raw.items() if k not in ("drop", "title", "islands")}
        return cls(tuple(sorted((str(k), int(v)) for k, v in raw["islands"].items())), **values)


@dataclass(frozen=True)
class Found:
    """The outcome: ``best`` is the cheapest within the limit, None if there is none; ``measured`` is in order of time."""

    best: Measured | None
    measured: tuple[Measured, ...]
    max_drop: float

    @property
    def frontier(self) -> tuple[Measured, ...]:
        """Those that no other beats in loss and in time and in size, the fastest first."""
        return frontier(self.measured)


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
    max_drop: float,
    *,
    bits: Sequence[int] = (FLOAT, 16),
    say: Callable[[str], None] = lambda text: None,
) -> Found:
    """Find the cheapest islands that lose at most ``max_drop``.

    First all in 8 bits; then stages are taken out in ``order`` until the loss is within the limit. Then each of those, the
    least sensitive first, is put back if the loss stays within. At last the islands that remain are tried with other bits.

    Args:
        order: stages, the most sensitive first.
        measure: makes and measures one artifact; None where that cannot be.
        max_drop: points of AP, for boxes and masks alike.
        bits: of the islands' activations, the usual one first.
        say: told of each step.
    """
    seen: dict[tuple[tuple[str, int], ...], Measured] = {}

    def fits(islands: Islands) -> bool:
        key = tuple(sorted(islands.items()))
        if key not in seen:
            m = measure(islands)
            if m is None:
                return False
            seen[key] = m
            say(f"{m.title}: box {-m.box_drop:+.2f}, mask {-m.mask_drop:+.2f} points, {m.ms:.1f} ms, {m.size / 1e6:.2f} MB")
        return seen[key].drop <= max_drop

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
    return Found(cheapest(seen.values(), max_drop), tuple(seen.values()), max_drop)


def cheapest(measured: Iterable[Measured], max_drop: float) -> Measured | None:
    """The fastest within the limit; of those that are as fast, the smallest."""
    good = sorted((m for m in measured if m.drop <= max_drop), key=lambda m: m.ms)
    fast = [m for m in good if m.ms <= good[0].ms * (1 + SAME_SPEED)]
    return min(fast, key=lambda m: (m.size, m.ms), default=None)


def frontier(measured: Iterable[Measured]) -> tuple[Measured, ...]:
    """The measurements that no other one beats or equals in loss, time and size at once, the fastest first."""
    every = list(measured)

    def beaten(m: Measured) -> bool:
        return any(
            o.drop <= m.drop and o.ms <= m.ms and o.size <= m.size and (o.drop, o.ms, o.size) != (m.drop, m.ms, m.size)
            for o in every
        )

    return tuple(sorted((m for m in every if not beaten(m)), key=lambda m: m.ms))


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
