"""Parts of the docs that are made from what they describe: targets, boards, recipes, commands, decisions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from edgeseg.boards import boards
from edgeseg.quantize.recipe import load_recipe
from edgeseg.registry import Option, Target, target_by_name, targets

ROOT = Path(__file__).resolve().parents[1]
KINDS = {"int": "N", "float": "NUMBER", "str": "TEXT", "path": "FILE"}
HEADS = {"raw": "raw", "decoded": "decoded", "nms": "with suppression inside"}


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    lines = [list(head), *map(list, rows)]
    cells = [[str(c).replace("|", "\\|").replace("\n", " ") for c in line] for line in lines]
    cells.insert(1, ["---"] * len(cells[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _code(words: Iterable[str]) -> str:
    return ", ".join(f"`{w}`" for w in words)


def _artifact(name: str) -> str:
    return f"`X{name}/`" if name and not Path(f"x{name}").suffix else f"`X{name}`"


def _way(target: Target) -> str:
    """The conversions that lead to a format, first to last."""
    way = [target]
    while (source := targets().get(way[0].reads[0])) is not None:
        way.insert(0, source)
    return " → ".join(["checkpoint", *(t.title for t in way)])


def _runs_with(target: Target) -> str:
    parts = [f'`pip install "edgeseg[{target.extra}]"`'] if target.extra else []
    parts += [f"`{p}`" for p in target.programs]
    parts += [_code(target.modules)] if target.modules and not target.extra else []
    return ", ".join(parts) or "see below"


def _option(option: Option) -> str:
    bounds = f", {option.least:g} to {option.most:g}" if option.least is not None and option.most is not None else ""
    default = "" if option.default is None else f" (default {str(option.default).lower()})"
    return f"`--{option.name.replace('_', '-')}` {option.help.rstrip('.')}{bounds}{default}"


def one_target(name: str) -> str:
    """What ``target.toml`` says of one format."""
    target = target_by_name(name)
    written = _artifact(target.suffix)
    if target.folder_artifact:
        written += " (a folder)"
    if target.kit_suffix:
        written += f", else the kit {_artifact(target.kit_suffix)}"
    shared = [f"--{t}" for t in target.takes] + [f"--{t}" for t in ("end2end", "boxes-only")]
    rows = [
        ("`--format`", _code([name, *target.aliases])),
        ("written", written),
        ("made by", _way(target)),
        ("precisions", ", ".join(target.precisions)),
        ("heads", ", ".join(HEADS[h] for h in target.heads)),
        ("runs with", _runs_with(target)),
        ("options", _code(shared)),
    ]
    rows += [("its own options", "; ".join(map(_option, target.own.values())))] if target.own else []
    if target.kit_extra:
        rows.append(("the kit's network runs with", f'`pip install "edgeseg[{target.kit_extra}]"`'))
    uses = [(b, u) for b in boards().values() for u in b.use if u.format == name]
    text = table(rows[0], rows[1:])
    if uses:
        text += "\n\nRecommended, not measured, by `edgeseg doctor --board`:\n\n"
        text += table(
            ("board", "precision", "size", "why"), ((b.title, u.precision, f"{u.imgsz} px", u.why) for b, u in uses)
        )
    return text


def all_targets() -> str:
    """A row a format."""
    rows = [
        (f"[{t.title}]({t.name}.md)", _code([t.name, *t.aliases]), _artifact(t.suffix), ", ".join(t.precisions), _way(t))
        for t in targets().values()
    ]
    return table(("format", "`--format`", "artifact", "precisions", "made by"), rows)


def all_boards() -> str:
    """The devices of ``boards.toml``, each with what to export and install."""
    text = []
    for board in boards().values():
        text.append(f"### {board.title}\n\n`--board {board.name}`" + (f" ({_code(board.aliases)})" if board.aliases else ""))
        text.append(f"{board.about}.")
        text.append(table(("export", "install there", "why"), ((f"`{u.command()}`", u.install, u.why) for u in board.use)))
        text += ["\n".join(f"- {limit}" for limit in board.limits)] if board.limits else []
    return "\n\n".join(text)


def all_recipes() -> str:
    """The files of ``calib/``."""
    rows = []
    for file in sorted((ROOT / "calib").glob("*.toml")):
        recipe = load_recipe(file)
        others = ", ".join(f"{name} {stage.activations}" for name, stage in recipe.stages.items() if stage.activations)
        bits = f"{recipe.weights.bits} / {recipe.activations.bits}" + (f" ({others})" if others else "")
        rows.append((f"[`{file.stem}`](../calib/{file.name})", recipe.title, bits, "yes" if recipe.calibrated else "no"))
    return table(("recipe", "what", "bits: weights / activations", "images needed"), rows)


def all_decisions() -> str:
    """The first line of every decision."""
    lines = []
    for file in sorted((ROOT / "docs" / "decisions").glob("0*.md")):
        number, _, title = file.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ").partition(". ")
        lines.append(f"- {number}: [{title}]({file.name})")
    return "\n".join(lines)


def all_commands() -> str:
    """The help of every command, from the commands themselves."""
    import typer

    from edgeseg.cli import COMMANDS, build

    app: Any = typer.main.get_command(build([n for n, c in COMMANDS.items() if c[2]]))
    text = []
    for name, (_, _, panel) in COMMANDS.items():
        if not panel:
            continue
        command = app.commands[name]
        for word, one in [(name, command)] + [(f"{name} {n}", c) for n, c in getattr(command, "commands", {}).items()]:
            text.append(_command(word, one))
    return "\n\n".join(text)


def _command(word: str, command: Any) -> str:
    text = [f"{'###' if ' ' in word else '##'} edgeseg {word}"]
    if command.help:
        text.append(re.sub(r"\[/?[a-z ]*\]", "", command.help).strip())
    options = [p for p in command.params if not getattr(p, "hidden", False) and p.name != "help"]
    rows = []
    for p in options:
        words = [*p.opts, *p.secondary_opts] if p.param_type_name == "option" else [p.metavar or p.name.upper()]
        value = p.metavar or KINDS.get(getattr(p.type, "name", ""), "") if p.param_type_name == "option" else ""
        value = "" if getattr(p, "is_flag", False) else value
        default = p.show_default if isinstance(p.show_default, str) else p.default
        plain = isinstance(default, (str, int, float)) and not isinstance(default, bool) and p.show_default and default != ""
        rows.append(("<br>".join(f"`{w}`" for w in words), value, _plain(p.help), f"{default}" if plain else ""))
    if rows:
        text.append(table(("option", "value", "what", "default"), rows))
    return "\n\n".join(text)


def _plain(text: str | None) -> str:
    return re.sub(r"[<>]", lambda m: {"<": "&lt;", ">": "&gt;"}[m[0]], text or "")


PARTS: dict[str, Callable[..., str]] = {
    "target": one_target,
    "targets": all_targets,
    "boards": all_boards,
    "recipes": all_recipes,
    "decisions": all_decisions,
    "commands": all_commands,
}
