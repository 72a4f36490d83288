"""What of this machine decides what the converter makes: TensorRT, the GPU and its driver. Nothing heavy is imported."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from typing import Any


def facts() -> dict[str, Any]:
    """Part of the cache key: an engine fits one GPU and one version; a kit must not outlive the lack of TensorRT."""
    from . import build

    trtexec = build.find_trtexec()
    return {"tensorrt": _tensorrt(), "trtexec": trtexec and _stamp(trtexec), "gpu": build.gpu_facts()}


def _tensorrt() -> str:
    if importlib.util.find_spec("tensorrt") is None:
        return ""
    for name in ("tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-cu11"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "of the system"


def _stamp(path: str) -> list[Any]:
    about = os.stat(path)
    return [path, about.st_size, int(about.st_mtime)]
