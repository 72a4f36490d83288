"""Errors that a person reads: what is wrong, with which file, and what to type next."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

_CONTROL = {c: f"\\x{c:02x}" for c in (*range(32), *range(127, 160)) if chr(c) not in "\t\n\r"}
# Marks that turn the direction of writing: a name could show itself as another one.
_CONTROL |= {c: f"\\u{c:04x}" for c in (0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))}


def printable(text: str) -> str:
    """``text`` with control characters spelled out (``\\x1b``): a stranger's name never steers a terminal."""
    return text.translate(_CONTROL)


def brief(value: Any) -> str:
    """A value of a stranger's file for a message, 80 characters at most; containers are not spelled out."""
    if isinstance(value, int) and value.bit_length() > 200:
        return f"a whole number of {value.bit_length()} bits"
    if isinstance(value, (str, bytes)):
        return repr(value[:60]) + ("..." if len(value) > 60 else "")
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    return f"a {type(value).__name__}"


def did_you_mean(word: str, known: Iterable[str], listed: str = "", also: Mapping[str, str] | None = None) -> str:
    """A hint with the word that was meant, if that is clear, and then what is ``listed``.

    Clear is a synonym of ``also``, or a word with few letters wrong, left out, doubled or swapped: one of 3 to 5, two of 6
    to 10, three of more.
    """
    same = {_folded(k): k for k in known}
    typed = _folded(word)
    meant = (also or {}).get(typed)
    near = same.get(typed) or (same.get(meant) if meant else None) or _nearest(typed, same)
    return " ".join(filter(None, [f"Did you mean {near!r}?" if near else "", listed]))


def _folded(word: str) -> str:
    return word.lower().strip().replace("_", "-")


def _nearest(word: str, known: Mapping[str, str]) -> str | None:
    """The known word with the fewest letters wrong; of equals the one that is like ``word`` for longest."""
    found = sorted((distance(word, k), -_alike(word, k), k) for k in known)
    return next((known[k] for wrong, _, k in found if wrong <= _allowed(max(len(word), len(k)))), None)


def _alike(a: str, b: str) -> int:
    """Letters at the start that are the same."""
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def _allowed(letters: int) -> int:
    return 0 if letters < 3 else 1 if letters < 6 else 2 if letters < 11 else 3


def distance(a: str, b: str) -> int:
    """Letters to add, drop, change or swap with their neighbour (optimal string alignment)."""
    rows = [list(range(len(b) + 1))]
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            row.append(min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (x != y)))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                row[-1] = min(row[-1], rows[-2][j - 2] + 1)
        rows.append(row)
    return rows[-1][-1]


class EdgesegError(Exception):
    """Bad input or a missing tool. The command line prints it as one line and exits with code 2.

    Args:
        what: what is wrong, in one sentence without a full stop.
        path: the file or folder at fault, if there is one.
        line: line number in ``path`` (from 1).
        hint: what to do or type next.
    """

    exit_code = 2

    def __init__(
        self, what: str, *, path: str | os.PathLike[str] | None = None, line: int | None = None, hint: str = ""
    ) -> None:
        self.what, self.path, self.line, self.hint = what, path, line, hint
        where = "" if path is None else f"{os.fspath(path)}:{line}: " if line is not None else f"{os.fspath(path)}: "
        super().__init__(printable(f"{where}{what}" + (f". {hint}" if hint else "")))


T = TypeVar("T")


def attempted(does: Callable[..., T], *given: Any, **options: Any) -> T | EdgesegError:
    """What ``does(*given, **options)`` gives, or the error that it raises."""
    try:
        return does(*given, **options)
    except EdgesegError as e:
        return e


class Interrupted(EdgesegError):
    """A command was ended by Ctrl-C or SIGTERM; says what it left behind and how to go on."""

    exit_code = 130


class Notice(UserWarning):
    """Something that people should know and that is no error; the command line prints it as one line."""


class StepFailed(EdgesegError):
    """A conversion step failed, crashed or ran past its limits. Other branches are not touched: exit code 1."""

    exit_code = 1
