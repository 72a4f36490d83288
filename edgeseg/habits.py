"""Words that people bring from other YOLO tools: tasks, modes, and options that need no counterpart here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from edgeseg.errors import EdgesegError, did_you_mean
from edgeseg.resources import parse_toml

TASKS = ("segment", "detect")
OTHER_TASKS = ("classify", "pose", "obb")
OTHER_MODES = {
    "track": "Use: edgeseg run MODEL --camera SOURCE --track",
    "checks": "Use: edgeseg doctor",
    "help": "Use: edgeseg --help",
    "version": "Use: edgeseg --version",
    **dict.fromkeys(("settings", "cfg", "copy-cfg"), "There are none: options are typed, and EDGESEG_HOME names the cache"),
}

# Options with the value that is what happens anyway; another value is refused, with what to do instead.
_EITHER: dict[str, tuple[Any, str]] = {
    "half": (False, "Export with half=True and give the exported file"),
    "augment": (False, "Leave it out: each image is looked at once"),
    "dnn": (False, "Leave it out: ONNX files run in ONNX Runtime"),
    "int8": (False, "Export with int8=True and give the exported file"),
    "single_cls": (False, "Leave it out"),
    "compile": (False, "Leave it out"),
    **dict.fromkeys(("nms", "quantize", "end2end"), (None, "Export with it and give the exported file")),
    "channels_last": (None, "Leave it out"),
    "retina_masks": (True, "Leave it out: masks always have the size of the image"),
    "task": (TASKS, "Only segmentation and detection are done"),
}
VALIDATION: Mapping[str, tuple[Any, str]] = {
    **_EITHER,
    "save_txt": (False, "Use edgeseg predict --save-txt"),
    "save_conf": (False, "Use edgeseg predict --json"),
    "save_hybrid": (False, "Leave it out"),
    "classes": (None, "Give a data.yaml with these classes"),
    "visualize": (False, "Use --html FILE for a page with pictures"),
    "save": (lambda _: True, ""),
    "mode": ("val", "Type the command itself"),
}
PREDICTION: Mapping[str, tuple[Any, str]] = {
    **_EITHER,
    "stream": (lambda _: True, ""),
    "stream_buffer": (False, "Leave it out"),
    "visualize": (False, "Leave it out, or look into model.model, the network"),
    "embed": (None, "Leave it out, or take a feature from model.model, the network"),
    "mode": ("predict", "Type the command itself"),
}
EXPORT: Mapping[str, tuple[Any, str]] = {
    "device": (lambda value: not str(value).startswith("dla"), "Leave it out: an engine is built for the GPU of its board"),
    "quantize": (None, "Use int8=True or half=True"),
    "fraction": (1.0, "Use images=N: so many calibration images"),
    "agnostic_nms": (False, "Leave it out"),
    **dict.fromkeys(("project", "name"), (None, "Use out=FOLDER")),
    **dict.fromkeys(("exist_ok", "rect", "save", "single_cls", "compile", "channels_last"), (None, "Leave it out")),
    "task": (TASKS, "Only segmentation and detection are done"),
    "mode": ("export", "Type the command itself"),
}
BENCHMARK: Mapping[str, tuple[Any, str]] = {
    "device": ("cpu", "Leave it out: the runtimes of edge targets are timed on the CPU"),
    "task": (TASKS, "Only segmentation and detection are done"),
}
PLOT: Mapping[str, tuple[Any, str]] = {
    "color_mode": (("class", "instance"), "There are class and instance"),
    "font": ("Arial.ttf", "Leave it out: labels are drawn in OpenCV's font"),
    "font_size": (None, "Leave it out: labels grow with the image"),
    "txt_color": ((255, 255, 255), "Leave it out: the text is dark or light, as it is seen best"),
    "kpt_radius": (5, "Leave it out: there are no keypoints"),
    "kpt_line": (True, "Leave it out: there are no keypoints"),
    "probs": (True, "Leave it out: nothing is classified"),
    "im_gpu": (None, "Leave it out"),
}
COMMANDS = {"export": EXPORT, "validate": VALIDATION, "val": VALIDATION, "predict": PREDICTION, "benchmark": BENCHMARK}
#: What training, whose options are read later, has switched on by its name alone.
TRAINING = ("exist_ok", "resume", "cos_lr", "amp", "val", "cache", "plots", "save", "deterministic", "pretrained", "qat")
#: Without effect on what comes out, here as there.
QUIET = ("verbose", "workers", "batch")


def check(command: str, given: Mapping[str, Any], known: Mapping[str, tuple[Any, str]]) -> None:
    """See that options which ``command`` does not have ask for nothing that it does not do.

    Raises:
        EdgesegError: one does, or is not known at all; says what to use.
    """
    for key, value in given.items():
        if key in QUIET or value is None:
            continue
        if key not in known:
            meant = belongs(command, key) or did_you_mean(key, (*known, *_words("synonyms")), also=synonyms())
            raise EdgesegError(f"{command} has no option {key!r}", hint=meant or f"See: edgeseg {command} --help")
        same, hint = known[key]
        if callable(same) and same(value):
            continue
        if key in ("task", "color_mode") and value in same:
            continue  # the model says which task it is
        if value != same or isinstance(value, bool) != isinstance(same, bool):
            raise EdgesegError(f"{command} cannot do {key}={value}", hint=hint)


def belongs(command: str, key: str) -> str:
    """Of which command an option is that ``command`` does not have; "" where none is known."""
    others = {c: keys for c, keys in _words("belongs").items() if c != {"validate": "val"}.get(command, command)}
    other = next((c for c, keys in others.items() if key in keys), None)
    return f"It is an option of {other}" if other else ""


def synonyms() -> dict[str, str]:
    """What other tools, or people, call an option -> what it is called here, if the command has it."""
    return {theirs: ours for ours, words in _words("synonyms").items() for theirs in words}


@lru_cache
def _words(table: str) -> dict[str, list[str]]:
    raw = parse_toml(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    return {key: words.split() for key, words in raw[table].items()}


def is_switch(command: str, word: str, own: bool) -> bool:
    """Whether a bare word switches an option on (``save_json``), here (``own``) or in other tools; a file is a file."""
    theirs = COMMANDS.get(command, {}).get(word)
    theirs_too = (command == "train" and word in TRAINING) or (theirs is not None and isinstance(theirs[0], bool))
    return (own or theirs_too) and not Path(word).exists()


def command_line(argv: Sequence[str], commands: Sequence[str]) -> list[str]:
    """The words of another YOLO command line (``segment train ...``, ``val segment``, ``task=segment mode=train``) as ours.

    Raises:
        EdgesegError: a task or a mode that there is not.
    """
    words = list(argv[1:] if argv and argv[0] == "yolo" else argv)
    mode = _taken(words, "mode")
    tasks = (*TASKS, *OTHER_TASKS)
    task = _taken(words, "task") if mode is not None or (words and words[0] in (*commands, *tasks)) else None
    if words and words[0] in tasks:
        task = words.pop(0)
    elif len(words) > 1 and words[0] in commands and words[1] in tasks and not Path(words[1]).exists():
        task = words.pop(1)
    if task is not None and task not in TASKS:
        raise EdgesegError(f"task {task!r} is not to be had", hint=f"There are {' and '.join(TASKS)}")
    if mode is not None and (not words or words[0] not in commands):
        words.insert(0, mode)
    if task is not None and words and words[0] == "train":
        words.append(f"task={task}")  # elsewhere the model says which it is
    if words and words[0] in OTHER_MODES:
        raise EdgesegError(f"there is no command {words[0]!r}", hint=OTHER_MODES[words[0]])
    return words


def _taken(words: list[str], key: str) -> str | None:
    """The value of ``key=value``, which is taken out of the words."""
    for i, word in enumerate(words):
        if word.removeprefix("--").startswith(f"{key}="):
            return words.pop(i).partition("=")[2]
    return None
