"""Everything that a training run can be told."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from edgeseg.data.augment import AugmentOptions
from edgeseg.data.cache import IMAGE_CACHES
from edgeseg.errors import EdgesegError, did_you_mean
from edgeseg.habits import belongs, synonyms
from edgeseg.training.aliases import translated
from edgeseg.training.loss import LossGains
from edgeseg.training.optimize import SCHEDULES

OPTIMIZERS = ("auto", "sgd", "adamw")
_GAIN_KEYS = {"box": "box_gain", "mask": "mask_gain", "score": "score_gain", "dfl": "dfl_gain"}


@dataclass(frozen=True)
class TrainOptions:
    """Options of one run.

    Attributes:
        data: dataset YAML or the name of a dataset.
        model: what to train: a definition (``yolov8n-seg.yaml``: from scratch) or a checkpoint (its weights are the start).
            A detector (``yolo11n.yaml``) learns from boxes or outlines, a segmentation network from outlines.
        task: ``segment`` or ``detect``, to make sure; what is trained is what ``model`` is.
        pretrained: a checkpoint whose weights are carried into ``model`` wherever they fit.
        resume: a ``last.pt`` whose run goes on (``true``: the newest one below ``project``); all other options but device
            and workers are taken from it.
        epochs, imgsz (pixels, a multiple of 32).
        batch: images per step over all processes; -1 measures what fits.
        nominal_batch: gradients are gathered until about this many images have been seen.
        optimizer: ``sgd``, ``adamw``, or ``auto``: AdamW for runs below 10000 steps, else SGD.
        lr: peak learning rate, None for the optimizer's usual. final_lr: share of it in the last epoch.
        schedule: ``linear`` or ``cosine``. momentum: of SGD; the first beta of AdamW. weight_decay. warmup_epochs.
        clip: largest norm of the gradient. amp: mixed precision where the device has it.
        ema: decay of the averaged weights. patience: epochs without improvement before stopping, 0 never stops.
        seed, workers (processes that load images), device (``auto``, ``cpu``, ``cuda:0`` ...), cache (``none ram disk``).
        multi_scale: size changes per batch by up to this share. close_mosaic: last epochs without mosaic, mixup, copy-paste.
        freeze: parts that keep their weights: names such as ``backbone`` or ``neck.top4``.
        qat: train through the rounding of ``recipe``, starting from the ranges that it calibrates.
        validate_every: epochs between validations, 0 for the last one only.
        project, name: the run goes to ``project/name`` (``name-2`` and so on when it exists, unless ``exist_ok``).
        plots, tensorboard: whether to write them. sync_bn: batch statistics over all processes.
        log: what follows the run beside ``tensorboard``: ``mlflow``, ``wandb``.
        augment, gains: see there.
    """

    data: str
    model: str = "yolov8n-seg.pt"
    task: str | None = None
    pretrained: str | None = None
    resume: str | None = None
    epochs: int = 100
    imgsz: int = 640
    batch: int = 16
    nominal_batch: int = 64
    optimizer: str = "auto"
    lr: float | None = None
    final_lr: float = 0.01
    schedule: str = "linear"
    momentum: float = 0.937
    weight_decay: float = 0.0005
    warmup_epochs: float = 3.0
    clip: float = 10.0
    amp: bool = True
    ema: float = 0.9999
    patience: int = 100
    seed: int = 0
    workers: int = 4
    device: str = "auto"
    cache: str = "none"
    multi_scale: float = 0.0
    close_mosaic: int = 10
    freeze: tuple[str, ...] = ()
    qat: bool = False
    recipe: str = "int8"
    validate_every: int = 1
    project: str = "runs/train"
    name: str = "exp"
    exist_ok: bool = False
    plots: bool = True
    tensorboard: bool = True
    log: tuple[str, ...] = ()
    sync_bn: bool = True
    augment: AugmentOptions = field(default_factory=AugmentOptions)
    gains: LossGains = field(default_factory=LossGains)

    def __post_init__(self) -> None:
        """Raises EdgesegError for a value that cannot work."""
        for key, allowed in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("cache", IMAGE_CACHES)):
            if getattr(self, key) not in allowed:
                raise EdgesegError(f"{key}={getattr(self, key)} is none of {', '.join(allowed)}")
        if self.imgsz < 64 or self.imgsz % 32:
            near = max(64, round(self.imgsz / 32) * 32)
            raise EdgesegError(f"imgsz={self.imgsz} is no multiple of 32 from 64", hint=f"Use imgsz={near}")
        if self.batch != -1 and self.batch < 1:
            raise EdgesegError(
                f"batch={self.batch} is not a number of images", hint="Use batch=16, or batch=-1 to measure what fits"
            )
        for key in ("epochs", "nominal_batch"):
            if getattr(self, key) < 1:
                raise EdgesegError(f"{key}={getattr(self, key)} must be at least 1")
        for key in ("workers", "patience", "close_mosaic", "validate_every", "seed", "warmup_epochs", "weight_decay"):
            if getattr(self, key) < 0:
                raise EdgesegError(f"{key}={getattr(self, key)} must not be negative")
        if self.lr is not None and self.lr <= 0:
            raise EdgesegError(f"lr={self.lr} must be above 0")
        if self.qat and self.multi_scale:
            raise EdgesegError(
                "multi_scale and qat exclude each other: an INT8 export has one size", hint="Leave multi_scale out"
            )
        if not 0 <= self.multi_scale < 1:
            raise EdgesegError(f"multi_scale={self.multi_scale} must lie in 0..1")
        for key in ("mosaic", "mixup", "copy_paste", "fliplr", "flipud"):
            if not 0 <= getattr(self.augment, key) <= 1:
                raise EdgesegError(f"{key}={getattr(self.augment, key)} is no probability (0..1)")

    def to_flat(self) -> dict[str, Any]:
        """All options in one flat mapping of plain values, as the command line and ``from_flat`` take them."""
        flat = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("augment", "gains")}
        flat["freeze"], flat["log"] = list(self.freeze), list(self.log)
        return {**flat, **asdict(self.augment), **{_GAIN_KEYS[k]: v for k, v in asdict(self.gains).items()}}

    @classmethod
    def from_flat(cls, values: Mapping[str, Any]) -> TrainOptions:
        """Options from a flat mapping; None stands for the default. Names of other tools are understood: see ``aliases``.

        Raises:
            EdgesegError: an unknown key (with the nearest known one), a value of the wrong type or out of range.
        """
        given = translated({k: v for k, v in values.items() if v is not None})
        own = {f.name for f in fields(cls)} - {"augment", "gains"}
        image = {f.name for f in fields(AugmentOptions)}
        gains = {v: k for k, v in _GAIN_KEYS.items()}
        unknown = [k for k in given if k not in own | image | set(gains)]
        if unknown:
            known = sorted(own | image | set(gains))
            hint = belongs("train", unknown[0]) or did_you_mean(unknown[0], known, also=synonyms())
            hint = hint or f"Known: {', '.join(known)}"
            raise EdgesegError(f"train takes no option {unknown[0]!r}", hint=hint)
        if "data" not in given and "resume" not in given:
            raise EdgesegError("train needs a dataset", hint="For example: edgeseg train data=coco128-seg.yaml")
        mine = {k: v for k, v in given.items() if k in own}
        made = cls(
            **{"data": "", **_typed(cls, mine)},
            augment=AugmentOptions(**_typed(AugmentOptions, {k: v for k, v in given.items() if k in image})),
            gains=LossGains(**{gains[k]: _value(k, "float", v) for k, v in given.items() if k in gains}),
        )
        object.__setattr__(made, "_asked", frozenset(given))  # a value that is the default may have been asked for
        return made

    def resumed(self, stored: Mapping[str, Any], run: str) -> TrainOptions:
        """The stored options of the run in ``run`` with this machine's device and workers."""
        return replace(self.from_flat(stored), resume=run, device=self.device, workers=self.workers)

    def left_out(self, taken: TrainOptions) -> tuple[str, ...]:
        """What was asked for beside ``resume`` and is otherwise in the options ``taken`` from the run, as one sentence."""
        mine, default, there = self.to_flat(), TrainOptions(data="").to_flat(), taken.to_flat()
        asked = getattr(self, "_asked", None) or {k for k, v in mine.items() if v != default[k]}
        other = [k for k in mine if k in asked and k not in ("resume", "device", "workers") and mine[k] != there[k]]
        if not other:
            return ()
        pairs = ", ".join(f"{k}={there[k]} (not {mine[k]})" for k in other)
        return (f"the run goes on with the options it began with: {pairs}; for others start anew from its best.pt",)


def _typed(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values in the types of the dataclass ``kind``: a wrong word is found here, not in mid-run."""
    types = {f.name: str(f.type).removesuffix(" | None") for f in fields(kind)}
    return {k: _value(k, types[k], v) for k, v in values.items()}


def _value(key: str, kind: str, value: Any) -> Any:
    if kind == "bool":
        word = str(value).lower()
        if word in ("true", "false"):
            return word == "true"
        raise EdgesegError(f"{key}={value} is neither True nor False")
    if kind in ("int", "float"):
        try:
            number = float("nan") if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = float("nan")
        if not math.isfinite(number):
            raise EdgesegError(f"{key}={value} is no number")
        if kind == "int" and number != int(number):
            raise EdgesegError(f"{key}={value} is no whole number")
        return int(number) if kind == "int" else number
    if kind == "str" and not isinstance(value, (str, os.PathLike)):
        raise EdgesegError(f"{key}={value} is no text", hint=f"Write {key}='...'")
    return str(value) if kind == "str" else value
