"""Boards that people own: which format, precision and size suit each, what to install there (``targets/boards.toml``)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from edgeseg.errors import EdgesegError, did_you_mean
from edgeseg.registry import targets
from edgeseg.resources import parse_toml, target_roots

FILE = "boards.toml"


@dataclass(frozen=True)
class Use:
    """One way to run on a board. ``imgsz`` is a side in pixels; ``measured`` says that a figure was taken on that board."""

    format: str
    precision: str
    imgsz: int
    install: str
    why: str
    measured: bool = False

    def command(self, model: str = "model.pt") -> str:
        """The export that makes the artifact, on a workstation."""
        target = targets().get(self.format)
        own = target is not None and self.precision == target.precisions[0]
        option = "" if own else {"fp16": " --half", "int8": " --int8"}.get(self.precision, "")
        return f"edgeseg export {model} --format {self.format}{option} --imgsz {self.imgsz}"


@dataclass(frozen=True)
class Board:
    """A device: its name, what it is, and how to use it, best first.

    What a bundle for it must know, where edgeseg runs there at all: ``machine`` (``aarch64``, ``x86_64``; else ""),
    ``python`` of its system ("": the one that makes the bundle), ``glibc`` (the minor version of its C library 2.x), the
    script in a kit that must ``build`` there first. ``models`` is how its kernel's device tree names it. ``limits``: what
    does not work there, or only some other way.
    """

    name: str
    title: str
    about: str
    use: tuple[Use, ...]
    aliases: tuple[str, ...] = ()
    machine: str = ""
    python: str = ""
    glibc: int = 28
    build: str = ""
    models: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()


@lru_cache(maxsize=4)
def read_boards(file: Path) -> dict[str, Board]:
    """Boards of a file, by name.

    Raises:
        EdgesegError: no valid TOML, a key missing or unknown.
    """
    try:
        raw = parse_toml(file.read_text(encoding="utf-8"))
        found = {}
        for name, values in raw.items():
            use = tuple(Use(**u) for u in values.pop("use"))
            lists: dict[str, Any] = {key: tuple(values.pop(key, ())) for key in ("aliases", "models", "limits")}
            found[name] = Board(name=name, use=use, **lists, **values)
    except OSError as e:
        raise EdgesegError(
            f"the list of boards cannot be read ({e.strerror})", path=file, hint="Install edgeseg again"
        ) from e
    except (ValueError, TypeError, KeyError, AttributeError) as e:
        raise EdgesegError(f"no list of boards ({e})", path=file) from e
    return found


def boards() -> dict[str, Board]:
    """All boards by name."""
    return read_boards(target_roots()[0] / FILE)


def board_by_name(name: str) -> Board:
    """The board called ``name`` or by one of its aliases (case-insensitive, spaces and underscores as hyphens).

    Raises:
        EdgesegError: there is none; names the nearest and lists all.
    """
    key, known = name.strip().lower().replace(" ", "-").replace("_", "-"), boards()
    words = {w: b for b in known.values() for w in (b.name, *b.aliases)}
    if key in words:
        return words[key]
    raise EdgesegError(f"unknown board {name!r}", hint=did_you_mean(key, words, f"Boards: {', '.join(known)}"))
