"""Toy targets in a folder of their own: plain Python converters, so that a step takes milliseconds."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edgeseg import registry
from edgeseg.export.api import export
from edgeseg.export.job import ExportResult
from edgeseg.export.options import ExportOptions
from edgeseg.export.run import Event

COPY = """
def convert(job):
    job.progress(0.5, "half way")
    job.output.write_bytes(job.source.read_bytes() + f"|{job.format} {job.precision}".encode())
"""
# Leaves one line for each time that it runs.
COUNT = """
import os
def convert(job):
    with open({counter!r}, "a") as f:
        f.write(f"{{job.format}}\\n")
    job.output.write_bytes(job.source.read_bytes() + b"|" + job.format.encode())
"""

SHARED = ("imgsz", "batch", "head", "dynamic")
DECLARED: dict[str, dict[str, Any]] = {
    "opset": {"type": "int"},
    "workspace": {"type": "float"},
    **{o: {"type": "bool", "default": False} for o in ("keras", "optimize", "simplify")},
}


@dataclass
class Toys:
    """Toy targets, a checkpoint to export and a cache that nobody else uses."""

    root: Path
    home: Path
    model: Path
    counter: Path
    events: list[Event] = field(default_factory=list)

    def add(self, name: str, convert: str = COPY, *, runtime: str = "", head: str = "", **keys: Any) -> Path:
        """Drop a target into the folder; ``keys`` go into target.toml (``settings`` and ``convert_`` tables too)."""
        folder = self.root / name
        folder.mkdir(parents=True, exist_ok=True)
        keys = {"title": name.title(), "suffix": f".{name}", "reads": ["network"], **keys}
        # Shared options follow from precisions and heads or are listed; the others are declared.
        wanted = keys.pop("options", ["imgsz"])
        keys["takes"] = [o for o in wanted if o in SHARED]
        declared = {o: DECLARED[o] for o in wanted if o in DECLARED} | keys.pop("own", {})
        tables = {k: keys.pop(k) for k in ("settings", "convert", "quantize") if k in keys}
        lines = [f'name = "{name}"', *(f"{k} = {_toml(v)}" for k, v in keys.items())]
        for table, values in tables.items():
            lines += [f"[{table}]", *(f"{k} = {_toml(v)}" for k, v in values.items())]
        for option, values in declared.items():
            lines += [f"[options.{option}]", *(f"{k} = {_toml(v)}" for k, v in values.items())]
        (folder / "target.toml").write_text("\n".join(lines) + "\n")
        (folder / "convert.py").write_text(textwrap.dedent(convert))
        if runtime:
            (folder / "runtime.py").write_text(textwrap.dedent(runtime))
        registry._scan.cache_clear()
        return folder

    def counting(self, name: str, **keys: Any) -> Path:
        """A target that counts its runs."""
        return self.add(name, COUNT.format(counter=str(self.counter)), **keys)

    @property
    def runs(self) -> list[str]:
        """Formats in the order in which the counting ones ran."""
        return self.counter.read_text().split() if self.counter.exists() else []

    def export(self, *formats: str, options: ExportOptions | None = None, **more: Any) -> list[ExportResult]:
        """Export the toy checkpoint."""
        self.events.clear()
        return export(self.model, formats, options, on_event=self.events.append, **more)

    def said(self) -> str:
        """All notes of the last export."""
        return "\n".join(e.text for e in self.events if e.kind == "note")

    def hidden(self) -> list[str]:
        """What a half-finished export might have left beside the model or in scratch."""
        left = [p.name for p in self.model.parent.iterdir() if p.name.startswith(".")]
        work = self.home / "work"
        return left + ([p.name for p in work.iterdir()] if work.is_dir() else [])


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toys:
    """A folder for toy targets that ``EDGESEG_TARGETS`` names, an own cache and a checkpoint (not a real one)."""
    root, home, model = tmp_path / "toys", tmp_path / "home", tmp_path / "models" / "net.pt"
    root.mkdir()
    model.parent.mkdir()
    model.write_bytes(b"weights")
    monkeypatch.setenv("EDGESEG_TARGETS", str(root))
    monkeypatch.setenv("EDGESEG_HOME", str(home))
    monkeypatch.delenv("EDGESEG_OFFLINE", raising=False)
    return Toys(root, home, model, tmp_path / "counter")
