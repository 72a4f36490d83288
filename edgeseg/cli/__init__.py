"""The command line. A command is a module of its own, imported only when it is typed; heavy imports come later still."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NoReturn

from edgeseg import __version__
from edgeseg.cli import light
from edgeseg.cli.console import error, warn
from edgeseg.errors import EdgesegError, Notice, did_you_mean
from edgeseg.habits import command_line
from edgeseg.registry import BrokenTarget

if TYPE_CHECKING:
    import typer

INTERRUPTED, BROKEN_PIPE, UNEXPECTED = 130, 1, 70

# Command -> (module, name of the function or of the typer app in it, panel of the help).
MAIN, LOOK, CARE = "Main commands", "Understanding a model", "Data and tools"
COMMANDS: dict[str, tuple[str, str, str]] = {
    "export": ("export", "export", MAIN),
    "validate": ("validate", "validate", MAIN),
    "val": ("validate", "validate", ""),
    "predict": ("predict", "predict", MAIN),
    "run": ("live", "run", MAIN),
    "view": ("view", "view", MAIN),
    "train": ("train", "train", MAIN),
    "benchmark": ("benchmark", "benchmark", MAIN),
    "demo": ("demo", "demo", MAIN),
    "bundle": ("bundle", "bundle", MAIN),
    "board": ("board", "app", MAIN),
    "info": ("info", "info", LOOK),
    "graph": ("graph", "graph", LOOK),
    "calibrate": ("calibrate", "app", LOOK),
    "sensitivity": ("sensitivity", "sensitivity", LOOK),
    "search": ("search", "search", LOOK),
    "data": ("data", "app", CARE),
    "toolchain": ("toolchain", "app", CARE),
    "doctor": ("doctor", "doctor", CARE),
}
# What runs on boards, where a fifth of a cold start is much: run without typer where the words are plain, or where typer is
# not installed.
LIGHT = ("predict", "run", "info", "doctor")
# Libraries that would otherwise write lines of their own between ours, or believe what a picture says of its size; they
# read this when they are imported.
QUIET = {
    "OPENCV_IO_MAX_IMAGE_PIXELS": str(1 << 27),
    "OPENCV_LOG_LEVEL": "OFF",
    "OPENCV_FFMPEG_LOGLEVEL": "-8",
    "TF_CPP_MIN_LOG_LEVEL": "2",
}
# What a command needs beside the base install, as a pip extra.
EXTRAS = {
    **dict.fromkeys(("export", "search", "benchmark", "bundle", "board"), "export"),
    **dict.fromkeys(("validate", "val"), "evaluate"),
    "demo": "all",
    "train": "train",
}
# What an interrupted command has left.
KEPT = {
    **dict.fromkeys(
        ("export", "benchmark", "demo"), "The steps that were done are kept: the same command goes on from there"
    ),
    "search": "What was measured is kept: the same command goes on from there",
    "board": "The same command does only what is missing",
    **dict.fromkeys(("validate", "val"), "No report was written"),
}
SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
# train has more options than its help lists: further key=value words reach it as they are.
EXTRA_SETTINGS: dict[str, dict[str, Any]] = {"train": {"allow_extra_args": True, "ignore_unknown_options": True}}
ABOUT = """YOLO segmentation and detection on edge devices, quantization first.

Options are written as [bold]--key value[/] or [bold]key=value[/]. Try:

[cyan]edgeseg demo[/]

[cyan]edgeseg export yolov8n-seg.pt --format onnx,tflite --int8[/]

[cyan]edgeseg validate yolov8n-seg.onnx data=coco128-seg.yaml[/]

