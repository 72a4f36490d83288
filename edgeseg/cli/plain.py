"""Help where typer is not installed: the same words, as plain text."""

from __future__ import annotations

import inspect
import shutil
import textwrap
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from edgeseg.cli.flags import Flag, Word
from edgeseg.cli.light import kind, told

CLI = 'pip install "edgeseg[cli]"'


def command_help(name: str, command: Callable[..., Any]) -> str:
    """Usage, what it does, and its options with their usual values."""
    parameters = list(inspect.signature(command, eval_str=True).parameters.values())
    words = [(w.metavar, w.help) for p in parameters if isinstance(w := told(p.annotation), Word)]
    options = [(_spelling(p), _said(p, f)) for p in parameters if isinstance(f := told(p.annotation), Flag)]
    usage = " ".join(["Usage: edgeseg", name, *(metavar for metavar, _ in words), "[OPTIONS]"])
    about = [" ".join(part.split()) for part in (inspect.getdoc(command) or "").split("\n\n")]
    both = [*words, *options]
    return "\n\n".join([usage, *(_filled(a) for a in about), _rows(both)])


def overview(panels: Mapping[str, list[str]], here: Mapping[str, Callable[..., Any]]) -> str:
    """The commands by panel; those in ``here`` run without typer and say what they do."""
    parts = ["Usage: edgeseg COMMAND [WORDS] [OPTIONS]"]
    parts.append(_rows((name, (inspect.getdoc(command) or "").split("\n")[0]) for name, command in here.items()))
    rest = [n for names in panels.values() for n in names if n not in here]
    parts.append(_filled(f"These need the whole command line, {CLI}: {', '.join(rest)}"))
    return "\n\n".join([*parts, "Options are written as --key value or key=value. edgeseg COMMAND --help says more."])


def _spelling(parameter: inspect.Parameter) -> str:
    flag, of = told(parameter.annotation), kind(parameter.annotation)
    metavar = flag.metavar if flag is not None else None
    value = "" if of is bool else f" {metavar or getattr(of, '__name__', 'text').upper().replace('STR', 'TEXT')}"
    return f"--{parameter.name.replace('_', '-')}{value}"


def _said(parameter: inspect.Parameter, flag: Flag) -> str:
    shown = flag.shown if isinstance(flag.shown, str) else parameter.default if flag.shown else None
    return flag.help if shown in (None, False, inspect.Parameter.empty) else f"{flag.help} [{shown}]"


def _rows(pairs: Iterable[tuple[str, str]]) -> str:
    pairs = list(pairs)
    left = min(30, max((len(a) for a, _ in pairs), default=0)) + 2
    return "\n".join(
        textwrap.fill(text, _width(), initial_indent=f"  {key:<{left}}", subsequent_indent=" " * (left + 2))
        for key, text in pairs
    )


def _filled(text: str) -> str:
    return textwrap.fill(text, _width())


def _width() -> int:
    return max(60, min(110, shutil.get_terminal_size().columns))
