"""``edgeseg calibrate``: which images calibrate INT8, and whether they will do."""

from __future__ import annotations

from typing import Annotated

import typer

from edgeseg.cli import console

app = typer.Typer(help="Calibration sets.", no_args_is_help=True, rich_markup_mode="rich")


@app.callback()
def root() -> None:
    """Calibration sets: the images from which INT8 ranges are taken."""


@app.command()
def inspect(
    data: Annotated[str, typer.Option(metavar="YAML", help="Dataset YAML or name.")] = "coco128-seg",
    images: Annotated[int, typer.Option(help="Number of images.")] = 100,
    seed: Annotated[int, typer.Option(help="Seed of their choice.")] = 0,
    json: Annotated[
        str | None, typer.Option(metavar="[FILE]", help="Write it as JSON ('-' or nothing: to standard output).")
    ] = None,
) -> None:
    """Show the images that an INT8 export would calibrate with, and every warning about them."""
    from edgeseg.data.dataset import load_dataset
    from edgeseg.quantize.calibration import choose

    chosen = choose(load_dataset(data), images, seed=seed)
    facts = {
        "data": data,
        "source": str(chosen.source),
        "seed": seed,
        "count": len(chosen.images),
        "hash": chosen.hash,
        "warnings": list(chosen.warnings),
        "images": [str(p) for p in chosen.images],
    }
    with console.json_file(json) as stream:
        console.write_json(stream, facts)
    if json == "-":
        return
    rows = [
        ("images", f"{len(chosen.images)} of {images} asked for"),
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
