"""The families of networks that edgeseg builds, as data: which block stands where, how wide and deep each variant is.

All of them have one plan: a backbone that halves the size five times, a neck that goes up and comes down again, a head with
branches at strides 8, 16 and 32. What a family chooses is said here, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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


_SCALES_8 = dict(
    zip(VARIANTS, ((0.33, 0.25, 1024), (0.33, 0.5, 1024), (0.67, 0.75, 768), (1.0, 1.0, 512), (1.0, 1.25, 512)))
)
_SCALES_11 = dict(zip(VARIANTS, ((0.5, 0.25, 1024), (0.5, 0.5, 1024), (0.5, 1.0, 512), (1.0, 1.0, 512), (1.0, 1.5, 512))))
_BACKBONE_11 = {
    "p2": Mix(256, 2, 0.25),
    "p3": Mix(512, 2, 0.25),
    "p4": Mix(512, 2, deep=True),
    "p5": Mix(1024, 2, deep=True),
}

FAMILIES: dict[str, Family] = {
    "yolov8": Family(
        "YOLOv8",
        _SCALES_8,
        {"p2": Mix(128, 3), "p3": Mix(256, 6), "p4": Mix(512, 6), "p5": Mix(1024, 3)}
        | {k: Mix(c, 3, shortcut=False) for k, c in (("top4", 512), ("out3", 256), ("out4", 512), ("out5", 1024))},
        squeeze=1.0,
    ),
    "yolo11": Family(
        "YOLO11",
        _SCALES_11,
        _BACKBONE_11
        | {k: Mix(c, 2) for k, c in (("top4", 512), ("out3", 256), ("out4", 512))}
        | {"out5": Mix(1024, 2, deep=True)},
        deep_from=("m", "l", "x"),
        attention=2,
        separable=True,
    ),
    "yolo26": Family(
        "YOLO26",
        _SCALES_11,
        _BACKBONE_11
        | {k: Mix(c, 2, deep=True) for k, c in (("top4", 512), ("out3", 256), ("out4", 512))}
        | {"out5": Mix(1024, 1, attends=True)},
        deep_from=("m", "l", "x"),
        attention=2,
        pooled_sum=True,
        reg_max=1,
        separable=True,
        rich_proto=True,
        single=True,
    ),
}
"""By the word that file names begin with: ``yolo11n-seg.pt`` is variant n of ``yolo11``."""

SUFFIXES = {"segment": "-seg", "detect": ""}
"""What the names of a task's networks end with."""


def titled(family: str, task: str, variant: str = "") -> str:
    """A family and task for people: ``YOLO11-seg``, with a variant ``YOLO11n-seg``."""
    return f"{FAMILIES[family].title}{variant}{SUFFIXES[task]}"
