"""The short way to a command: plain words and options, read without typer, whose import is a fifth of a cold start.

What is not plain (help, a key that is not known, a value that does not fit) is left to typer, which has the words for it.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from edgeseg.cli.flags import Word

_KEY_VALUE = re.compile(r"^([A-Za-z][\w-]*)=(.*)$", re.DOTALL)
_MEANING = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


def arguments(argv: Sequence[str], command: Callable[..., Any]) -> dict[str, Any] | None:
    """What to call ``command`` with for ``argv``, whose first word is its name; None: let typer see to it."""
    known = {p.name: p.annotation for p in inspect.signature(command, eval_str=True).parameters.values()}
    words = next((n for n, a in known.items() if any(isinstance(x, Word) for x in get_args(a)[1:])), None)
    found: dict[str, Any] = {}
    queue = list(argv[1:])
    try:
        while queue:
            token = queue.pop(0)
            pair = _KEY_VALUE.match(token)
            if pair is not None:
                key, text = pair[1].replace("-", "_"), pair[2]
            elif token.startswith("--") and "=" not in token:
                key = token[2:].replace("-", "_")
                if _plain(known[key]) is bool:
                    text = "true"
                elif queue and (queue[0] == "-" or not queue[0].startswith("-")) and not _KEY_VALUE.match(queue[0]):
                    text = queue.pop(0)
                else:
                    return None
            elif token.startswith("-") or words is None:
                return None
            else:
                found.setdefault(words, []).append(token)
                continue
            if key == words or key in found:
                return None
            found[key] = _read(_plain(known[key]), text)
    except (KeyError, ValueError):
        return None
    return found


def _plain(annotation: Any) -> Any:
    """The type behind ``Annotated`` and ``| None``."""
    kind = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    if get_origin(kind) in (Union, types.UnionType):
        (kind,) = (k for k in get_args(kind) if k is not type(None))
    return kind


def _read(kind: Any, text: str) -> Any:
    """``text`` as a value of ``kind``.

    Raises:
        ValueError, KeyError: it is none, or the kind is not plain.
    """
    if kind is bool:
        return _MEANING[text.strip().lower()]
    if kind in (int, float, str):
        return kind(text)
    raise ValueError(kind)
