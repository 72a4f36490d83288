"""The site: it builds strictly, links and quoted messages hold, nothing comes from outside, everybody can read it."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _load(file: Path, name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec and spec.loader
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


pages = _load(Path(__file__).with_name("pages.py"), "docs_pages")
chromium = _load(ROOT / "tests" / "targets" / "chromium.py", "chromium_for_docs")
make_docs = pages.load("make_docs")


@pytest.mark.parametrize("page", pages.pages(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_into_the_repository_hold(page: Path) -> None:
    make_docs.with_links(page.read_text(encoding="utf-8"), page, "index.md")


def test_a_link_to_nothing_is_an_error() -> None:
    with pytest.raises(make_docs.Broken, match=r"docs/index\.md: no gone\.md"):
        make_docs.with_links("see [this](gone.md)", ROOT / "docs" / "index.md", "index.md")
    assert make_docs.with_links("```\n[this](gone.md)\n```", ROOT / "docs" / "index.md", "index.md")


def _said() -> str:
    """Every text in the sources, a line each; ``…`` stands where a value goes in."""
    lines = []
    for file in [*(ROOT / "edgeseg").rglob("*.py"), *(ROOT / "targets").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                lines.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                lines.append("".join(str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values))
    return "\n".join(line.replace("\n", " ") for line in lines)


def test_quoted_messages_still_stand_in_the_sources() -> None:
    quoted = re.findall(r"^\| `(.+?)` \|", (ROOT / "docs" / "errors.md").read_text(encoding="utf-8"), re.M)
    said = _said()
    assert len(quoted) >= 30 and [message for message in quoted if message not in said] == []
    assert "a message that nobody ever wrote" not in said


def test_every_pip_extra_that_is_named_exists() -> None:
    tomllib = pytest.importorskip("tomllib")
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"])
    texts = [*pages.pages(), ROOT / "targets" / "boards.toml"]
    found = [m for t in texts for m in re.findall(r"edgeseg\[([a-z,]+)\]", t.read_text(encoding="utf-8"))]
    named = {extra for words in found for extra in words.split(",")}
    assert named - extras == set() and "tflite" in named


def test_every_target_and_every_command_has_its_page_or_part() -> None:
    from edgeseg.cli import COMMANDS
    from edgeseg.registry import targets

    parts = pages.load("docs_parts")
    assert {f.stem for f in (ROOT / "docs" / "targets").glob("*.md")} == {*targets(), "index"}
    commands = parts.all_commands()
    assert all(f"## edgeseg {name}\n" in commands for name, (_, _, panel) in COMMANDS.items() if panel)
    assert "| `--recipe` | NAME |" in commands and "| `--opset` | N |" in commands and "### edgeseg board add" in commands
    assert "`--opset` ONNX operator set, 11 to 20 (default 17)" in parts.one_target("onnx")


def test_a_figure_is_the_same_on_every_page() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    figures = (ROOT / "docs" / "figures.md").read_text(encoding="utf-8")
    rows = {r.split(" ")[1].lower().strip(","): r for r in re.findall(r"^\| \S.*?`int8`.*MB \|$", readme, re.M)}
    assert len(rows) == 4 and [r for r in rows.values() if r not in figures] == []
    for word, page in (("tf", "tflite"), ("onnx", "onnx"), ("openvino", "openvino"), ("ncnn", "ncnn")):
        said = re.search(
            r"agreement\s([\d.]+) % on 300", (ROOT / "docs" / "targets" / f"{page}.md").read_text(encoding="utf-8")
        )
        assert said is not None and said[1] == rows[word].split("|")[4].strip().removesuffix(" %"), page
    api = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    named = re.findall(r"^::: (\S+)", api, re.M)
    assert len(named) == len(set(named)) > 10


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("docs")
    make_docs.make(folder)
    done = _mkdocs(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


def _mkdocs(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "-s", "-f", str(folder / "mkdocs.yml")]
    return subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, timeout=300
    )


@pytest.mark.slow
def test_it_builds_strictly_and_takes_nothing_from_outside(site: Path) -> None:
    built = list(site.rglob("*.html"))
    assert len(built) > 45 and (site / "targets" / "tflite.html").is_file() and (site / "decisions" / "index.html").is_file()
    loads = re.compile(r'<(?:link|script|img|iframe)[^>]+(?:href|src)="(?:https?:)?//([^"]+)"')
    assert {f"{p.name}: {m}" for p in built for m in loads.findall(p.read_text(encoding="utf-8"))} == set()
    reference = (site / "api.html").read_text(encoding="utf-8")
    assert all(f'id="edgeseg.{name}"' in reference for name in ("model.Model.export", "export.options.ExportOptions"))


@pytest.mark.slow
def test_a_broken_link_or_anchor_fails_the_build(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    make_docs.make(tmp_path)
    with (tmp_path / "source" / "concepts.md").open("a", encoding="utf-8") as page:
        page.write("\n[gone](start.md#no-such-heading) and [gone](nowhere.md)\n")
    done = _mkdocs(tmp_path)
    said = done.stdout + done.stderr
    assert done.returncode == 1 and "#no-such-heading" in said and "nowhere.md" in said and "2 warnings" in said


@pytest.mark.slow
@pytest.mark.skipif(chromium.CHROMIUM is None, reason="needs chromium")
def test_in_chromium_search_works_and_nothing_is_wider_than_the_window(site: Path, tmp_path: Path) -> None:
    view, typed = None, "b.dispatchEvent(new Event('keyup'))"
    with chromium.served(site) as address:
        try:
            view = chromium.Browser(tmp_path, timeout_s=60)
            for width, scheme in ((1280, "light"), (1280, "dark"), (400, "light"), (400, "dark")):
                view.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
                view.send(
                    "Page.navigate", url=f"{address}demo.jpg?{width}-{scheme}"
                )  # where no script keeps the last choice
                view.wait(f"location.search === '?{width}-{scheme}' && document.readyState === 'complete'")
                view.js("localStorage.clear()")
                view.send("Page.navigate", url=f"{address}index.html?{width}-{scheme}")
                there = "location.pathname === '/index.html' && document.readyState === 'complete'"
                theme = {"light": "default", "dark": "slate"}[scheme]
                view.wait(f"{there} && document.body.dataset.mdColorScheme === '{theme}'")
                view.shoot(tmp_path / f"front-{width}-{scheme}.png", width, 900, scheme)
                assert view.js("document.documentElement.scrollWidth") <= width
            view.js("document.querySelector('#__search').click()")
            view.js(f"(b => {{ b.focus(); b.value = 'bytetrack'; {typed} }})(document.querySelector('.md-search__input'))")
            view.wait("document.querySelectorAll('.md-search-result__item').length > 0")
            errors = [e for e in view.errors if "favicon.ico" not in e]  # which the bare picture asks for
            assert errors == [] and all(u.startswith((address, "data:", "blob:", "about:")) for u in view.urls)
        finally:
            if view is not None:
                view.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "narrow", "dark"),
    [("index.html", False, False), ("index.html", True, True), ("targets/tflite.html", True, True)],
)
def test_everybody_can_read_it(site: Path, page: str, narrow: bool, dark: bool, audit: Callable[..., list[str]]) -> None:
    with chromium.served(site) as address:
        assert audit(address + page, narrow=narrow, dark=dark) == []
