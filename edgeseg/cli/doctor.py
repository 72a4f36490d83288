"""``edgeseg doctor``: what can be exported and run here, and the command that mends what cannot."""

from __future__ import annotations

import platform
from typing import Annotated, Any

from edgeseg.cli import console, flags
from edgeseg.cli.flags import flag


def doctor(
    board: Annotated[
        str | None, flag("What suits a board and what to install there (pi5, coral, jetson ...).", metavar="NAME")
    ] = None,
    json: flags.Json = None,
) -> None:
    """Say which formats can be exported and run on this machine, and what to type for those that cannot."""
    if board is not None:
        _board(board, json)
        return
    from edgeseg.registry import targets

    rows = [_examine(t) for t in targets().values()]
    facts = machine()
    console.as_json(json, {"machine": facts, "formats": rows})
    if json == "-":
        return
    for key, value in facts.items():
        console.say(f"{key + ':':<10} {value}")
    console.say("")
    lines = [(r["format"], r["export"], r["run"], "; ".join(r["mend"])) for r in rows]
    console.table("", ("format", "export", "run", "to mend"), lines)
    for r in rows:
        if r["note"]:
            console.say(f"{r['format']}: {r['note']}")
    if json:
        console.say(f"JSON in {json}")


def _board(name: str, json: str | None) -> None:
    """Show what suits a board."""
    from dataclasses import asdict

    from edgeseg.boards import board_by_name

    found = board_by_name(name)
    console.as_json(json, {"board": asdict(found)})
    if json == "-":
        return
    console.say(f"{found.title}: {found.about}")
    console.say("")
    for i, use in enumerate(found.use, 1):
        console.say(f"{i}. {use.format} {use.precision} at {use.imgsz} px: {use.why}")
        console.say(f"   here:      {use.command()}")
        console.say(f"   there:     {use.install}")
        console.say(f"   {'measured on this board' if use.measured else 'recommended, not measured on this board'}")
    for limit in found.limits:
        console.say(f"- {limit}")


def machine() -> dict[str, str]:
    """The facts that a bug report needs."""
    import os
    import shutil

    from edgeseg import __version__
    from edgeseg.resources import cache_root

    root = cache_root()
    there = next(p for p in (root, *root.parents) if p.exists())
    return {
        "edgeseg": __version__,
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "cores": str(os.cpu_count()),
        "cache": f"{root} ({shutil.disk_usage(there).free / 1e9:.0f} GB free)",
        "torch": _version("torch"),
    }


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed (only checkpoints need it)"


def _examine(target: Any) -> dict[str, Any]:
    """Whether one format can be exported and run here, and the commands for what is missing."""
    from importlib.util import find_spec

    mend: list[str] = []
    runtime = (target.folder / "runtime.py").is_file()
    missing = target.missing_modules()
    run = "no" if missing or not runtime else "yes"
    if missing:
        mend.append(f'pip install "edgeseg[{target.extra}]"' if target.extra else f"install {', '.join(missing)}")
    export = "no" if not (target.folder / "convert.py").is_file() else _toolchain(target, mend)
    if export != "no" and "network" in target.reads and find_spec("torch") is None and export == "yes":
        export = "no"
        mend.append('pip install "edgeseg[export]"')
    return {"format": target.name, "title": target.title, "export": export, "run": run, "mend": mend, "note": target.note}


def _toolchain(target: Any, mend: list[str]) -> str:
    try:
        from edgeseg.environments.toolchains import toolchain_of

        toolchain = toolchain_of(target)
        unmet = toolchain.unmet()
    except ModuleNotFoundError:
        mend.append('pip install "edgeseg[export]"')
        return "no"
    if toolchain.installed or not unmet:
        return "yes"
    mend.append(f"edgeseg toolchain install {target.name}")
    return "on first use"
