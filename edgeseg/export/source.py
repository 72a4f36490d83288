"""The model that is exported: which file it is, what it is, and what a plan starts from."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseg import store
from edgeseg.errors import EdgesegError
from edgeseg.export.options import ExportOptions
from edgeseg.export.plan import Given
from edgeseg.hashing import content_hash, sha256_json
from edgeseg.registry import CHECKPOINTS, NETWORK, target_by_path, targets
from edgeseg.resources import cache_root

if TYPE_CHECKING:
    from edgeseg.network.model import Network


@dataclass(frozen=True)
class Source:
    """The model to export: its file or folder, what it is (``network`` or a format), its stem, and where artifacts go."""

    path: Path
    format: str
    stem: str
    home: Path


def find_source(source: str | os.PathLike[str]) -> Source:
    """What ``source`` is and where it lies. A well-known name that is not on disk is left to ``edgeseg.network``.

    Raises:
        EdgesegError: there is no such model, or its suffix is unknown.
    """
    path = Path(source).expanduser()
    if path.exists():
        if path.suffix.lower() in CHECKPOINTS:
            return Source(path, NETWORK, path.stem, path.parent)
        target = target_by_path(path)
        if target is None:
            known = ", ".join((*CHECKPOINTS[:1], ".yaml", *(t.suffix for t in targets().values())))
            raise EdgesegError("no known kind of model has this suffix", path=path, hint=f"Known: {known}")
        return Source(path, target.name, target.stem(path), path.parent)
    if path.suffix.lower() not in ("", *CHECKPOINTS):
        raise EdgesegError(
            "no such file or folder", path=path, hint="Check the path, or export it from its checkpoint (.pt)"
        )
    return Source(_well_known(os.fspath(source)), NETWORK, path.stem if path.suffix else path.name, Path.cwd())


def end2end(source: Source, options: ExportOptions, force: bool) -> Source:
    """A checkpoint with the one-to-one head of ``source`` in place of the classic one, made in the cache folder.

    Raises:
        EdgesegError: it is no checkpoint, its network has no such head, or integers were asked for and not forced.
    """
    if source.format != NETWORK:
        raise EdgesegError("end2end needs the checkpoint", path=source.path, hint="Give the .pt it was made from")
    if options.int8 and not force:
        what = "the one-to-one head may not survive integers: in published figures box AP falls from 0.396 to 0.011"
        hint = (
            "Leave end2end out: the classic head needs a millisecond of suppression. Or --force, and see what the gate says"
        )
        raise EdgesegError(what, hint=hint)
    return _rewritten(source, "end2end", lambda network: network.end2end())


def boxes_only(source: Source) -> Source:
    """A checkpoint of ``source`` without what makes masks, made in the cache folder.

    Raises:
        EdgesegError: it is no checkpoint.
    """
    if source.format != NETWORK:
        raise EdgesegError("boxes_only needs the checkpoint", path=source.path, hint="Give the .pt it was made from")
    return _rewritten(source, "boxes", lambda network: network.boxes_only())


def _rewritten(source: Source, word: str, change: Callable[[Network], Network]) -> Source:
    from edgeseg.network.checkpoint import load_checkpoint, save_checkpoint

    stem = f"{source.stem}-{word}"
    path = cache_root() / word / content_hash(source.path)[:24] / f"{stem}.pt"
    if not path.is_file():
        save_checkpoint(path, change(load_checkpoint(source.path)))
    return replace(source, path=path, stem=stem)


def _well_known(name: str) -> Path:
    from edgeseg.network.definition import builtin_definition, find_checkpoint, known_names

    if Path(name).suffix.lower() in (".yaml", ".yml"):
        definition = builtin_definition(name)
        if definition is None:
            raise EdgesegError("no such definition", path=name, hint=f"Built in: {known_names('.yaml')}")
        return definition
    return find_checkpoint(name)


def trained_size(path: Path) -> tuple[int, int]:
    """(height, width) that a network was trained at; 640 by 640 where it does not say. Remembered while the file stays.

    A file that is no checkpoint, or a machine without torch, is left to the step that reads it: it says what is wrong.
    """
    usual = ExportOptions().size
    if not zipfile.is_zipfile(path) or importlib.util.find_spec("torch") is None:
        return usual
    stat = path.stat()
    state = [str(path.resolve()), stat.st_size, stat.st_mtime_ns]
    note = cache_root() / "networks" / f"{sha256_json(state)[:32]}.json"
    with contextlib.suppress(OSError, ValueError, TypeError):
        height, width = json.loads(note.read_text(encoding="utf-8"))
        return int(height), int(width)
    from edgeseg.network.checkpoint import load_checkpoint
    from edgeseg.network.runtime import trained_imgsz

    try:
        size = trained_imgsz(load_checkpoint(path), usual[0])
    except EdgesegError:
        return usual
    store.make_folder(note.parent)
    store.write_atomically(note, json.dumps(size))
    return size


def given_of(source: Source, options: ExportOptions) -> Given:
    """What the plan starts from. An artifact has its size, batch and head already: asking for others is an error."""
    if source.format == NETWORK:
        return Given() if options.imgsz is not None else Given(usual=trained_size(source.path))
    from edgeseg.running.open import open_model

    with open_model(source.path) as opened:
        manifest = opened.manifest
    fixed: dict[str, Any] = {"head": manifest.head}
    if not manifest.dynamic:
        fixed.update(imgsz=manifest.imgsz, batch=manifest.batch)
    for name, value in fixed.items():
        asked = getattr(options, name)
        if asked is not None and asked != value:
            raise EdgesegError(
                f"this artifact was exported with {name}={value}, not {asked}",
                path=source.path,
                hint="Export from the checkpoint (.pt) to change it",
            )
    return Given(source.format, manifest.precision, **fixed)
