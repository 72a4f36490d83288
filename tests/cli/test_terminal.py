"""What people see on terminals of several widths: nothing torn, nothing left over, the time that is left."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg import terminal
from edgeseg.cli import console
from edgeseg.cli.validate import HEADER
from edgeseg.progress import Job, Pace, duration

pytest.importorskip("rich")
posix = pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals of POSIX")
InTerminal = Callable[..., Any]
NAMES = ("/home/someone/edge/runs/train/exp12/weights/best.pt", "runs/validate/a-network-with-a-long-name_int8.tflite")
FIGURES = ("1.4 MB", *["0.7631"] * 6, "0.1", "123.4", "1.1")
ROWS = [(NAMES[0], "PyTorch fp32", *FIGURES), (NAMES[1], "TF Lite int8", *FIGURES)] * 3


def words(lines: list[str]) -> set[str]:
    return {w for line in lines for w in line.split()}


@pytest.mark.parametrize("count", [1, 2, 6])
@pytest.mark.parametrize("room", [200, 120, 80, 60, 40])
def test_a_table_fits_and_breaks_no_figure(room: int, count: int) -> None:
    blocks = terminal.table(HEADER, ROWS[:count], [False] * 3 + [True] * 9, room)
    lines = [line for head, body in blocks for line in [*head, *body]]
    assert max(map(len, lines)) <= room
    assert {"0.7631", "123.4", "1.1"} <= words(lines)
    names = {w for w in words(lines) if w.endswith((".pt", ".tflite"))}
    assert names and all(NAMES[0].endswith(n) or NAMES[1].endswith(n) or "..." in n for n in names)
    assert any(n.endswith("best.pt") for n in names)


def test_elsewhere_a_row_is_a_line() -> None:
    ((head, body),) = terminal.table(HEADER, ROWS, [False] * 3 + [True] * 9, None)
    assert len(head) == 1 and len(body) == len(ROWS) and all(name in "\n".join(body) for name in NAMES)


@given(
    st.lists(st.lists(st.text("ab/. 漢", max_size=30), min_size=3, max_size=3), min_size=1, max_size=4),
    st.integers(20, 90),
)
def test_any_table_fits(rows: list[list[str]], room: int) -> None:
    for head, body in terminal.table(("name", "a column", "c"), rows, [False] * 3, room):
        assert all(terminal.wide(line) <= room for line in [*head, *body])


@given(st.text("abc/._", min_size=1, max_size=60), st.integers(6, 60))
def test_a_shortened_path_fits_and_ends_as_it_did(path: str, columns: int) -> None:
    short = terminal.shorten(path, columns)
    assert len(short) <= columns and (short == path or "..." in short or path.rstrip("/").endswith(short))
    assert terminal.shorten(path, 60) == path


def test_a_path_keeps_its_name_longest() -> None:
    path = "/home/someone/runs/weights/best_int8.tflite"
    wanted = [path, ".../runs/weights/best_int8.tflite", ".../weights/best_int8.tflite", ".../best_int8.tflite", path[-16:]]
    assert [terminal.shorten(path, n) for n in (50, 40, 30, 20, 16)] == wanted
    assert terminal.shorten(path, 12) == "best...flite"


def test_a_sentence_wraps_at_words_and_a_command_can_be_copied() -> None:
    command = "edgeseg export /data/models/a-network-with-a-name.pt --format tflite --int8 data=/data/sets/some.yaml"
    lines = terminal.flowing(f"/data/models/x.pt: no such file or folder in this place. Make it with: {command}", 60).split(
        "\n"
    )
    assert max(map(len, lines)) <= 60
    shell = "\n".join(lines[2:])
    assert " ".join(shell.replace("\\\n", " ").split()) == command and shell.count("\\") == len(shell.split("\n")) - 1
    told = terminal.flowing(f"truth: annotations in {'/some/folder' * 6}/instances_val2017.json; 20 images", 60).split("\n")
    assert max(map(len, told)) <= 60 and told[1].startswith(".../") and "/instances_val2017.json;" in told[1]
    assert terminal.flowing("a b", 60) == "a b" and terminal.flowing(command, None) == command


def test_time_left_is_that_of_the_last_half_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    pace = Pace()
    pace.reached(0.02)
    now[0] += 7  # reading the network
    assert pace.time() == "for 7 s"
    for k in range(20):
        now[0] += 0.5
        pace.reached(0.1 + k / 40)
    assert pace.time() == "9 s left"
    now[0] += 60
    assert pace.time() == "2 min left" and pace.done == 0.575  # nothing moves
    pace.reached(0.2)
    assert pace.done == 0.575, "never backwards"
    assert [duration(s) for s in (40, 700, 12000)] == ["40 s", "12 min", "3 h 20 min"]


@pytest.mark.parametrize("columns", [36, 56, 76, 116])
def test_a_live_line_fits_and_names_the_file(columns: int) -> None:
    job = Job(f"validating {NAMES[0]}", "3 of 40", "observing image 3 of 40", 40, Pace(done=0.5))
    line = job.line(columns, "#.")
    assert len(line) <= columns and "3 of 40" in line and ("#" in line) == (columns > 40)
    assert line.startswith("validating ..." if columns > 36 else "valida")


SCRIPT = """
import sys, time
from edgeseg.cli import console
with console.steps() as line, console.progress("validating /home/someone/with/a/long/path/to/best.pt", 9) as bar:
    for k in range(9):
        line("onnx int8", k / 9, f"image {k} of 9, observing what comes out of every layer of the network")
        bar.update(k + 1, what="one more")
        time.sleep(0.15)
        if k == 5:
            console.warn("images were left out: " + "/some/where/else/in/a/folder/picture.jpg " * 3)
            print("a result")
    line("onnx int8", 1.0, "built")
    if "fail" in sys.argv:
        sys.exit(3)
