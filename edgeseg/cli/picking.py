"""Which of the words on a command line is the model and which the source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgeseg.errors import EdgesegError
from edgeseg.registry import target_by_path
from edgeseg.running.open import is_checkpoint, newest_checkpoint


def is_model(word: str) -> bool:
    """Whether ``word`` names a model: a checkpoint, a definition, or a file or folder with the suffix of a format."""
    return is_checkpoint(word) or target_by_path(Path(word)) is not None


def model_and_source(words: Sequence[str], model: str | None, source: str | None) -> tuple[str, list[str]]:
    """The model and the sources among the positional ``words`` and the two options.

    Without a model the newest trained one is taken, else the smallest COCO network.

    Raises:
        EdgesegError: there is no source.
    """
    left = list(words)
    if model is None and left and (is_model(left[0]) or (source is not None and len(left) == 1) or len(left) == 2):
        # Of two words the first is the model even when no format has its suffix: opening it then says which have.
        model = left.pop(0)
    sources = [*left, *([source] if source is not None else [])]
    if not sources:
        hint = "edgeseg predict MODEL image.jpg (or a folder, glob, video, webcam index, URL)"
        raise EdgesegError("there is no image to predict on", hint=hint)
    return model or newest_checkpoint(), sources
