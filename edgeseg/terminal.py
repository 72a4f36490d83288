"""What fits on a terminal: widths, paths shortened, tables laid out, words that wrap. Plain text in, plain text out."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from typing import IO

GAP = "  "
# Columns: what a path needs at most, at the left and elsewhere; the longest word, and the shortest cell, that may break.
LABEL, NAME, WORD, SHORT = 30, 24, 40, 10
# A command that a person may copy: until the sentence, or the choice, ends.
_COMMAND = re.compile(r"(?<!\S)(?:edgeseg|pip|ssh|sh|mkdir|python) [^\s].*?(?=(?:, or\b|\. |;|$))")


def colours(stream: IO[str]) -> bool:
    """Whether ``stream`` is a terminal that wants colours."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def width_of(stream: IO[str]) -> int | None:
    """Columns of the terminal that ``stream`` is; None where it is none, and lines may be as long as they are."""
    if not stream.isatty():
        return None
    if os.environ.get("COLUMNS", "").isdigit():
        return max(20, shutil.get_terminal_size().columns)
    try:
        return max(20, os.get_terminal_size(stream.fileno()).columns or 80)
    except (OSError, ValueError):  # an emulation without a size
        return 80


def wide(text: str) -> int:
    """Columns that ``text`` takes."""
    if text.isascii():
        return len(text)
    import unicodedata

    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def is_path(text: str) -> bool:
    """Whether ``text`` looks like the path of one file or folder."""
    return ("/" in text or "\\" in text or (len(text) > 12 and "." in text)) and " " not in text and "://" not in text


def shorten(path: str, columns: int) -> str:
    """A path in so many columns: its end, from a folder on (``.../weights/best.pt``); of a long name, start and end."""
    if wide(path) <= columns:
        return path
    parts = path.replace("\\", "/").rstrip("/").split("/")
    for k in range(1, len(parts)):
        if wide(short := "/".join(["...", *parts[k:]])) <= columns:
            return short
    name = parts[-1]
    if wide(name) <= columns:
        return name
    head, tail = name[: len(name) // 2], name[len(name) // 2 :]
    while len(head) > 1 and wide(head) + 3 + wide(tail) > columns:
        head, tail = (head[:-1], tail) if len(head) >= len(tail) else (head, tail[1:])
    return f"{head}...{tail}"


def shortened(text: str, columns: int) -> str:
    """Words in so many columns: the longest of them, a path mostly, gives way."""
    words = text.split(" ")
    longest = max(range(len(words)), key=lambda k: wide(words[k]))
    if (over := wide(text) - columns) > 0:
        words[longest] = shorten(words[longest], max(8, wide(words[longest]) - over))
        text = " ".join(words)
    return text if wide(text) <= columns else f"{text[: max(columns - 3, 1)]}..."


def flowing(text: str, columns: int | None) -> str:
    """A sentence in lines of whole words, paths longer than a line shortened; a command begins a line, to be copied."""
    if columns is None or wide(text) <= columns:
        return text
    lines: list[str] = []
    at = 0
    for found in [*_COMMAND.finditer(text), None]:
        part = text[at : found.start() if found else len(text)].rstrip().lstrip(".,; " if lines else "")
        if part.strip():
            indent = part[: len(part) - len(part.lstrip())] if not lines else ""
            words = (w if wide(w) <= columns or not is_path(w) else shorten(w, columns) for w in part.split())
            lines += _filled(" ".join(words), columns, indent)
        if found:
            last = f"{lines[-1]} {found[0]}" if lines else found[0]
            over = _filled(found[0], columns - 6)
            lines[-1:] = [last] if wide(last) <= columns else [*lines[-1:], "  " + " \\\n    ".join(over)]
            at = found.end()
    return "\n".join(lines)


def _filled(text: str, columns: int, indent: str = "") -> list[str]:
    from textwrap import TextWrapper

    return TextWrapper(max(columns, 8), indent, indent, break_long_words=False, break_on_hyphens=False).wrap(text)


Block = tuple[list[str], list[str]]  # lines of the header, and those below it


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool], room: int | None) -> list[Block]:
    """A table in ``room`` columns (None: without end), in one block where it can be.

    Paths are shortened and words wrap; figures are never broken. What still does not fit is turned, so that each row
    becomes a column; and where that is too wide too, it comes in blocks that repeat the first column.
    """
    cells = [list(columns), *map(list, rows)]
    least = [_least(k, [row[k] for row in cells], right[k]) for k in range(len(columns))]
    if room is None or sum(least) + len(GAP) * (len(least) - 1) <= room:
        return [_block(cells, least, right, room)]
    turned = [[row[k] for row in cells] for k in range(len(columns))]
    across = [max(map(wide, columns)), *(_least(k, [row[k] for row in turned], False) for k in range(1, len(cells)))]
    if rows and sum(across) + len(GAP) * (len(across) - 1) <= room:
        return [_block(turned, across, [False] * len(cells), room)]
    first = min(least[0], max(8, room - len(GAP) - max(least[1:], default=0)))
    least = [first, *(min(n, room - first - len(GAP)) for n in least[1:])]
    blocks: list[Block] = []
    at = 1
    while at < len(columns) or not blocks:
        take, used = [0], first
        while at < len(columns) and used + len(GAP) + least[at] <= room:
            used += len(GAP) + least[at]
            take.append(at)
            at += 1
        blocks.append(
            _block([[row[k] for k in take] for row in cells], [least[k] for k in take], [right[k] for k in take], room)
        )
    return blocks


