"""Programs that run our files with a decoder of their own: how to export for them, and the files that they want beside.

Which formats one of them reads is said by the formats (``readers`` in the ``[settings]`` of ``target.toml``, with what is
special there). What each expects, and how that was found, is in ``docs/readers.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from edgeseg.ecosystem.text import one_line
from edgeseg.errors import EdgesegError, did_you_mean
from edgeseg.export.options import ExportOptions
from edgeseg.manifest import Manifest
from edgeseg.registry import target_by_name, target_by_path, targets
from edgeseg.running.open import open_model
from edgeseg.store import disk_error, write_atomically

_REFUSED = {
    "deepstream-seg": (
        "its parser wants finished masks, which its own export makes inside the graph with RoiAlign",
        "For boxes --for deepstream; for masks on a Jetson edgeseg/decoders/cpp reads the raw head",
    )
}


@dataclass(frozen=True)
class Reader:
    """One such program.

    ``options`` are those of the export. ``never`` cannot be asked for beside them. ``files`` gives texts by name for a model
    (its file, its name without a suffix, manifest, what the format says of this reader): labels, then what it is told.
    """

    title: str
    options: Mapping[str, Any]
    never: tuple[str, ...]
    files: Callable[[Path, str, Manifest, Mapping[str, Any]], dict[str, str]]
    note: str


def _frigate(file: Path, stem: str, manifest: Manifest, own: Mapping[str, Any]) -> dict[str, str]:
    height, width = manifest.imgsz
    labels, folder = f"{stem}.labelmap.txt", "/config/model_cache"
    inside = Path(file.parent.name, file.name) if file.parent.name == stem else Path(file.name)
    block = {
        "detectors": {own["type"]: dict(own)},
        "model": {
            "model_type": "yolo-generic",
            "width": width,
            "height": height,
            "input_tensor": manifest.input.layout,
            "input_pixel_format": manifest.colour,
            "input_dtype": "float",
            "path": f"{folder}/{inside.as_posix()}",
            "labelmap_path": f"{folder}/{labels}",
        },
    }
    # With numbers: a first name that begins with one would be taken for a number otherwise.
    numbered = "".join(f"{i} {one_line(name)}\n" for i, name in enumerate(manifest.names))
    return {labels: numbered, f"{stem}.frigate.yml": yaml.safe_dump(block, sort_keys=False, allow_unicode=True)}


def _deepstream(file: Path, stem: str, manifest: Manifest, own: Mapping[str, Any]) -> dict[str, str]:
    labels = f"{stem}.labels.txt"
    form = Path(__file__).with_name("deepstream.txt").read_text(encoding="utf-8")
    colour = {"rgb": 0, "bgr": 1}[manifest.colour]
    told = form.format(file=file.name, labels=labels, colour=colour, classes=len(manifest.names))
    return {
        # A semicolon would begin another label.
        labels: "".join(f"{one_line(name).replace(';', ',')}\n" for name in manifest.names),
        f"{stem}.config_infer_primary.txt": told,
    }


READERS: Mapping[str, Reader] = {
    "frigate": Reader(
        "Frigate",
        {"boxes_only": True, "head": "decoded"},
        ("half", "dynamic", "batch", "nms", "end2end"),
        _frigate,
        "Its cpu and edgetpu detectors read other tensors than ours: docs/readers.md",
    ),
    "deepstream": Reader(
        "DeepStream-Yolo",
        {"boxes_only": True, "nms": True, "head": "nms"},
        ("half", "int8", "dynamic", "batch"),
        _deepstream,
        "Boxes only: for masks on a Jetson edgeseg/decoders/cpp reads the raw head",
    ),
}


def for_reader(name: str, formats: Sequence[str] | None, options: ExportOptions) -> tuple[list[str], ExportOptions]:
    """The formats and options with which to export for a reader, from those that were asked for.

    Raises:
        EdgesegError: there is no such reader, it does not read such a format, or something else was asked for.
    """
    if name in _REFUSED:
        what, hint = _REFUSED[name]
        raise EdgesegError(f"no export is for {name}: {what}", hint=hint)
    if name not in READERS:
        raise EdgesegError(
            f"{name!r} is no known reader", hint=did_you_mean(name, READERS, f"There are: {', '.join(READERS)}")
        )
    reader, able = READERS[name], [t.name for t in targets().values() if name in t.settings.get("readers", {})]
    wanted = [target_by_name(f).name for f in formats or able[:1]]
    for format in wanted:
        if format not in able:
            raise EdgesegError(
                f"{reader.title} reads no {format} of ours", hint=f"Formats: {', '.join(able)}. {reader.note}"
            )
    given = options.given()
    for key in (*reader.options, *reader.never):
        if key in given and given[key] != reader.options.get(key):
            takes = " ".join(f"{k}={v}" for k, v in reader.options.items())
            raise EdgesegError(f"{reader.title} does not take {key}={given[key]}", hint=f"Leave it out: it gets {takes}")
    return wanted, replace(options, **reader.options)


def write_beside(name: str, artifact: Path) -> tuple[dict[str, str], tuple[Path, ...]]:
    """Write what a reader wants beside an artifact; a file of a person that says something else stays.

    Returns:
        The texts by name, and the files that stayed as they were.

    Raises:
        EdgesegError: the artifact is not what the reader expects, or the disk is full.
    """
    target = target_by_path(artifact)
    if target is None or name not in target.settings.get("readers", {}):
        raise EdgesegError(f"{READERS[name].title} does not read this", path=artifact)
    with open_model(artifact) as opened:
        manifest = opened.manifest
    if manifest.input.dtype != "float32" or len(manifest.outputs) != 1 or manifest.normalized_boxes:
        raise EdgesegError(f"{READERS[name].title} does not read this", path=artifact, hint=f"Export it with --for {name}")
    file = artifact if artifact.is_file() else next(p for end in target.members for p in sorted(artifact.glob(f"*{end}")))
    stem = artifact.stem if artifact.is_file() else artifact.name
    texts = READERS[name].files(file, stem, manifest, target.settings["readers"][name])
    stay = []
    try:
        for label, text in texts.items():
            place = artifact.parent / label
            if place.exists() and place.read_text(encoding="utf-8", errors="replace") != text:
                stay.append(place)
            else:
                write_atomically(place, text)
    except OSError as e:
        raise disk_error(e, artifact.parent) from e
    return texts, tuple(stay)
