"""The families of networks that edgeseg builds, as data: which block stands where, how wide and deep each variant is.

All of them have one plan: a backbone that halves the size five times, a neck that goes up and comes down again, a head with
branches at strides 8, 16 and 32. What a family chooses is said in ``families.toml``, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeseg.resources import parse_toml

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


_TABLES = parse_toml(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
FAMILIES: dict[str, Family] = {word: _family(table) for word, table in _TABLES.items()}
"""By the word that file names begin with: ``yolo11n-seg.pt`` is variant n of ``yolo11``."""

SUFFIXES = {"segment": "-seg", "detect": ""}
"""What the names of a task's networks end with."""


def titled(family: str, task: str, variant: str = "") -> str:
    """A family and task for people: ``YOLO11-seg``, with a variant ``YOLO11n-seg``."""
    return f"{FAMILIES[family].title}{variant}{SUFFIXES[task]}"
