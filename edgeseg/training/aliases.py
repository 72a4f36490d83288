"""Options of training under the names that people bring from other YOLO tools, with their known meaning there."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from edgeseg.errors import EdgesegError

RENAMED = {"lr0": "lr", "lrf": "final_lr", "nbs": "nominal_batch", "cls": "score_gain", "dfl": "dfl_gain"}
"""Their name -> ours, value as it is."""

MOST_LAYERS = 100

WITHOUT_EFFECT = ("verbose", "pose", "kobj", "rle", "angle", "erasing", "auto_augment", "profile", "compile")
"""They change nothing of a segmentation training, here as there."""

# What training does here in any case: another value is refused, with what to do instead.
_FIXED: dict[str, tuple[Any, str]] = {
    "mode": ("train", "Type the command itself: edgeseg val, edgeseg predict, edgeseg export"),
    "save": (True, "Leave it out: best.pt and last.pt are always kept"),
    "save_period": (-1, "Leave it out: best.pt and last.pt are kept"),
    "deterministic": (True, "Leave it out: the seed always decides"),
    "rect": (False, "Leave it out: training pictures are square"),
    "single_cls": (False, "Give a data.yaml with one class, and labels of class 0"),
    "fraction": (1.0, "List fewer images in a .txt and name it as train in the data.yaml"),
    "overlap_mask": (True, "Leave it out: smaller objects lie on top"),
    "mask_ratio": (4, "Leave it out: masks are learned at a quarter of the size"),
    "dropout": (0.0, "Leave it out: the network has no dropout"),
    "bgr": (0.0, "Leave it out: images are RGB"),
    "perspective": (0.0, "Use shear and degrees"),
    "cutmix": (0.0, "Use mixup or copy_paste"),
    "copy_paste_mode": ("flip", "Leave it out"),
    "warmup_momentum": (0.8, "Leave it out"),
    "warmup_bias_lr": (0.1, "Leave it out"),
    "time": (None, "Use epochs, and patience"),
    "classes": (None, "Give a data.yaml with these classes"),
}


def translated(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same options under our names.

    ``box`` weighs boxes and masks alike, ``freeze=10`` keeps the first ten layers of the published list, ``cache=True`` is
    ``ram``, ``cos_lr=True`` the cosine schedule, ``val=False`` validates after the last epoch only.

    Raises:
        EdgesegError: an option under both names, or a value that training here does not have.
    """
    out: dict[str, Any] = {}

    def put(key: str, value: Any, said: str) -> None:
        if key in values and key != said:
            raise EdgesegError(f"{said} and {key} are the same option", hint=f"Give {key} only")
        out[key] = value

    for key, value in values.items():
        if key == "resume" and value is False:
            continue
        if key in RENAMED:
            put(RENAMED[key], value, key)
        elif key == "box":
            put("box_gain", value, key)
            out["mask_gain"] = values.get("mask_gain", value)
        elif key == "cos_lr":
            if _switch(key, value):
                put("schedule", "cosine", key)
        elif key == "val":
            if not _switch(key, value):
                put("validate_every", 0, key)
        elif key in _FIXED:
            _same(key, value)
        elif key not in WITHOUT_EFFECT and not (key == "mask_gain" and key in out):
            out[key] = _own(key, value)
    return _without_switch(out)


def _own(key: str, value: Any) -> Any:
    """A value of one of our own options, as other tools write it."""
    if key == "cache" and isinstance(value, bool):
        return "ram" if value else "none"
    if key == "resume" and value is True:
        return "true"
    if key == "optimizer" and isinstance(value, str):
        return value.lower()
    if key == "multi_scale" and isinstance(value, bool):
        return 0.5 if value else 0.0
    if key == "device":
        if isinstance(value, (list, tuple)) and len(value) == 1:
            return str(value[0])
        if isinstance(value, (list, tuple)) or (isinstance(value, str) and "," in value):
            hint = "Start one process per GPU: torchrun --nproc-per-node 2 -m edgeseg train ..."
            raise EdgesegError(f"device={value} names several devices", hint=hint)
        return str(value)
    if key == "freeze":
        return frozen_parts(value)
    if key == "log":
        return tuple(w.strip() for w in value.split(",") if w.strip()) if isinstance(value, str) else tuple(value)
    return value


def _without_switch(out: dict[str, Any]) -> dict[str, Any]:
    """``pretrained`` as a switch: the model named is the start, as always; ``resume`` as one: a ``last.pt`` goes on."""
    value, model = out.get("pretrained"), str(out.get("model") or "")
    word = str(value).lower()
    if str(out.get("resume")).lower() == "true" and os.path.basename(model) == "last.pt" and os.path.exists(model):
        out["resume"] = out.pop("model")
    if word in ("true", "false"):
        scratch = model.endswith((".yaml", ".yml"))
        if scratch and word == "true":
            raise EdgesegError(
                f"pretrained=True names no weights for {model}", hint="Give a file: pretrained=yolov8n-seg.pt"
            )
        if not scratch and word == "false":
            raise EdgesegError(
                "pretrained=False: training from scratch starts from a definition", hint="model=yolov8n-seg.yaml"
            )
        del out["pretrained"]
    return out


def _switch(key: str, value: Any) -> bool:
    word = str(value).lower()
    if word not in ("true", "false", "1", "0"):
        raise EdgesegError(f"{key}={value} is neither True nor False")
    return word in ("true", "1")


def _same(key: str, value: Any) -> None:
    fixed, hint = _FIXED[key]
    if value != fixed:
        does = f"trains with {key}={fixed}" if fixed is not None else "has no such option for training"
        raise EdgesegError(f"{key}={value} is not to be had: edgeseg {does}", hint=hint)


def frozen_parts(value: Any) -> tuple[str, ...]:
    """What to freeze: names of parts (``backbone``, a list, or with commas), and numbers of layers.

    A number n alone means the first n layers of the published list (10: the backbone), a list of numbers those layers. Which
    part a number is depends on the network's family, so that ``optimize.freeze`` looks it up.

    Raises:
        EdgesegError: neither names nor numbers.
    """
    if isinstance(value, str):
        words: Sequence[Any] = [w.strip() for w in value.strip("[]() ").split(",") if w.strip()]
        value = int(words[0]) if len(words) == 1 and words[0].isdigit() and "[" not in value else words
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value <= MOST_LAYERS:
            raise EdgesegError(f"freeze={value}: no network has so many layers")
        return tuple(map(str, range(value)))
    if not isinstance(value, (list, tuple)):
        raise EdgesegError(f"freeze={value} names no parts", hint="For example: freeze=backbone, freeze=10")
    return tuple(dict.fromkeys(map(str, value)))
