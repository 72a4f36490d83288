"""What a network looks like: its family, its task and a few numbers, and the channel and block counts that follow from them.

All families have one plan: a backbone that halves the size five times, a neck that goes up and comes down again, a head with
branches at strides 8, 16 and 32. What a family chooses is said in ``families.toml``, and nowhere else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from edgeseg.errors import EdgesegError, brief, did_you_mean
from edgeseg.manifest import TASKS
from edgeseg.resources import parse_toml
from edgeseg.yaml_file import load_yaml

VARIANTS = ("n", "s", "m", "l", "x")


@dataclass(frozen=True)
class Mix:
    """One mixing block, in the numbers of width 1 and depth 1.

    Attributes:
        channels: that it gives. repeats: members of its chain.
        share: channels of a member, as a share of ``channels``.
        shortcut: whether bottlenecks add their input.
        deep: members are blocks with two bottlenecks of their own, in place of a bottleneck.
        attends: each member is a bottleneck with self-attention behind it.
    """

    channels: int
    repeats: int
    share: float = 0.5
    shortcut: bool = True
    deep: bool = False
    attends: bool = False


@dataclass(frozen=True)
class Family:
    """What is special about one family.

    Attributes:
        title: its name for people.
        scales: of each variant: depth multiple, width multiple, ceiling of the channels before the width multiple.
        mixes: the mixing blocks of the backbone (``p2`` ... ``p5``) and the neck (``top4``, ``out3``, ``out4``, ``out5``).
        squeeze: hidden channels of a bottleneck, as a share of its channels.
        deep_from: variants in which all mixing blocks are ``deep``.
        attention: repeats of the self-attention block behind the pooling at depth 1; 0: there is none.
        pooled_sum: the pooling adds its input, and its first convolution has no activation.
        reg_max: bins of each box side; 1: the head gives distances.
        separable: the score branch has depthwise convolutions.
        rich_proto: prototypes are made of all three maps; a branch for semantic classes learns beside them.
        single: the head has a second copy of its branches, trained to give one box for each object.
    """

    title: str
    scales: Mapping[str, tuple[float, float, int]]
    mixes: Mapping[str, Mix]
    squeeze: float = 0.5
    deep_from: tuple[str, ...] = ()
    attention: int = 0
    pooled_sum: bool = False
    reg_max: int = 16
    separable: bool = False
    rich_proto: bool = False
    single: bool = False


def _family(table: dict[str, Any]) -> Family:
    scales = {variant: (depth, width, most) for variant, (depth, width, most) in table.pop("scales").items()}
    mixes = {place: Mix(**numbers) for place, numbers in table.pop("mixes").items()}
    return Family(scales=scales, mixes=mixes, deep_from=tuple(table.pop("deep_from", ())), **table)


_TABLES = parse_toml(Path(__file__).with_name("families.toml").read_text(encoding="utf-8"))
FAMILIES: dict[str, Family] = {word: _family(table) for word, table in _TABLES.items()}
"""By the word that file names begin with: ``yolo11n-seg.pt`` is variant n of ``yolo11``."""

SUFFIXES = {"segment": "-seg", "detect": ""}
"""What the names of a task's networks end with."""


def titled(family: str, task: str, variant: str = "") -> str:
    """A family and task for people: ``YOLO11-seg``, with a variant ``YOLO11n-seg``."""
    return f"{FAMILIES[family].title}{variant}{SUFFIXES[task]}"


DEFINITIONS = Path(__file__).with_name("definitions")
STRIDES = (8, 16, 32)
COEFFS = 32
# Three times the widest and ten times the deepest published: a few written digits must not claim all memory.
MAX_CHANNELS, MAX_REPEATS = 2048, 64
EXAMPLE = "A definition looks like: variant: n, nc: 80"
ACTIVATIONS = ("silu", "relu6", "hardswish")


