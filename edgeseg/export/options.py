"""The options of an export that all formats share, those of one's own, and which of them a format takes.

An option that is None was not given: the format's own default holds. Giving an option the value that it has anyway
(``batch=1``, ``half=False``) asks for nothing, so it is never an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from edgeseg.errors import EdgesegError, did_you_mean
from edgeseg.habits import belongs
from edgeseg.manifest import HEADS
from edgeseg.registry import Target, own_options, targets

STRIDE = 32
IMGSZ = 640
#: What holds when an option is not given.
NEUTRAL: Mapping[str, Any] = MappingProxyType(
    {
        "imgsz": (IMGSZ, IMGSZ),
        "half": False,
        "int8": False,
        "dynamic": False,
        "nms": False,
        "end2end": False,
        "boxes_only": False,
        "batch": 1,
    }
)
#: These say how to quantize, so they belong to every format that is being quantized and to no other.
QUANTIZING = ("data", "recipe", "images", "seed")
_POSITIVE = ("batch", "images")


@dataclass(frozen=True)
class ExportOptions:
    """What was asked for. None means "not given".

    Attributes:
        imgsz: input size in pixels, one side or (height, width), multiples of 32; kept as (height, width).
        half: half precision (fp16).
        int8: 8-bit integers, calibrated.
        dynamic: dynamic batch and image size.
        batch: batch size.
        head: ``raw`` or ``decoded``.
        nms: non-maximum suppression inside the graph: the head layout ``nms``.
        end2end: the one-to-one head of a network that has one, in place of the classic one.
        boxes_only: a segmentation network without its masks: a detector, decoded unless ``head`` says otherwise.
        recipe: name or path of the quantization recipe (int8 only).
        data: name or YAML of the dataset that calibrates (int8 only).
        images: number of calibration images (int8 only).
        seed: seed of their choice (int8 only).
        own: options that formats declare for themselves (``[options]`` in ``target.toml``), by name.

    Raises:
        EdgesegError: a value that no format can take, or ``int8`` and ``half`` together.
    """

    imgsz: int | Sequence[int] | None = None
    half: bool | None = None
    int8: bool | None = None
    dynamic: bool | None = None
    batch: int | None = None
    head: str | None = None
    nms: bool | None = None
    end2end: bool | None = None
    boxes_only: bool | None = None
    recipe: str | None = None
    data: str | None = None
    images: int | None = None
    seed: int | None = None
    own: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, /, **values: Any) -> ExportOptions:
        """Options by name, shared ones and those that formats declare.

        Raises:
            EdgesegError: no format has one of that name, or as for the class.
        """
        shared = {f.name for f in fields(cls)} - {"own"}
        for name in values:
            if name not in shared and name not in own_options():
                known = [*sorted(shared), *own_options()]
                hint = belongs("export", name) or did_you_mean(name, known, f"Options: {', '.join(known)}")
                raise EdgesegError(f"export has no option {name!r}", hint=hint)
        own = {k: v for k, v in values.items() if k not in shared and v is not None}
        return cls(**{k: v for k, v in values.items() if k in shared}, own=own)

    def __post_init__(self) -> None:
        if self.imgsz is not None:
            object.__setattr__(self, "imgsz", check_imgsz(self.imgsz))
        if self.half and self.int8:
            raise EdgesegError("half and int8 exclude each other", hint="Give one of them, or export twice")
        if self.boxes_only and self.head is None and not self.nms:
            object.__setattr__(self, "head", "decoded")
        if self.nms and self.head not in (None, "nms"):
            raise EdgesegError(f"nms and head={self.head} exclude each other", hint="Leave head out")
        if self.nms or self.head == "nms":
            object.__setattr__(self, "nms", True)
            object.__setattr__(self, "head", "nms")
            for name, value in (("int8", self.int8), ("dynamic", self.dynamic), ("batch", (self.batch or 1) > 1)):
                if value:
                    hint = "Export without nms: every reader of edgeseg suppresses by itself"
                    raise EdgesegError(f"nms and {name} exclude each other", hint=hint)
        if self.head is not None and self.head not in HEADS:
            raise EdgesegError(f"head {self.head!r} is none of {', '.join(HEADS)}")
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise EdgesegError(f"{name}={value} is no whole number above 0")
        for name in ("data", "recipe"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, str(getattr(self, name)))

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels: what was given, else 640 by 640."""
        size: tuple[int, int] = NEUTRAL["imgsz"] if self.imgsz is None else self.imgsz  # type: ignore[assignment]
        return size

    @property
    def precision(self) -> str | None:
        """``int8``, ``fp16``, or None: the format's own default."""
        return "int8" if self.int8 else "fp16" if self.half else None

    def given(self) -> dict[str, Any]:
        """The options that ask for something, by name."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "own"}
        usual = {**NEUTRAL, **{name: False for name, o in own_options().items() if o.default is False}}
        return {k: v for k, v in {**values, **self.own}.items() if v is not None and v != usual.get(k)}


def check_imgsz(value: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) from one side or two.

    Raises:
        EdgesegError: not one or two whole numbers, or no multiples of 32; the hint has the nearest size that is.
    """
    sides = (value, value) if isinstance(value, int) else tuple(value)
    if len(sides) == 1:
        sides = (sides[0], sides[0])
    if len(sides) != 2 or any(isinstance(s, bool) or not isinstance(s, int) for s in sides):
        raise EdgesegError(f"imgsz={value} is neither one side nor height and width")
    good = tuple(max(STRIDE, round(s / STRIDE) * STRIDE) for s in sides)
    if good != sides:
        near = str(good[0]) if good[0] == good[1] else f"{good[0]},{good[1]}"
        raise EdgesegError(f"imgsz={value} is no multiple of {STRIDE}", hint=f"The nearest is imgsz={near}")
    return good[0], good[1]


