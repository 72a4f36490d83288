"""``edgeseg toolchain``: the pinned packages that converters need, each set in an environment of its own."""

from __future__ import annotations

from typing import Annotated

import typer

from edgeseg.cli import console
from edgeseg.cli.flags import flag, word

app = typer.Typer(
    help="Converters' environments: list, install, remove, check.", no_args_is_help=True, rich_markup_mode="rich"
)
Names = Annotated[list[str], word("Formats (or aliases) whose toolchain is meant, or all.", "FORMAT...")]


@app.command("list")
def list_() -> None:
    """Every toolchain: which formats it makes and where it is."""
    from edgeseg.environments.toolchains import list_toolchains

    rows = []
    with console.progress("looking at toolchains"):
        found = list_toolchains()
    for s in found:
        where = "this environment" if s.where == "current" else s.where or f"missing: {', '.join(s.unmet[:3])}"
        rows.append((s.toolchain.name, ", ".join(s.formats), where, console.size(s.size) if s.size else ""))
    console.table("", ("toolchain", "makes", "where", "size"), rows)


@app.command()
def install(names: Names, again: Annotated[bool, flag("Remove it first.", True, "--again")] = False) -> None:
    """Install toolchains under the cache folder; your own environment is not touched."""
    from edgeseg.environments.toolchains import install as install_one

    for name in _all(names):
        with console.steps() as line:
            toolchain = install_one(name, say=lambda done, words: line(name, done, words), again=again)  # noqa: B023
        console.say(f"{toolchain.name}: {toolchain.folder}")


@app.command()
def remove(names: Names) -> None:
    """Remove toolchains' environments."""
    from edgeseg.environments.toolchains import remove_toolchain

    for name in _all(names):
        console.say(f"{name}: removed" if remove_toolchain(name) else f"{name}: it has no environment of its own")


@app.command()
def check(
    names: Annotated[list[str] | None, word("Default: all.", "[FORMAT]...")] = None,
) -> None:
    """Compare installed packages with the pins; exit code 1 when something is missing or differs."""
    from edgeseg.environments.toolchains import check as check_one

    bad = 0
    for name in _all(names or ["all"]):
        problems = check_one(name)
        bad += bool(problems)
        console.say(f"{name}: " + ("good" if not problems else "; ".join(problems)))
    if bad:
        console.say("mend with: edgeseg toolchain install FORMAT")
        raise typer.Exit(1)


def _all(names: list[str]) -> list[str]:
    from edgeseg.registry import target_by_name, targets

    words = [w for name in names for w in name.split(",") if w]
    return list(targets()) if "all" in words else [target_by_name(w).name for w in words]
