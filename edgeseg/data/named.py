"""Datasets known by name: downloaded into the cache on first use, complete or not at all."""

from __future__ import annotations

import os
import shutil
import stat
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import yaml

from edgeseg.errors import EdgesegError
from edgeseg.resources import cache_root
from edgeseg.store import lock, make_folder, making, write_atomically

ASSETS = "https://github.com/ultralytics/assets/releases/download/v0.0.0/"
COCO = "http://images.cocodataset.org/"

COCO80_NAMES = tuple(Path(__file__).with_name("coco80.txt").read_text(encoding="utf-8").splitlines())
"""The 80 classes of COCO in the order of their category ids."""


@dataclass(frozen=True)
class Named:
    """A dataset on the internet: one archive with images and labels, or (``convert``) COCO's own archives by split."""

    train: str
    val: str
    archive: str = ""
    archives: tuple[tuple[str, str], ...] = ()
    convert: str = ""
    size: str = ""


NAMED: dict[str, Named] = {
    "coco8-seg": Named("images/train", "images/val", f"{ASSETS}coco8-seg.zip", size="1 MB"),
    "coco128-seg": Named("images/train2017", "images/train2017", f"{ASSETS}coco128-seg.zip", size="7 MB"),
    "coco": Named(
        "images/train2017",
        "images/val2017",
        archives=(("train", f"{COCO}zips/train2017.zip"), ("val", f"{COCO}zips/val2017.zip")),
        convert=f"{COCO}annotations/annotations_trainval2017.zip",
        size="19 GB (train), 1 GB (val)",
    ),
}
"""The named datasets."""


def prepare(name: str) -> tuple[Path, dict[str, tuple[Path, ...]]]:
    """The YAML file of the dataset called ``name``, written into the cache, and its splits; nothing is downloaded yet.

    Raises:
        EdgesegError: the cache folder cannot be written.
    """
    entry, root = NAMED[name], cache_root() / "datasets" / name
    file = root.parent / f"{name}.yaml"
    body = {"path": name, "train": entry.train, "val": entry.val, "names": dict(enumerate(COCO80_NAMES))}
    text = f"# Written by edgeseg. Download: {entry.size}\n" + yaml.safe_dump(body, sort_keys=False)
    try:
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            make_folder(root.parent)
            write_atomically(file, text)
    except OSError as e:
        what = f"cannot be written ({e.strerror or e})"
        raise EdgesegError(what, path=file, hint="Set EDGESEG_HOME to another folder") from e
    return file, {"train": (root / entry.train,), "val": (root / entry.val,)}


def fetch(name: str, splits: Sequence[str] = ("train", "val")) -> Path:
    """Download what is missing of a named dataset's ``splits`` and return its folder.

    Raises:
        EdgesegError: offline, a broken archive, or no room on the disk.
    """
    entry, root = NAMED[name], cache_root() / "datasets" / name
    if entry.archive:
        if not root.is_dir():
            _fetch_archive(entry.archive, root, name)
        return root
    for split in splits:
        url = dict(entry.archives).get(split)
        if url is None:
            known = ", ".join(s for s, _ in entry.archives)
            raise EdgesegError(f"{name} has no split {split!r}", hint=f"It has: {known}")
        folder = root / str(getattr(entry, split))
        if folder.is_dir():
            continue
        annotations = root / "annotations"
        if not annotations.is_dir():
            _fetch_archive(entry.convert, annotations, f"{name} annotations")
        from edgeseg.data.coco import read_coco
        from edgeseg.data.convert import write_split

        labels = root / "labels" / folder.name
        if not labels.is_dir():
            write_split(read_coco(annotations / f"instances_{folder.name}.json"), labels, COCO80_NAMES)
        # The images come last: their folder is the sign that the split is complete.
        _fetch_archive(url, folder, f"{name} {split}")
    return root


def _fetch_archive(url: str, folder: Path, label: str) -> None:
    """Download a ZIP and make ``folder`` from it in one step; a single folder at its top is left out."""
    from edgeseg.download import download

    make_folder(folder.parent)
    archive = make_folder(cache_root() / "downloads") / url.rsplit("/", 1)[1]
    with lock(f"dataset-{archive.name}"):
        if folder.is_dir():  # another process was faster
            return
        if not archive.is_file():
            download(url, archive, label=label)
        try:
            with making(folder) as part:
                extract(archive, part)
                top = list(part.iterdir())
                if len(top) == 1 and top[0].is_dir() and top[0].name != "images":
                    os.rename(top[0], aside := part / f".{top[0].name}")
                    for one in aside.iterdir():
                        os.rename(one, part / one.name)
                    aside.rmdir()
        except OSError as e:
            what = f"cannot be unpacked ({e.strerror or e})"
            raise EdgesegError(what, path=archive, hint="Make room, then run it again") from e
        archive.unlink(missing_ok=True)


def extract(archive: Path, folder: Path) -> None:
    """Unpack a ZIP below ``folder``; nothing in it may point outside, and links are refused.

    Raises:
        EdgesegError: no ZIP, a damaged one (it is removed, so that the next run downloads it again), or an unsafe member.
    """
    try:
        with zipfile.ZipFile(archive) as z:
            folder.mkdir(parents=True, exist_ok=True)
            for member in z.infolist():
                name = PurePosixPath(member.filename.replace("\\", "/"))
                if name.is_absolute() or ".." in name.parts or ":" in (name.parts or ("",))[0]:
                    what = f"the archive holds an unsafe path ({member.filename})"
                    raise EdgesegError(what, path=archive, hint="Delete it")
                if stat.S_ISLNK(member.external_attr >> 16):
                    raise EdgesegError(f"the archive holds a link ({member.filename})", path=archive, hint="Delete it")
                if "__MACOSX" in name.parts:
                    continue
                target = folder.joinpath(*name.parts)
                if member.is_dir():
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                with z.open(member) as source, open(target, "wb") as out:
                    shutil.copyfileobj(source, out, 1 << 20)
    except (zipfile.BadZipFile, EOFError, RuntimeError) as e:
        archive.unlink(missing_ok=True)
        raise EdgesegError("the archive is damaged and was removed", path=archive, hint="Run the command again") from e