def precision_for(target: Target, options: ExportOptions) -> str:
    """The precision that ``target`` gets: the one asked for, else the first that it lists.

    Raises:
        EdgesegError: the format does not have it.
    """
    wanted = options.precision or target.precisions[0]
    if wanted not in target.precisions:
        word = {"int8": "int8", "fp16": "half"}.get(wanted, wanted)
        raise EdgesegError(
            f"{target.title} ({target.name}) does not take {word}: it is exported as {' or '.join(target.precisions)}",
            hint=takes(target),
        )
    return wanted


def check_options(target: Target, options: ExportOptions) -> str:
    """Check the options against what the format takes and return its precision.

    Raises:
        EdgesegError: an option that the format does not take (the hint lists those it takes), or one that only
            quantization reads while nothing is quantized.
    """
    precision = precision_for(target, options)
    for name, value in options.given().items():
        if name == "data" and precision != "int8":
            continue  # it belongs to the model, and asks a float format for nothing
        if name in QUANTIZING:
            if precision != "int8":
                raise EdgesegError(
                    f"{name} belongs to int8, and {target.name} is exported as {precision}",
                    hint="Add int8" if "int8" in target.precisions else takes(target),
                )
        elif name not in target.options and precision != {"int8": "int8", "half": "fp16"}.get(name):
            others = [t.name for t in targets().values() if name in t.options]
            able = f"; {', '.join(others)} can" if others else ""
            raise EdgesegError(f"{target.title} ({target.name}) does not take {name}{able}", hint=takes(target))
        if name in target.own:
            target.own[name].check(value, f"{target.title} ({target.name})", precision)
    if options.head is not None and options.head not in target.heads:
        raise EdgesegError(f"{target.title} ({target.name}) does not take head={options.head}", hint=takes(target))
    if precision == "int8" and options.head not in (None, *target.settings.get("int8_heads", target.heads)):
        what = f"{target.title} ({target.name}) does not take head={options.head} with int8: its integers cannot serve it"
        raise EdgesegError(what, hint="Export int8 with head=raw")
    return precision


def takes(target: Target) -> str:
    """One sentence with the options that a format takes."""
    words = [*target.options, *(QUANTIZING if "int8" in target.precisions else ())]
    if "head" in words:
        words[words.index("head")] = f"head ({' or '.join(target.heads)})"
    return f"{target.name} takes: {', '.join(words)}"


def options_for(target: Target, options: ExportOptions) -> dict[str, Any]:
    """What goes into ``Job.options``: the given options that the format takes and that the job has no field for."""
    return {k: v for k, v in options.given().items() if k in target.own or (k in target.takes and k == "dynamic")}