[cyan]edgeseg predict yolov8n-seg_int8.tflite image.jpg[/]
"""


def build(names: Sequence[str]) -> typer.Typer:
    """The typer application with the named commands only."""
    import typer

    from edgeseg.cli.flags import for_typer

    app = typer.Typer(
        name="edgeseg",
        help=ABOUT,
        context_settings=SETTINGS,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        no_args_is_help=True,
        add_completion=False,
    )

    @app.callback()
    def root(  # completion is seen to before this; here it is for the help
        version: bool = typer.Option(False, "--version", help="Show the version and leave."),
        installed: bool = typer.Option(False, "--install-completion", help="Have bash, zsh or fish complete all this."),
        shown: bool = typer.Option(False, "--show-completion", help="Show the script for the shell that does that."),
    ) -> None:
        if version:
            print(f"edgeseg {__version__}")
            raise typer.Exit()

    for name in names:
        command, panel = _function(name), COMMANDS[name][2]
        if isinstance(command, typer.Typer):
            for one in command.registered_commands:
                one.callback = for_typer(one.callback) if one.callback else None
            app.add_typer(command, name=name, rich_help_panel=panel or None, context_settings=SETTINGS)
        else:
            extra = {"rich_help_panel": panel} if panel else {"hidden": True}
            settings = {**SETTINGS, **EXTRA_SETTINGS.get(name, {})}
            app.command(name, context_settings=settings, help=_flowing(command.__doc__), **extra)(for_typer(command))
    return app


def _flowing(text: str | None) -> str:
    """A docstring as paragraphs without line breaks of their own, for help that is as wide as the terminal."""
    return "\n\n".join(" ".join(p.split()) for p in (text or "").split("\n\n"))


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one command line and exit with its code (0 good, 1 a branch failed, 2 bad input, 130 interrupted)."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _interrupt)
    if isinstance(sys.stdout, io.TextIOWrapper):  # LANG=C: what has no place in ASCII is written by its number
        sys.stdout.reconfigure(errors="backslashreplace")
    os.environ.setdefault("PYTHONSAFEPATH", "1")  # Pythons that a library starts import nothing from the current folder
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def _interrupt(number: int, frame: Any) -> None:
    """As Ctrl-C, so that children are ended and files put in order; once, for a second one must not disturb that."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def run(argv: Sequence[str]) -> int:
    """Run one command line and return its exit code; never raises for anything that a person did or met."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    warnings.showwarning = _show_warning
    try:
        return _run(list(argv))
    except EdgesegError as e:
        return _fail(str(e), e.exit_code)
    except KeyboardInterrupt:
        return _interrupted(argv)
    except SystemExit as e:
        return e.code if isinstance(e.code, int) else 0 if e.code is None else _fail(str(e.code), 1)
    except BrokenPipeError:
        return _quiet_pipe()
    except OSError as e:
        if e.errno == errno.EPIPE:
            return _quiet_pipe()
        return _fail(_os_error(e), 2)
    except ModuleNotFoundError as e:
        extra = EXTRAS.get(_typed(argv), "cli" if e.name in ("typer", "rich") else "all")
        return _fail(f'the package {e.name} is needed for this. pip install "edgeseg[{extra}]"', 2)
    except MemoryError:
        return _fail("out of memory. Try a smaller --imgsz or --batch, or close other programs", 2)
    except Exception as e:
        if type(e).__name__ == "Abort":  # typer's word for Ctrl-C at a question
            return _interrupted(argv)
        if hasattr(e, "format_message"):  # a usage error of click, wherever this typer keeps it
            what = str(e.format_message()).rstrip(".")  # none where the help was shown in its stead
            where = getattr(getattr(e, "ctx", None), "command_path", "") or "edgeseg"
            return _fail(f"{what}. See: {where} --help", 2) if what else 2
        first = (str(e).strip() or "no message").splitlines()[0]
        return _fail(f"unexpected {type(e).__name__}: {first} (set EDGESEG_DEBUG=1 for the traceback)", UNEXPECTED)


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: str | None = None
) -> None:
    """Ours in one line without a place in the code; those of packages only for who asks for them."""
    if issubclass(category, (BrokenTarget, Notice)):
        warn(str(message))
    elif sys.warnoptions or os.environ.get("EDGESEG_DEBUG"):
        print(warnings.formatwarning(message, category, filename, lineno, line), end="", file=file or sys.stderr)


def _run(argv: list[str]) -> int:
    if argv == ["--version"]:
        print(f"edgeseg {__version__}")
        return 0
    if "_EDGESEG_COMPLETE" in os.environ or argv[:1] in (["--install-completion"], ["--show-completion"]):
        return _complete(argv)
    argv = command_line(argv, list(COMMANDS))
    word = next((a for a in argv if not a.startswith("-")), None)
    if word is not None and word not in COMMANDS:
        raise EdgesegError(f"unknown command {word!r}", hint=_guess_command(word))
    if word in LIGHT and argv[0] == word and _light(argv):
        return 0
    if word is None and not has_typer():
        from edgeseg.cli import plain

        panels = {panel: [n for n, c in COMMANDS.items() if c[2] == panel] for panel in (MAIN, LOOK, CARE)}
        print(plain.overview(panels, {name: _function(name) for name in LIGHT}))
        return 0
    app = build([word] if word else list(COMMANDS))
    import typer

    from edgeseg.cli.arguments import normalise

    command: Any = typer.main.get_command(app)
    if word is not None:
        argv = normalise(argv, command)
    code = command.main(args=argv, prog_name="edgeseg", standalone_mode=False)
    sys.stdout.flush()
    if code == INTERRUPTED:  # how newer versions of typer report Ctrl+C
        raise KeyboardInterrupt
    return code if isinstance(code, int) else 0


def _complete(argv: list[str]) -> int:
    """Answer a shell that asks what may come next, or give it the script that asks."""
    from edgeseg.cli import completion

    asked = os.environ.get(completion.VARIABLE)
    if asked:
        line = os.environ.get("COMP_LINE", "")
        at = os.environ.get("COMP_POINT", "")
        completion.answer(asked, line[: int(at)] if at.isdigit() else line, os.environ.get("BREAKS", ""))
        return 0
    shell = (argv[1:] or [os.path.basename(os.environ.get("SHELL", ""))])[0]
    if argv[0] == "--show-completion":
        print(completion.script(shell), end="")
    else:
        print(f"{completion.install(shell)}: in a new {shell}, TAB completes edgeseg")
    return 0


def has_typer() -> bool:
    """Whether the whole command line is installed."""
    return find_spec("typer") is not None


def _light(argv: list[str]) -> bool:
    """Run a command without typer; False: typer sees to it."""
    function = _function(argv[0])
    if (wants_help := bool({"--help", "-h"}.intersection(argv))) and not has_typer():
        from edgeseg.cli import plain

        print(plain.command_help(argv[0], function))
        return True
    try:
        given = None if wants_help else light.arguments(argv, function)
    except EdgesegError:
        if not has_typer():
            raise
        given = None
    if given is not None:
        function(**given)
        sys.stdout.flush()
    return given is not None


def _function(name: str) -> Any:
    module, attribute, _ = COMMANDS[name]
    return getattr(import_module(f"edgeseg.cli.{module}"), attribute)


def _guess_command(word: str) -> str:
    listed = ", ".join(name for name, (_, _, panel) in COMMANDS.items() if panel)
    return did_you_mean(word, COMMANDS, f"Commands: {listed}")


def _typed(argv: Sequence[str]) -> str:
    return next((a for a in argv if not a.startswith("-")), "")


def _os_error(e: OSError) -> str:
    where = f"{e.filename}: " if e.filename else ""
    hints = {
        **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Free some space, or write elsewhere with --out"),
        errno.EACCES: "Check its permissions, or write elsewhere with --out",
        errno.EROFS: "Write elsewhere with --out",
    }
    hint = hints.get(e.errno or 0, "")
    return f"{where}{(e.strerror or str(e)).lower()}" + (f". {hint}" if hint else "")


def _fail(message: str, code: int) -> int:
    error(message)
    if os.environ.get("EDGESEG_DEBUG"):
        import traceback

        traceback.print_exc()
    return code


def _interrupted(argv: Sequence[str]) -> int:
    kept = KEPT.get(_typed(argv))
    return _fail(f"interrupted. {kept}" if kept else "interrupted", INTERRUPTED)


def _quiet_pipe() -> int:
    """The reader of our output went away (``| head``): leave quietly, and keep Python from complaining at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return BROKEN_PIPE
