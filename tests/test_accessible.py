"""The audit finds what was planted, and lets a good page pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Audit = Callable[..., list[str]]
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>A page</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body {{ background: #fff; color: #111 }} {style}</style></head>
<body><main><h1>A page</h1><p class="text">Words to read.</p>{more}</main></body></html>"""
DARK = "@media (prefers-color-scheme: dark) { body { background: #111; color: #222 } }"


def page(folder: Path, more: str = "", style: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "index.html").write_text(PAGE.format(more=more, style=style), encoding="utf-8")
    return folder


@pytest.mark.slow
def test_planted_faults_are_found_each_with_its_place(tmp_path: Path, audit: Audit) -> None:
    planted = '<img src="data:image/gif;base64,R0lGODlhAQABAAAAACw="><script>console.error("broken here")</script>'
    found = audit(page(tmp_path, planted, ".text { color: #aaa; background: #bbb }"))
    assert sorted({line.partition(":")[0] for line in found}) == ["color-contrast", "errors-in-console", "image-alt"]
    assert any("main > p.text" in line and "4.5:1" in line for line in found)
    assert any("main > img" in line for line in found) and any("broken here" in line for line in found)


@pytest.mark.slow
def test_a_good_page_passes_and_one_that_is_only_good_by_day_does_not_at_night(tmp_path: Path, audit: Audit) -> None:
    good = page(tmp_path / "good", '<img alt="A dot" src="data:image/gif;base64,R0lGODlhAQABAAAAACw=">', DARK)
    assert audit(good / "index.html") == []
    (line,) = {line.partition(":")[0] for line in audit(good, dark=True)}
    assert line == "color-contrast"
