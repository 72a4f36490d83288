"""``edgeseg calibrate``: which images calibrate INT8, and whether they will do."""

from __future__ import annotations

from typing import Annotated

import typer

from edgeseg.cli import console, flags
from edgeseg.cli.flags import flag, word

app = typer.Typer(help="Calibration sets.", no_args_is_help=True, rich_markup_mode="rich")


@app.callback()
def root() -> None:
    """Calibration sets: the images from which INT8 ranges are taken."""


@app.command()
def inspect(
    data: Annotated[str, word("Dataset YAML or name.", "[YAML]", "coco128-seg")] = "coco128-seg",
    images: Annotated[int | None, flag("Number of images.", "the recipe's")] = None,
    recipe: flags.Recipe = None,
    seed: Annotated[int, flag("Seed of their choice.")] = 0,
    json: flags.Json = None,
) -> None:
    """Show the images that an INT8 export would calibrate with, and every warning about them."""
    from edgeseg.data.dataset import load_dataset
    from edgeseg.quantize.calibration import choose
    from edgeseg.quantize.recipe import load_recipe

    asked = load_recipe(recipe or "int8").images if images is None else images
    chosen = choose(load_dataset(data), asked, seed=seed)
    facts = {
        "data": data,
        "source": str(chosen.source),
        "seed": seed,
        "count": len(chosen.images),
        "hash": chosen.hash,
        "warnings": list(chosen.warnings),
        "images": [str(p) for p in chosen.images],
    }
    console.as_json(json, facts)
    if json == "-":
        return
    rows = [
        ("images", f"{len(chosen.images)} of {asked} asked for"),
        ("source", facts["source"]),
        ("seed", seed),
        ("hash", chosen.hash),
    ]
    console.table("", ("calibration set", "value"), rows)
    for path in chosen.images:
        console.say(f"  {path}")
    for warning in chosen.warnings:
        console.warn(warning)
    if not chosen.warnings:
        console.say("no warnings")
