"""``edgeseg predict``: detections on images, folders, videos, cameras and URLs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from edgeseg.cli import console, flags, light
from edgeseg.cli.flags import flag, word
from edgeseg.cli.stopping import Stopping
from edgeseg.errors import EdgesegError
from edgeseg.runs import new_folder


def predict(
    words: Annotated[
        list[str] | None,
        word(
            "The model (default: the newest trained one), then image, folder, glob, video, webcam index or URL.",
            "MODEL SOURCE",
        ),
    ] = None,
    model: Annotated[str | None, flag("The model, if not the first word.", False, metavar="MODEL")] = None,
    source: Annotated[str | None, flag("The source, if not the last word.", False, metavar="SOURCE")] = None,
    out: Annotated[str | None, flag("Where pictures and label files go.", "runs/predict/expN", metavar="FOLDER")] = None,
    conf: flags.Conf = 0.25,
    iou: flags.Iou = 0.7,
    max_det: flags.MaxDet = 300,
    imgsz: flags.AnySize = None,
    classes: Annotated[str | None, flag("Only these: names or numbers, with commas.", panel="Detection")] = None,
    agnostic_nms: flags.AgnosticNms = False,
    rect: flags.Rect = False,
    vid_stride: Annotated[int, flag("Of a video's frames only each so many-th.", panel="Detection")] = 1,
    save: Annotated[bool, flag("Save pictures and videos.", panel="Results")] = True,
    save_txt: Annotated[bool, flag("Save labels as YOLO polygons.", True, "--save-txt", panel="Results")] = False,
    save_conf: Annotated[bool, flag("Scores in them.", True, "--save-conf", panel="Results")] = False,
    save_crop: Annotated[bool, flag("Save what is inside each box.", True, "--save-crop", panel="Results")] = False,
    save_as: Annotated[
        str | None,
        flag("One dataset file of: fiftyone, labelstudio, cvat.", False, metavar="TOOL", panel="Results"),
    ] = None,
    json: flags.Json = None,
    polygons: Annotated[
        bool, flag("Masks in the JSON as outlines, not run lengths.", True, "--polygons", panel="Results")
    ] = False,
    show: Annotated[bool, flag("Show each picture in a window.", True, "--show", panel="Results")] = False,
    input: flags.Input = None,
    device: flags.Device = None,
    threads: flags.Threads = None,
) -> None:
    """Find objects and their masks in images, videos, cameras.

    Unreadable images are reported, skipped and counted; the exit code is 2 when nothing at all could be read.
    """
    with light.starting():
        from edgeseg.cli.picking import model_and_source
        from edgeseg.predict.result import Result, class_ids, results
        from edgeseg.predict.sources import count
        from edgeseg.predict.writer import Writer
        from edgeseg.running.open import open_model, parse_imgsz

        check_detection(conf, iou, max_det)
        if vid_stride < 1:
            raise EdgesegError(f"vid-stride {vid_stride} is less than 1")
        if show:
            from edgeseg.predict.window import need_display, shown

            need_display()
        which, sources = model_and_source(words or [], model, source)
        opened = open_model(which, threads=threads, input=input).on(device).sized(parse_imgsz(imgsz))
    console.inferred(opened.manifest)
    wanted = class_ids(classes, opened.manifest.names)
    need_masks = save or save_txt or show or (json or save_as) is not None
    how = {"agnostic": agnostic_nms, "rect": rect}
    pipeline = opened.pipeline(conf=conf, iou=iou, max_det=max_det, masks=need_masks, classes=wanted, **how)
    to = console.people(json)
    stream: Iterator[Any] = results(pipeline, sources if len(sources) > 1 else sources[0], vid_stride)
    skipped: list[dict[str, str]] = []
    total, found, times = 0, 0, dict.fromkeys(("preprocess", "inference", "postprocess"), 0.0)
    many = count(sources)
    stopped = False

    @cache
    def folder() -> Path:
        if out is None:
            return new_folder("runs/predict")
        Path(out).mkdir(parents=True, exist_ok=True)
        return Path(out)

    with (
        Stopping() as stopping,
        console.json_file(json) as document,
        saved_as(save_as, folder, opened.path.name) as dataset,
        Writer(folder, pictures=save, labels=save_txt, document=document, polygons=polygons, scores=save_conf) as writer,
    ):
        try:
            while True:
                with stopping.allowed():
                    item = next(stream, None)
                if item is None:
                    break
                if not isinstance(item, Result):
                    console.warn(f"{item.path}: {item.reason}; skipped")
                    skipped.append({"path": item.path, "reason": item.reason})
                    continue
                writer.write(item)
                if save_crop:
                    item.save_crop(folder() / "crops")
                if dataset is not None:
                    dataset.write(item)
                total, found = total + 1, found + len(item)
                for key, value in item.spent.items():
                    times[key] = times.get(key, 0.0) + value
                _line(item, total, many, to)
                if show and not shown(item):
                    break
        except KeyboardInterrupt:
            stopped = True
        mean = {k: round(v / max(total, 1), 3) for k, v in times.items()}
        tail = {
            "model": str(opened.path),
            "format": opened.manifest.format,
            "precision": opened.manifest.precision,
            "conf": conf,
            "iou": iou,
            "max_det": max_det,
            "imgsz": list(opened.manifest.imgsz),
            "count": total,
            "skipped": skipped,
            "speed_ms": mean,
            "out": None if writer.folder is None else str(writer.folder),
            "saved_as": None if dataset is None or dataset.path is None else str(dataset.path),
        }
        writer.finish(tail)
    stopped = stopped or stopping.asked
    if total == 0 and not stopped:
        raise EdgesegError(f"none of {len(skipped)} images could be read", hint="See the reasons above")
    _summary(opened.title, total, found, skipped, mean, writer.folder, json, to)
    if tail["saved_as"]:
        console.say(f"{save_as}: {tail['saved_as']}", to=to)
    if stopped:
        raise KeyboardInterrupt


def saved_as(format: str | None, folder: Callable[[], Path], model: str) -> AbstractContextManager[Any]:
    """What ``--save-as`` asks for, None where it does not."""
    if format is None:
        return nullcontext()
    from edgeseg.ecosystem.saving import SavedAs

    return SavedAs(format, folder, model)


def check_detection(conf: float, iou: float, max_det: int) -> None:
    """Refuse thresholds outside their range."""
    for name, value in (("conf", conf), ("iou", iou)):
        if not 0 <= value <= 1:
            raise EdgesegError(f"{name} {value:g} is not between 0 and 1")
    if max_det < 1:
        raise EdgesegError(f"max-det {max_det} is less than 1")


def _line(item: Any, number: int, many: int | None, to: Any) -> None:
    """One line an image; of videos one line in 30 frames."""
    if item.number is not None and item.number % 30:
        return
    frame = "" if item.number is None else f" frame {item.number}"
    ms = " + ".join(f"{v:.1f}" for v in item.speed.values())
    console.say(f"{number}{f'/{many}' if many else ''}  {item.path}{frame}: {item.verbose()}  ({ms} ms)", to=to)


def _summary(
    title: str,
    total: int,
    found: int,
    skipped: list[dict[str, str]],
    mean: dict[str, float],
    folder: Path | None,
    json: str | None,
    to: Any,
) -> None:
    skip = f", {len(skipped)} skipped" if skipped else ""
    console.say(f"{title}: {total} image{'s' if total != 1 else ''}{skip}, {found} detections", to=to)
    console.say("mean ms: " + ", ".join(f"{k} {v:.1f}" for k, v in mean.items()), to=to)
    if folder is not None:
        console.say(f"saved in {folder}", to=to)
    if json not in (None, "-"):
        console.say(f"JSON in {json}", to=to)
