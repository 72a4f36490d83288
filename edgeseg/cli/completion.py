"""What the TAB key offers in bash, zsh and fish. It is asked at every TAB, so that neither typer nor torch is imported."""

from __future__ import annotations

import inspect
import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_origin

from edgeseg.cli.flags import Flag, Word
from edgeseg.cli.light import kind, told
from edgeseg.errors import EdgesegError
from edgeseg.store import make_folder, write_atomically

VARIABLE = "_EDGESEG_COMPLETE"  # set by the shell when it asks what may come next
SHELLS = ("bash", "zsh", "fish")
MODELS, DATA = ("model", "models", "reference", "pretrained", "resume"), (".yaml", ".yml")
Found = list[tuple[str, str]]


def answer(shell: str, line: str, breaks: str = "") -> None:
    """Print what may stand at the end of ``line``, one a line, for a shell; ``breaks``: where bash ends a word."""
    try:
        words = shlex.split(line)
    except ValueError:  # a quote that is still open
        words = re.sub("['\"]", "", line).split()
    current = "" if not line or line[-1].isspace() else words.pop()
    cut = max((current.rfind(c) for c in breaks if c in "=:"), default=-1) + 1
    for value, about in candidates(words[1:], current):
        typed = re.sub(r"([\s'\"\\$&;()<>|*?`])", r"\\\1", value) if shell != "fish" else value
        print(typed[cut:] if shell == "bash" else f"{typed}\t{about}" if about else typed)


def candidates(words: Sequence[str], current: str) -> Found:
    """What may stand at ``current``, after the words of the command, each with a line of help."""
    from edgeseg.cli import COMMANDS, _function
    from edgeseg.habits import TASKS

    words = list(words[1:] if words[:1] and words[0] in TASKS else words)
    if not words:
        return _starting(((n, "") for n in [*(n for n, c in COMMANDS.items() if c[2]), *ROOT]), current)
    if words[0] not in COMMANDS:
        return []
    command = _function(words.pop(0))
    if not callable(command) or hasattr(command, "registered_commands"):
        named = {c.name or c.callback.__name__: inspect.unwrap(c.callback) for c in command.registered_commands}
        if not words:
            return _starting(((n, _about(c)) for n, c in named.items()), current)
        command = named.get(words.pop(0))
    return _of_command(command, words, current) if command is not None else []


ROOT = ("--help", "--version", "--install-completion", "--show-completion")


def _of_command(command: Callable[..., Any], words: list[str], current: str) -> Found:
    known = {p.name: p.annotation for p in inspect.signature(command, eval_str=True).parameters.values()}
    options = {n: f.help for n, a in known.items() if isinstance(f := told(a), Flag)}
    if command.__name__ == "train":
        options |= dict.fromkeys(_train_options(), "") | options
    key, equals, value = current.partition("=")
    plain = key.removeprefix("--").replace("-", "_")
    if equals and (plain in options or plain in known):
        return _starting(((f"{key}={v}", h) for v, h in _values(plain, known.get(plain), value)), current)
    before = words[-1].removeprefix("--").replace("-", "_") if words and words[-1].startswith("--") else ""
    if before in options and kind(known.get(before)) is not bool:
        return _starting(_values(before, known.get(before), current), current)
    if current.startswith("-"):
        return _starting(((f"--{n.replace('_', '-')}", h) for n, h in options.items()), current)
    word = next((n for n, a in known.items() if isinstance(told(a), Word)), "")
    if word == "words" and not any("=" not in w and not w.startswith("-") for w in words):
        word = "model"
    found = _values(word, known.get(word), current) if word else []
    return _starting([*found, *((f"{n}=", h) for n, h in options.items() if current or not found)], current)


