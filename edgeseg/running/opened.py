"""Any model that can predict, a checkpoint or an exported artifact, opened the same way."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from edgeseg.artifact import Artifact, Runtime, open_artifact, size_on_disk
from edgeseg.errors import EdgesegError
from edgeseg.manifest import Manifest
from edgeseg.registry import CHECKPOINTS, DEFINITIONS, target_by_path
from edgeseg.running.pipeline import Pipeline

DEFAULT_MODEL = "yolov8n-seg.pt"


@dataclass(frozen=True)
class Opened:
    """A model ready to predict.

    ``title`` names what the file is, for people. ``free_size`` is True where the input size may be chosen per call.
    """

    path: Path
    title: str
    runtime: Runtime
    manifest: Manifest
    free_size: bool = False

    @property
    def size(self) -> int:
        """Bytes on disk, 0 for a definition without weights."""
        return size_on_disk(self.path) if self.path.exists() else 0

    def sized(self, imgsz: tuple[int, int] | None) -> Opened:
        """The same model at another input size (height, width) in pixels.

        Raises:
            EdgesegError: the file was exported for one size and ``imgsz`` is another, or no multiple of the stride.
        """
        if imgsz is None or tuple(imgsz) == tuple(self.manifest.imgsz):
            return self
        have = f"{self.manifest.imgsz[0]}x{self.manifest.imgsz[1]}"
        if not self.free_size:
            hint = f"Leave --imgsz out, or export again with --imgsz {imgsz[0]},{imgsz[1]}"
            raise EdgesegError(f"it was exported for {have} pixels, not {imgsz[0]}x{imgsz[1]}", path=self.path, hint=hint)
        bad = [n for n in imgsz if n <= 0 or n % self.manifest.stride]
        if bad:
            raise EdgesegError(f"imgsz {bad[0]} is no positive multiple of {self.manifest.stride}")
        return replace(self, manifest=replace(self.manifest, imgsz=(int(imgsz[0]), int(imgsz[1]))))

    def on(self, device: str | int | None) -> Opened:
        """The same model on ``cpu``, or where else it can run: ``cuda:0`` (``0``), ``mps``; None leaves it where it is.

        Raises:
            EdgesegError: it cannot run there.
        """
        word = "cpu" if device in (None, "", "auto") else str(device)
        word = f"cuda:{word}" if word.isdigit() else "cuda:0" if word == "cuda" else word
        if device is None or word == getattr(self.runtime, "device", "cpu"):
            return self
        if hasattr(self.runtime, "to"):
            self.runtime.to(word)
            return self
        here = getattr(self.runtime, "device", "cpu")
        hint = "Leave device out, or run the checkpoint: it goes to any device of torch"
        raise EdgesegError(f"{self.title} runs on {here} here, not on device={device}", path=self.path, hint=hint)

    def pipeline(self, **settings: object) -> Pipeline:
        """The pipeline (preprocess, inference, postprocess) on this model."""
        return Pipeline(self.runtime, self.manifest, **settings)  # type: ignore[arg-type]


def is_checkpoint(path: str | Path) -> bool:
    """Whether ``path`` names a checkpoint or a network definition rather than an exported artifact."""
    name = Path(path).name.lower()
    return name.endswith(CHECKPOINTS) or ("." not in name and name.startswith("yolov8") and not Path(path).is_dir())


def open_model(
    path: str | Path, *, threads: int | None = None, names: tuple[str, ...] | None = None, input: str | None = None
) -> Opened:
    """Open a checkpoint (``.pt``), a definition (``.yaml``) or any exported artifact.

    Args:
        path: file or folder, or a well-known checkpoint by name (downloaded when absent).
        threads: CPU threads of the runtime (None: its own choice).
        names: class names for files of other tools that carry none.
        input: what the input of such a file holds: ``bgr``, ``0..255``, or both with a comma.

    Raises:
        EdgesegError: no such file, not a model, or what it needs is not installed.
    """
    if not is_checkpoint(path):
        artifact = _open(Path(path), threads, names, input)
        return Opened(artifact.path, artifact.title, artifact.runtime, artifact.manifest, artifact.manifest.dynamic)
    if input:
        raise EdgesegError("input= is for exported files of other tools, and this is a network", path=path)
    if Path(path).is_dir():
        raise EdgesegError("this is a folder, not a checkpoint", path=path, hint="Give the .pt file inside it")
    need_torch(path)
    from edgeseg.network.checkpoint import find_checkpoint
    from edgeseg.network.runtime import NetworkRuntime

    where = Path(path) if Path(path).suffix.lower() in DEFINITIONS else find_checkpoint(path)
    runtime = NetworkRuntime(where, threads=threads)
    return Opened(where, "PyTorch fp32", cast("Runtime", runtime), runtime.manifest, free_size=True)


def _open(path: Path, threads: int | None, names: tuple[str, ...] | None, input: str | None) -> Artifact:
    """Here, or in the format's own toolchain when this environment lacks its runtime and that one is installed."""
    target = target_by_path(path)
    if path.exists() and target is not None and target.missing_modules():
        from edgeseg.running.runtimes import has_runtime, open_remote

        if has_runtime(target):
            return open_remote(path, threads=threads, names=names, input=input)
    return open_artifact(path, threads=threads, names=names, input=input)


def need_torch(path: str | Path) -> None:
    """Raise a helpful error when a checkpoint is to be opened where torch is not installed."""
    if importlib.util.find_spec("torch") is None:
        hint = 'pip install "edgeseg[torchscript]", or use an exported file (.tflite, .onnx) on this machine'
        raise EdgesegError("to open a checkpoint, torch is needed", path=path, hint=hint)


def newest_checkpoint(root: Path | None = None) -> str:
    """The newest ``runs/**/best.pt`` below ``root`` (default: here), else the smallest COCO network by name."""
    runs = (root or Path()) / "runs"
    found = sorted(runs.glob("**/best.pt"), key=lambda p: p.stat().st_mtime) if runs.is_dir() else []
    return str(found[-1]) if found else DEFAULT_MODEL


def parse_imgsz(text: str | int | Sequence[int] | None) -> tuple[int, int] | None:
    """(height, width) from ``640``, ``"640"``, ``"480,640"``, ``"480x640"`` or a pair; None stays None.

    Raises:
        EdgesegError: not one or two positive whole numbers.
    """
    if text is None:
        return None
    parts = re.findall(r"[^\s,x\[\]()]+", text) if isinstance(text, str) else [text] if isinstance(text, int) else list(text)
    try:
        sides = [int(p) for p in parts]
    except (TypeError, ValueError):
        sides = []
    if len(sides) not in (1, 2) or min(sides) <= 0:
        raise EdgesegError(f"imgsz {text!r} is no size", hint="Write 640, or height,width: 480,640")
    return sides[0], sides[-1]
