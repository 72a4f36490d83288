"""What prediction gives for one image."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from edgeseg.errors import EdgesegError
from edgeseg.habits import PLOT, check
from edgeseg.predict.sources import Frame, Unreadable, frames
from edgeseg.predict.views import Boxes, Here, Masks, Names
from edgeseg.record import dataclass

if TYPE_CHECKING:
    from edgeseg.running.pipeline import Pipeline
    from edgeseg.vision.detections import Detections, Index
    from edgeseg.vision.track import Tracker

WRITABLE = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class Result(Here):
    """Detections of one image.

    ``image`` is the source, uint8 BGR (H, W, 3). ``path`` is where it came from ("" for arrays), ``name`` a file name for
    what is saved. ``number`` and ``fps`` belong to frames of a video. ``speed`` holds milliseconds under ``preprocess``,
    ``inference`` and ``postprocess``. ``time`` belongs to frames of a loop (``edgeseg.live``): when it was captured, in
    seconds since 1970, of a recording since its beginning. ``ids`` are (n,) int64 from 1 where objects are followed.
    ``save_dir`` is the folder into which ``predict`` wrote.
    """

    detections: Detections
    image: np.ndarray
    path: str = ""
    name: str = "image.jpg"
    number: int | None = None
    fps: float | None = None
    speed: Mapping[str, float] = field(default_factory=dict)
    time: float | None = None
    ids: np.ndarray | None = None
    save_dir: str | None = None

    def __len__(self) -> int:
        return len(self.detections)

    def __repr__(self) -> str:
        frame = "" if self.number is None else f" frame {self.number}"
        return f"Result({self.path or self.name}{frame}: {self.verbose()}; {self.image.shape[1]}x{self.image.shape[0]})"

    def __getitem__(self, index: Index) -> Result:
        """The same image with some of the detections: one index, a slice, indices or a bool array (n,)."""
        return replace(
            self, detections=self.detections[index], ids=None if self.ids is None else np.atleast_1d(self.ids[index])
        )

    def tracked(self, tracker: Tracker) -> Result:
        """The detections that ``tracker`` knows from frame to frame, with their ids; those that it does not are left out."""
        ids = tracker.update(self.detections)
        return replace(self, ids=ids)[ids > 0]

    def __iter__(self) -> Iterator[Result]:
        return (self[i] for i in range(len(self)))

    @property
    def names(self) -> Names:
        """Class names, by number."""
        return Names(self.detections.names)

    @property
    def boxes(self) -> Boxes:
        """Boxes, scores and classes: ``xyxy``, ``xywh``, ``xyxyn``, ``conf``, ``cls``."""
        return Boxes(self.detections, self.ids)

    @property
    def masks(self) -> Masks | None:
        """Masks: ``data``, ``xy``, ``xyn``; None without any."""
        return None if self.detections.tiles is None or not len(self) else Masks(self.detections)

    @property
    def orig_img(self) -> np.ndarray:
        """The image, uint8 BGR (H, W, 3)."""
        return self.image

    @property
    def orig_shape(self) -> tuple[int, int]:
        """(H, W) of the image."""
        return self.detections.shape

    obb = keypoints = probs = None  # of tasks that there are not

    def plot(
        self,
        *,
        conf: bool = True,
        labels: bool = True,
        boxes: bool = True,
        masks: bool = True,
        line_width: float | None = None,
        img: np.ndarray | None = None,
        pil: bool = False,
        color_mode: str = "class",
        show: bool = False,
        save: bool = False,
        filename: str | Path | None = None,
        **others: Any,
    ) -> Any:
        """A copy of the image, uint8 BGR, with boxes, masks and labels drawn.

        Args:
            conf: write scores. labels: write class names. boxes: draw boxes. masks: draw masks.
            line_width: of boxes, in pixels.
            img: draw on this image, of the same size, in place of the source.
            pil: give a PIL image (RGB).
            color_mode: a colour for each ``class`` or ``instance``.
            show: open it in a viewer too. save: write it to ``filename`` (``results_NAME`` here) too.
            others: options of YOLO tools that ask for what is done anyway.

        Raises:
            EdgesegError: ``pil`` or ``show``, and Pillow is not installed, or there is no display; another option.
        """
        from edgeseg.vision.draw import draw

        check("plot", {"color_mode": color_mode, **others}, PLOT)
        kinds: dict[str, Any] = {"labels": labels, "scores": conf, "boxes": boxes, "masks": masks}
        kinds |= {"line_width": line_width and max(1, round(line_width)), "instances": color_mode == "instance"}
        picture = draw(self.image if img is None else img, self.detections, ids=self.ids, **kinds)
        if save:
            write_image(Path(filename or f"results_{self.name}"), picture)
        if show:
            window = self._pil(picture)
            need_display()
            window.show()
        return self._pil(picture) if pil else picture

    @staticmethod
    def _pil(picture: np.ndarray) -> Any:
        try:
            from PIL import Image
        except ImportError as e:
            raise EdgesegError("Pillow is not installed", hint="pip install pillow, or use save()") from e
        return Image.fromarray(np.ascontiguousarray(picture[..., ::-1]))

    def save(self, path: str | Path | None = None, *, filename: str | Path | None = None, **drawing: Any) -> Path:
        """Write the drawn image.

        Args:
            path: a file (its suffix tells the format), or an existing folder, where it gets the name of its source; by
                default ``results_NAME`` here. filename: the same.
            drawing: options of ``plot``.

        Raises:
            EdgesegError: no image format has this suffix.
        """
        path = Path(path or filename or f"results_{self.name}")
        if path.is_dir():
            path = path / self.name
        write_image(path, self.plot(**drawing))
        return path

    def save_txt(self, txt_file: str | Path, save_conf: bool = False) -> Path:
        """Append the detections to a label file: YOLO's polygons (boxes of a detector), one line each."""
        path = Path(txt_file)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as stream:
            stream.writelines(f"{line}\n" for line in self.detections.to_yolo(scores=save_conf))
        return path

    def save_crop(self, save_dir: str | Path, file_name: str | Path | None = None) -> list[Path]:
        """Write what is inside each box to ``save_dir/CLASS/NAME-1.jpg`` (``NAME_7-1.jpg`` of frame 7); the files."""
        frame = "" if self.number is None or file_name else f"_{self.number}"
        stem, found = f"{Path(file_name or self.name).stem}{frame}", []
        for number, (box, cls) in enumerate(zip(self.detections.boxes, self.detections.classes), 1):
            x1, y1 = np.floor(box[:2]).astype(int)
            x2, y2 = np.ceil(box[2:]).astype(int)
            place = Path(save_dir) / "".join(c if c.isalnum() or c in " -_" else "_" for c in self.names[cls])
            write_image(file := place / f"{stem}-{number}.jpg", np.ascontiguousarray(self.image[y1:y2, x1:x2]))
            found.append(file)
        return found

    def show(self, **drawing: Any) -> None:
        """Open the drawn image in the viewer of the desktop (Pillow's; in a notebook, the result shows itself)."""
        self.plot(show=True, **drawing)

    def summary(self, normalize: bool = False, decimals: int = 5) -> list[dict[str, Any]]:
        """One mapping a detection: ``name``, ``class``, ``confidence``, ``box`` (x1 y1 x2 y2), ``segments`` (x, y) of masks,
        ``track_id`` where objects are followed.

        Args:
            normalize: coordinates in 0..1 in place of pixels. decimals: of all numbers.
        """
        height, width = self.orig_shape if normalize else (1, 1)
        rings = self.masks.xy if self.masks is not None else []
        found, d = [], self.detections
        for i, (box, score, cls) in enumerate(zip(d.boxes.tolist(), d.scores.tolist(), d.classes.tolist())):
            corners = zip(("x1", "y1", "x2", "y2"), box, (width, height, width, height))
            row = {"name": self.names[cls], "class": cls, "confidence": round(score, decimals)}
            row["box"] = {k: round(v / side, decimals) for k, v, side in corners}
            if self.ids is not None:
                row["track_id"] = int(self.ids[i])
            if rings:
                row["segments"] = {
                    axis: [round(v / side, decimals) for v in rings[i][:, n].tolist()]
                    for n, (axis, side) in enumerate((("x", width), ("y", height)))
                }
            found.append(row)
        return found

    def to_json(self, normalize: bool = False, decimals: int = 5) -> str:
        """``summary`` as JSON."""
        return json.dumps(self.summary(normalize, decimals), indent=2)

    def to_csv(self, normalize: bool = False, decimals: int = 5) -> str:
        """``summary`` as comma-separated values, ``box`` and ``segments`` as JSON inside."""
        import csv
        import io

        stream = io.StringIO()
        more = (("track_id",) if self.ids is not None else ()) + (("segments",) if self.masks is not None else ())
        keys = ("name", "class", "confidence", "box", *more)
        table = csv.DictWriter(stream, keys)
        table.writeheader()
        for row in self.summary(normalize, decimals):
            table.writerow({k: json.dumps(v) if isinstance(v, dict) else v for k, v in row.items()})
        return stream.getvalue()

    def to_df(self, normalize: bool = False, decimals: int = 5) -> Any:
        """``summary`` as a ``DataFrame`` of pandas, or of polars where only that is installed.

        Raises:
            EdgesegError: neither is installed.
        """
        for name in ("pandas", "polars"):
            if importlib.util.find_spec(name) is not None:
                return importlib.import_module(name).DataFrame(self.summary(normalize, decimals))
        raise EdgesegError("neither pandas nor polars is installed", hint="pip install pandas, or use summary()")

    def to_supervision(self) -> Any:
        """``supervision.Detections`` (see there), with the ids of followed objects as ``tracker_id``.

        Raises:
            EdgesegError: supervision is not installed.
        """
        return self.detections.to_supervision(self.ids)

    def _repr_html_(self) -> str:
        """The drawn image, for notebooks."""
        import base64
        import html

        good, data = cv2.imencode(".jpg", self.plot())
        text = base64.b64encode(data.tobytes()).decode() if good else ""
        return f'<img src="data:image/jpeg;base64,{text}" style="max-width: 100%"><br>{html.escape(self.verbose())}'

    def to_dict(self, *, polygons: bool = False) -> dict[str, Any]:
        """Path, size and detections as plain values for JSON.

        Each detection holds its mask, where there is one, as ``rle`` (COCO's compressed run lengths), and on request as
        ``polygons`` in its place: a list of outlines, each [[x, y], ...] in pixels; where objects are followed, its ``id``.
        """
        head: dict[str, Any] = {"path": self.path, "height": self.image.shape[0], "width": self.image.shape[1]}
        if self.number is not None:
            head["frame"] = self.number
        found = self.detections.to_dicts(rle=not polygons, polygons=polygons)
        speed = {k: round(float(v), 3) for k, v in self.spent.items()}
        if self.ids is not None:
            found = [{"id": number, **item} for number, item in zip(self.ids.tolist(), found)]
        return {**head, "speed_ms": speed, "detections": found}

    @property
    def spent(self) -> dict[str, float]:
        """``speed``, and under ``masks`` the milliseconds in which they were built, 0 before they are first asked for."""
        tiles = self.detections.tiles
        return dict(self.speed) if tiles is None else {**self.speed, "masks": 1e3 * tiles.seconds}

    def verbose(self) -> str:
        """How many of which class, such as ``2 person, 1 bus``."""
        return self.detections.summary() or "nothing"


