"""Errors that a person reads: what is wrong, with which file, and what to type next."""

from __future__ import annotations

import os


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
        super().__init__(f"{where}{what}" + (f". {hint}" if hint else ""))


class StepFailed(EdgesegError):
    """A conversion step failed, crashed or ran past its limits. Other branches are not touched: exit code 1."""

    exit_code = 1