def _least(k: int, column: Sequence[str], figures: bool) -> int:
    """The narrowest that a column may be: figures, and what is short, are never broken."""
    if figures:
        return max([*map(wide, column[1:]), *map(wide, column[0].split()), 1])
    names = [wide(re.split(r"[/\\]", c.rstrip("/"))[-1]) + 4 for c in column if is_path(c)]
    words = [min(wide(w), WORD) for c in column if not is_path(c) for w in ([c] if wide(c) < SHORT else c.split())]
    return max([1, *(min(n, LABEL if k == 0 else NAME) for n in names), *words])


def _block(cells: list[list[str]], least: list[int], right: Sequence[bool], room: int | None) -> Block:
    natural = [max(wide(row[k]) for row in cells) for k in range(len(least))]
    widths = natural if room is None else _shared(least, natural, room - len(GAP) * (len(least) - 1))
    found: Block = ([], [])
    for n, row in enumerate(cells):
        parts = [_fitted(cell, w) for cell, w in zip(row, widths)]
        for i in range(max(map(len, parts))):
            line = [part[i] if i < len(part) else "" for part in parts]
            padded = (
                " " * (w - wide(c)) + c if is_right else c + " " * (w - wide(c))
                for c, w, is_right in zip(line, widths, right)
            )
            found[n > 0].append(GAP.join(padded).rstrip())
    return found


def _shared(least: list[int], natural: list[int], room: int) -> list[int]:
    """Widths between least and natural that fill the room, the smallest wishes first."""
    widths, spare = list(least), room - sum(least)
    order = sorted(range(len(least)), key=lambda k: natural[k] - least[k])
    for n, k in enumerate(order):
        more = max(0, min(natural[k] - least[k], spare // (len(order) - n)))
        widths[k], spare = least[k] + more, spare - more
    return widths


def _fitted(cell: str, columns: int) -> list[str]:
    if wide(cell) <= columns:
        return [cell]
    if is_path(cell):
        return [shorten(cell, columns)]
    lines: list[str] = []
    for line in _filled(cell, columns):
        while wide(line) > columns:  # a word without a place to break
            cut = next(n for n in range(len(line), 0, -1) if wide(line[:n]) <= columns or n == 1)
            lines, line = [*lines, line[:cut]], line[cut:]
        lines.append(line)
    return lines or [""]
