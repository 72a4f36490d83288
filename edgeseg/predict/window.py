"""A window for pictures and the frames of a video (OpenCV, not its headless variant)."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import cv2

from edgeseg.errors import EdgesegError

if TYPE_CHECKING:
    from edgeseg.predict.result import Result


def need_display() -> None:
    """Refuse to show pictures where no window can open.

    Raises:
        EdgesegError: there is no display.
    """
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise EdgesegError("there is no display here for show", hint="Leave show out, and save pictures in a folder")


def shown(result: Result) -> bool:
    """Show one picture; False once the person has typed q or Escape."""
    try:
        cv2.imshow("edgeseg", result.plot())
        key = cv2.waitKey(1 if result.number is not None else 0) & 0xFF
    except cv2.error as e:
        hint = "pip install opencv-python in place of opencv-python-headless, or leave show out"
        raise EdgesegError("this OpenCV cannot open windows", hint=hint) from e
    return key not in (27, ord("q"))
