"""The short way to a command: words and options read without typer, whose import is a fifth of a cold start.

Where typer is installed it sees to whatever is not plain (help, a wrong key or value) and has the words for it. A board may
do without typer: then what is said here is what people read.
"""

from __future__ import annotations

import gc
import inspect
import os
import re
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Union, get_args, get_origin

from edgeseg.cli.flags import Flag, Word
from edgeseg.errors import EdgesegError
from edgeseg.habits import COMMANDS, QUIET, check, is_switch

_OPTION = re.compile(r"(?:--)?([A-Za-z][\w-]*)=(.*)", re.DOTALL)
_MEANING = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
_EXPECTED = {bool: "true or false", int: "a whole number", float: "a number"}


def arguments(argv: Sequence[str], command: Callable[..., Any]) -> dict[str, Any]:
    """What to call ``command`` with for ``argv``, whose first word is its name.

    Raises:
        EdgesegError: what is typed is not plain, or wrong.
    """
    known = {p.name: p.annotation for p in inspect.signature(command, eval_str=True).parameters.values()}
    name, queue = argv[0], list(argv[1:])
    word = next((n for n, a in known.items() if isinstance(told(a), Word)), None)
    found: dict[str, Any] = {}
    while queue:
        token = queue.pop(0)
        pair = _OPTION.fullmatch(token)
        if token == "--":
            for rest in queue:
                _place(found, name, word, known, rest)
            break
        if pair is None and not token.startswith("--"):
            if token.startswith("-") and len(token) > 1:
                raise _unknown(name, token, known)
            if is_switch(name, token, kind(known.get(token)) is bool):
                queue.insert(0, f"{token}=true")
                continue
            _place(found, name, word, known, token)
            continue
        key = (pair[1] if pair else token[2:]).replace("-", "_")
        text = pair[2] if pair else None
        if key not in known and text is None and _switch(known.get(key.removeprefix("no_"))):
            key, text = key.removeprefix("no_"), "false"
        if key == word and text is not None:
            _place(found, name, word, known, text)
        elif key in known and key != word:
            found[key] = _read(name, key, kind(known[key]), _text(key, kind(known[key]), text, queue), found.get(key))
        elif pair is not None and not token.startswith("--") and os.path.exists(token):
            _place(found, name, word, known, token)
        else:
            _elsewhere(name, key, text, queue, known)
    return found


def told(annotation: Any) -> Flag | Word | None:
    """What a command says of one of its parameters."""
    return next((x for x in get_args(annotation)[1:] if isinstance(x, Flag | Word)), None)


def kind(annotation: Any) -> Any:
    """The type behind ``Annotated`` and ``| None``."""
    inner = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    if get_origin(inner) in (Union, types.UnionType):
        (inner,) = (k for k in get_args(inner) if k is not type(None))
    return inner


@contextmanager
def starting() -> Iterator[None]:
    """Around the imports of a cold start: nothing of them is garbage, and looking for some takes one instruction in 25."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
        if was:
            gc.freeze()  # nor later: else all of it would be looked through at once
    finally:
        if was:
            gc.enable()


def _switch(annotation: Any) -> bool:
    """Whether typer makes a ``--no-NAME`` of it."""
    flag = told(annotation)
    return isinstance(flag, Flag) and not flag.names and kind(annotation) is bool


def _place(found: dict[str, Any], name: str, word: str | None, known: dict[str, Any], text: str) -> None:
    """A word that stands by its place."""
    if word is not None and get_origin(kind(known[word])) is list:
        found.setdefault(word, []).append(text)
    elif word is not None and word not in found:
        found[word] = text
    else:
        raise EdgesegError(f"{name} takes no further word {text!r}", hint=_see(name))


def _text(key: str, of: Any, text: str | None, queue: list[str]) -> str:
    """The value of an option: behind its equals sign, the next word, or what it means alone."""
    if text is not None:
        return text
    if of is bool:
        return "true"
    if key == "json" and (not queue or queue[0].startswith("--") or _OPTION.fullmatch(queue[0])):
        return "-"
    if not queue or queue[0].startswith("--"):
        raise EdgesegError(f"--{key.replace('_', '-')} needs a value")
    return queue.pop(0)


def _read(name: str, key: str, of: Any, text: str, before: Any) -> Any:
    try:
        if of is bool:
            return _MEANING[text.strip().lower()]
        if of in (int, float, str):
            return of(text)
        if get_origin(of) is list:
            return [*(before or []), text]
    except (KeyError, ValueError):
        pass
    raise EdgesegError(f"{key} takes {_EXPECTED.get(of, 'another value')}, not {text!r}", hint=_see(name))


def _elsewhere(name: str, key: str, text: str | None, queue: list[str], known: dict[str, Any]) -> None:
    """An option of other YOLO tools that asks for what is done anyway."""
    theirs = COMMANDS.get(name)
    if not theirs or key not in (*theirs, *QUIET):
        raise _unknown(name, key, known)
    from edgeseg.cli.arguments import is_option, meant

    if text is None:
        text = queue.pop(0) if queue and not is_option(queue[0]) else "true"
    check(name, {key: meant(text)}, theirs)


def _unknown(name: str, key: str, known: dict[str, Any]) -> EdgesegError:
    from edgeseg.cli.arguments import no_option

    return no_option(name, key, [n for n, a in known.items() if isinstance(told(a), Flag)])


def _see(name: str) -> str:
    return f"See: edgeseg {name} --help"
