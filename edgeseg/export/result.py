"""What an export gives back, one for each format."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeseg.errors import EdgesegError


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
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for name in ("path", "log", "error"):
            values[name] = None if values[name] is None else str(values[name])
        return {**values, "notes": list(self.notes)}
