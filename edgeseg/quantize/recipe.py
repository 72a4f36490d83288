"""Recipes: how to quantize, as data. A recipe speaks of roles and stages, never of node names."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from edgeseg.errors import EdgesegError, brief, did_you_mean
from edgeseg.quantize.floors import CHECKS, Floors
from edgeseg.quantize.flow import HEAD_STAGES, STAGES
from edgeseg.quantize.ranges import METHODS
from edgeseg.resources import calib_root
from edgeseg.store import read_bounded

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FLOAT = 32
MOST_BYTES = 1 << 20
ACTIVATION_BITS = (8, 16, FLOAT)
WEIGHT_BITS = (8, 16, FLOAT)
GRANULARITIES = ("channel", "tensor")
CORRECTIONS = ("none", "bias", "affine")
EQUALIZATIONS = ("none", "linear")


@dataclass(frozen=True)
class Weights:
    """``bits`` 8, 16 (half floats) or 32 (float); ``granularity``: one scale per output channel, or one per tensor.

    ``equalization`` across layers: ``linear`` evens out the channels between convolutions with nothing but each other.
    """

    bits: int = 8
    granularity: str = "channel"
    equalization: str = "none"


@dataclass(frozen=True)
class Activations:
    """``bits`` 8, 16 or 32 (float); ``method`` chooses the ranges; ``percentile`` is the share that this method keeps.

    ``silu_input`` is the method for what enters a SiLU or a hard swish, where ``mse`` measures the error behind it.
    """

    bits: int = 8
    method: str = "mse"
    silu_input: str = "mse"
    percentile: float = 0.9999


@dataclass(frozen=True)
class Correction:
    """What is adjusted after rounding, layer after layer, each on what the quantized layers before it really give.

    ``method``: ``bias`` shifts each channel by its mean error, ``affine`` also scales it (at no cost: the scale of the
    channel's weights takes it up). ``images`` of the calibration set are used, the first ones.
    """

    method: str = "bias"
    images: int = 16


@dataclass(frozen=True)
class Clip:
    """A range fixed by what the decoder needs, in place of one found by calibration (NaN: not fixed)."""

    low: float
    high: float


@dataclass(frozen=True)
class Stage:
    """Bits of one stage where they differ from the recipe's (0: they do not)."""

    activations: int = 0
    weights: int = 0


@dataclass(frozen=True)
class Recipe:
    """How to quantize. ``images`` is the number of calibration images.

    ``clips`` gives fixed ranges by role, ``stages`` other bits by stage (``backbone neck box score coeff proto``). ``gate``
    holds the floors that the finished artifact must reach. ``learned`` holds the ranges that a network trained by this
    recipe brings along (see ``learned_ranges``): they travel with the recipe, and no file can give them.
    """

    name: str
    title: str = ""
    images: int = 32
    weights: Weights = field(default_factory=Weights)
    activations: Activations = field(default_factory=Activations)
    correction: Correction = field(default_factory=Correction)
    clips: Mapping[str, Clip] = field(default_factory=dict)
    stages: Mapping[str, Stage] = field(default_factory=dict)
    gate: Floors = field(default_factory=Floors)
    learned: Mapping[str, Any] = field(default_factory=dict)

    @property
    def calibrated(self) -> bool:
        """Whether any activation is quantized, so that images are needed."""
        return any(self.activation_bits(s) != FLOAT for s in STAGES)

    def activation_bits(self, stage: str) -> int:
        """Bits of the activations that a stage's operators write."""
        return (self.stages[stage].activations if stage in self.stages else 0) or self.activations.bits

    def weight_bits(self, stage: str) -> int:
        """Bits of a stage's weights."""
        return (self.stages[stage].weights if stage in self.stages else 0) or self.weights.bits

    def without_equalization(self) -> Recipe:
        """The same for whoever rounds parts of a network, or trains it: its weights must stay its own."""
        return replace(self, weights=replace(self.weights, equalization="none"))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they travel in a ``Job``; the floors of the gate have no part in the artifact and stay behind."""
        given = {key: value for key, value in asdict(self).items() if key != "gate"}
        return given if self.learned else {key: value for key, value in given.items() if key != "learned"}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Recipe:
        """Read what ``to_dict`` wrote, also that of the first release, whose ``correction`` had a ``margin``."""
        values = dict(raw)
        learned = values.pop("learned", {})
        if isinstance(values.get("correction"), dict):
            values["correction"] = {k: v for k, v in values["correction"].items() if k != "margin"}
        return replace(_recipe(values, str(raw.get("name", "recipe")), None, ""), learned=learned)

    def same_rules(self, other: Recipe) -> bool:
        """Whether both quantize alike, whatever they are called and whatever their gates want."""
        skip = ("name", "title", "gate", "learned")
        return all(getattr(self, f.name) == getattr(other, f.name) for f in fields(self) if f.name not in skip)


def load_recipe(name_or_path: str | Path) -> Recipe:
    """A built-in recipe by name (``int8``), or a TOML file of one's own.

    Raises:
        EdgesegError: no such recipe; bad TOML, an unknown key, role or stage, or a value out of range, with file and line.
    """
    path = Path(name_or_path)
    if not path.is_file():
        built_in = {p.stem: p for p in sorted(calib_root().glob("*.toml"))}
        if str(name_or_path) not in built_in:
            name = str(name_or_path)
            hint = did_you_mean(name, built_in, f"Recipes: {', '.join(built_in)}, or a TOML file")
            raise EdgesegError(f"no recipe {name!r}", hint=hint)
        path = built_in[str(name_or_path)]
    try:
        text = read_bounded(path, MOST_BYTES).decode("utf-8")
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        found = re.search(r"line (\d+)", str(e))
        raise EdgesegError(f"no valid TOML ({e})", path=path, line=int(found.group(1)) if found else None) from e
    except (OSError, UnicodeDecodeError) as e:
        raise EdgesegError(f"the recipe cannot be read ({e})", path=path) from e
    except (ArithmeticError, RecursionError, ValueError) as e:  # numbers of a thousand digits, dates that are none
        raise EdgesegError(f"no valid TOML (a value that cannot be: {str(e)[:80]})", path=path) from e
    raw.pop("name", None)
    return _recipe(raw, path.stem, path, text)


def _line(text: str, table: str, key: str) -> int | None:
    """Line (from 1) of ``key`` in ``[table]``, of the table's header when the key itself is not found, else None."""
    now, header = "", None
    full = f"{table}.{key}" if table else key
    for number, line in enumerate(text.splitlines(), 1):
        head = re.match(r"\s*\[\s*([^\[\]]+?)\s*\]", line)
        if head:
            now = re.sub(r"\s*\.\s*", ".", head.group(1)).replace('"', "")
            if now == full:
                return number
            header = number if header is None and now == table else header
            continue
        found = re.match(r'\s*([A-Za-z0-9_."-]+)\s*=', line)
        if found:
            word = found.group(1).replace('"', "")
            spelled = f"{now}.{word}" if now else word
            if (
                spelled == full
                or spelled.startswith(full + ".")
                or (spelled == table and re.search(rf"\b{re.escape(key)}\b", line))
            ):
                return number
    return header


class _Reader:
    """Checks values and knows where in the file they stand."""

    def __init__(self, path: Path | None, text: str) -> None:
        self.path, self.text = path, text

    def fail(self, what: str, table: str, key: str, hint: str = "") -> EdgesegError:
        return EdgesegError(what, path=self.path, line=_line(self.text, table, key), hint=hint)

    def unknown(self, word: str, key: str, known: tuple[str, ...], table: str) -> EdgesegError:
        return self.fail(f"unknown {word} {key!r}", table, key, did_you_mean(key, known, f"Known: {', '.join(known)}"))

    def table(self, raw: Any, table: str, key: str) -> dict[str, Any]:
        if not isinstance(raw, dict):
            raise self.fail(f"{key} must be a table", table, key, f"Write it as [{f'{table}.{key}' if table else key}]")
        return raw

    def block(self, kind: type, raw: Any, table: str, checks: Mapping[str, Any]) -> Any:
        """A dataclass from a table: keys known, types right, values allowed."""
        head, _, last = table.rpartition(".")
        values, known = self.table(raw, head, last), {f.name: f.type for f in fields(kind)}
        for key, value in values.items():
            if key not in known:
                raise self.unknown("key", key, tuple(known), table)
            want: tuple[type, ...] = {"int": (int,), "float": (int, float), "str": (str,)}[str(known[key])]
            if isinstance(value, bool) or not isinstance(value, want):
                raise self.fail(f"{key} must be {known[key]}, not {brief(value)}", table, key)
            rule = checks.get(key)
            if isinstance(rule, tuple) and value not in rule:
                raise self.fail(f"{key} = {brief(value)} is none of {', '.join(map(str, rule))}", table, key)
            if callable(rule) and not rule(value):
                raise self.fail(f"{key} = {brief(value)} is out of range", table, key)
        try:
            return kind(**values)
        except TypeError as e:
            missing = [f.name for f in fields(kind) if f.name not in values]
            raise self.fail(f"{table} needs {' and '.join(missing)}", table, last) from e


_TOP = ("title", "images", "weights", "activations", "correction", "clips", "stages", "gate")


def _recipe(raw: dict[str, Any], name: str, path: Path | None, text: str) -> Recipe:
    r = _Reader(path, text)
    raw = {k: v for k, v in raw.items() if k != "name"}
    for key in raw:
        if key not in _TOP:
            raise r.unknown("key", key, _TOP, "")
    images, title = raw.get("images", 32), raw.get("title", "")
    if isinstance(images, bool) or not isinstance(images, int) or images < 1:
        raise r.fail(f"images = {brief(images)} is no whole number above 0", "", "images")
    if not isinstance(title, str):
        raise r.fail("title must be text", "", "title")

    weights = r.block(
        Weights,
        raw.get("weights", {}),
        "weights",
        {"bits": WEIGHT_BITS, "granularity": GRANULARITIES, "equalization": EQUALIZATIONS},
    )
    methods = {"bits": ACTIVATION_BITS, "method": METHODS, "silu_input": METHODS, "percentile": lambda v: 0.5 < v <= 1}
    activations = r.block(Activations, raw.get("activations", {}), "activations", methods)
    limits = {"method": CORRECTIONS, "images": lambda v: v > 0}
    correction = r.block(Correction, raw.get("correction", {}), "correction", limits)
    clips, stages = {}, {}
    for role, value in r.table(raw.get("clips", {}), "", "clips").items():
        if role not in HEAD_STAGES:
            raise r.unknown("role", role, HEAD_STAGES, "clips")
        clips[role] = r.block(Clip, value, f"clips.{role}", {})
        if clips[role].low >= clips[role].high:
            raise r.fail(f"the clip of {role} ends before it begins", f"clips.{role}", "low")
    for stage, value in r.table(raw.get("stages", {}), "", "stages").items():
        if stage not in STAGES:
            raise r.unknown("stage", stage, STAGES, "stages")
        bits = {"activations": (0, *ACTIVATION_BITS), "weights": (0, *WEIGHT_BITS)}
        stages[stage] = r.block(Stage, value, f"stages.{stage}", bits)
    gate = r.block(Floors, raw.get("gate", {}), "gate", CHECKS)
    return Recipe(name, title, images, weights, activations, correction, clips, stages, gate)
