"""What the pages tell people to type, typed: block by block, page by page, in a folder of its own.

The demo network stands for ``yolov8n-seg.pt`` and generated shapes for ``coco128-seg.yaml``: what a reader would have
downloaded. A block below ``<!-- not run: WHY -->`` is only read: its commands and options must exist.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgeseg.data.shapes import make_shapes
from edgeseg.resources import demo_checkpoint

_spec = importlib.util.spec_from_file_location("docs_pages_run", Path(__file__).with_name("pages.py"))
assert _spec and _spec.loader
pages = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = pages
_spec.loader.exec_module(pages)

ROOT = Path(__file__).resolve().parents[2]
RUN = ("bash", "python")
SMALL = {"train": 24, "val": 40, "size": 160, "seed": 3}
WALKED = "start.md"  # by test_walk.py, line by line
BLOCKS = {page: pages.blocks(page) for page in pages.pages()}
ids = lambda page: page.relative_to(ROOT).as_posix()  # noqa: E731


def _runs(block: Any) -> bool:
    return block.language in RUN and not block.why_not


def _prelude(folder: Path) -> None:
    shutil.copyfile(demo_checkpoint(), folder / "yolov8n-seg.pt")
    made = make_shapes(folder / "shapes", **SMALL)
    text = made.read_text(encoding="utf-8")
    (folder / "coco128-seg.yaml").write_text(f"path: {made.parent}\n{_without_path(text)}", encoding="utf-8")
    picture = sorted((made.parent / "images" / "val").iterdir())[0]
    shutil.copyfile(picture, folder / "street.jpg")


def _without_path(text: str) -> str:
    return "\n".join(line for line in text.split("\n") if not line.startswith("path:"))


def _environment() -> dict[str, str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return os.environ | {"PATH": path, "MPLBACKEND": "Agg", "COLUMNS": "120"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [p for p, blocks in BLOCKS.items() if p.name != WALKED and any(map(_runs, blocks))], ids=ids
)
def test_what_a_page_says_runs(page: Path, tmp_path: Path) -> None:
    _prelude(tmp_path)
    for block in filter(_runs, BLOCKS[page]):
        command = ["bash", "-euo", "pipefail", "-c"] if block.language == "bash" else [sys.executable, "-c"]
        done = subprocess.run(
            [*command, block.text],
            cwd=tmp_path,
            env=_environment(),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{ids(page)}:{block.line}\n{block.text}\n{done.stdout[-1500:]}{done.stderr[-1500:]}"


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.replace("\\\n", " ").split("\n") if line.strip()]


def check(line: str) -> None:
    """A command line of edgeseg that does not run here: the command is there, and so is every option of it."""
    import typer

    from edgeseg.cli import COMMANDS, EXTRA_SETTINGS, build
    from edgeseg.cli.arguments import normalise
    from edgeseg.habits import command_line

    words = shlex.split(line, comments=True)
    words = words[: next((i for i, w in enumerate(words) if w in ("&&", "||", "|", ";", ">")), len(words))]
    argv = command_line(words[1:], list(COMMANDS))
    assert argv[0] in COMMANDS, f"{line}: no command {argv[0]}"
    app: Any = typer.main.get_command(build([argv[0]]))
    command = app
    argv = normalise(argv, app)
    while hasattr(command, "commands"):
        assert argv[0] in command.commands, f"{line}: no command {argv[0]}"
        command, argv = command.commands[argv[0]], argv[1:]
    known = {word for p in command.params for word in (*p.opts, *p.secondary_opts)} | {"--help", "-h"}
    given = [w.partition("=")[0] for w in argv if w.startswith("--") and " " not in w]
    free = command.name in EXTRA_SETTINGS
    assert free or [w for w in given if w not in known] == [], line


def _commands(block: Any) -> list[str]:
    return [line for line in _lines(block.text) if line.startswith("edgeseg ")]


@pytest.mark.parametrize("page", list(BLOCKS), ids=ids)
def test_commands_that_do_not_run_here_exist_with_their_options(page: Path) -> None:
    for block in BLOCKS[page]:
        for line in _commands(block) if block.language in ("", "bash") and not _runs(block) else ():
            check(line)
        if block.language == "python":
            compile(block.text, f"{ids(page)}:{block.line}", "exec")


@pytest.mark.parametrize("page", list(BLOCKS), ids=ids)
def test_commands_in_the_text_exist_with_their_options(page: Path) -> None:
    for line in re.findall(r"`(edgeseg [^`…]+)`", page.read_text(encoding="utf-8")):
        if not re.match(r"edgeseg (COMMAND|-)", line):
            check(re.sub(r"( --[a-z0-9-]+)$", r"\1 X", line.replace("...", "X")))  # an option that is only named


@pytest.mark.parametrize("line", ["edgeseg explode x.pt", "edgeseg export x.pt --no-such-option 3", "edgeseg board fly"])
def test_what_does_not_exist_is_found(line: str) -> None:
    with pytest.raises(Exception, match=r"no command|no-such-option|has no option|unknown command"):
        check(line)


def test_every_block_that_is_not_run_says_why() -> None:
    for page, blocks in BLOCKS.items():
        assert [f"{ids(page)}:{b.line}" for b in blocks if b.why_not and len(b.why_not) < 10] == []
    assert sum(_runs(b) for blocks in BLOCKS.values() for b in blocks) >= 15
