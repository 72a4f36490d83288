"""The short way to a command gives what typer gives, and leaves to typer what is not plain, where there is typer."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.cli import LIGHT, _function, build, light
from edgeseg.cli.arguments import normalise
from edgeseg.errors import EdgesegError

PLAIN = [
    "predict m.onnx a.jpg",
    "predict m.onnx a.jpg b.jpg conf=0.5 --iou 0.6 max_det=7 --save_txt save=False",
    "predict model=m.onnx source=0 imgsz=320,640 --classes 0,3 --json out.json --polygons",
    "predict --model m.onnx --source x/y.jpg --max-det 3 device=cpu threads=2 --show",
    "predict m.onnx a.jpg max-det=3 save-txt=true",
    "predict",
    "predict m.onnx a.jpg --json",
    "predict m.onnx a.jpg --json -",
    "predict m.onnx a.jpg --json conf=0.1",
    "predict m.onnx --no-save --conf=0.5 --save-txt=true",
    "predict m.onnx conf=0.1 conf=0.2 -- --a.jpg",
    "predict m.onnx a.jpg half=False verbose=True --augment false",
    "predict m.onnx --source a=b.jpg",
    "predict m.onnx a.jpg save_txt agnostic_nms rect --vid-stride 2",
    "run m.onnx --camera rtsp://a/b?c=d --size 640x480 --track --seconds 2.5",
    "run",
    "info m.onnx imgsz=320 --json",
    "info",
    "doctor",
    "doctor --board pi5 --json out.json",
]


def typers(argv: list[str]) -> dict[str, Any]:
    """What typer would call the command with."""
    import typer

    group: Any = typer.main.get_command(build([argv[0]]))
    words = normalise(argv, group)
    return group.commands[argv[0]].make_context(argv[0], words[1:]).params


def same(argv: list[str]) -> None:
    function = _function(argv[0])
    defaults = {p.name: p.default for p in inspect.signature(function).parameters.values()}
    theirs = {k: (list(v) or None) if isinstance(v, list | tuple) else v for k, v in typers(argv).items()}
    assert {**defaults, **light.arguments(argv, function)} == theirs


@pytest.mark.parametrize("line", PLAIN)
def test_plain_words_mean_what_they_mean_to_typer(line: str) -> None:
    same(line.split())


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


WRONG = {
    "predict cnof=1": "no option 'cnof'. Did you mean 'conf'?",
    "predict --nonsense 1": "no option 'nonsense'. It has ",
    "predict conf=x": "conf takes a number, not 'x'",
    "predict max_det=1.5": "max_det takes a whole number",
    "predict save=perhaps": "save takes true or false",
    "predict --conf": "--conf needs a value",
    "predict --conf --save": "--conf needs a value",
    "predict half=True": "Export with half=True",
    "predict m.onnx augment": "Leave it out",
    "predict -x": "no option '-x'",
    "predict --no-show": "no option 'no_show'",
    "info a.onnx b.onnx": "no further word 'b.onnx'",
    "doctor pi5": "no further word 'pi5'",
}


@pytest.mark.parametrize("line", WRONG)
def test_what_is_wrong_is_said(line: str) -> None:
    argv = line.split()
    with pytest.raises(EdgesegError) as caught:
        light.arguments(argv, _function(argv[0]))
    assert WRONG[line] in str(caught.value)


@pytest.mark.parametrize("line", WRONG)
def test_typer_refuses_it_too(line: str, capsys) -> None:
    from edgeseg.cli import run

    assert run(line.split()) == 2 and capsys.readouterr().err.startswith("error: ")


def test_a_plain_prediction_imports_no_typer(tmp_path: Path) -> None:
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


# A finder before all others that says what an environment without these packages says.
WITHOUT = """
import sys
from importlib import machinery
class Gone:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in ("typer", "rich", "click"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Gone)
import edgeseg.cli, edgeseg.cli.console
for module in (edgeseg.cli, edgeseg.cli.console):
    module.find_spec = lambda name: None
sys.exit(edgeseg.cli.run(sys.argv[1:]))
"""


def without(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", WITHOUT, *argv], capture_output=True, text=True)


@pytest.mark.parametrize("name", LIGHT)
def test_help_without_typer_names_every_option(name: str) -> None:
    done = without(name, "--help")
    assert done.returncode == 0 and done.stdout.startswith(f"Usage: edgeseg {name}"), done.stderr
    for parameter in inspect.signature(_function(name), eval_str=True).parameters.values():
        if isinstance(light.told(parameter.annotation), light.Flag):
            assert f"--{parameter.name.replace('_', '-')}" in done.stdout


def test_without_typer_a_board_has_what_it_runs_and_is_told_of_the_rest() -> None:
    for argv in ((), ("--help",)):
        done = without(*argv)
        assert done.returncode == 0 and "predict" in done.stdout and 'pip install "edgeseg[cli]"' in done.stdout, done.stderr
    assert without("--version").stdout.startswith("edgeseg ")
    assert without("doctor").returncode == 0 and without("predict", "--help").returncode == 0
    for argv, words in {
        ("predict", "cnof=1"): "Did you mean 'conf'?",
        ("export", "a.pt"): 'pip install "edgeseg[export]"',
        ("toolchain", "list"): 'pip install "edgeseg[cli]"',
        ("predcit",): "Did you mean 'predict'?",
    }.items():
        done = without(*argv)
        assert done.returncode == 2 and words in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
