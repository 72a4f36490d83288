"""Datasets as a YAML file describes them: where the images of each split lie, the class names, optional COCO annotations."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgeseg.data.images import SUFFIXES, find_images
from edgeseg.data.labels import class_names
from edgeseg.errors import EdgesegError, brief
from edgeseg.resources import cache_root
from edgeseg.store import read_bounded
from edgeseg.yaml_file import load_yaml

MOST_BYTES = 1 << 28  # of a list of images
SPLITS = ("train", "val", "test")
EXAMPLE = "It needs: path, train, val and names, as in the README"


@dataclass(frozen=True)
class Dataset:
    """Where images, labels and annotations are. Nothing is read before it is asked for.

    ``path`` is the dataset's folder, ``names[i]`` the name of class i, ``yaml`` the file that says so. ``splits`` holds for
    each split its folders and ``.txt`` lists. ``annotation_files`` holds COCO JSON files by split; None there means
    that none is looked for. ``boxes``: whether an object may have a box and no outline. ``named`` is set for
    a dataset whose missing parts can be downloaded. ``warnings``: what people should look at in the YAML. ``link`` is what
    the YAML has under ``download``, for people: nothing strange is downloaded or run.
    """

    path: Path
    names: tuple[str, ...]
    yaml: Path
    splits: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    annotation_files: Mapping[str, Path | None] = field(default_factory=dict)
    named: str | None = None
    warnings: tuple[str, ...] = ()
    boxes: bool = False
    link: str = ""

    def for_task(self, task: str) -> Dataset:
        """The same for networks of this task: to ``detect``, objects may be boxes, in place of outlines or beside them."""
        return replace(self, boxes=task == "detect")

    @property
    def nc(self) -> int:
        """Number of classes."""
        return len(self.names)

    def images(self, split: str) -> list[Path]:
        """All images of a split, sorted within each folder, in the order of each list; a named dataset is downloaded first.

        Raises:
            EdgesegError: no such split, a folder that is missing or holds no image, a list that is empty.
        """
        found: list[Path] = []
        for source in self._sources(split):
            if source.suffix.lower() == ".txt":
                found += self._listed(source)
            elif set("*?[") & set(str(source)) and not source.exists():
                found += self._matching(source, split)
            elif source.suffix.lower() in SUFFIXES and not source.is_dir():
                found.append(source)
            else:
                found += self._in_folder(source, split)
        return list(dict.fromkeys(found))

    def label_path(self, image: Path) -> Path:
        """The label file of an image: the last folder called ``images`` becomes ``labels``, the suffix ``.txt``.

        Where no folder is called ``images``, the label lies beside the image.
        """
        parts = list(image.parts)
        for i in range(len(parts) - 2, -1, -1):
            if parts[i] == "images":
                parts[i] = "labels"
                break
        return Path(*parts).with_suffix(".txt")

    def annotations(self, split: str) -> Path | None:
        """The COCO JSON file of a split: the YAML's ``annotations``, else ``annotations/instances_<split folder>.json``.

        Raises:
            EdgesegError: the YAML names a file that does not exist.
        """
        if split in self.annotation_files:
            file = self.annotation_files[split]
            if file is not None and not file.is_file():
                what = "the COCO annotations are missing"
                raise EdgesegError(what, path=file, hint=f"{self.yaml} names this file: correct or remove it")
            return file
        words = [s.stem if s.suffix == ".txt" else s.name for s in self.splits.get(split, ())]
        for word in words if len(words) == 1 else []:
            for name in (word, split):
                file = self.path / "annotations" / f"instances_{name}.json"
                if file.is_file():
                    return file
        return None

    def _sources(self, split: str) -> tuple[Path, ...]:
        if split not in self.splits:
            what = f"the dataset has no split {split!r}"
            raise EdgesegError(what, path=self.yaml, hint=f"It has: {', '.join(self.splits) or 'none'}")
        if self.named and any(not s.exists() for s in self.splits[split]):
            from edgeseg.data.named import fetch

            fetch(self.named, (split,))
        return self.splits[split]

    def _matching(self, pattern: Path, split: str) -> list[Path]:
        places = sorted(Path(p) for p in glob.iglob(str(pattern), recursive=True))
        if not places:
            hint = f"Correct `path` and `{split}` in {self.yaml}"
            raise EdgesegError(f"nothing matches the pattern of split {split!r}", path=pattern, hint=hint)
        folders = [image for p in places if p.is_dir() for image in find_images(p)]
        return folders + [p for p in places if p.suffix.lower() in SUFFIXES and p.is_file()]

    def _in_folder(self, folder: Path, split: str) -> list[Path]:
        if not folder.exists():
            first = f"Download and unpack {self.link}" if self.link else "Put the images there"
            hint = f"{first}, or correct `path` and `{split}` in {self.yaml}"
            raise EdgesegError(f"the image folder of split {split!r} is missing", path=folder, hint=hint)
        return find_images(folder)

    def _listed(self, file: Path) -> list[Path]:
        try:
            lines = [line.strip() for line in read_bounded(file, MOST_BYTES).decode("utf-8-sig").splitlines()]
        except (OSError, UnicodeDecodeError) as e:
            raise EdgesegError("the list of images cannot be read", path=file, hint=f"Correct it in {self.yaml}") from e
        images = []
        for line in lines:
            if not line or line.startswith("#"):
                continue
            image = _slashed(line)
            if not image.is_absolute():
                inside = self.path / image
                # Lists are written relative to themselves ("./...") or to the dataset's folder.
                image = inside if not line.startswith("./") and inside.exists() else file.parent / image
            images.append(image)
        if not images:
            raise EdgesegError("the list of images is empty", path=file, hint="One image path a line")
        if not any(image.exists() for image in images):
            what = f"none of the {len(images)} listed images exists (the first: {images[0]})"
            hint = "Paths in it are relative to the dataset's folder, or with ./ to the list itself"
            raise EdgesegError(what, path=file, hint=hint)
        return images


def load_dataset(name_or_yaml: str | os.PathLike[str]) -> Dataset:
    """Read a dataset's YAML file, or find one of the named datasets.

    ``path`` in the YAML is looked for beside the file, then in the current folder, then in the cache's ``datasets`` folder;
    without ``path`` the splits are relative to the file. ``names`` is a list, or a mapping from 0, 1, 2, ... to names;
    ``nc`` may repeat how many there are. ``annotations`` is one COCO JSON file, a mapping from splits to files, or false.

    Args:
        name_or_yaml: path of a YAML file, or ``coco8-seg``, ``coco128-seg``, ``coco`` (with or without ``.yaml``; a file of
            that name comes first). A named dataset is downloaded when its images are asked for.

    Raises:
        EdgesegError: no such file or name, no valid YAML, no names, no splits, or ``nc`` that contradicts ``names``.
    """
    from edgeseg.data import named

    file = Path(name_or_yaml).expanduser()
    if file.is_dir():
        inside = sorted([*file.glob("*.yaml"), *file.glob("*.yml")])
        if len(inside) != 1:
            raise EdgesegError("a dataset is given by its YAML file, this is a folder", path=file, hint="Use data=FILE.yaml")
        file = inside[0]
    if not file.is_file():
        key = file.name.removesuffix(".yaml")
        if key in named.NAMED and (len(file.parts) == 1):
            written, splits = named.prepare(key)
            return Dataset(written.with_suffix(""), read_yaml(written).names, written, splits, named=key)
        what = "no such dataset"
        raise EdgesegError(what, path=name_or_yaml, hint=f"Give a YAML file, or one of: {', '.join(named.NAMED)}")
    return read_yaml(file)


def pictures(name_or_folder: str | os.PathLike[str], split: str = "val") -> tuple[list[Path], Dataset | None]:
    """The images to look at and the dataset that they belong to: of a dataset (see ``load_dataset``), or of a plain folder.

    Raises:
        EdgesegError: no such dataset, split or folder, or no image in it.
    """
    folder = Path(name_or_folder).expanduser()
    if folder.is_dir() and not [*folder.glob("*.yaml"), *folder.glob("*.yml")]:
        return find_images(folder), None
    if folder.suffix.lower() in SUFFIXES and folder.is_file():
        return [folder], None
    dataset = load_dataset(name_or_folder)
    return dataset.images(split), dataset


def read_yaml(file: Path) -> Dataset:
    """Read one dataset YAML file (see ``load_dataset``)."""
    changed: list[str] = []

    def on_text(written: str, value: Any) -> None:
        changed.append(f"the class name {written} is {brief(value)} to YAML: taken as written, quote it for other tools")

    raw = load_yaml(file, text="names", on_text=on_text, hint=EXAMPLE)
    if not isinstance(raw, dict):
        raise EdgesegError("no dataset: the YAML is no mapping", path=file, hint=EXAMPLE)
    names = class_names(raw, file)
    root = _root(raw.get("path"), file)
    splits = {s: _split(raw[s], root, file, s) for s in SPLITS if raw.get(s)}
    if not splits:
        raise EdgesegError("the dataset has neither train nor val", path=file, hint=EXAMPLE)
    annotations = _annotations(raw.get("annotations"), splits, root, file)
    link = raw.get("download")
    link = link.strip() if isinstance(link, str) and re.fullmatch(r"https?://[^\s]{1,300}", link.strip()) else ""
    return Dataset(root, names, file, splits, annotations, warnings=tuple(changed[:5]), link=link)


def _root(path: Any, file: Path) -> Path:
    here = file.parent
    if path is None:
        return here
    if not isinstance(path, str):
        raise EdgesegError("path is no text", path=file, hint="path is the dataset's folder")
    root = _expanded(path, file)
    places = [here / root, root, cache_root() / "datasets" / root]
    return next((p for p in places if p.is_dir()), places[0])


def _split(value: Any, root: Path, file: Path, split: str) -> tuple[Path, ...]:
    entries = value if isinstance(value, list) else [value]
    if not all(isinstance(e, str) for e in entries):
        raise EdgesegError(f"{split} is neither a folder nor a list of folders", path=file, hint=EXAMPLE)
    return tuple(_below(root, e, file) for e in entries)


def _below(root: Path, entry: str, file: Path) -> Path:
    """The place that an entry means: below the dataset's folder, else beside the YAML.

    ``../train/images`` as Roboflow writes it means a folder beside the YAML, one level lower than it says.
    """
    path, here = _expanded(entry, file), file.parent
    if path.is_absolute():
        return path
    places = [root / path, here / path]
    if path.parts[:1] == ("..",):
        lower = Path(*path.parts[1:])
        places += [root / lower, here / lower]
    return next((p for p in places if p.exists()), places[0])


def _slashed(entry: str) -> Path:
    """The path that an entry means, which may have been written under Windows."""
    path = Path(entry)
    return Path(entry.replace("\\", "/")) if "\\" in entry and not path.exists() else path


def _expanded(entry: str, file: Path) -> Path:
    try:
        path = _slashed(entry).expanduser()
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return path
    except (RuntimeError, ValueError, OSError) as e:  # ~nobody, a zero byte, a name of a thousand letters
        raise EdgesegError(f"{brief(entry)} is no path ({brief(str(e))})", path=file, hint=EXAMPLE) from e
    return path


def _annotations(value: Any, splits: Mapping[str, tuple[Path, ...]], root: Path, file: Path) -> dict[str, Path | None]:
    if value is None:
        return {}
    if value is False:
        return dict.fromkeys(splits)
    if isinstance(value, str):
        return {s: _below(root, value, file) for s in splits}
    if isinstance(value, dict) and all(isinstance(v, str) or v is False for v in value.values()):
        return {str(s): _below(root, v, file) if v else None for s, v in value.items()}
    what = "annotations is neither a file nor a mapping of splits to files"
    raise EdgesegError(what, path=file, hint="Write for example: annotations: {val: annotations/instances_val.json}")
