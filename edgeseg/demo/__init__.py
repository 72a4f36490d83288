"""The demo network: weights of our own, trained by ``scripts/train_demo.py`` on generated shapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CHECKPOINT = Path(__file__).with_name("demo-seg.pt")
"""A YOLOv8-seg network of 0.6 million parameters for 160 px images of circles, squares, triangles and stars."""
GOLDEN = Path(__file__).with_name("golden.json")


def golden() -> dict[str, Any]:
    """Committed accuracy of the demo network: ``data`` says how to draw the images, ``metrics`` what to find on them."""
    content: dict[str, Any] = json.loads(GOLDEN.read_text(encoding="utf-8"))
    return content