def _values(name: str, annotation: Any, text: str) -> Found:
    """What an option, or a word, may be."""
    from edgeseg.registry import targets
    from edgeseg.resources import calib_root

    flag = told(annotation) if annotation is not None else None
    metavar = (flag.metavar if flag else "") or ""
    if annotation is not None and kind(annotation) is bool:
        return [("true", ""), ("false", "")]
    if name == "format" or "FORMAT" in metavar:
        head, comma, _ = text.rpartition(",")
        given = head.split(",")
        return [
            (f"{head}{comma}{n}", t)
            for n, t in [*((t.name, t.title) for t in targets().values()), ("all", "")]
            if n not in given
        ]
    if name in MODELS or metavar == "MODEL":
        return _files(text, (".pt", *DATA, *(t.suffix for t in targets().values())))
    if name == "data":
        from edgeseg.data.named import NAMED

        return [*((n, a.size) for n, a in NAMED.items()), *_files(text, DATA)]
    if name == "recipe":
        return [*((p.stem, "") for p in sorted(calib_root().glob("*.toml"))), *_files(text, (".toml",))]
    if name in ("board", "boards"):
        from edgeseg.boards import boards
        from edgeseg.fleet.hosts import read_hosts

        return [(n, "") for n in (read_hosts() if name == "boards" else boards())]
    if name in CHOICES:
        return [(v, "") for v in CHOICES[name]]
    if metavar == "FOLDER":
        return _files(text, ())
    files = annotation is not None and (kind(annotation) is str or get_origin(kind(annotation)) is list)
    return _files(text, None) if files else []


CHOICES: Mapping[str, tuple[str, ...]] = {
    "split": ("train", "val", "test"),
    "head": ("raw", "decoded", "nms"),
    "device": ("cpu", "cuda:0", "mps"),
    "by": ("stage", "layer"),
    "optimizer": ("auto", "sgd", "adamw"),
    "imgsz": ("640", "320"),
}


def _files(text: str, suffixes: tuple[str, ...] | None) -> Found:
    """Files that end so (None: all) and folders below which there may be some."""
    folder, prefix = os.path.split(text)
    try:
        found = sorted(os.scandir(os.path.expanduser(folder) or "."), key=lambda e: e.name)
    except OSError:
        return []
    out: Found = []
    for entry in found:
        if not entry.name.startswith(prefix) or (entry.name.startswith(".") and not prefix):
            continue
        path = os.path.join(folder, entry.name)
        if suffixes is None or (suffixes and entry.name.endswith(suffixes)):
            out.append((f"{path}/" if entry.is_dir() and suffixes is None else path, ""))
        elif entry.is_dir():
            out.append((f"{path}/", ""))
    return out


def _starting(found: Iterable[tuple[str, str]], current: str) -> Found:
    return [(value, about) for value, about in found if value.startswith(current)]


def _about(command: Any) -> str:
    return (inspect.getdoc(command) or "").split("\n")[0]


def _train_options() -> list[str]:
    """Names of all options of training, read from the text: importing it is importing torch."""
    found = []
    for module, cls in (("edgeseg.training.options", "TrainOptions"), ("edgeseg.data.augment", "AugmentOptions")):
        file = (Path(__file__).parents[1] / Path(*module.split(".")[1:])).with_suffix(".py")
        body = file.read_text(encoding="utf-8").partition(f"class {cls}")[2].partition("\n    def ")[0]
        found += re.findall(r"^    ([a-z_]\w*): ", body, re.MULTILINE)
    return found


def install(shell: str) -> Path:
    """Write the script where the shell finds it, with a line in its own start file for bash and zsh; the script's path.

    Raises:
        EdgesegError: another shell.
    """
    home, env = Path.home(), os.environ
    file = Path(env.get("XDG_DATA_HOME") or home / ".local/share") / "edgeseg" / f"completion.{shell}"
    if shell == "fish":
        file = Path(env.get("XDG_CONFIG_HOME") or home / ".config") / "fish/completions/edgeseg.fish"
    write_atomically(make_folder(file.parent) / file.name, script(shell))
    if shell != "fish":
        start = Path(env.get("ZDOTDIR") or home) / ".zshrc" if shell == "zsh" else home / ".bashrc"
        there, line = start.read_text(encoding="utf-8") if start.exists() else "", f". {shlex.quote(str(file))}"
        if line not in there:
            with start.open("a", encoding="utf-8") as stream:  # a file of the person's own is only added to
                stream.write(f"{'' if there.endswith(chr(10)) or not there else chr(10)}{line}\n")
    return file


def script(shell: str) -> str:
    """The script for ``shell``.

    Raises:
        EdgesegError: another shell.
    """
    if shell not in SHELLS:
        raise EdgesegError(
            f"no completion for the shell {shell!r}", hint=f"Say which: --install-completion {'|'.join(SHELLS)}"
        )
    return (Path(__file__).parent / "shells" / f"edgeseg.{shell}").read_text(encoding="utf-8")
