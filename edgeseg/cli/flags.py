"""The options of commands: a short way to write one, and those that several commands share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_args, get_origin

from edgeseg.record import dataclass

DETECTION, QUANT, RESULTS = "Detection", "Precision", "Results"


@dataclass(frozen=True)
class Flag:
    """An option as its command declares it."""

    help: str
    shown: bool | str
    names: tuple[str, ...]
    metavar: str | None = None
    panel: str | None = None
    least: int | None = None


@dataclass(frozen=True)
class Word:
    """A word that stands by its place, as its command declares it."""

    help: str
    metavar: str
    shown: bool | str = False


def flag(help: str, shown: bool | str = True, *names: str, **more: Any) -> Any:
    """An option: its help, the default that help shows (False: none), its spellings; ``more``: see ``Flag``."""
    return Flag(help, shown, names, **more)


word: Any = Word


def for_typer(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with its options and words declared as typer wants them; itself where there are none."""
    signature = inspect.signature(command, eval_str=True)
    known = [p.replace(annotation=_for_typer(p.annotation)) for p in signature.parameters.values()]
    if known == list(signature.parameters.values()):
        return command

    @functools.wraps(command)
    def called(*args: Any, **kwargs: Any) -> Any:
        return command(*args, **kwargs)

    called.__signature__ = signature.replace(parameters=known)  # type: ignore[attr-defined]
    called.__annotations__ = {p.name: p.annotation for p in known}
    return called


def _for_typer(annotation: Any) -> Any:
    import typer

    if get_origin(annotation) is not Annotated:
        return annotation
    kind, told = get_args(annotation)[:2]
    if isinstance(told, Flag):
        how: Any = {"show_default": told.shown, "metavar": told.metavar, "rich_help_panel": told.panel, "min": told.least}
        return Annotated[kind, typer.Option(*told.names, help=told.help, **how)]
    if isinstance(told, Word):
        return Annotated[kind, typer.Argument(help=told.help, metavar=told.metavar, show_default=told.shown)]
    return annotation


OWN_DATA = "the model's own, else coco128-seg"
READABLE = "Checkpoint, or an artifact that others read (default: the newest trained one, else yolov8n-seg.pt)."

ModelWord = Annotated[str | None, word(READABLE, "[MODEL]")]
Data = Annotated[str | None, flag("Dataset YAML or name.", OWN_DATA, metavar="YAML")]
Recipe = Annotated[
    str | None, flag("Quantization recipe: a name of calib/, or a file.", "int8", metavar="NAME", panel=QUANT)
]
MaxDrop = Annotated[
    float | None,
    flag(
        "Search the cheapest mixed precision that loses at most so many points of AP.", False, metavar="POINTS", panel=QUANT
    ),
]
MinAgreement = Annotated[
    float | None,
    flag("Search the cheapest that agrees with float so far, 0..1.", False, metavar="SHARE", panel=QUANT),
]
Storage = Annotated[
    str | None,
    flag(
        "Where a search is written down: a file, or a database's URL. Several processes and machines may share it.",
        "in the cache",
        metavar="FILE|URL",
        panel=QUANT,
    ),
]
Half = Annotated[bool | None, flag("Half precision (FP16).", False, panel=QUANT)]
Int8 = Annotated[bool | None, flag("8-bit integers, calibrated on the train split of --data.", False, panel=QUANT)]
Conf = Annotated[float, flag("Lowest score that counts.", panel=DETECTION)]
Iou = Annotated[float, flag("Overlap above which NMS drops the lower score.", panel=DETECTION)]
MaxDet = Annotated[int, flag("Most detections per image.", panel=DETECTION)]
AnySize = Annotated[
    str | None, flag("Input size: 640 or height,width. For models that take any size.", metavar="N[,N]", panel=DETECTION)
]
AgnosticNms = Annotated[bool, flag("Boxes of any class exclude each other.", True, "--agnostic-nms", panel=DETECTION)]
Rect = Annotated[bool, flag("Pad to the stride only, where the model takes any size.", True, "--rect", panel=DETECTION)]
Input = Annotated[
    str | None, flag("Of another tool's file: bgr, 0..255, or bgr,0..255.", "rgb,0..1", metavar="WORDS", panel=DETECTION)
]
Device = Annotated[str | None, flag("cpu, or cuda:0 where it can run there.", "cpu")]
Threads = Annotated[int | None, flag("CPU threads of the runtime.")]
Split = Annotated[str, flag("train, val or test.")]
Limit = Annotated[int | None, flag("Only the first so many images.", "all", least=1)]
Ray = Annotated[
    str | None, flag("Run on the Ray cluster there; local starts one on this machine.", "RAY_ADDRESS", metavar="ADDRESS")
]
Offline = Annotated[bool, flag("Install no toolchain.", True, "--offline")]
Project = Annotated[str, flag("Where folders of runs go, without --out.", False, metavar="FOLDER", panel=RESULTS)]
RunName = Annotated[str, flag("The run's folder there; a number is added where it exists.", metavar="NAME", panel=RESULTS)]
ExistOk = Annotated[bool, flag("Write into that folder though it is there.", True, "--exist-ok", panel=RESULTS)]
Json = Annotated[
    str | None, flag("Write everything as JSON ('-' or nothing: to standard output).", metavar="[FILE]", panel=RESULTS)
]


def split_list(values: list[str] | None) -> list[str]:
    """``["a,b", "c"]`` -> ``["a", "b", "c"]``; brackets and quotes of a typed list are dropped."""
    return [w.strip(" []'\"") for v in values or [] for w in v.split(",") if w.strip(" []'\"")]
