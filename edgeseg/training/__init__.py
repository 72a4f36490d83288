"""Training: assignment, loss, loop. ``train(TrainOptions(...))`` is the front door; nothing heavy is imported before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeseg.training.api import TrainResult, train
    from edgeseg.training.options import TrainOptions
    from edgeseg.training.record import newest_trained

__all__ = ["TrainOptions", "TrainResult", "newest_trained", "train"]

_HOMES = {"train": "api", "TrainResult": "api", "TrainOptions": "options", "newest_trained": "record"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"edgeseg.training.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