@dataclass(frozen=True)
class Definition:
    """The numbers that define one network.

    Attributes:
        variant: ``n``, ``s``, ``m``, ``l`` or ``x``; anything else names a network of custom ``depth``, ``width`` and
            ``max_channels``.
        nc: number of classes, at least 1.
        act: activation of every convolution: ``silu``, ``relu6`` or ``hardswish``.
        depth: factor on the number of bottlenecks; None takes the variant's.
        width: factor on the channels; None takes the variant's.
        max_channels: ceiling of the channels before ``width``; None takes the variant's.
        family: ``yolov8``, ``yolo11`` or ``yolo26``.
        task: ``segment``, or ``detect`` for a head without coefficients and prototypes.
        end2end: has only the second copy of the branches, where its family has one: one box for each object.

    Raises:
        EdgesegError: a value is out of range, or a custom variant lacks depth, width or max_channels.
    """

    variant: str = "n"
    nc: int = 80
    act: str = "silu"
    depth: float | None = None
    width: float | None = None
    max_channels: int | None = None
    family: str = "yolov8"
    task: str = "segment"
    end2end: bool = False

    def __post_init__(self) -> None:
        for key, word, known in (("family", self.family, tuple(FAMILIES)), ("task", self.task, TASKS)):
            if not isinstance(word, str) or word not in known:
                raise EdgesegError(f"{key} {brief(word)} is none of {', '.join(known)}", hint=did_you_mean(str(word), known))
        if self.end2end is not False and (self.end2end is not True or not self.plan.single):
            raise EdgesegError(f"{self.plan.title} has no one-to-one head", hint="Of the families here YOLO26 has one")
        scales = (self.depth, self.width, self.max_channels)
        if not isinstance(self.variant, str):
            raise EdgesegError(f"variant {brief(self.variant)} is no text")
        if self.variant in VARIANTS:
            filled: tuple[float | None, ...] = tuple(
                given if given is not None else own for given, own in zip(scales, self.plan.scales[self.variant])
            )
        elif any(s is None for s in scales):
            raise EdgesegError(
                f"variant {self.variant!r} is none of {', '.join(VARIANTS)}",
                hint="A variant of your own gives depth, width and max_channels",
            )
        else:
            filled = scales
        for key, value in zip(("depth", "width", "max_channels"), filled):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 4096:
                raise EdgesegError(f"{key} must be a number above 0, not {brief(value)}")
            object.__setattr__(self, key, value)
        if isinstance(self.nc, bool) or not isinstance(self.nc, int) or not 1 <= self.nc <= 10_000:
            raise EdgesegError(f"nc must be a whole number of classes from 1 to 10000, not {brief(self.nc)}")
        if not isinstance(self.act, str) or self.act not in ACTIVATIONS:
            raise EdgesegError(f"activation {brief(self.act)} is none of {', '.join(ACTIVATIONS)}")
        widest = max(*self.stages, *self.levels)
        deepest = max(self.mix(name).repeats for name in self.plan.mixes)
        if widest > MAX_CHANNELS or deepest > MAX_REPEATS:
            raise EdgesegError(
                f"a network of {widest} channels and {deepest} repeats is larger than edgeseg builds",
                hint=f"At most {MAX_CHANNELS} channels and {MAX_REPEATS} repeats: choose a smaller width or depth",
            )

    def channels(self, base: int) -> int:
        """Channels of a layer that has ``base`` at width 1: capped, scaled, rounded up to a multiple of 8."""
        capped = min(base, self.max_channels or base)
        return math.ceil(capped * (self.width or 1.0) / 8) * 8

    def repeats(self, base: int) -> int:
        """Members of a chain that has ``base`` at depth 1: scaled, at least one; a single one stays single."""
        return max(round(base * (self.depth or 1.0)), 1) if base > 1 else base

    @property
    def plan(self) -> Family:
        """What is special about its family."""
        return FAMILIES[self.family]

    @property
    def title(self) -> str:
        """The network's name for people: ``YOLO11n-seg``."""
        return titled(self.family, self.task, self.variant if self.variant in VARIANTS else "")

    def mix(self, name: str) -> Mix:
        """One mixing block (``p2`` ... ``out5``), its channels, repeats and members as this network has them."""
        mix = self.plan.mixes[name]
        deep = mix.deep or self.variant in self.plan.deep_from
        return replace(mix, channels=self.channels(mix.channels), repeats=self.repeats(mix.repeats), deep=deep)

    @property
    def stages(self) -> tuple[int, int, int, int, int]:
        """Channels of the convolutions that bring the image to strides 2, 4, 8, 16 and 32."""
        a, b, c, d, e = (self.channels(base) for base in (64, 128, 256, 512, 1024))
        return a, b, c, d, e

    @property
    def levels(self) -> tuple[int, int, int]:
        """Channels of the maps that the head reads, of strides 8, 16 and 32."""
        a, b, c = (self.mix(name).channels for name in ("out3", "out4", "out5"))
        return a, b, c

    def with_classes(self, nc: int) -> Definition:
        """The same network for ``nc`` classes."""
        return replace(self, nc=nc)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a checkpoint keeps them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, path: str | Path | None = None) -> Definition:
        """Read what ``to_dict`` wrote, or the mapping of a YAML file.

        Raises:
            EdgesegError: unknown keys or bad values, with ``path``.
        """
        known = [f.name for f in fields(cls)]
        unknown = [str(k) for k in values if k not in known]
        if unknown:
            what = f"unknown keys: {', '.join(unknown)}"
            raise EdgesegError(what, path=path, hint=f"Known keys: {', '.join(known)}, names")
        raw = dict(values)
        if "variant" not in raw and "width" in raw:
            raw["variant"] = "custom"
        try:
            return cls(**raw)
        except EdgesegError as e:
            raise EdgesegError(e.what, path=path, hint=e.hint) from e
        except TypeError as e:
            raise EdgesegError(f"a value has the wrong type ({e})", path=path) from e


