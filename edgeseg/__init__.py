"""edgeseg: YOLO segmentation and detection on edge devices, quantization first.

``from edgeseg import Model, Detections`` imports neither torch nor any runtime: they are fetched on first use (PEP 562).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeseg.errors import EdgesegError
    from edgeseg.model import Model
    from edgeseg.model import Model as YOLO
    from edgeseg.vision.detections import Detections

__version__ = "0.1.0"
__all__ = ["YOLO", "Detections", "EdgesegError", "Model", "__version__"]

_WHERE = {
    "Model": "edgeseg.model:Model",
    "YOLO": "edgeseg.model:Model",
    "Detections": "edgeseg.vision.detections:Detections",
    "EdgesegError": "edgeseg.errors:EdgesegError",
}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        from importlib import import_module

        module, _, known = _WHERE[name].partition(":")
        return getattr(import_module(module), known)
    raise AttributeError(f"module 'edgeseg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
