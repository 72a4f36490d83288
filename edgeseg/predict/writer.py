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


def next_run(kind: str, root: Path | None = None) -> Path:
    """Create and return the next free folder ``runs/<kind>/exp``, ``exp2``, ``exp3`` ...; safe against a second process."""
    parent = (root or Path("runs")) / kind
    parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = parent / ("exp" if number == 1 else f"exp{number}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1


class Writer:
    """Writes results into a folder; use it as a context manager so that videos and JSON are completed.

    Args:
        folder: gives the folder for pictures and label files; called when the first of them is written, so that a run
            that reads nothing leaves no empty folder.
        pictures: write drawn images and videos.
        labels: write ``labels/<name>.txt`` in YOLO's polygon format.
        document: file for one JSON document.
    """

    def __init__(
        self, folder: Callable[[], Path], *, pictures: bool = True, labels: bool = False, document: IO[str] | None = None
    ) -> None:
        self._make, self._pictures, self._labels, self._document = folder, pictures, labels, document
        self.folder: Path | None = None
        self.written = 0
        self._names: set[str] = set()
        self._video: tuple[str, Path, cv2.VideoWriter] | None = None
        self._items = 0

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close_video()

    def write(self, result: Result) -> None:
        """Write whatever was asked for of one result."""
        if self._document is not None:
            self._document.write(('{"images": [\n' if self._items == 0 else ",\n") + json.dumps(result.to_dict()))
            self._items += 1
        if not (self._pictures or self._labels):
            return
        if self.folder is None:
            self.folder = self._make()
        name = result.name
        if result.number is None:
            name = self._free(name if Path(name).suffix.lower() in WRITABLE else f"{Path(name).stem}.png")
        if self._pictures:
            if result.number is None:
                self._picture(self.folder / name, result)
            else:
                self._frame(self.folder / name, result)
        if self._labels:
            self._label(self.folder / "labels", name, result)

    def finish(self, tail: Mapping[str, Any]) -> None:
        """Complete the JSON document with ``tail``."""
        if self._document is not None:
            self._document.write(('{"images": [' if self._items == 0 else "\n") + "],\n")
            self._document.write(json.dumps(dict(tail), indent=1)[1:].lstrip() + "\n")

    def _free(self, name: str) -> str:
        """A file name that no earlier result of this run has."""
        stem, suffix = os.path.splitext(name)
        number, free = 2, name
        while free in self._names:
            free, number = f"{stem}_{number}{suffix}", number + 1
        self._names.add(free)
        return free

    def _picture(self, path: Path, result: Result) -> None:
        if result.path and path.exists() and Path(result.path).exists() and path.samefile(result.path):
            raise EdgesegError("this would overwrite its own source", path=path, hint="Choose another folder with --out")
        write_image(path, result.plot())
        self.written += 1

    def _frame(self, path: Path, result: Result) -> None:
        """Append to the video of the same source; a first frame begins a new file."""
        image = result.plot()
        if self._video is None or self._video[0] != result.path or result.number == 0:
            self._close_video()
            path = path.with_name(self._free(path.name))
            if shutil.disk_usage(path.parent).free < 1_000_000:
                raise EdgesegError("the disk is full", path=path, hint="Free some space or choose another folder with --out")
            size = (image.shape[1], image.shape[0])
            writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), result.fps or 30.0, size)
            if not writer.isOpened():
                raise EdgesegError("the video cannot be written", path=path, hint="Is the folder writable?")
            self._video = (result.path, path, writer)
            self.written += 1
        self._video[2].write(np.ascontiguousarray(image))

    def _label(self, folder: Path, name: str, result: Result) -> None:
        folder.mkdir(exist_ok=True)
        number = "" if result.number is None else f"_{result.number}"
        lines = result.detections.to_yolo()
        text = lines if isinstance(lines, str) else "\n".join(lines)
        (folder / f"{Path(name).stem}{number}.txt").write_text(text + "\n" if text else "", encoding="utf-8")

    def _close_video(self) -> None:
        if self._video is not None:
            with contextlib.suppress(cv2.error):
                self._video[2].release()
            self._video = None
