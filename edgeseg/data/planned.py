"""What a conversion will do with one split: every check that can fail is here, before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeseg.data.coco import MAX_PIXELS, CocoFile, rle_size, short
from edgeseg.data.images import find_images
from edgeseg.data.placing import claimed, extent, find, fits, image_size, scaled
from edgeseg.errors import EdgesegError

Noted = dict[str, list[str]]

ORPHANS = "objects of no listed image"
NO_FILE = "listed images without a file"
BROKEN = "images that cannot be read"
NO_ENTRY = "files that are not listed"
MERGED = "images listed twice, joined"
SWAPPED = "images with width and height exchanged in the file"
SCALED = "images of another size in the file, scaled"


@dataclass(frozen=True)
class Entry:
    """One image: its id in ``coco.images``, its file below the folder, (height, width) of the picture and of coordinates."""

    key: int
    file: Path
    size: tuple[int, int]
    frame: tuple[int, int]


@dataclass
class Plan:
    """One split. ``whole``: the folder holds no other images. ``left_out`` and ``notes``: names by reason."""

    split: str
    coco: CocoFile
    folder: Path
    entries: list[Entry] = field(default_factory=list)
    whole: bool = True
    left_out: Noted = field(default_factory=dict)
    notes: Noted = field(default_factory=dict)

    def leave(self, reason: str, name: str) -> None:
        """Count something that is not written."""
        self.left_out.setdefault(reason, []).append(name)

    def note(self, reason: str, name: str) -> None:
        """Count something that was mended."""
        self.notes.setdefault(reason, []).append(name)


def plan(coco: CocoFile, folder: Path, split: str) -> Plan:
    """Find the images of a COCO file, compare sizes, and count what does not fit together.

    Raises:
        EdgesegError: images are nowhere, share a label file, or have sizes that do not explain the file's coordinates.
    """
    if not folder.is_dir():
        raise EdgesegError(f"the image folder of split {split!r} is missing", path=folder, hint="Give it with --images")
    made = Plan(split, coco, folder)
    for key, found in coco.annotations.items():
        if key not in coco.images:
            for a in found:
                made.leave(ORPHANS, short(a.get("id")))
    if coco.merged:
        made.notes[MERGED] = list(coco.merged)
    files = _find(made)
    made.folder, files = _below_images(made, files)
    _check_shared(made, files)
    _measure(made, files)
    _check_lengths(made)
    try:
        here = {p.relative_to(made.folder) for p in find_images(made.folder)}
    except EdgesegError:
        here = set()
    known = {e.file for e in made.entries}
    for file in sorted(here - known):
        made.leave(NO_ENTRY, file.as_posix())
    made.whole = here == known
    return made


def _find(made: Plan) -> dict[int, Path]:
    files: dict[int, Path] = {}
    names = {key: str(i["file_name"]) for key, i in made.coco.images.items()}
    for key, name in names.items():
        file = find(name, made.folder, made.coco.path)
        if file is None:
            made.leave(NO_FILE, name)
        else:
            files[key] = file
    if names and not files:
        what = f"{len(names)} of {len(names)} images are not in {made.folder} (the first: {next(iter(names.values()))})"
        raise EdgesegError(what, path=made.coco.path, hint="Give the folder that file_name is relative to with --images")
    return files


def _below_images(made: Plan, files: Mapping[int, Path]) -> tuple[Path, dict[int, Path]]:
    """Labels are sought by the last folder called ``images``, so there is to be none below the one that is linked."""

    def depth(file: Path) -> int:
        parts = file.parts[:-1]
        return max((k + 1 for k, part in enumerate(parts) if part == "images"), default=0)

    tops = {file.parts[: depth(file)] for file in files.values()}
    if len(tops) > 1:
        what = "some images lie below a folder called images, others do not, or below another"
        raise EdgesegError(what, path=made.folder, hint="Give the folder called images with --images")
    top = next(iter(tops), ())
    return made.folder.joinpath(*top), {key: Path(*file.parts[len(top) :]) for key, file in files.items()}


def _check_shared(made: Plan, files: Mapping[int, Path]) -> None:
    by_label: dict[Path, Path] = {}
    by_file: dict[Path, int] = {}
    clashes, twice = [], []
    for key, file in files.items():
        if file in by_file:
            twice.append(f"{made.coco.images[by_file[file]]['file_name']} and {made.coco.images[key]['file_name']}")
            continue
        by_file[file] = key
        other = by_label.setdefault(file.with_suffix(""), file)
        if other != file:
            clashes.append(f"{other} and {file}")
    _refuse(made, twice, "{} would be one file", f"Only one lies in {made.folder}: check --images")
    _refuse(made, clashes, "{} would share one label file", "Rename one of them, there and in the JSON")


def _measure(made: Plan, files: Mapping[int, Path]) -> None:
    wrong: list[str] = []
    doubtful: list[str] = []
    certain = 0
    for key, file in files.items():
        name = file.as_posix()
        try:
            said = claimed(made.coco.images[key])
        except ValueError as e:
            raise EdgesegError(f"image {name}: {e}", path=made.coco.path, hint="Correct `images`") from e
        try:
            *real, turned = image_size(made.folder / file)
        except (EdgesegError, OSError):
            made.leave(BROKEN, name)
            continue
        size = frame = (real[0], real[1])
        if said is not None and said != size:
            reach = extent(made.coco.annotations.get(key, ()))
            if said == size[::-1] and not turned and fits(reach, size):
                # Only the two numbers are exchanged, if anything lies where the stated size has no room.
                certain += not fits(reach, said)
                doubtful.append(name)
                made.note(SWAPPED, name)
            elif said != size[::-1] and scaled(said, size) and fits(reach, said) and _bounded(said, size):
                frame = said
                made.note(SCALED, name)
            else:
                wrong.append(f"{name} is {size[1]}x{size[0]}, there {said[1]}x{said[0]}")
        made.entries.append(Entry(key, file, size, frame))
    hint = "Give the images that were annotated, or correct width and height"
    _refuse(made, wrong, "{} (width x height): outlines would lie wrong", hint)
    if not certain:
        what = "width and height are exchanged for {}, and nothing shows which of them the outlines follow"
        _refuse(made, doubtful, what, "Correct width and height; turn the outlines too if the images were turned")


def _bounded(said: tuple[int, int], size: tuple[int, int]) -> bool:
    return said[0] * said[1] <= max(MAX_PIXELS, size[0] * size[1])


def _check_lengths(made: Plan) -> None:
    wrong = []
    for entry in made.entries:
        for a in made.coco.annotations.get(entry.key, ()):
            value: Any = a.get("segmentation")
            size = rle_size(value) if isinstance(value, Mapping) else None
            if size is not None and size != entry.frame:
                what = f"{size[1]}x{size[0]}, image {entry.file.as_posix()} has {entry.frame[1]}x{entry.frame[0]}"
                wrong.append(f"annotation {short(a.get('id'))} has run lengths of {what}")
    _refuse(made, wrong, "{} (width x height)", "Export the masks again at the images' sizes")


def _refuse(made: Plan, names: list[str], what: str, hint: str) -> None:
    """Refuse the file where there are such ``names``; the first, and how many more, stands in ``what`` for ``{}``."""
    if names:
        more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
        raise EdgesegError(what.format(names[0] + more), path=made.coco.path, hint=hint)
