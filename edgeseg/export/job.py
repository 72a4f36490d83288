"""One step of the conversion graph as the converter sees it, and what an export gives back.

``convert(job)`` in a target's ``convert.py`` receives the job. It crosses a process boundary as JSON, so it holds paths and
plain values only.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseg.errors import EdgesegError

if TYPE_CHECKING:
    from edgeseg.quantize.carried import Carried

STEM = "model"
"""What artifacts are called while they are in work and in the cache."""


@dataclass(frozen=True)
class Job:
    """One conversion: artifact in, artifact out.

    Attributes:
        source: the checkpoint or the artifact to read.
        source_format: ``network`` for a checkpoint, else the format of ``source``.
        output: file or folder that ``convert`` must write; a scratch name, renamed by the runner on success.
        precision: ``fp32``, ``fp16`` or ``int8``.
        head: ``raw`` or ``decoded``.
        imgsz: (height, width) in pixels.
        batch: batch size.
        options: the target's remaining options (``dynamic``, ``simplify``, ``opset`` ...), only those given.
        recipe: the parsed recipe (a file of ``calib/``) for quantized precisions, else None.
        calibration: paths of the calibration images, in order.
        calibration_info: what goes into the manifest: ``{"hash", "images", "source"}``.
        given: the decisions that a quantized precision writes down (``decisions``); for decisions, the observation.
        early: ``given`` may be missing yet (``awaited``).
        unfollowed: what of the recipe the ``decisions`` could not follow; for the manifest.
        work: a scratch folder of this step's own.
    """

    format: str
    source: Path
    source_format: str
    output: Path
    work: Path
    precision: str = "fp32"
    head: str = "raw"
    imgsz: tuple[int, int] = (640, 640)
    batch: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] | None = None
    calibration: tuple[Path, ...] = ()
    calibration_info: Mapping[str, Any] | None = None
    given: Path | None = None
    early: bool = False
    unfollowed: list[str] = field(default_factory=list, compare=False)

    def to_json(self) -> str:
        """The job as JSON, paths as strings."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Job:
        """Read what ``to_json`` wrote."""
        raw = json.loads(text)
        for key in ("source", "output", "work"):
            raw[key] = Path(raw[key])
        raw["given"] = raw["given"] and Path(raw["given"])
        raw["calibration"] = tuple(Path(p) for p in raw["calibration"])
        raw["imgsz"] = tuple(raw["imgsz"])
        return cls(**raw)

    def decisions(self) -> Carried:
        """What was decided for this network and this format's kind of integers; what cannot be followed becomes notes.

        Raises:
            EdgesegError: there are no decisions: int8 is made from a network, by the graph.
        """
        from edgeseg.quantize.carried import load

        (found,) = load(self.awaited())
        self.unfollowed[:] = found.notes
        for said in found.notes:
            self.note(said)
        return found

    def awaited(self) -> Path:
        """``given``, as soon as it is there; whoever runs the step ends it where that will never be.

        Raises:
            EdgesegError: the step was given nothing.
        """
        if self.given is None:
            raise EdgesegError("this step was given no decisions", hint="Export with edgeseg export --int8")
        while self.early and not self.given.exists():
            time.sleep(0.05)
        return self.given

    def progress(self, done: float, what: str = "") -> None:
        """Tell the runner how far the step is (0..1) and what it is doing; the runner draws it."""
        print(f"@progress {done:.4f} {what}", flush=True)

    def note(self, text: str) -> None:
        """Something that a person should know of this artifact; the runner shows it, and again whenever the cache has it."""
        print(f"@note {' '.join(text.split())}", flush=True)


@dataclass(frozen=True)
class ExportResult:
    """One format of an export.

    Attributes:
        format: name of the format.
        precision: ``fp32``, ``fp16`` or ``int8``.
        head: ``raw`` or ``decoded``.
        path: the artifact in its place; None when it failed.
        size: bytes, of the file or the whole folder.
        seconds: time of its step in this export (of the look-up, when cached).
        cached: whether it was taken from the cache.
        toolchain: ``current``, or the name of the toolchain whose environment made it.
        error: what went wrong, None when nothing did.
        log: log of the step, None when it did not run.
        notes: what the converter wants a person to know.
        key: key of the entry in the cache.
        gate: what the gate found of an int8 artifact (``GateVerdict.to_dict``), None when it did not run.
    """

    format: str
    precision: str
    head: str = "raw"
    path: Path | None = None
    size: int = 0
    seconds: float = 0.0
    cached: bool = False
    toolchain: str = ""
    error: EdgesegError | None = None
    log: Path | None = None
    notes: tuple[str, ...] = ()
    key: str = ""
    gate: Mapping[str, Any] | None = None

    @property
    def ok(self) -> bool:
        """Whether the artifact is in its place."""
        return self.error is None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("path", "log", "error"):
            values[name] = None if values[name] is None else str(values[name])
        return {**values, "notes": list(self.notes)}
