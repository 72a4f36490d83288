"""The pages of docs/ as their tests read them: fenced blocks, and what is said of those that do not run here."""

from __future__ import annotations

import importlib.util
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.M | re.S)
_NOT_RUN = re.compile(r"<!-- not run: (.+?) -->\s*\Z")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, its line, and why it does not run here ("": it does)."""

    page: Path
    line: int
    language: str
    text: str
    why_not: str


def load(script: str) -> ModuleType:
    """A module of scripts/."""
    name = f"docs_script_{script}"
    if name not in sys.modules:
        sys.path.insert(0, str(ROOT / "scripts"))
        spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{script}.py")
        assert spec and spec.loader
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def pages() -> list[Path]:
    """Every page of the site, README among them."""
    return [ROOT / "README.md", *(file for file, _ in load("make_docs").pages())]


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in its order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        why = _NOT_RUN.search(text[: match.start()])
        found.append(Block(page, text.count("\n", 0, match.start()) + 1, match[2], match[3], why[1] if why else ""))
    return found
