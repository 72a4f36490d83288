"""What a split holds, counted: images, objects, images without labels, rows left out, label files of no image."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseg.data.images import SUFFIXES

if TYPE_CHECKING:
    from edgeseg.data.dataset import Dataset

# Text files that lie beside images and labels without being labels.
_OTHERS = ("classes", "labels", "names", "readme", "notes", "license", "predefined_classes", "train", "val", "valid", "test")


@dataclass(frozen=True)
class Inventory:
    """Counts of one split. ``repeated`` and ``flat`` are rows that were left out: said before, or without area.

    ``orphans`` are label files to which no image belongs.
    """

    images: int = 0
    objects: int = 0
    unlabelled: int = 0
    repeated: int = 0
    flat: int = 0
    orphans: tuple[Path, ...] = ()

    def __str__(self) -> str:
        def count(number: int, word: str) -> str:
            return f"{number} {word}" + ("" if number == 1 else "s")

        line = f"{count(self.images, 'image')}, {count(self.objects, 'object')}, {self.unlabelled} without labels"
        if self.repeated:
            line += f", {count(self.repeated, 'repeated row')} left out"
        if self.flat:
            line += f", {count(self.flat, 'row')} without area left out"
        return line

    def warnings(self) -> tuple[str, ...]:
        """What people should look at, one sentence each."""
        if not self.orphans:
            return ()
        named = ", ".join(str(p) for p in self.orphans[:3]) + (" ..." if len(self.orphans) > 3 else "")
        return (f"{len(self.orphans)} label files belong to no image: {named}",)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        counts = {k: getattr(self, k) for k in ("images", "objects", "unlabelled", "repeated", "flat")}
        return {**counts, "orphans": [str(p) for p in self.orphans]}

    def with_orphans(self, dataset: Dataset, images: Iterable[Path]) -> Inventory:
        """The same with ``orphans`` filled."""
        return replace(self, orphans=orphan_labels(dataset, images))


def orphan_labels(dataset: Dataset, images: Iterable[Path]) -> tuple[Path, ...]:
    """Label files in the folders of these images' labels whose image is in no folder that they come from, sorted.

    An image of another split in the same folder counts: its label is nobody's fault.
    """
    pairs: dict[Path, set[Path]] = {}
    for image in images:
        pairs.setdefault(dataset.label_path(image).parent, set()).add(image.parent)
    found: list[Path] = []
    for labels, folders in pairs.items():
        texts = [n for n in _names(labels) if n.lower().endswith(".txt")]
        stems = {os.path.splitext(n)[0] for f in folders for n in _names(f) if n.lower().endswith(SUFFIXES)}
        beside = labels in folders
        for name in texts:
            stem = os.path.splitext(name)[0]
            if stem in stems or stem.lower().startswith(_OTHERS if beside else _OTHERS[:1]):
                continue
            found.append(labels / name)
    return tuple(sorted(found))


def _names(folder: Path) -> list[str]:
    try:
        return [n for n in os.listdir(folder) if not n.startswith(".")]
    except OSError:
        return []
