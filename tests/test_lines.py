"""A budget of lines: what the product is made of stays small enough to be read."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUDGET = 43_000
"""Lines of ``edgeseg/`` and ``targets/``, all of them: code, docstrings, blank ones. Raised by a decision, with its reason
in the commit; lowered whenever something is made simpler."""
LONGEST = 400
LONGEST_BODY = 50


def sources() -> list[Path]:
    return [p for folder in ("edgeseg", "targets") for p in sorted((ROOT / folder).rglob("*.py"))]


def test_the_product_is_within_its_budget() -> None:
    lines = sum(len(p.read_text(encoding="utf-8").splitlines()) for p in sources())
    assert BUDGET - 500 < lines <= BUDGET, f"{lines} lines: lower the budget, or decide to raise it"


def test_no_file_is_too_long_to_read() -> None:
    found = {str(p.relative_to(ROOT)): len(p.read_text(encoding="utf-8").splitlines()) for p in sources()}
    assert {name: n for name, n in found.items() if n > LONGEST} == {}


def bodies(path: Path) -> dict[str, int]:
    """Lines of each function, without its signature and docstring."""
    found = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[ast.get_docstring(node) is not None :][:1]
            found[f"{path.relative_to(ROOT)}:{node.name}"] = (node.end_lineno or 0) - first[0].lineno + 1 if first else 0
    return found


def test_no_function_is_too_long_to_read() -> None:
    found = {name: n for p in [*sources(), *sorted((ROOT / "scripts").rglob("*.py"))] for name, n in bodies(p).items()}
    assert len(found) > 1000
    assert {name: n for name, n in found.items() if n > LONGEST_BODY} == {}
