"""``key=value`` beside ``--key value``: every command line is brought into the form that typer parses.

Options are known from the command itself, so that a wrong key is found here and answered with the nearest right one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeseg.errors import EdgesegError, did_you_mean
from edgeseg.habits import COMMANDS, QUIET, belongs, check, is_switch, synonyms

_KEY = re.compile(r"^[A-Za-z][\w-]*$")
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
_OPTIONAL_VALUE = {"--json": "-"}


def normalise(argv: Sequence[str], command: Any) -> list[str]:
    """Rewrite ``key=value``, ``--flag=true`` and ``--snake_case`` for the click command that ``argv`` leads to.

    Options of other YOLO tools that ask for what is done anyway are left out (see ``edgeseg.habits``).
    A command with ``allow_extra_args`` gets what it has no option for as ``key=value``. ``--json`` without a value means
    standard output. A ``key=value`` whose key is no option passes as a path when such a file exists.

    Raises:
        EdgesegError: no option has this name (with the nearest one), or a flag's value is neither true nor false.
    """
    out: list[str] = []
    rest = list(argv)
    names: list[str] = []
    while rest:  # down to the sub-command
        token = rest[0]
        children = getattr(command, "commands", None)
        if not children or token == "--":
            break
        if token.startswith("-"):
            out.append(rest.pop(0))
            continue
        if token not in children:
            hint = did_you_mean(token, children, f"Commands: {', '.join(children)}")
            raise EdgesegError(f"unknown command {' '.join([*names, token])!r}", hint=hint)
        command = children[token]
        names.append(token)
        out.append(rest.pop(0))
    if getattr(command, "commands", None):
        return [*out, *rest]
    return [*out, *_options(rest, command, " ".join(names))]


def _options(tokens: list[str], command: Any, name: str) -> list[str]:
    options = [p for p in command.params if p.param_type_name == "option"]
    by_flag = {flag: p for p in options for flag in (*p.opts, *p.secondary_opts)}
    arguments = {p.name for p in command.params if p.param_type_name == "argument"}
    helps = ("--help", "-h")
    open_ended = bool(getattr(command, "context_settings", {}).get("allow_extra_args"))
    out: list[str] = []
    # click gives the first word that is no option to the argument, so what only the command itself knows comes last.
    extra: list[str] = []
    queue = list(tokens)
    while queue:
        token = queue.pop(0)
        if token == "--":
            return [*out, *extra, token, *queue]
        if token.startswith("--"):
            key, equals, value = token.partition("=")
        elif not token.startswith("-") and "=" in token and _KEY.match(token.partition("=")[0]):
            key, equals, value = token.partition("=")
            flag = "--" + key.replace("_", "-")
            if flag not in by_flag and key in arguments:
                out.append(value)
                continue
            if flag not in by_flag and Path(token).exists():
                out.append(token)
                continue
        elif is_switch(name, token, getattr(by_flag.get("--" + token.replace("_", "-")), "is_flag", False)):
            queue.insert(0, f"{token}=true")
            continue
        else:
            out.append(token)
            known = by_flag.get(token)
            if known is not None and not known.is_flag and queue:
                out.append(queue.pop(0))
            continue
        flag = "--" + key.removeprefix("--").replace("_", "-")
        if flag in helps:
            out.append(flag)
            continue
        if flag not in by_flag and (known_elsewhere := COMMANDS.get(name)) and _plain(key) in (*known_elsewhere, *QUIET):
            takes = not equals and queue and not is_option(queue[0])
            check(name, {_plain(key): meant(value if equals else queue.pop(0) if takes else "true")}, known_elsewhere)
            continue
        if flag not in by_flag and open_ended and (equals or queue):
            extra.append(f"{key.removeprefix('--').replace('-', '_')}={value if equals else queue.pop(0)}")
            continue
        if flag not in by_flag:
            raise no_option(
                name, key, [*(f for f in by_flag if f.startswith("--")), *(a for a in arguments if a == "model")]
            )
        out += _given(by_flag[flag], flag, value if equals else None, queue, name)
    return [*out, *extra]


def _given(option: Any, flag: str, value: str | None, queue: list[str], name: str) -> list[str]:
    """The words that give one option: its value is ``value``, else the next of the queue."""
    if option.is_flag:
        return [flag] if value is None else _flag(option, flag, value)
    if value is not None:
        return [flag, value]
    if flag in _OPTIONAL_VALUE and (not queue or is_option(queue[0])):
        return [flag, _OPTIONAL_VALUE[flag]]
    if queue:
        return [flag, queue.pop(0)]
    raise EdgesegError(f"{flag} needs a value", hint=f"See: edgeseg {name} --help")


def no_option(name: str, key: str, known: Sequence[str]) -> EdgesegError:
    """What to say of an option that a command does not have: which one is meant, else all that there are."""
    words = [k.removeprefix("--").replace("_", "-") for k in known]
    meant = did_you_mean(key.removeprefix("--"), words, also=synonyms())
    listed = ", ".join(sorted(w for w in words if not w.startswith("no-")))
    elsewhere = "" if meant else belongs(name, _plain(key))
    hint = meant or (f"{elsewhere}." if elsewhere else f"It has {listed or 'none'}.")
    return EdgesegError(f"{name} has no option {key!r}", hint=f"{hint} See: edgeseg {name} --help")


def _plain(key: str) -> str:
    return key.removeprefix("--").replace("-", "_")


def meant(text: str) -> Any:
    """A word as the value that it means: true or false, a whole number, else itself."""
    lower = text.strip().lower()
    return True if lower == "true" else False if lower == "false" else int(text) if lower.isdigit() else text


def is_option(token: str) -> bool:
    return token.startswith("--") or ("=" in token and _KEY.match(token.partition("=")[0]) is not None)


def _flag(option: Any, flag: str, value: str) -> list[str]:
    """The spelling of a boolean option that means ``value``; none where it is off anyway."""
    word = value.strip().lower()
    if word not in _TRUE + _FALSE:
        raise EdgesegError(f"{flag.removeprefix('--')}={value} is neither True nor False")
    on = word in _TRUE
    if flag in option.secondary_opts:
        on = not on
    if on:
        return [str(option.opts[0])]
    return [str(o) for o in option.secondary_opts[:1]]
