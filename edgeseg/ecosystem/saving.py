"""Results as one dataset file of a labelling or viewing tool, written as they come.

``FORMATS`` has the tools. The memory that this takes does not grow with the number of images, and the file takes its name
when it is complete.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from edgeseg.ecosystem.cvat import Cvat
from edgeseg.ecosystem.fiftyone import FiftyOne
from edgeseg.ecosystem.labelstudio import LabelStudio
from edgeseg.errors import EdgesegError, did_you_mean
from edgeseg.predict.result import Result, write_image
from edgeseg.store import disk_error, write_atomically, writing

_Writer = FiftyOne | LabelStudio | Cvat
FORMATS: Mapping[str, type[_Writer]] = {"fiftyone": FiftyOne, "labelstudio": LabelStudio, "cvat": Cvat}


class SavedAs:
    """A dataset file that is filled result by result; use it as a context manager, so that it is completed.

    Images without detections are in it. A frame or an array, which is no file that the tool could show, is written as a
    picture into ``frames/`` beside it where the tool needs one. After an exception there is no file.

    Args:
        format: one of ``FORMATS``.
        folder: where the file goes; called when the first result comes.
        model: what the tool shall call the model.

    Raises:
        EdgesegError: there is no such format; later, the disk is full or the folder cannot be written to.
    """

    def __init__(self, format: str, folder: Callable[[], Path] | str | Path, model: str = "edgeseg") -> None:
        if format not in FORMATS:
            hint = did_you_mean(format, FORMATS, f"Use one of: {', '.join(FORMATS)}")
            raise EdgesegError(f"results cannot be saved as {format!r}", hint=hint)
        self._kind, self._folder, self._model = FORMATS[format], folder, model
        self._stack = ExitStack()
        self._writer: _Writer | None = None
        self._count = 0
        self.path: Path | None = None

    def __enter__(self) -> SavedAs:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            self._stack.__exit__(kind, error, trace)
            return
        try:
            with self._stack:
                if self._writer is not None:
                    self._writer.close()
            if self._writer is not None and self.path is not None:
                for name, text in self._writer.beside.items():
                    write_atomically(self.path.parent / name, text)
        except OSError as e:
            raise self._plain(e) from e

    def write(self, result: Result) -> None:
        """Append the detections of one image."""
        try:
            if self._writer is None:
                self._writer = self._open(result)
            self._writer.add(result, self._picture(result) if self._writer.shows else "")
        except OSError as e:
            raise self._plain(e) from e
        self._count += 1

    def _open(self, first: Result) -> _Writer:
        folder = self._folder() if callable(self._folder) else Path(self._folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / self._kind.file
        out = self._stack.enter_context(writing(self.path))
        return self._kind(out, first.detections, self._model, self._stack)

    def _picture(self, result: Result) -> str:
        """Path or URL of the picture, which is written where there is none."""
        if result.number is None and (result.path.startswith(("http://", "https://")) or os.path.isfile(result.path)):
            return result.path if "://" in result.path else os.path.abspath(result.path)
        frames = (self.path or Path()).parent.absolute() / "frames"
        frames.mkdir(exist_ok=True)
        write_image(place := frames / f"{self._count:06d}.jpg", result.image)
        return str(place)

    def _plain(self, e: OSError) -> EdgesegError:
        return disk_error(e, self.path or Path())
