"""``edgeseg sensitivity``: which part of a network pays for INT8."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from edgeseg.cli import console, flags
from edgeseg.cli.flags import flag, word
from edgeseg.errors import EdgesegError
from edgeseg.progress import duration
from edgeseg.store import disk_error, writing

if TYPE_CHECKING:
    from edgeseg.quantize.flow import Flow
    from edgeseg.quantize.sensitivity import Loss

BY = ("stage", "layer")
ROLES = ("box", "score", "coeff", "proto")
#: Ranges are settled well before that many images.
CALIBRATION = 32


def sensitivity(
    model: Annotated[
        str | None, word("Checkpoint (default: the newest trained one, else yolov8n-seg.pt).", "[MODEL]")
    ] = None,
    data: Annotated[str, flag("Dataset: train calibrates, val judges.", metavar="YAML")] = "coco128-seg",
    by: Annotated[str, flag("stage or layer.")] = "stage",
    images: Annotated[int, flag("Images that judge.")] = 8,
    imgsz: Annotated[str | None, flag("Input size.", "the network's", metavar="N[,N]")] = None,
    recipe: Annotated[str, flag("Quantization recipe: a name of calib/, or a file.", metavar="NAME")] = "int8",
    seed: Annotated[int, flag("Seed of the choice of calibration images.")] = 0,
    plot: Annotated[str | None, flag("Draw the losses as bars (.png, .jpg).", metavar="FILE")] = None,
    json: flags.Json = None,
) -> None:
    """Quantize each stage, or each layer, alone and show what that loses: what to keep in float or in 16 bits."""
    from edgeseg.data.dataset import load_dataset
    from edgeseg.evaluate.sensitivity import measure
    from edgeseg.export.guard import held_out
    from edgeseg.network.checkpoint import load_checkpoint
    from edgeseg.network.flow import network_flow
    from edgeseg.network.runtime import NetworkRuntime
    from edgeseg.quantize.calibration import choose
    from edgeseg.quantize.decide import decide
    from edgeseg.quantize.recipe import Correction, load_recipe
    from edgeseg.quantize.sensitivity import layer_parts, stage_parts
    from edgeseg.running.open import Opened, newest_checkpoint, parse_imgsz

    source = model or newest_checkpoint()
    _check(source, by, images, plot)
    size = parse_imgsz(imgsz)
    rules = replace(load_recipe(recipe), correction=Correction("none"))
    if not rules.calibrated:
        raise EdgesegError(f"the recipe {rules.name} rounds no activations: there is little to lose", hint="Try recipe=int8")
    to, dataset = console.people(json), load_dataset(data)
    chosen = choose(dataset, min(rules.images, CALIBRATION), seed=seed)
    judges, where = held_out(dataset, chosen.images, images)
    network = load_checkpoint(source)
    runtime = NetworkRuntime(network)
    manifest = Opened(Path(source), "", runtime, runtime.manifest).sized(size).manifest
    size = manifest.imgsz
    flow = network_flow(network, size)
    parts = stage_parts(flow) if by == "stage" else layer_parts(flow, names(flow))
    passes, counted = len(parts) * len(judges) + 2 * len(chosen.images), f"{len(parts)} {by}s on {len(judges)} images"
    seconds = duration(passes * seconds_per_pass(flow, size))
    console.note(f"{counted}, {len(chosen.images)} images calibrate: at most {passes} passes, about {seconds}")
    with console.progress("calibrating", 100) as bar:
        say = lambda done, what: bar.update(int(100 * done), what=what)  # noqa: E731
        decisions = decide(flow, rules.without_equalization(), chosen.images, size, say)
    with console.progress("quantizing one part at a time", len(parts) * len(judges)) as bar:
        losses = measure(flow, decisions, parts, judges, manifest, detections=by == "stage", progress=bar.update)
    about = {"model": str(source), "data": data, "recipe": rules.name, "imgsz": list(size), "by": by, "images": where}
    console.as_json(json, {**about, "parts": [loss.to_dict() for loss in losses]})
    if json != "-":
        console.table("", header(by), [row(loss, by) for loss in losses], to=to)
        console.say(f"each alone, all else in float; {where}; loss is noise over signal power, mean of the roles", to=to)
        console.say(_advice(losses, by), to=to)
    if plot is not None:
        _plot(Path(plot), losses, f"{Path(source).name}, {rules.name}, one {by} at a time, {where}")
    for name, file in (("plot", plot), ("JSON", None if json == "-" else json)):
        if file is not None:
            console.say(f"{name} in {file}", to=to)


def _check(source: str | Path, by: str, images: int, plot: str | None) -> None:
    from edgeseg.running.open import is_checkpoint

    if by not in BY:
        raise EdgesegError(f"by={by} is neither stage nor layer", hint="Write --by stage or --by layer")
    if images < 1:
        raise EdgesegError(f"images={images} is no whole number above 0")
    if plot is not None and Path(plot).suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise EdgesegError("a plot is a .png or a .jpg", path=plot)
    if plot is not None and not Path(plot).parent.is_dir():
        raise EdgesegError("its folder does not exist", path=plot, hint=f"mkdir -p {Path(plot).parent}")
    if not is_checkpoint(source):
        raise EdgesegError("sensitivity is a property of the network", path=source, hint="Give its checkpoint (.pt)")


def names(flow: Flow) -> dict[str, str]:
    """What each convolution is called in the network, by its output tensor, which ``network_flow`` calls after it."""
    return {n.output: n.output.partition("/")[0].removesuffix(".conv") for n in flow.nodes if n.weight is not None}


def seconds_per_pass(flow: Flow, size: tuple[int, int]) -> float:
    """Time of one float run, the second of two."""
    import torch

    from edgeseg.quantize.simulate import Simulator

    simulator, x = Simulator(flow), torch.zeros(1, 3, *size)
    simulator.run(x)
    start = time.perf_counter()
    simulator.run(x)
    return time.perf_counter() - start


def header(by: str) -> tuple[str, ...]:
    """Columns of the table."""
    more = ("agreement", "extra", "mask IoU", "score shift") if by == "stage" else ("kind",)
    return (by, *(() if by == "stage" else ("stage",)), "weights", "loss %", *(f"{r} dB" for r in ROLES), *more)


def row(loss: Loss, by: str) -> tuple[Any, ...]:
    """One line of the table; see ``header``."""
    d = loss.to_dict()
    figures = (d["parameters"], float(f"{100 * d['loss']:.3g}"), *(d["snr_db"].get(r) for r in ROLES))
    if by == "layer":
        return d["name"], d["stage"], *figures, d["kind"]
    f = d["fidelity"]
    return d["name"], *figures, *(console.rounded(f[k], 3) for k in ("agreement", "extra", "mask_iou", "score_shift"))


def _advice(losses: list[Loss], by: str) -> str:
    from edgeseg.quantize.sensitivity import EVERYTHING

    single = [loss for loss in losses if loss.part.name != EVERYTHING]
    stage = single[0].part.stage
    first = f"most is lost in {single[0].part.name}"
    return f"{first}: a recipe with [stages.{stage}] activations = 16 spares it, or let --max-drop search"


def _plot(file: Path, losses: list[Loss], title: str) -> None:
    import cv2

    from edgeseg.evaluate.sensitivity import draw

    try:
        with writing(file) as stream:
            stream.write(cv2.imencode(file.suffix, draw(losses, title))[1].tobytes())
    except OSError as e:
        raise disk_error(e, file) from e
