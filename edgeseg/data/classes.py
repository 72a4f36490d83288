"""Class names of a dataset, as its YAML file gives them: a list, or a mapping from 0, 1, 2, ... to names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeseg.errors import EdgesegError, brief


def class_names(raw: Mapping[str, Any], file: Path) -> tuple[str, ...]:
    """The class names in the content ``raw`` of a dataset's YAML file.

    Raises:
        EdgesegError: there are none, they are no text or not numbered from 0, or ``nc`` contradicts them.
    """
    names = raw.get("names")
    if not names:
        raise EdgesegError("the dataset has no class names", path=file, hint="Add for example: names: [cat, dog]")
    if isinstance(names, dict):
        try:
            by_index = {int(k): v for k, v in names.items()}
        except (TypeError, ValueError):
            by_index = {}
        if sorted(by_index) != list(range(len(names))):
            raise EdgesegError(
                f"the keys of names are not 0 to {len(names) - 1}", path=file, hint="Number the classes from 0, without gaps"
            )
        names = [by_index[i] for i in range(len(by_index))]
    if not isinstance(names, list):
        raise EdgesegError("names is neither a list nor a mapping", path=file, hint="Write for example: names: [cat, dog]")
    wrong = next((i for i, n in enumerate(names) if not isinstance(n, str) or not n.strip()), None)
    if wrong is not None:
        raise EdgesegError(f"the name of class {wrong} is no text", path=file, hint="Write for example: names: [cat, dog]")
    nc = raw.get("nc")
    if nc is not None and nc != len(names):
        raise EdgesegError(
            f"nc is {brief(nc)}, but names has {len(names)} classes", path=file, hint="Remove nc, or correct names"
        )
    return tuple(str(n) for n in names)