def write_image(path: Path, image: np.ndarray) -> None:
    """Write uint8 BGR to a file, whole or not at all; its folder is made.

    Raises:
        EdgesegError: the suffix is no image format's, the disk is full, or the folder is not writable.
    """
    if path.suffix.lower() not in WRITABLE:
        raise EdgesegError(f"no image format has the suffix {path.suffix!r}", path=path, hint="Use .jpg or .png")
    try:
        good, data = cv2.imencode(path.suffix, image)
    except cv2.error:
        good = False
    if not good:
        raise EdgesegError("the image cannot be encoded", path=path, hint="Use .jpg or .png")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.tobytes())
    except OSError as e:
        with contextlib.suppress(OSError):
            if path.stat().st_size < len(data):
                path.unlink()
        hint = "Free some space, or name another folder"
        raise EdgesegError(f"it cannot be written ({(e.strerror or str(e)).lower()})", path=path, hint=hint) from e


def results(pipeline: Pipeline, source: Any, stride: int = 1) -> Iterator[Result | Unreadable]:
    """Predict on every image of ``source`` (see ``frames``), one at a time; of videos on every ``stride``-th frame."""
    for item in frames(source):
        if isinstance(item, Unreadable):
            yield item
        elif (item.number or 0) % stride == 0:
            yield predict_frame(pipeline, item)


