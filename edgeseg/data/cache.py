"""What is known of a split without opening its files again: labels on disk, images in memory or on disk."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeseg.data.dataset import Dataset
from edgeseg.data.images import read_image, reduced
from edgeseg.data.inventory import Inventory
from edgeseg.data.labels import read_label_file
from edgeseg.errors import EdgesegError
from edgeseg.resources import cache_root
from edgeseg.store import make_folder, writing

_VERSION = 2
_DIGEST = hashlib.sha256().digest_size
IMAGE_CACHES = ("none", "ram", "disk")


@dataclass(frozen=True, eq=False)
class Record:
    """One good image: file, (height, width) in pixels, and its objects: classes (n,) int64 and outlines (k, 2) in 0..1.

    ``dropped``: rows of its label file that were left out, repeated ones and those without area.
    """

    path: Path
    shape: tuple[int, int]
    classes: np.ndarray
    outlines: tuple[np.ndarray, ...]
    dropped: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Scan:
    """All images of a split. ``skipped`` says of each unreadable image why; ``background`` counts those without objects."""

    records: tuple[Record, ...]
    skipped: tuple[str, ...]
    reused: int = 0

    @property
    def background(self) -> int:
        """Images without objects."""
        return sum(not len(r.classes) for r in self.records)

    @property
    def instances(self) -> int:
        """Objects of all images."""
        return sum(len(r.classes) for r in self.records)

    @property
    def inventory(self) -> Inventory:
        """What is there, counted; label files of no image are not looked for."""
        repeated, flat = (sum(r.dropped[i] for r in self.records) for i in (0, 1))
        return Inventory(len(self.records), self.instances, self.background, repeated, flat)


def fingerprint(path: Path) -> tuple[int, int]:
    """Size and modification time (ns) of a file, (-1, -1) when it is not there."""
    try:
        s = path.stat()
    except OSError:
        return (-1, -1)
    return (s.st_size, s.st_mtime_ns)


def scan(
    dataset: Dataset, split: str, *, folder: Path | None = None, progress: Callable[[int, int], None] | None = None
) -> Scan:
    """Read all labels of a split and open every image once; what has not changed since the last time is not read again.

    Args:
        dataset, split: what to read.
        folder: where to remember (default: the cache folder). A folder that cannot be written to is no error.
        progress: called with (done, all).

    Raises:
        EdgesegError: a label file with an error (file and line), or no readable image at all.
    """
    images = dataset.images(split)
    said = f"{_VERSION}|{dataset.yaml.resolve()}|{split}|{dataset.nc}{'|boxes' if dataset.boxes else ''}"
    key = hashlib.sha256(said.encode()).hexdigest()[:24]
    file = (folder or cache_root() / "labels") / f"{key}.npz"
    known = _load(file)
    marks = {p: (*fingerprint(p), *fingerprint(dataset.label_path(p))) for p in images}
    fresh = [p for p in images if str(p) not in known or known[str(p)][0] != marks[p]]
    found: dict[Path, Record | str] = {
        p: known[str(p)][1] for p in images if str(p) in known and known[str(p)][0] == marks[p]
    }
    with ThreadPoolExecutor(max(1, min(16, os.cpu_count() or 1))) as pool:
        for done, (path, record) in enumerate(zip(fresh, pool.map(lambda p: _read(dataset, p), fresh)), 1):
            found[path] = record
            if progress:
                progress(done, len(fresh))
    if fresh:
        _store(file, [(p, marks[p], found[p]) for p in images])
    ordered = [found[p] for p in images]
    records = tuple(r for r in ordered if isinstance(r, Record))
    skipped = tuple(r for r in ordered if isinstance(r, str))
    if not records:
        raise EdgesegError(
            f"none of the {len(images)} images of split {split!r} can be read",
            path=dataset.yaml,
            hint=skipped[0] if skipped else "",
        )
    return Scan(records, skipped, len(images) - len(fresh))


def _read(dataset: Dataset, path: Path) -> Record | str:
    file = read_label_file(dataset.label_path(path), dataset.nc, dataset.boxes)
    try:
        shape = read_image(path).shape
    except EdgesegError as e:
        return str(e)
    classes = np.array([label.cls for label in file.labels], np.int64)
    outlines = tuple(label.polygon for label in file.labels)
    return Record(path, (shape[0], shape[1]), classes, outlines, (file.repeated, file.flat))


Mark = tuple[int, int, int, int]


def _store(file: Path, entries: Sequence[tuple[Path, Mark, Record | str]]) -> None:
    outlines = [o for _, _, r in entries if isinstance(r, Record) for o in r.outlines]
    arrays = {
        "path": np.array([str(p) for p, _, _ in entries]),
        "mark": np.array([m for _, m, _ in entries], np.int64),
        "error": np.array([r if isinstance(r, str) else "" for _, _, r in entries]),
        "shape": np.array([r.shape if isinstance(r, Record) else (0, 0) for _, _, r in entries], np.int64),
        "count": np.array([len(r.classes) if isinstance(r, Record) else 0 for _, _, r in entries], np.int64),
        "classes": np.array([c for _, _, r in entries if isinstance(r, Record) for c in r.classes], np.int64),
        "dropped": np.array([r.dropped if isinstance(r, Record) else (0, 0) for _, _, r in entries], np.int64).reshape(
            -1, 2
        ),
        "points": np.array([len(o) for o in outlines], np.int64),
        "outlines": np.concatenate(outlines) if outlines else np.zeros((0, 2), np.float32),
    }
    with contextlib.suppress(OSError, EdgesegError):
        make_folder(file.parent)
        content = io.BytesIO()
        np.savez(content, **arrays)  # type: ignore[arg-type]
        with writing(file) as f:
            f.write(hashlib.sha256(content.getbuffer()).digest())
            f.write(content.getbuffer())


def _load(file: Path) -> dict[str, tuple[Mark, Record | str]]:
    """What was stored, {} where it is not there or one byte of it is not as it was written."""
    try:
        content = memoryview(file.read_bytes())
        if hashlib.sha256(content[_DIGEST:]).digest() != content[:_DIGEST]:
            return {}
        with np.load(io.BytesIO(content[_DIGEST:]), allow_pickle=False) as z:
            a = {k: z[k] for k in z.files}
        outlines = np.split(a["outlines"], np.cumsum(a["points"])[:-1]) if len(a["points"]) else []
        known: dict[str, tuple[Mark, Record | str]] = {}
        at = 0
        for path, mark, error, shape, count, dropped in zip(
            a["path"], a["mark"].tolist(), a["error"], a["shape"].tolist(), a["count"].tolist(), a["dropped"].tolist()
        ):
            classes, own = a["classes"][at : at + count], tuple(outlines[at : at + count])
            mine = Record(Path(str(path)), (shape[0], shape[1]), classes, own, (dropped[0], dropped[1]))
            known[str(path)] = (tuple(mark), str(error) or mine)
            at += count
        return known
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return {}


class ImageCache:
    """Images reduced to what training can use, read once.

    An image is reduced (never enlarged) so that its longer side has ``side`` pixels. ``ram`` keeps it in memory, ``disk``
    as a plain array file that is mapped; ``none`` reads the file each time. A file that has changed is read again.

    Args:
        side: pixels. kind: ``none``, ``ram`` or ``disk``. folder: for ``disk`` (default: the cache folder).
    """

    def __init__(self, side: int, kind: str = "none", folder: Path | None = None) -> None:
        if kind not in IMAGE_CACHES:
            raise EdgesegError(f"image cache {kind!r} is none of {', '.join(IMAGE_CACHES)}")
        self.side, self.kind = side, kind
        self.folder = folder or cache_root() / "images"
        self._kept: dict[Path, tuple[tuple[int, int], np.ndarray]] = {}

    def get(self, path: Path) -> np.ndarray:
        """The reduced image, uint8 BGR (h, w, 3); do not write into it.

        Raises:
            EdgesegError: the image cannot be read.
        """
        if self.kind == "none":
            return self._reduced(path)
        mark = fingerprint(path)
        if self.kind == "disk":
            return self._from_disk(path, mark)
        kept = self._kept.get(path)
        if kept is None or kept[0] != mark:
            kept = self._kept[path] = (mark, self._reduced(path))
        return kept[1]

    def fill(self, records: Iterable[Record]) -> None:
        """Read everything now, so that worker processes share one copy; does nothing without a cache.

        Raises:
            EdgesegError: the images do not fit in the free memory.
        """
        records = list(records)
        if self.kind == "ram":
            import psutil  # an extra of training

            needed = sum(int(np.prod(self._size(r.shape))) * 3 for r in records)
            free = psutil.virtual_memory().available
            if needed > 0.8 * free:
                raise EdgesegError(
                    f"the images take {needed / 2**30:.1f} GiB, only {free / 2**30:.1f} GiB of memory are free",
                    hint="Use cache=disk",
                )
        if self.kind != "none":
            with ThreadPoolExecutor(max(1, min(8, os.cpu_count() or 1))) as pool:
                list(pool.map(lambda r: self.get(r.path) is None, records))

    def _size(self, shape: tuple[int, int]) -> tuple[int, int]:
        ratio = min(1.0, self.side / max(shape))
        return max(1, round(shape[0] * ratio)), max(1, round(shape[1] * ratio))

    def _reduced(self, path: Path) -> np.ndarray:
        return reduced(read_image(path), self.side)

    def _from_disk(self, path: Path, mark: tuple[int, int]) -> np.ndarray:
        key = hashlib.sha256(f"{_VERSION}|{path.resolve()}|{mark}|{self.side}".encode()).hexdigest()[:32]
        file = self.folder / key[:2] / f"{key}.npy"
        kept = _mapped(file)
        if kept is not None:
            return kept
        image = self._reduced(path)
        with contextlib.suppress(OSError, EdgesegError):
            make_folder(file.parent)
            with writing(file) as f:
                np.save(f, image)
                f.write(zlib.crc32(image.data).to_bytes(4, "little"))
        return image


def _mapped(file: Path) -> np.ndarray | None:
    """The image of a ``disk`` cache file, mapped; None where it is not there or damaged."""
    try:
        image = np.load(file, mmap_mode="r", allow_pickle=False)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            return None
        end = image.offset + image.nbytes
        with open(file, "rb") as f:
            f.seek(end)
            mark = f.read(5)
        return image if mark == zlib.crc32(image.data).to_bytes(4, "little") else None
    except (OSError, ValueError, EOFError, SyntaxError, TypeError, OverflowError, MemoryError):
        return None