def builtin_definition(name: str) -> Path | None:
    """The packaged YAML file for ``yolov8n-seg``, ``yolo11s.yaml`` ... (``definitions`` holds them all), else None."""
    stem = re.sub(r"\.ya?ml$", "", name)
    path = DEFINITIONS / f"{stem}.yaml"
    return path if re.fullmatch(r"[a-z0-9]+(-seg)?", stem) and path.is_file() else None


def known_names(suffix: str, tasks: tuple[str, ...] = TASKS) -> str:
    """The names of networks that are known without a file, for hints: ``yolov8n-seg.pt, yolo11n-seg.pt (n, s, m, l, x)``."""
    names = [f"{family}n{SUFFIXES[task]}{suffix}" for task in tasks for family in FAMILIES]
    return f"{', '.join(names)} ({', '.join(VARIANTS)})"


def find_checkpoint(path_or_name: str | Path) -> Path:
    """The file that ``load_checkpoint`` reads for a path or a well-known name; downloads a well-known one that is absent.

    Raises:
        EdgesegError: there is no such file and the name is not well known, or the download fails.
    """
    path = Path(path_or_name)
    if path.is_file():
        return path
    if path.is_dir():
        raise EdgesegError("a folder, not a checkpoint", path=path)
    name = str(path_or_name).removesuffix(".pt")
    if builtin_definition(name) is not None and not name.endswith((".yaml", ".yml")):
        from edgeseg.download import fetch_weights

        return fetch_weights(f"{name}.pt")
    raise EdgesegError("no such checkpoint", path=path, hint=f"Known by name: {known_names('.pt')}")


def load_definition(name_or_path: str | Path, *, nc: int | None = None) -> tuple[Definition, tuple[str, ...] | None]:
    """Read a definition and the class names it may carry.

    Args:
        name_or_path: a YAML file, or the name of a built-in one; a file in the way wins over the built-in.
        nc: number of classes in place of the file's.

    Returns:
        The definition and its ``names`` (None when the file has none, or when ``nc`` changes their number).

    Raises:
        EdgesegError: no such file, no YAML mapping, unknown keys, bad values.
    """
    path = Path(name_or_path)
    if not path.is_file():
        found = builtin_definition(str(name_or_path))
        if found is None:
            raise EdgesegError("no such definition", path=path, hint=f"Built in: {known_names('.yaml')}")
        path = found
    raw = load_yaml(path, text="names", hint=EXAMPLE)
    if not isinstance(raw, dict):
        raise EdgesegError("no YAML mapping", path=path, hint=EXAMPLE)
    if "backbone" in raw or "head" in raw:
        what = "a list of layers is no definition of ours"
        raise EdgesegError(what, path=path, hint="Write two lines: variant: n (s, m, l, x), nc: 80")
    names = _names(raw.pop("names", None), path)
    if names is not None:
        raw.setdefault("nc", len(names))
    definition = Definition.from_dict(raw, path=path)
    if names is not None and len(names) != definition.nc:
        raise EdgesegError(f"nc is {definition.nc}, but there are {len(names)} names", path=path)
    if nc is not None and nc != definition.nc:
        definition, names = definition.with_classes(nc), None
    return definition, names


def _names(value: Any, path: Path) -> tuple[str, ...] | None:
    if value is None:
        return None
    if isinstance(value, dict):
        if sorted(value, key=str) != sorted(range(len(value)), key=str):
            raise EdgesegError("names must be numbered from 0 without gaps", path=path)
        value = [value[i] for i in range(len(value))]
    if not isinstance(value, list) or not value:
        raise EdgesegError("names must be a list of class names", path=path)
    if any(isinstance(v, (list, dict, set, tuple)) for v in value):
        raise EdgesegError("names must be a list of class names", path=path)
    return tuple(v if isinstance(v, str) else brief(v) for v in value)