def predict_frame(pipeline: Pipeline, frame: Frame) -> Result:
    """Predict on one image."""
    detections = pipeline(frame.image)
    return Result(detections, frame.image, frame.path, frame.name, frame.number, frame.fps, dict(pipeline.speed))


def class_ids(wanted: str | int | Sequence[int] | None, names: tuple[str, ...]) -> tuple[int, ...] | None:
    """Class numbers from ``"0,3"``, ``"person,bus"`` or a list of numbers.

    Raises:
        EdgesegError: the network has no such class.
    """
    if wanted is None:
        return None
    parts = [p.strip() for p in wanted.strip("[]() ").split(",")] if isinstance(wanted, str) else wanted
    parts = [parts] if isinstance(parts, int) else parts
    found: list[int] = []
    for part in parts:
        if str(part) in names:
            found.append(names.index(str(part)))
        elif str(part).isdigit() and int(part) < len(names):
            found.append(int(part))
        else:
            raise EdgesegError(f"the network has no class {part!r}", hint=f"Classes 0 to {len(names) - 1}: {_listed(names)}")
    return tuple(found)


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:10]) + (" ..." if len(names) > 10 else "")


def need_display() -> None:
    """Refuse to show pictures where no window can open.

    Raises:
        EdgesegError: there is no display.
    """
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise EdgesegError("there is no display here for show", hint="Leave show out, and save pictures in a folder")


def shown(result: Result) -> bool:
    """Show one picture; False once the person has typed q or Escape."""
    try:
        cv2.imshow("edgeseg", result.plot())
        key = cv2.waitKey(1 if result.number is not None else 0) & 0xFF
    except cv2.error as e:
        hint = "pip install opencv-python in place of opencv-python-headless, or leave show out"
        raise EdgesegError("this OpenCV cannot open windows", hint=hint) from e
    return key not in (27, ord("q"))
