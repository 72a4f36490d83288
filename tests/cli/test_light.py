"""The short way to a command gives what typer gives, and leaves to typer what is not plain."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.cli import build, light
from edgeseg.cli.arguments import normalise
from edgeseg.cli.predict import predict

PLAIN = [
    ["predict", "m.onnx", "a.jpg"],
    ["predict", "m.onnx", "a.jpg", "b.jpg", "conf=0.5", "--iou", "0.6", "max_det=7", "--save_txt", "save=False"],
    ["predict", "model=m.onnx", "source=0", "imgsz=320,640", "--classes", "0,3", "--json", "out.json", "--polygons"],
    ["predict", "--model", "m.onnx", "--source", "x y.jpg", "--max-det", "3", "device=cpu", "threads=2", "--show"],
    ["predict", "m.onnx", "a.jpg", "max-det=3", "save-txt=true"],
    ["predict"],
]


def typers(argv: list[str]) -> dict[str, Any]:
    """What typer would call the command with."""
    import typer

    command: Any = typer.main.get_command(build(["predict"])).commands["predict"]
    group: Any = typer.main.get_command(build(["predict"]))
    words = normalise(argv, group)
    return command.make_context("predict", words[1:]).params


def filled(found: dict[str, Any]) -> dict[str, Any]:
    import inspect

    defaults = {p.name: p.default for p in inspect.signature(predict).parameters.values()}
    return {**defaults, **found}


def same(argv: list[str]) -> None:
    found = light.arguments(argv, predict)
    assert found is not None
    theirs = {k: list(v) or None if k == "words" else v for k, v in typers(argv).items()}
    assert filled(found) == theirs


@pytest.mark.parametrize("argv", PLAIN)
def test_plain_words_mean_what_they_mean_to_typer(argv: list[str]) -> None:
    same(argv)


@given(
    conf=st.none() | st.floats(0, 1),
    max_det=st.none() | st.integers(1, 999),
    save=st.none() | st.booleans(),
    words=st.lists(st.sampled_from(["m.tflite", "a.jpg", "d/*.png", "0"]), max_size=3),
    equals=st.booleans(),
)
def test_any_mixture_of_them(conf, max_det, save, words, equals) -> None:
    argv = ["predict", *words]
    for key, value in (("conf", conf), ("max_det", max_det)):
        if value is not None:
            argv += [f"{key}={value}"] if equals else [f"--{key}", str(value)]
    argv += [] if save is None else [f"save={save}"]
    same(argv)


NOT_PLAIN = """--help | -h | --json | a --json conf=0.1 | cnof=1 | --nonsense 1 | conf=x | max_det=1.5 | save=perhaps
 | --no-save | --conf | --conf --save | -- a | conf=0.1 conf=0.2 | words=a | half=True | --conf=0.5 | -x"""


@pytest.mark.parametrize("rest", [line.split() for line in NOT_PLAIN.split("|")])
def test_what_is_not_plain_is_left_to_typer(rest: list[str]) -> None:
    assert light.arguments(["predict", *rest], predict) is None


def test_a_plain_prediction_imports_no_typer(tmp_path) -> None:
    script = (
        "import sys\nfrom edgeseg.cli import run\n"
        "assert run(['predict', 'nothing.onnx', 'nothing.png']) == 2\nprint('typer' in sys.modules)\n"
        "assert run(['predict', 'nothing.onnx', 'cnof=1']) == 2\nprint('typer' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.split() == ["False", "True"] and "Did you mean 'conf'" in done.stderr


def test_words_before_the_command_are_typers(capsys) -> None:
    from edgeseg.cli import run

    assert run(["--help", "predict"]) == 0 and "Usage" in capsys.readouterr().out
