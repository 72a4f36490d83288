"""Writing predictions: pictures, videos, label files and one JSON document, each result as it comes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import cv2
import numpy as np

from edgeseg.errors import EdgesegError
from edgeseg.predict.result import WRITABLE, Result, write_image


class Writer:
    """Writes results into a folder; use it as a context manager so that videos and JSON are completed.

    Args:
        folder: gives the folder for pictures and label files; called when the first of them is written, so that a run
            that reads nothing leaves no empty folder.
        pictures: write drawn images and videos.
        labels: write ``labels/<name>.txt`` in YOLO's polygon format, one file an image and one a frame.
        document: file for one JSON document.
        polygons: outlines in the document in place of run lengths.
        scores: write them into label files too.
        crops: write what is inside each box into ``crops/CLASS``.
        frames: write each frame of a video, drawn, into ``<name>_frames``.
        drawing: options of ``Result.plot``.

    Two inputs never share a file: where stems are equal (``a.jpg`` and ``a.png``, or the same name in two folders), the
    later one gets ``-2``, ``-3`` ...; the document says under ``saved`` what each one became.
    """

    def __init__(
        self,
        folder: Callable[[], Path],
        *,
        pictures: bool = True,
        labels: bool = False,
        document: IO[str] | None = None,
        polygons: bool = False,
        scores: bool = False,
        crops: bool = False,
        frames: bool = False,
        drawing: Mapping[str, Any] | None = None,
    ) -> None:
        self._scores, self._drawing = scores, dict(drawing or {})
        self._make, self._pictures, self._labels, self._crops, self._frames = folder, pictures, labels, crops, frames
        self._document, self._polygons = document, polygons
        self.folder: Path | None = None
        self.written = 0
        self._stems = Stems()
        self._source: tuple[str, str] | None = None
        self._video: cv2.VideoWriter | None = None
        self._items = 0

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close_video()

    def write(self, result: Result) -> None:
        """Write whatever was asked for of one result."""
        saved = self._save(result) if self._pictures or self._labels or self._crops or self._frames else None
        if self._document is not None:
            entry = result.to_dict(polygons=self._polygons) | ({} if saved is None else {"saved": saved})
            self._document.write(('{"images": [\n' if self._items == 0 else ",\n") + json.dumps(entry))
            self._items += 1

    def _save(self, result: Result) -> str:
        """Pictures and labels of one result; the name of its picture or video in the folder."""
        if self.folder is None:
            self.folder = self._make()
        if result.number is None:
            name = result.name if Path(result.name).suffix.lower() in WRITABLE else f"{Path(result.name).stem}.png"
            name = self._stems.of_image(name)
            if self._pictures:
                self._picture(self.folder / name, result)
        else:
            if self._source is None or self._source[0] != result.path or result.number == 0:
                self._close_video()
                self._source = (result.path, self._stems.of_video(result.name))
            name = self._source[1]
            if self._pictures:
                self._frame(self.folder / name, result)
        stem = Path(name).stem
        each = stem if result.number is None else f"{stem}_{result.number}"
        if self._labels:
            self._label(self.folder / "labels" / f"{each}.txt", result)
        if self._crops:
            result.save_crop(self.folder / "crops", f"{each}.jpg")
        if self._frames and result.number is not None:
            write_image(self.folder / f"{stem}_frames" / f"{result.number}.jpg", result.plot(**self._drawing))
        return name

    def finish(self, tail: Mapping[str, Any]) -> None:
        """Complete the JSON document with ``tail``."""
        if self._document is not None:
            self._document.write(('{"images": [' if self._items == 0 else "\n") + "],\n")
            self._document.write(json.dumps(dict(tail), indent=1)[1:].lstrip() + "\n")

    def _picture(self, path: Path, result: Result) -> None:
        if result.path and path.exists() and Path(result.path).exists() and path.samefile(result.path):
            raise EdgesegError("this would overwrite its own source", path=path, hint="Choose another folder with --out")
        write_image(path, result.plot(**self._drawing))
        self.written += 1

    def _frame(self, path: Path, result: Result) -> None:
        """Append to the video of the same source; a first frame begins a new file."""
        image = result.plot(**self._drawing)
        if self._video is None:
            if shutil.disk_usage(path.parent).free < 1_000_000:
                raise EdgesegError("the disk is full", path=path, hint="Free some space or choose another folder with --out")
            size = (image.shape[1], image.shape[0])
            writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), result.fps or 30.0, size)
            if not writer.isOpened():
                raise EdgesegError("the video cannot be written", path=path, hint="Is the folder writable?")
            self._video = writer
            self.written += 1
        self._video.write(np.ascontiguousarray(image))

    def _label(self, file: Path, result: Result) -> None:
        file.parent.mkdir(exist_ok=True)
        file.write_text("".join(f"{line}\n" for line in result.detections.to_yolo(scores=self._scores)), encoding="utf-8")

    def _close_video(self) -> None:
        if self._video is not None:
            with contextlib.suppress(cv2.error):
                self._video.release()
            self._video = None


class Stems:
    """File names whose stems no other image, video or frame (``<stem of the video>_<number>``) of this run has.

    Capital and small letters count as equal, since some file systems know no difference.
    """

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._videos: set[str] = set()
        self._like_frames: set[str] = set()

    def of_image(self, name: str) -> str:
        """A free name for an image."""
        return self._free(name, self._is_frame)

    def of_video(self, name: str) -> str:
        """A free name for a video, and with it for all its frames."""
        name = self._free(name, self._like_frames.__contains__)
        self._videos.add(Path(name).stem.casefold())
        return name

    def _is_frame(self, stem: str) -> bool:
        before, _, number = stem.rpartition("_")
        return number.isdecimal() and before in self._videos

    def _free(self, name: str, barred: Callable[[str], bool]) -> str:
        stem, suffix = os.path.splitext(name)
        number, free = 2, stem
        while free.casefold() in self._taken or barred(free.casefold()):
            free, number = f"{stem}-{number}", number + 1  # with _ it could be a frame's name again
        self._taken.add(free.casefold())
        before, _, after = free.casefold().rpartition("_")
        if after.isdecimal():
            self._like_frames.add(before)
        return free + suffix
