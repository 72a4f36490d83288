"""A manifest for files that other tools exported: roles from shapes, the rest from their metadata and one probe run.

What was inferred, and from what, is said aloud in ``Manifest.notes``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseg.errors import EdgesegError, brief
from edgeseg.manifest import TASKS, Manifest, literal
from edgeseg.running.infer.entry import HINT, Meaning, entry_of
from edgeseg.running.infer.heads import Head, Probe, find_head

if TYPE_CHECKING:
    from edgeseg.registry import Target
    from edgeseg.running.runtime import Runtime

_TASKS = {"classify": "classification", "pose": "poses", "obb": "oriented boxes"}


def infer_manifest(
    path: Path, target: Target, runtime: Runtime, names: tuple[str, ...] | None = None, input: str | None = None
) -> Manifest:
    """The manifest of an artifact that carries none of ours.

    Args:
        path: the file, for messages.
        target: its target.
        runtime: the opened file; it is run once on a grey image (114/255) where its tensors alone do not tell.
        names: class names; they win over those of the metadata.
        input: what its input holds, where that is not RGB in 0..1: ``bgr``, ``0..255``, or both with a comma.

    Raises:
        EdgesegError: this is no network for segmentation or detection (says what it is), or ``names`` do not fit.
    """
    metadata, notes = dict(runtime.metadata), [f"manifest inferred: {path.name} was not written by edgeseg"]
    notes += runtime.guesses
    task = str(metadata.get("task", ""))[:40]
    if task and task not in TASKS:
        what, hint = _TASKS.get(task, task), "edgeseg runs networks for segmentation and detection"
        raise EdgesegError(f"its metadata says that it is a network for {what}", path=path, hint=hint)
    meaning = Meaning.parse(input)
    entry, dynamic = entry_of(runtime.input, metadata, path, notes)
    notes.append(meaning.note(entry))
    probe = Probe(runtime, entry, meaning.top)
    shapes = [o.shape if min(o.shape, default=-1) > 0 else probe.outputs[i].shape for i, o in enumerate(runtime.outputs)]
    head = find_head(runtime.outputs, shapes, entry, probe, path, notes)
    if task and task != head.task:
        what = f"its metadata says task={task}, its outputs are those of a network to {head.task}"
        raise EdgesegError(what, path=path, hint=HINT)
    classes = _names(metadata, names, head, path, notes)
    return Manifest(
        format=target.name,
        names=classes,
        imgsz=entry.hw,
        input=replace(entry, shape=tuple(runtime.input.shape)) if dynamic else entry,
        outputs=head.outputs,
        head=head.layout,
        task=head.task,
        precision=runtime.precision or _by_type(entry.dtype),
        stride=max(head.strides),
        batch=entry.shape[0],
        channels=entry.channels,
        reg_max=head.reg_max,
        dynamic=dynamic,
        colour=meaning.colour,
        input_max=meaning.top,
        description=str(metadata.get("description", ""))[:1000],
        author=str(metadata.get("author", ""))[:200],
        date=str(metadata.get("date", ""))[:100],
        version=str(metadata.get("version", ""))[:100],
        license=str(metadata.get("license", ""))[:1000],
        **_values(head, probe, path, notes),
        notes=tuple(notes),
    )


def _by_type(dtype: str) -> str:
    return {"int8": "int8", "uint8": "int8", "float16": "fp16"}.get(dtype, "fp32")


def _values(head: Head, probe: Probe, path: Path, notes: list[str]) -> dict[str, Any]:
    """What shapes cannot tell: the unit and the corners of boxes, and whether scores are logits."""
    if head.layout == "raw":
        scores = [probe.real(i, o) for i, o in enumerate(head.outputs) if o.role == "score"]
        if all(s.min() >= 0 for s in scores):
            raise EdgesegError("its score maps hold probabilities where logits are expected", path=path, hint=HINT)
        return {}
    by_role = {o.role: probe.real(i, o) for i, o in enumerate(head.outputs)}
    whole = by_role.get("prediction")
    if head.layout == "nms":
        rows = by_role["prediction"]
        used = rows[:, rows[4] > 0]
        normalized = bool(used.size) and float(used[:4].max()) <= 2.0
        if not used.size:
            notes.append("nothing is found on a grey image: boxes are taken as input pixels")
        return {"normalized_boxes": normalized, "boxes": "xyxy"}
    box = by_role["box"] if whole is None else whole[:4]
    score = by_role["score"] if whole is None else whole[4 : 4 + head.nc]
    logits = float(score.min()) < -1e-3
    # Poses have points where classes would be: a detector's one tensor is told from theirs by nothing else.
    if head.task == "detect" and not logits and float(score.max()) > 1 + 1e-3:
        what = f"what should be scores reaches {float(score.max()):.4g} on a grey image"
        raise EdgesegError(f"{what}: it is no network for segmentation or detection", path=path, hint=HINT)
    if logits:
        notes.append("scores are logits (negative ones on a grey image): a sigmoid is applied")
    # Sizes are smaller than centres at the far end of the image; second corners are beyond the first ones everywhere.
    corners = bool((box[2] > box[0]).all() and (box[3] > box[1]).all())
    if corners:
        notes.append("boxes are x1, y1, x2, y2 (at every anchor the second corner lies beyond the first)")
    # Anchors cover the image, so that in pixels some centre lies far beyond 2.
    normalized = float(box[:2].max()) <= 2.0
    notes.append(f"boxes are {'normalized to 0..1' if normalized else 'in input pixels'} (one run on a grey image)")
    return {"normalized_boxes": normalized, "boxes": "xyxy" if corners else "xywh", "score_logits": logits}


def _names(
    metadata: Mapping[str, Any], names: tuple[str, ...] | None, head: Head, path: Path, notes: list[str]
) -> tuple[str, ...]:
    listed, nc = _listed(metadata), head.nc
    if head.layout == "nms":  # the number of classes is not in the tensors
        nc = len(names or listed) or 80
        if not names and not listed:
            notes.append("neither tensors nor metadata say how many classes it has: 80 taken")
    if names:
        if len(names) != nc:
            raise EdgesegError(
                f"it has {nc} classes, but {len(names)} names were given",
                path=path,
                hint="Give the data.yaml it was trained on",
            )
        return names
    if len(listed) == nc:
        notes.append("class names taken from its metadata")
        return listed
    why = f"its metadata names {len(listed)} classes, its tensors have {nc}" if listed else "it names no classes"
    notes.append(f"{why}: class0 to class{nc - 1} used")
    return tuple(f"class{i}" for i in range(nc))


def _listed(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    value = literal(metadata.get("names"))
    if isinstance(value, Mapping):
        try:
            return tuple(_text(v) for _, v in sorted((int(k), v) for k, v in value.items()))
        except (TypeError, ValueError, OverflowError):
            return ()
    return tuple(_text(v) for v in value) if isinstance(value, (list, tuple)) else ()


def _text(value: Any) -> str:
    return value[:200] if isinstance(value, str) else brief(value)
