"""A conversion into a folder that may hold a dataset already: added to, never changed."""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from edgeseg.data.labels import class_names
from edgeseg.data.planned import Plan
from edgeseg.errors import EdgesegError
from edgeseg.store import staging
from edgeseg.yaml_file import load_yaml

HINT = "Choose another folder with --out, or remove what is there"


class Merge:
    """Puts the splits of ``plans``, with classes ``names``, into ``output``, the dataset's folder, new or not.

    Raises:
        EdgesegError: a split is there already with other images, or the YAML file there is no dataset.
    """

    def __init__(self, output: Path, names: Sequence[str], plans: Sequence[Plan]) -> None:
        self.output, self._plans = output, plans
        self.yaml = output / f"{output.resolve().name}.yaml"
        self._body: dict[str, Any] = {"path": "."}
        self.names = tuple(names)
        if output.exists() and not output.is_dir():
            raise EdgesegError("this is a file, not a folder", path=output, hint="Choose a folder with --out")
        if self.yaml.exists():
            self._body = load_yaml(self.yaml, text="names")
            old = class_names(self._body if isinstance(self._body, dict) else {}, self.yaml)
            self.names = old + tuple(n for n in names if n not in old)
        for made in plans:
            self._check_images(made)
            entry = f"images/{made.split}" if made.whole else f"{made.split}.txt"
            if self._body.setdefault(made.split, entry) != entry:
                what = f"it has a split {made.split!r} already: {self._body[made.split]}"
                raise EdgesegError(what, path=self.yaml, hint=HINT)
        self._body["names"] = dict(enumerate(self.names))
        if "nc" in self._body:
            self._body["nc"] = len(self.names)

    def _check_images(self, made: Plan) -> None:
        target = self.output / "images" / made.split
        if (target.exists() or target.is_symlink()) and target.resolve() != made.folder.resolve():
            raise EdgesegError("there is another image folder already", path=target, hint=HINT)

    @contextmanager
    def staged(self) -> Iterator[Path]:
        """A hidden folder beside the output in which everything is made; it is gone afterwards."""
        parent = self.output.resolve().parent
        parent.mkdir(parents=True, exist_ok=True)
        with staging(self.output.resolve()) as stage:
            yield stage

    def place(self, stage: Path) -> None:
        """Move what was made into the output, the YAML file last.

        Raises:
            EdgesegError: something there differs from it; nothing was moved.
            OSError: from the file system.
        """
        parts = []
        for made in self._plans:
            parts += [Path("labels", made.split), Path("annotations", f"instances_{made.split}.json")]
            if not made.whole:
                lines = [f"./images/{made.split}/{e.file.as_posix()}\n" for e in made.entries]
                (stage / f"{made.split}.txt").write_text("".join(lines), encoding="utf-8")
                parts.append(Path(f"{made.split}.txt"))
        fresh = [p for p in parts if not self._is_there(stage / p, self.output / p)]
        for part in fresh:
            target = self.output / part
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.is_dir():
                target.rmdir()  # empty, else it would be there or differ
            os.rename(stage / part, target)
        for made in self._plans:
            self._link(made)
        text = yaml.safe_dump(self._body, sort_keys=False, allow_unicode=True)
        if not self.yaml.exists() or load_yaml(self.yaml) != self._body:
            new = stage / self.yaml.name
            new.write_text(text, encoding="utf-8")
            os.replace(new, self.yaml)

    def _is_there(self, made: Path, target: Path) -> bool:
        """Whether the same is there already."""
        if not target.exists() or (target.is_dir() and made.is_dir() and not any(target.iterdir())):
            return False
        if made.is_dir():
            mine, theirs = ({p.relative_to(d) for d, p in _files(folder)} for folder in (made, target))
            others = sorted(mine ^ theirs) or sorted(p for p in mine if not _equal(made / p, target / p))
        else:
            others = [] if _equal(made, target) else [Path(".")]
        if others:
            at = target / others[0]
            what = f"{len(others)} files there differ from what would be written" if made.is_dir() else "it differs"
            raise EdgesegError(f"this split is there already, and {what}", path=at, hint=HINT)
        return True

    def _link(self, made: Plan) -> None:
        target = self.output / "images" / made.split
        if target.exists():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            target.symlink_to(made.folder.resolve(), target_is_directory=True)
        except OSError:
            shutil.copytree(made.folder, target)


def _files(folder: Path) -> Iterator[tuple[Path, Path]]:
    return ((folder, p) for p in folder.rglob("*") if p.is_file())


def _equal(a: Path, b: Path) -> bool:
    return a.is_file() and b.is_file() and filecmp.cmp(a, b, shallow=False)