console.table("", ("model", "n"), [("/home/someone/with/a/long/path/to/the/weights/of/a/network/best.pt", 0.25)])
"""


@posix
@pytest.mark.parametrize(("columns", "words_"), [(80, []), (60, []), (80, ["fail"])])
def test_progress_on_a_terminal(in_terminal: InTerminal, columns: int, words_: list[str], tmp_path: Path) -> None:
    """The live lines fit, say how long it takes, and are gone at the end, whatever the end is."""
    seen = in_terminal(["-c", SCRIPT, *words_], tmp_path, columns, module=False)
    assert seen.code == (3 if words_ else 0)
    assert "s left" in seen.raw and "image" in seen.raw
    frames = re.split(r"\x1b\[2K|\r|\n", seen.raw)
    assert max(len(re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", f)) for f in frames) <= columns
    assert seen.lines[-1 if words_ else -3].startswith("onnx int8: built in 1 s"), seen.text
    assert "validating" not in seen.text and "a result" in seen.lines
    assert all(len(line) <= columns for line in seen.lines)
    if not words_:
        assert re.search(r"^\.\.\./.*best\.pt|^/home.*best\.pt", seen.lines[-1])


@posix
@pytest.mark.parametrize("env", [{"TERM": "dumb"}, {"NO_COLOR": "1"}])
def test_terminals_that_cannot(in_terminal: InTerminal, env: dict[str, str], tmp_path: Path) -> None:
    seen = in_terminal(["-c", SCRIPT], tmp_path, 80, env, module=False)
    assert seen.code == 0 and not re.search(r"\x1b\[[\d;]*m", seen.raw)
    assert "TERM" not in env or "\x1b" not in seen.raw


def test_in_a_pipe_progress_is_lines(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    lines = done.stderr.splitlines()
    assert lines[0] == "onnx int8: 0 %, image 0 of 9, observing what comes out of every layer of the network"
    assert lines[-1] == "onnx int8: built in 1 s" and len(lines) == 3 and "\x1b" not in done.stderr + done.stdout
    assert done.stdout.splitlines()[0] == "a result"


COMMANDS = [
    "doctor",
    "data list",
    "graph format=tflite,openvino,ncnn",
    "export --help",
    "train --help",
    "export --foo 3",
]


@posix
@pytest.mark.parametrize("words_", COMMANDS)
@pytest.mark.parametrize("columns", [60, 80])
def test_commands_on_a_terminal(in_terminal: InTerminal, columns: int, words_: str, tmp_path: Path) -> None:
    """Nothing is wider than the screen, no word is torn at its edge, and no library speaks."""
    seen = in_terminal(words_.split(), tmp_path, columns)
    assert seen.code == (2 if "foo" in words_ else 0), seen.text
    plain = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", seen.raw).replace("\r", "").split("\n")
    assert all(len(line) <= columns for line in plain) and "Traceback" not in seen.text


def test_table_keeps_its_plain_form(capsys: pytest.CaptureFixture[str]) -> None:
    console.table("", ("a", "b"), [("x", 1.5)])
    assert capsys.readouterr().out == "a    b\nx  1.5\n"


def test_a_step_that_says_nothing_is_known_from_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Converters do not tell how far they are: the time of the last one is what is left of the next."""
    from edgeseg.cli.console import shown_events
    from edgeseg.export.run import Event

    monkeypatch.setenv("EDGESEG_HOME", str(tmp_path))
    (tmp_path / "durations.json").write_text("no json")
    for wanted in ("tflite int8: 0 %\n", "tflite int8: 0 %, about 1 s left\n"):
        with shown_events() as on_event:
            on_event(Event("start", "tflite int8"))
            time.sleep(0.8)
            on_event(Event("built", "tflite int8", 1.0))
        assert capsys.readouterr().err.startswith(wanted)
