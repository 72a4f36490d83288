"""``edgeseg demo``: the main job on a small network of our own and generated images; nothing is downloaded."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

from edgeseg.cli import console, flags
from edgeseg.cli.flags import flag

TRAIN, VAL, SEED, PICTURES = 100, 40, 20, 6


def demo(
    out: Annotated[str, flag("Where artifacts, images and pictures go.", metavar="FOLDER")] = "runs/demo",
    json: flags.Json = None,
) -> None:
    """Export a small network to ONNX and INT8 TFLite, validate all three, predict; with no download, in a minute or two."""
    from edgeseg.data.shapes import make_shapes
    from edgeseg.model import Model
    from edgeseg.resources import demo_checkpoint

    to, folder, start = console.people(json), Path(out), time.monotonic()
    checkpoint = demo_checkpoint()
    size = Model(checkpoint).opened.manifest.imgsz[0]
    console.say(f"1/4  {TRAIN + VAL} generated images in {folder / 'shapes'}", to=to)
    with console.progress("drawing"):
        data = make_shapes(folder / "shapes", train=TRAIN, val=VAL, size=size, seed=SEED)
    console.say(f"2/4  exporting {checkpoint.name}", to=to)
    made = _exports(checkpoint, data, folder)
    console.say("3/4  validating", to=to)
    reports = [_validated(path, data, checkpoint) for path in (checkpoint, *made)]
    console.say("4/4  predicting", to=to)
    pictures = _pictures(made[-1], data, folder / "pictures")
    console.as_json(json, {"models": reports, "pictures": [str(p) for p in pictures]})
    if json == "-":
        return
    from edgeseg.cli.validate import HEADER, row

    console.say("", to=to)
    console.table("", HEADER, [row(r) for r in reports], to=to)
    console.say("", to=to)
    console.table(f"against {checkpoint.name}, at score 0.25", FIDELITY, [fidelity_row(r) for r in reports[1:]], to=to)
    console.say(f"{len(pictures)} pictures in {folder / 'pictures'}, artifacts in {folder}", to=to)
    console.say(
        f"done in {time.monotonic() - start:.0f} s. Your own: edgeseg export MODEL.pt --format tflite --int8 data=YOUR.yaml",
        to=to,
    )


def _exports(checkpoint: Path, data: Path, folder: Path) -> list[Path]:
    from edgeseg.model import Model

    model = Model(checkpoint)
    folder.mkdir(parents=True, exist_ok=True)
    with console.shown_events() as on_event:
        how: dict[str, Any] = {"imgsz": list(model.opened.manifest.imgsz), "out": folder, "on_event": on_event}
        return [model.export("onnx", **how), model.export("tflite", int8=True, data=str(data), **how)]


def _validated(path: Path, data: Path, reference: Path) -> dict[str, Any]:
    from edgeseg.cli.validate import report
    from edgeseg.model import Model

    model = Model(path)
    with console.progress(f"validating {path.name}") as bar:
        result = model.validate(data, progress=bar.update)
        facts = report(model, result)
        return facts if path == reference else {**facts, "fidelity": model.compare(reference, data).to_dict()}


def _pictures(path: Path, data: Path, folder: Path) -> list[Path]:
    from edgeseg.data.dataset import load_dataset
    from edgeseg.model import Model

    folder.mkdir(parents=True, exist_ok=True)
    images = load_dataset(data).images("val")[:PICTURES]
    return [result.save(folder) for result in Model(path).predict(images, stream=True)]


FIDELITY = ("model", "agreement", "missing", "extra", "box IoU", "mask IoU", "score shift", "its std")


def fidelity_row(d: dict[str, Any]) -> tuple[Any, ...]:
    """One line of the comparison with the reference; see ``FIDELITY``."""
    f = d["fidelity"]
    figures = ("agreement", "missing", "extra", "box_iou", "mask_iou", "score_shift", "score_shift_std")
    return d["path"], *(console.rounded(f[k]) for k in figures)
