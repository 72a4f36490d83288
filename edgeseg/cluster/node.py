"""What runs on a node: a job of the graph, and images of a validation. Ray imports this module there."""

from __future__ import annotations

import io
import os
import platform
import tarfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgeseg.environments.process import Ended
from edgeseg.errors import EdgesegError, attempted
from edgeseg.export.cache import scratch
from edgeseg.export.job import Job
from edgeseg.export.performing import Here, Task
from edgeseg.store import make_folder


def facts() -> dict[str, str]:
    """What must be the same everywhere: these decide what a step makes."""
    from edgeseg import __version__
    from edgeseg.export.cache import core_hash

    python = ".".join(platform.python_version_tuple()[:2])
    return {"edgeseg": __version__, "its code": core_hash(True)[:12], "Python": python, "processor": platform.machine()}


def packed(folder: Path, names: Sequence[str]) -> bytes:
    """Files and folders of ``folder`` as one archive, without times and owners."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in names:
            for file in sorted(p for p in (folder / name).rglob("*") if p.is_file()):
                info = tarfile.TarInfo(file.relative_to(folder).as_posix())
                info.size, info.mode = file.stat().st_size, 0o644
                archive.addfile(info, io.BytesIO(file.read_bytes()))
    return stream.getvalue()


def unpack(archive: bytes, folder: Path) -> None:
    """Write the files of ``packed`` into ``folder``."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as found:
        found.extraction_filter = getattr(tarfile, "data_filter", None)  # lacking in the first releases of Python 3.10
        found.extractall(folder)


@dataclass(frozen=True)
class Shipped:
    """A task on its way to a node: ``job`` as JSON with paths below ``place``, the files there, the names of pictures.

    ``date`` is the driver's ``SOURCE_DATE_EPOCH``, which makes files reproducible.
    """

    job: str
    place: str
    toolchain: str
    threads: int
    needs_mb: float
    offline: bool
    pictures: tuple[str, ...] = ()
    date: str = ""


@dataclass(frozen=True)
class Performed:
    """What came of it: how it ended, the toolchain, what lies in the task's folder, and the log."""

    ended: Ended
    toolchain: str
    files: bytes
    log: bytes
    error: tuple[str, str | None] | None = None


def perform(
    shipped: Shipped, files: bytes, pictures: Sequence[bytes], tell: Callable[[float, str], None], cancelled: threading.Event
) -> Performed:
    """Run one job here, in a scratch folder that is gone afterwards."""
    with scratch() as folder:
        place, log = folder / "task", folder / "log"
        unpack(files, place)
        job = _moved(Job.from_json(shipped.job), Path(shipped.place), place)
        make_folder(job.output.parent)
        make_folder(job.work)
        shown = [_write(place / "pictures" / name, data) for name, data in zip(shipped.pictures, pictures)]
        task = Task(replace(job, calibration=tuple(shown)), place, log, shipped.threads, shipped.needs_mb, shipped.offline)
        os.environ["OMP_NUM_THREADS"] = str(shipped.threads)  # Ray writes the task's number of cores there
        if shipped.date:
            os.environ["SOURCE_DATE_EPOCH"] = shipped.date
        try:
            _same_tools(job, shipped.toolchain)
            ended, used = Here()(task, tell, cancelled)
        except EdgesegError as e:
            return Performed(Ended(1, "", 0.0, ()), "", b"", b"", (e.what, e.hint))
        result = place / "result.json"
        if result.is_file():  # paths in it are those of the driver again
            result.write_text(result.read_text(encoding="utf-8").replace(str(place), shipped.place), encoding="utf-8")
            os.replace(result, make_folder(place / "out") / "result.json")
        return Performed(ended, used, packed(place, ["out"]), log.read_bytes() if log.is_file() else b"")


def _same_tools(job: Job, expected: str) -> None:
    from edgeseg.environments.toolchains import toolchain_of
    from edgeseg.export.performing import target_of

    found = pins(toolchain_of(target_of(job)))
    if found != expected:
        what = f"the packages that make {job.format} differ between the driver and {platform.node()}: {expected}, {found}"
        raise EdgesegError(what, hint="Install the same versions on every node")


def pins(toolchain: Any) -> str:
    """The versions that a toolchain's environment has where it runs in ours, else its own name."""
    return toolchain.id if toolchain.unmet() else str(sorted(toolchain.versions().items()))


def _write(file: Path, data: bytes) -> Path:
    make_folder(file.parent)
    file.write_bytes(data)
    return file


def _moved(job: Job, here: Path, there: Path) -> Job:
    """The job with its paths below ``there`` in place of ``here``."""

    def to(path: Path) -> Path:
        return there / path.relative_to(here)

    given = None if job.given is None else to(job.given)
    return replace(job, source=to(job.source), output=to(job.output), work=to(job.work), given=given)


class Looking:
    """An opened model that detects in pictures; lives as long as its actor.

    Args:
        name: of the model's file or folder.
        files: the model, as ``packed`` under ``model/``.
        options: of ``open_model``. size: the input's. settings: of ``Pipeline``.
    """

    def __init__(self, name: str, files: bytes, options: Mapping[str, Any], size: Any, settings: Mapping[str, Any]) -> None:
        import tempfile

        from edgeseg.running.open import open_model

        self._home = tempfile.TemporaryDirectory(prefix="edgeseg-")
        unpack(files, Path(self._home.name))
        opened = open_model(Path(self._home.name) / "model" / name, **options).sized(size)
        self._pipeline = opened.pipeline(**settings)

    def look(self, pictures: Sequence[tuple[str, bytes]]) -> list[dict[str, Any]]:
        """What is in each picture (path, content): ``told`` and ``speed``, or the ``error``."""
        return [self._one(path, data) for path, data in pictures]

    def _one(self, path: str, data: bytes) -> dict[str, Any]:
        from edgeseg.data.images import decode_image
        from edgeseg.evaluate.metrics import Told

        try:
            found = self._pipeline(decode_image(data, path=path))
        except EdgesegError as e:
            return {"error": e.what}
        return {"told": Told.of(found), "speed": dict(self._pipeline.speed)}


@dataclass(frozen=True)
class Beside:
    """What is compared: models (name, ``packed`` under ``model/``, options of opening), the reference first, at ``size``."""

    models: tuple[tuple[str, bytes, Mapping[str, Any]], ...]
    size: tuple[int, int] | None


def look_beside(beside: Beside, pictures: Sequence[tuple[Path, bytes | EdgesegError]], truth: Any) -> list[Any]:
    """``edgeseg.evaluate.parity.look`` at some pictures (path, content); the truth stays with the driver."""
    import tempfile

    from edgeseg.data.images import decode_image
    from edgeseg.evaluate.parity import look
    from edgeseg.running.open import open_model

    def read(path: Path, data: bytes | EdgesegError) -> Any:
        return data if isinstance(data, EdgesegError) else attempted(decode_image, data, path=path)

    with tempfile.TemporaryDirectory(prefix="edgeseg-") as home, ExitStack() as stack:
        opened = []
        for number, (name, files, options) in enumerate(beside.models):
            unpack(files, Path(home, str(number)))
            opened.append(stack.enter_context(open_model(Path(home, str(number), "model", name), **options)))
        seen = look(
            opened[0].sized(beside.size),
            opened[1:],
            ((p, read(p, data)) for p, data in pictures),
            truth,
        )
    for one in seen:
        if one.metrics is not None:
            one.metrics.truth = None  # type: ignore[assignment]
    return seen
