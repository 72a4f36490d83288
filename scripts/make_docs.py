"""The source of the docs site: docs/ with its generated parts filled in, and links into the repository made to hold.

    python scripts/make_docs.py [FOLDER]    writes FOLDER/source and FOLDER/mkdocs.yml (default: build/docs)

A line ``<!-- generated: WHAT -->`` is replaced by what ``docs_parts.py`` makes from its one source (``target.toml``, the
commands' own help, ``calib/``, ``boards.toml``). A link to a file of the repository becomes one to a copy of it; a link to
what does not exist is an error. ``make docs`` then builds the site, strictly.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(Path(__file__).parent))

import docs_parts  # noqa: E402

DOCS = ROOT / "docs"
# Pages that lie elsewhere in the repository, and where they are in the site.
ELSEWHERE = {"edgeseg/decoders/README.md": "decoders.md", "CONTRIBUTING.md": "contributing.md", "README.md": "index.md"}
GENERATED = re.compile(r"^<!-- generated: ([a-z]+) ?([a-z0-9_-]*) -->$", re.M)
LINK = re.compile(r"(?<=\])\(([^()\s]+)\)")
FENCE = re.compile(r"^\s*(```|~~~)")


class Broken(Exception):
    """A link that leads nowhere."""


def pages() -> Iterator[tuple[Path, str]]:
    """Every page: its file, and its place in the site."""
    for file in sorted(DOCS.rglob("*.md")):
        yield file, file.relative_to(DOCS).as_posix()
    for name, place in ELSEWHERE.items():
        if name != "README.md":
            yield ROOT / name, place


def place_of(path: Path) -> str | None:
    """Where a file or folder of the repository is in the site, as a page or as part of one; None: nowhere yet."""
    name = path.relative_to(ROOT).as_posix()
    if name in ELSEWHERE:
        return ELSEWHERE[name]
    for inside in ("README.md", "index.md"):
        if path.is_dir() and (path / inside).is_file():
            return place_of(path / inside)
    return path.relative_to(DOCS).as_posix() if path.is_relative_to(DOCS) and path.is_file() else None


def with_links(text: str, file: Path, place: str, source: Path | None = None) -> str:
    """A page with its links as they are in the site; files of the repository that it names are copied to ``source``.

    Raises:
        Broken: a link to what is not there.
    """

    def replaced(match: re.Match[str]) -> str:
        target, _, anchor = match[1].partition("#")
        if not target or re.match(r"[a-z+]+:", target):
            return match[0]
        path = (file.parent / target).resolve()
        if not path.is_relative_to(ROOT) or not path.exists():
            raise Broken(f"{file.relative_to(ROOT)}: no {target}")
        to = place_of(path)
        if to is None:
            if path.is_dir():
                raise Broken(f"{file.relative_to(ROOT)}: {target} is a folder without a page")
            to = f"files/{path.relative_to(ROOT).as_posix()}"
            if source is not None:
                (source / to).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, source / to)
        relative = os.path.relpath(to, Path(place).parent.as_posix()).replace(os.sep, "/")
        return f"({relative}{'#' if anchor else ''}{anchor})"

    lines, inside = [], False
    for line in text.split("\n"):
        inside ^= bool(FENCE.match(line))
        lines.append(line if inside else LINK.sub(replaced, line))
    return "\n".join(lines)


def filled(text: str) -> str:
    """A page with its generated parts."""
    return GENERATED.sub(lambda m: docs_parts.PARTS[m[1]](*([m[2]] if m[2] else [])), text)


def configuration() -> dict[str, Any]:
    """``mkdocs.yml`` for the generated source beside it: the decisions one by one, without pages that are not there."""
    settings: dict[str, Any] = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    there = {place for _, place in pages()}

    def kept(entries: list[Any]) -> Iterator[Any]:
        for entry in entries:
            if isinstance(entry, str):
                yield from [entry] if entry in there else []
                continue
            ((title, value),) = entry.items()
            if value == "decisions/index.md":
                value = [value, *sorted(p for p in there if p.startswith("decisions/0"))]
            elif isinstance(value, list):
                value = list(kept(value))
            elif value not in there:
                continue
            yield {title: value}

    settings["nav"] = list(kept(settings["nav"]))
    settings |= {"docs_dir": "source", "site_dir": "site"}
    for plugin in settings["plugins"]:
        if isinstance(plugin, dict) and "mkdocstrings" in plugin:
            plugin["mkdocstrings"]["handlers"]["python"]["paths"] = [str(ROOT)]
    return settings


def make(folder: Path) -> None:
    """Write ``source`` and ``mkdocs.yml`` into a folder."""
    source = folder / "source"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(DOCS, source, ignore=shutil.ignore_patterns("*.md"))
    for file, place in pages():
        text = with_links(filled(file.read_text(encoding="utf-8")), file, place, source)
        (source / place).parent.mkdir(parents=True, exist_ok=True)
        (source / place).write_text(text, encoding="utf-8")
    settings = yaml.safe_dump(configuration(), sort_keys=False)
    (folder / "mkdocs.yml").write_text(settings, encoding="utf-8")


if __name__ == "__main__":
    make((Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "docs").resolve())
