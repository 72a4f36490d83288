"""key=value and --key value mean the same; wrong keys are answered with the right ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
import typer

from edgeseg.cli.arguments import normalise
from edgeseg.errors import EdgesegError


def command() -> object:
    app = typer.Typer()

    @app.callback()
    def root() -> None: ...

    @app.command()
    def go(
        model: Annotated[str, typer.Argument()] = "",
        half: bool = False,
        max_det: int = 3,
        conf: float = 0.1,
        fmt: Annotated[list[str] | None, typer.Option("--format")] = None,
        json: str = "",
        save_txt: Annotated[bool, typer.Option("--save-txt")] = False,
    ) -> None: ...

    inner = typer.Typer()

    @inner.command()
    def deep(name: str = "") -> None: ...

    @inner.command()
    def other() -> None: ...

    app.add_typer(inner, name="group")
    return typer.main.get_command(app)


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        (["go", "a.pt", "conf=0.5"], ["go", "a.pt", "--conf", "0.5"]),
        (["go", "--conf", "-1"], ["go", "--conf", "-1"]),
        (["go", "--conf=0.5"], ["go", "--conf", "0.5"]),
        (["go", "half=True"], ["go", "--half"]),
        (["go", "half=false"], ["go", "--no-half"]),
        (["go", "a.pt", "half", "save_txt"], ["go", "a.pt", "--half", "--save-txt"]),
        (["go", "--no-half=1"], ["go", "--no-half"]),
        (["go", "--no-half=0"], ["go", "--half"]),
        (["go", "--half=on", "x"], ["go", "--half", "x"]),
        (["go", "save_txt=1"], ["go", "--save-txt"]),
        (["go", "save_txt=0", "a.pt"], ["go", "a.pt"]),
        (["go", "max_det=5"], ["go", "--max-det", "5"]),
        (["go", "--max_det", "5"], ["go", "--max-det", "5"]),
        (["go", "model=a.pt"], ["go", "a.pt"]),
        (["go", "http://host/a?b=c"], ["go", "http://host/a?b=c"]),
        (["go", "./a=b.jpg"], ["go", "./a=b.jpg"]),
        (["go", "--json"], ["go", "--json", "-"]),
        (["go", "--json", "--half"], ["go", "--json", "-", "--half"]),
        (["go", "--json", "x.json"], ["go", "--json", "x.json"]),
        (["go", "json=x.json"], ["go", "--json", "x.json"]),
        (["go", "--format", "a,b", "format=c"], ["go", "--format", "a,b", "--format", "c"]),
        (["go", "--", "conf=1"], ["go", "--", "conf=1"]),
        (["go", "--help"], ["go", "--help"]),
        (["group", "deep", "name=x"], ["group", "deep", "--name", "x"]),
        (["--help"], ["--help"]),
        (["group"], ["group"]),
    ],
)
def test_rewrites(typed: list[str], wanted: list[str]) -> None:
    assert normalise(typed, command()) == wanted


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (["go", "konf=1"], "Did you mean 'conf'"),
        (["go", "--hafl"], "Did you mean 'half'"),
        (["go", "zzz=1"], "edgeseg go --help"),
        (["go", "half=maybe"], "neither True nor False"),
        (["go", "--conf"], "needs a value"),
        (["group", "deeep"], "Did you mean 'deep'"),
        (["stop"], "Commands: go"),
    ],
)
def test_refuses(typed: list[str], says: str) -> None:
    with pytest.raises(EdgesegError, match=says):
        normalise(typed, command())


def test_a_file_with_an_equals_sign_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run=1").touch()
    assert normalise(["go", "run=1"], command()) == ["go", "run=1"]


def test_the_argument_comes_before_what_only_the_command_knows() -> None:
    app = typer.Typer()

    @app.callback()
    def root() -> None: ...

    @app.command(context_settings={"allow_extra_args": True})
    def train(context: typer.Context, model: Annotated[str, typer.Argument()] = "", epochs: int = 1) -> None: ...

    typed = ["train", "mosaic=0", "epochs=3", "--mixup", "0.1", "model=a.pt"]
    assert normalise(typed, typer.main.get_command(app)) == ["train", "--epochs", "3", "a.pt", "mosaic=0", "mixup=0.1"]
