"""``edgeseg predict``: detections on images, folders, videos, cameras and URLs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from edgeseg.cli import console, flags, light
from edgeseg.cli.flags import flag, word
from edgeseg.errors import EdgesegError
from edgeseg.kernel import Stopping
from edgeseg.resources import new_folder


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
    project: flags.Project = "",
    name: flags.RunName = "exp",
    exist_ok: flags.ExistOk = False,
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
    save_frames: Annotated[bool, flag("Save frames of videos as pictures.", True, "--save-frames", panel="Results")] = False,
    line_width: Annotated[int | None, flag("Width of drawn lines.", "by the size", panel="Results")] = None,
    show_labels: Annotated[bool, flag("Draw class names.", panel="Results")] = True,
    show_conf: Annotated[bool, flag("Draw scores.", panel="Results")] = True,
    show_boxes: Annotated[bool, flag("Draw boxes.", panel="Results")] = True,
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
        from edgeseg.predict.result import class_ids, results
        from edgeseg.predict.sources import count, model_and_source
        from edgeseg.predict.writer import Writer
        from edgeseg.running.open import open_model, parse_imgsz

        check_detection(conf, iou, max_det)
        _check(vid_stride, out, project)
        if show:
            from edgeseg.predict.result import need_display, shown

            need_display()
        which, sources = model_and_source(words or [], model, source)
        opened = open_model(which, threads=threads, input=input).on(device).sized(parse_imgsz(imgsz))
    console.inferred(opened.manifest)
    wanted = class_ids(classes, opened.manifest.names)
    need_masks = save or save_txt or save_frames or show or (json or save_as) is not None
    how = {"agnostic": agnostic_nms, "rect": rect}
    pipeline = opened.pipeline(conf=conf, iou=iou, max_det=max_det, masks=need_masks, classes=wanted, **how)
    to = console.people(json)
    stream: Iterator[Any] = results(pipeline, sources if len(sources) > 1 else sources[0], vid_stride)
    tally, many = Tally(), count(sources)
    folder = cache(lambda: new_folder(out, ".", True) if out else new_folder(project or "runs/predict", name, exist_ok))
    drawing = {"line_width": line_width, "labels": show_labels, "conf": show_conf, "boxes": show_boxes}
    kinds = {"labels": save_txt, "scores": save_conf, "crops": save_crop, "frames": save_frames, "polygons": polygons}
    with (
        Stopping() as stopping,
        console.json_file(json) as document,
        saved_as(save_as, folder, opened.path.name) as dataset,
        Writer(folder, pictures=save, document=document, drawing=drawing, **kinds) as writer,
    ):
        sinks: list[Callable[[Any], Any]] = [writer.write]
        if dataset is not None:
            sinks.append(dataset.write)
        sinks += [tally.add, lambda item: _line(item, tally.images, many, to)]
        _each(stream, sinks, shown if show else lambda _: True, tally, stopping)
        m, written = opened.manifest, None if dataset is None or dataset.path is None else str(dataset.path)
        about = {"model": str(opened.path), "format": m.format, "precision": m.precision, "imgsz": list(m.imgsz)}
        place = None if writer.folder is None else str(writer.folder)
        chosen = {"conf": conf, "iou": iou, "max_det": max_det}
        writer.finish({**about, **chosen, **tally.to_dict(), "out": place, "saved_as": written})
    if tally.images == 0 and not stopping.asked:
        raise EdgesegError(f"none of {len(tally.skipped)} images could be read", hint="See the reasons above")
    tally.show(opened.title, to)
    for text, path in (("saved in ", place), ("JSON in ", None if json == "-" else json), (f"{save_as}: ", written)):
        if path is not None:
            console.say(f"{text}{path}", to=to)
    if stopping.asked:
        raise KeyboardInterrupt


def _each(
    stream: Iterator[Any], sinks: list[Callable[[Any], Any]], more: Callable[[Any], bool], tally: Tally, stopping: Stopping
) -> None:
    """Each result to all sinks, until there is none, ``more`` of one is False, or a signal asked for the end."""
    try:
        while True:
            with stopping.allowed():
                item = next(stream, None)
            if item is None:
                return
            if hasattr(item, "reason"):
                tally.skip(item)
                continue
            for sink in sinks:
                sink(item)
            if not more(item):
                return
    except KeyboardInterrupt:
        stopping.asked = True


class Tally:
    """What predicting has come to: images, detections, what was skipped and milliseconds of each stage."""

    def __init__(self) -> None:
        self.images = self.found = 0
        self.skipped: list[dict[str, str]] = []
        self._times = dict.fromkeys(("preprocess", "inference", "postprocess"), 0.0)

    def add(self, item: Any) -> None:
        """Count one result."""
        self.images, self.found = self.images + 1, self.found + len(item)
        for key, value in item.spent.items():
            self._times[key] = self._times.get(key, 0.0) + value

    def skip(self, item: Any) -> None:
        """Say and remember what could not be read."""
        console.warn(f"{item.path}: {item.reason}; skipped")
        self.skipped.append({"path": item.path, "reason": item.reason})

    @property
    def mean(self) -> dict[str, float]:
        """Milliseconds of each stage, mean over the images."""
        return {k: round(v / max(self.images, 1), 3) for k, v in self._times.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the JSON."""
        return {"count": self.images, "skipped": self.skipped, "speed_ms": self.mean}

    def show(self, title: str, to: Any) -> None:
        """Two lines for people."""
        skip = f", {len(self.skipped)} skipped" if self.skipped else ""
        console.say(f"{title}: {self.images} image{'s' if self.images != 1 else ''}{skip}, {self.found} detections", to=to)
        console.say("mean ms: " + ", ".join(f"{k} {v:.1f}" for k, v in self.mean.items()), to=to)


def saved_as(format: str | None, folder: Callable[[], Path], model: str) -> AbstractContextManager[Any]:
    """What ``--save-as`` asks for, None where it does not."""
    if format is None:
        return nullcontext()
    from edgeseg.ecosystem.saving import SavedAs

    return SavedAs(format, folder, model)


def _check(vid_stride: int, out: str | None, project: str) -> None:
    if vid_stride < 1:
        raise EdgesegError(f"vid-stride {vid_stride} is less than 1", hint="1 takes every frame")
    if out and project:
        raise EdgesegError("out and project both say where results go", hint="Leave one of them out")


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
