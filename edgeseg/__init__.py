"""edgeseg: YOLO segmentation and detection on edge devices, quantization first.

``from edgeseg import Model, Detections`` imports neither torch nor any runtime: they are fetched on first use (PEP 562).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeseg.errors import EdgesegError
    from edgeseg.model import Model
    from edgeseg.vision.detections import Detections

__version__ = "0.1.0"
__all__ = ["Detections", "EdgesegError", "Model", "__version__"]

_WHERE = {"Model": "edgeseg.model", "Detections": "edgeseg.vision.detections", "EdgesegError": "edgeseg.errors"}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        from importlib import import_module

        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'edgeseg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
