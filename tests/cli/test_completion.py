"""What TAB offers, in the real shells where they are installed."""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from edgeseg import cli
from edgeseg.cli.completion import SHELLS, answer, candidates, script


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("net.pt", "net.onnx", "my data.yaml", "data.yaml", "photo.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "net_openvino_model").mkdir()
    (tmp_path / "runs").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("words", "current", "wanted"),
    [
        ("", "ex", ["export"]),
        ("", "--v", ["--version"]),
        ("segment", "tr", ["train"]),
        ("export", "--form", ["--format"]),
        ("export", "form", ["format="]),
        ("export --format", "on", ["onnx"]),
        ("export", "format=onnx,tf", ["format=onnx,tfjs", "format=onnx,tflite"]),
        ("export", "--format=coreml,on", ["--format=coreml,onnx"]),
        ("export", "half=", ["half=true", "half=false"]),
        ("export recipe=int8", "net", ["net.onnx", "net.pt", "net_openvino_model"]),
        ("validate", "data=d", ["data=data.yaml"]),
        ("validate --data", "coco8", ["coco8-seg"]),
        ("predict", "", ["data.yaml", "my data.yaml", "net.onnx", "net.pt", "net_openvino_model", "runs/"]),
        ("predict net.pt", "ph", ["photo.jpg"]),
        ("predict net.pt", "out=", ["out=net_openvino_model/", "out=runs/"]),
        ("train", "mosa", ["mosaic="]),
        ("train", "epo", ["epochs="]),
        ("train", "cop", ["copy_paste="]),
        ("board", "r", ["remove", "run", "report"]),
        ("toolchain install", "onn", ["onnx"]),
        ("doctor --board", "pi5", ["pi5"]),
        ("nonsense", "x", []),
    ],
)
def test_what_may_come_next(here: Path, words: str, current: str, wanted: list[str]) -> None:
    assert [value for value, _ in candidates(words.split(), current)] == wanted


def test_every_command_is_completed() -> None:
    for name, (_, _, panel) in cli.COMMANDS.items():
        assert not panel or name in dict(candidates([], ""))
        assert candidates([name], "--") or candidates([name], "")


def test_bash_gets_what_follows_its_last_word_break(here: Path, capsys: Any) -> None:
    answer("bash", "edgeseg export format=on", " =:")
    answer("bash", "edgeseg validate data=my", " =:")
    answer("bash", 'edgeseg validate data="my', "")
    assert capsys.readouterr().out.splitlines() == ["onnx", "my\\ data.yaml", "data=my\\ data.yaml"]


def test_a_tab_is_quick() -> None:
    """It imports neither torch nor anything else that is heavy; typer with the commands that need it."""
    code = (
        "import sys; from edgeseg import cli; cli.run([])\n"
        "print(*(m for m in ('rich', 'torch', 'numpy', 'cv2', 'onnx') if m in sys.modules))"
    )
    for line in ("edgeseg ", "edgeseg export --format on", "edgeseg predict --co", "edgeseg export ne"):
        env = {**os.environ, "_EDGESEG_COMPLETE": "zsh", "COMP_LINE": line}
        out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
        assert out.splitlines()[-1] == "", out


def test_installing_twice_adds_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "ZDOTDIR"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".bashrc").write_text("alias a=b")
    for shell in [*SHELLS, *SHELLS]:
        assert cli.run(["--install-completion", shell]) == 0
    assert (tmp_path / ".bashrc").read_text().splitlines()[0] == "alias a=b"
    for start in (".bashrc", ".zshrc"):
        assert (tmp_path / start).read_text().count("completion.") == 1
    assert (tmp_path / ".config/fish/completions/edgeseg.fish").read_text() == script("fish")
    assert cli.run(["--install-completion", "tcsh"]) == 2 and "bash|zsh|fish" in capsys.readouterr().err
    monkeypatch.setenv("SHELL", "/bin/zsh")
    assert cli.run(["--show-completion"]) == 0 and capsys.readouterr().out.endswith(script("zsh"))


TYPED = {
    "edgeseg expo\t": "edgeseg export ",
    "edgeseg export --form\t": "edgeseg export --format ",
    "edgeseg export format=onnx,tfl\t": "format=onnx,tflite ",
    "edgeseg validate net.o\t": "edgeseg validate net.onnx ",
    "edgeseg validate data=da\t": "data=data.yaml ",
    "edgeseg train mosa\t": "edgeseg train mosaic=",
}
COMMANDS = {"bash": ["bash", "--norc", "-i"], "zsh": ["zsh", "-f", "-i"], "fish": ["fish", "--no-config", "-i"]}


_CODES = re.compile(r"\x1b\[[?>=\d;]*[A-Za-z]|\x1b[()][B0]|\x1b[>=]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\r\x0f]")


class Typing:
    """A shell in a pseudo-terminal, to type at."""

    def __init__(self, shell: str, env: dict[str, str]) -> None:
        import pty

        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.execvpe(COMMANDS[shell][0], COMMANDS[shell], env)

    def type(self, text: str, until: str, seconds: float = 20) -> str:
        """What the shell shows until a text is there."""
        os.write(self.master, text.encode())
        said, end = "", time.monotonic() + seconds
        while (not until or until not in _CODES.sub("", said)) and time.monotonic() < end:
            if select.select([self.master], [], [], 0.2)[0]:
                said += os.read(self.master, 65536).decode(errors="replace")
                if "\x1b[c" in said or "\x1b[0c" in said:  # a question about the terminal, which fish waits for
                    os.write(self.master, b"\x1b[?62;c")
                    said = said.replace("\x1b[c", "").replace("\x1b[0c", "")
        return _CODES.sub("", said)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals of POSIX")
@pytest.mark.parametrize("shell", SHELLS)
def test_in_the_shell(here: Path, tmp_path_factory: pytest.TempPathFactory, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    own = tmp_path_factory.mktemp("bin")
    (own / "edgeseg").write_text(f'#!/bin/sh\nexec {sys.executable} -m edgeseg.cli "$@"\n')
    (own / "edgeseg").chmod(0o755)
    (own / "script").write_text(script(shell))
    gone = ("COMP_LINE", "_EDGESEG_COMPLETE")
    env = {k: v for k, v in os.environ.items() if k not in gone}
    typing = Typing(shell, env | {"PATH": f"{own}{os.pathsep}{os.environ['PATH']}", "TERM": "xterm", "HOME": str(own)})
    try:
        typing.type("", "", 1)
        assert "ready" in typing.type(f"source {own}/script; echo rea''dy\n", "\nready")
        for text, wanted in TYPED.items():
            assert wanted in typing.type(text, wanted)
            typing.type("\x15", "", 0.3)
    finally:
        os.kill(typing.pid, 9)
        os.waitpid(typing.pid, 0)
        os.close(typing.master)
