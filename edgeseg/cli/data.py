"""``edgeseg data``: named datasets, and COCO JSON to YOLO labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeseg.cli import console
from edgeseg.cli.flags import flag, word
from edgeseg.errors import EdgesegError

app = typer.Typer(help="Datasets: list, download, convert.", no_args_is_help=True, rich_markup_mode="rich")


@app.command("list")
def list_() -> None:
    """The named datasets, their size, and whether they are here."""
    from edgeseg.data.named import NAMED
    from edgeseg.resources import cache_root

    rows = []
    for name, about in NAMED.items():
        folder = cache_root() / "datasets" / name
        rows.append((name, about.size, str(folder) if folder.is_dir() else "not downloaded"))
    console.table("", ("dataset", "download", "where"), rows)


@app.command()
def download(
    name: Annotated[str, word("A named dataset, see: edgeseg data list.", "NAME")],
    split: Annotated[str | None, flag("Only these splits, with commas.", "train,val")] = None,
) -> None:
    """Download a named dataset (continues where an earlier attempt stopped)."""
    from edgeseg.data.dataset import SPLITS, load_dataset
    from edgeseg.data.named import NAMED, fetch

    key = name.removesuffix(".yaml")
    if key not in NAMED:
        raise EdgesegError(f"no named dataset is called {name!r}", hint=f"Named datasets: {', '.join(NAMED)}")
    splits = [s.strip() for s in split.split(",")] if split else ["train", "val"]
    wrong = [s for s in splits if s not in SPLITS]
    if wrong:
        raise EdgesegError(f"no split is called {wrong[0]!r}", hint=f"Splits: {', '.join(SPLITS)}")
    folder = fetch(key, splits)
    console.say(f"{key} is in {folder}; use it with data={load_dataset(key).yaml}")


@app.command()
def convert(
    annotations: Annotated[list[str], word("COCO JSON files or labelme folders, one per split.", "ANNOTATIONS...")],
    images: Annotated[
        list[str] | None, flag("Image folder of each, in the same order; one for all is enough if shared.", metavar="FOLDER")
    ] = None,
    split: Annotated[str | None, flag("The split of each.", "from the file's name", metavar="A,B")] = None,
    out: Annotated[str, flag("Where the dataset is made or added to.", metavar="FOLDER")] = "dataset",
    crowds: Annotated[
        bool, flag("Crowd annotations become objects too (CVAT marks painted masks so).", True, "--crowds")
    ] = False,
) -> None:
    """Make a YOLO dataset (labels, YAML) from COCO or labelme JSON, and say what was left out or mended.

    edgeseg data convert instances_train.json instances_val.json --images train2017 --images val2017 --out mydata

    A folder that holds a dataset is added to: splits that are there are never changed.
    """
    from edgeseg.data.convert import CROWDS, convert_coco
    from edgeseg.data.dataset import SPLITS

    folders = [w for value in images or [] for w in value.split(",") if w]
    if len(folders) == 1:
        folders *= len(annotations)
    elif not folders and all(Path(a).is_dir() for a in annotations):
        folders = annotations  # labelme's images lie beside their JSON
    if len(folders) != len(annotations):
        example = " ".join(f"--images {k}2017" for k in ("train", "val")[: len(annotations)])
        raise EdgesegError(
            f"{len(annotations)} JSON files and {len(folders)} image folders", hint=f"Give one folder each: {example}"
        )
    splits = [s.strip() for s in split.split(",")] if split else [split_of(a, len(annotations) == 1) for a in annotations]
    if len(splits) != len(annotations) or len(set(splits)) != len(splits) or not set(splits) <= set(SPLITS):
        hint = "Say them in the order of the files: --split train,val"
        raise EdgesegError(f"{len(annotations)} JSON files cannot be the splits {', '.join(splits)}", hint=hint)
    with console.progress("converting") as bar:
        done = convert_coco(
            dict(zip(splits, annotations)), dict(zip(splits, folders)), out, progress=bar.update, crowds=crowds
        )
    console.table("", ("split", "images", "objects"), [(s, c.images, c.objects) for s, c in done.splits.items()])
    rows = [
        (s, what, reason, len(names), ", ".join(names[:3]) + (" ..." if len(names) > 3 else ""))
        for s, c in done.splits.items()
        for what, found in (("left out", c.left_out), ("mended", c.notes))
        for reason, names in found.items()
    ]
    if rows:
        console.say("")
        console.table("", ("split", "", "what", "count", "first"), rows)
    for s, c in done.splits.items():
        if CROWDS in c.left_out and not c.objects:
            console.warn(f"all objects of split {s} are crowds. If they are painted masks: --crowds")
    if done.unused:
        console.note(f"the category {', '.join(done.unused)} stands above others and is used nowhere: left out")
    console.say(f"{len(done.names)} classes; use it with data={done.yaml}")


def split_of(file: str, alone: bool) -> str:
    """The split that a file called like ``instances_val2017.json`` is for; a file alone that does not say is ``val``.

    Raises:
        EdgesegError: its name does not say.
    """
    from edgeseg.data.dataset import SPLITS

    for split in SPLITS:
        if split in Path(file).stem.lower():
            return split
    if alone:
        return "val"
    raise EdgesegError("which split is this file for?", path=file, hint="Say it: --split train,val")
