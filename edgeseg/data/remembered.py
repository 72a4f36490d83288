"""Which dataset a model was trained on, as it remembers: an absolute path and a hash, so that no other takes its place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from edgeseg.data.dataset import Dataset
from edgeseg.data.named import NAMED
from edgeseg.errors import EdgesegError
from edgeseg.hashing import sha256_file
from edgeseg.resources import cache_root

FALLBACK = "coco128-seg"


def remember(dataset: Dataset) -> dict[str, str]:
    """What a model keeps of its dataset: ``data`` is a well-known name, or an absolute path with its ``data_sha256``."""
    if dataset.named:
        return {"data": dataset.named}
    file = dataset.yaml.resolve()
    return {"data": str(file), "data_sha256": sha256_file(file)}


def recall(said: Mapping[str, Any], model: Path) -> tuple[str, str]:
    """The dataset of a model, and what should be said about that choice ("" for nothing).

    Args:
        said: what ``remember`` gave, or what another trainer wrote as ``data``; may be empty.
        model: the model's file, for messages.

    Raises:
        EdgesegError: its dataset is not where it was; another one is never taken in its place.
    """
    data, digest = str(said.get("data") or ""), str(said.get("data_sha256") or "")
    if not data:
        return FALLBACK, f"the model names no dataset: {FALLBACK} is taken"
    file = Path(data)
    if file.is_file():
        if digest and sha256_file(file) != digest:
            return data, f"{data} has changed since the model was trained on it"
        return data, "" if digest or file.is_absolute() else f"trained on {data}: the one below the current folder is taken"
    known = PurePath(data.replace("\\", "/")).name.removesuffix(".yaml")
    if known in NAMED and not digest:
        if known in ("coco8-seg", FALLBACK) or (cache_root() / "datasets" / known).is_dir():
            return known, ""
        return FALLBACK, f"trained on {known}, which is not here: {FALLBACK} is taken (data={known} downloads it)"
    what = f"it was trained on {data}, which is not there any more"
    raise EdgesegError(what, path=model, hint="Name the dataset: data=FILE.yaml")
