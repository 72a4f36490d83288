"""Reading YAML that people or strangers wrote: bounded, in UTF-8 with or without a BOM, and every fault one sentence."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from edgeseg.errors import EdgesegError
from edgeseg.store import read_bounded

LIMIT_BYTES = 1 << 20
"""A dataset of ten thousand class names takes a fifth of this."""
LIMIT_DEPTH = 50
LIMIT_NODES = 200_000
"""Values, counted as often as anchors repeat them: ten lines of anchors can stand for billions."""

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TEXT = "tag:yaml.org,2002:str"
_MERGE = "tag:yaml.org,2002:merge"

OnText = Callable[[str, Any], object]


def load_yaml(
    path: str | os.PathLike[str],
    *,
    limit_bytes: int = LIMIT_BYTES,
    text: str = "",
    on_text: OnText | None = None,
    hint: str = "",
) -> Any:
    """The value that a YAML file holds.

    Args:
        path: the file.
        limit_bytes: size of a file that is not even read.
        text: a key of the outermost mapping below which values stay as they are written: ``yes`` is ``yes`` there.
        on_text: called with (as written, what YAML makes of it) for each that YAML takes for something else.
        hint: what the errors say to do next.

    Raises:
        EdgesegError: no such file, no text, beyond the limits, no valid YAML (with the line), an impossible value.
    """
    path = Path(path)
    try:
        content = read_bounded(path, limit_bytes, hint).decode("utf-8-sig")
    except FileNotFoundError as e:
        raise EdgesegError("no such file", path=path, hint=hint) from e
    except UnicodeDecodeError as e:
        raise EdgesegError("it is no text in UTF-8", path=path, hint=hint) from e
    except OSError as e:
        raise EdgesegError(f"it cannot be read ({e.strerror or e})", path=path, hint=hint) from e
    return _parsed(content, path, text, on_text, hint)


def _parsed(content: str, path: Path, text: str, on_text: OnText | None, hint: str) -> Any:
    try:
        _check_depth(content, path, hint)
        loader = _Loader(content)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            if _expanded(node, {}) > LIMIT_NODES:
                raise EdgesegError(f"its anchors stand for more than {LIMIT_NODES} values", path=path, hint=hint)
            if text and isinstance(node, yaml.MappingNode):
                for key, value in node.value:
                    if isinstance(key, yaml.ScalarNode) and key.value == text and not isinstance(value, yaml.ScalarNode):
                        _as_text(value, loader, on_text)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        line = None if mark is None else mark.line + 1
        what = str(getattr(e, "problem", None) or "it cannot be parsed")
        raise EdgesegError(f"no valid YAML ({what[:80]})", path=path, line=line, hint=hint) from e
    except RecursionError as e:
        raise EdgesegError("no valid YAML (nested too deeply)", path=path, hint=hint) from e
    except (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError) as e:
        # What the library meets in dates that are none, numbers of a thousand digits, tags on the wrong kind of value.
        raise EdgesegError(f"no valid YAML (a value that cannot be: {str(e)[:80]})", path=path, hint=hint) from e


def _check_depth(content: str, path: Path, hint: str) -> None:
    """Events come one by one; what is built from them calls itself for each level, in C without a limit."""
    depth = 0
    for event in yaml.parse(content, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > LIMIT_DEPTH:
                line = event.start_mark.line + 1 if event.start_mark else None
                raise EdgesegError("no valid YAML (nested too deeply)", path=path, line=line, hint=hint)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _expanded(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for, those behind aliases each time; an alias inside itself is endless."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = LIMIT_NODES + 1
    parts = [n for pair in node.value for n in pair] if isinstance(node, yaml.MappingNode) else node.value
    total = 1
    for part in parts:
        total += _expanded(part, known)
    known[id(node)] = total
    return total


def _as_text(node: yaml.Node, loader: Any, on_text: OnText | None) -> None:
    if isinstance(node, yaml.ScalarNode):
        if node.tag != _TEXT:
            if on_text is not None:
                on_text(node.value, loader.construct_object(node, deep=True))
                loader.constructed_objects.pop(node, None)  # else it is remembered
            node.tag = _TEXT
    elif isinstance(node, yaml.SequenceNode):
        for part in node.value:
            _as_text(part, loader, on_text)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.tag != _MERGE:
                _as_text(value, loader, on_text)
