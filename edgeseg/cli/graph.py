"""``edgeseg graph``: the steps that an export would take."""

from __future__ import annotations

import sys
from typing import Annotated

from edgeseg.cli import console, flags
from edgeseg.cli.flags import flag, split_list


def graph(
    format: Annotated[list[str] | None, flag("Formats, with commas or repeated.", "all", metavar="A,B")] = None,
    int8: Annotated[bool, flag("The steps of INT8 exports.")] = False,
    half: Annotated[bool, flag("The steps of FP16 exports.")] = False,
    source: Annotated[str, flag("What is given: network (a checkpoint), or a format.")] = "network",
    svg: Annotated[str | None, flag("Draw it into an SVG file.", metavar="FILE")] = None,
    json: flags.Json = None,
) -> None:
    """Show the conversion graph: which step reads what, and which prefixes are shared."""
    from pathlib import Path

    from edgeseg.export.draw import plan_svg, plan_text
    from edgeseg.export.options import ExportOptions
    from edgeseg.export.plan import make_plan
    from edgeseg.store import disk_error, make_folder, write_atomically

    console.check_place(svg, "--svg", b"<")
    plan = make_plan(split_list(format) or ["all"], ExportOptions(int8=int8 or None, half=half or None), source)
    console.as_json(json, plan.to_dict())
    if json == "-":
        return
    tree = plan_text(plan)
    utf = (sys.stdout.encoding or "").lower().startswith("utf")
    console.say(tree if utf else tree.translate(str.maketrans("├└│─", "|`|-")))
    for note in plan.notes:
        console.say(f"note: {note}")
    if svg:
        make_folder(Path(svg).parent)
        try:
            write_atomically(Path(svg), plan_svg(plan))
        except OSError as e:
            raise disk_error(e, Path(svg)) from e
        console.say(f"drawn in {svg}")
