"""What of this machine decides what the converter makes: the Edge TPU compiler."""

from __future__ import annotations

import os
from typing import Any

from .compile import find_compiler


def facts() -> dict[str, Any]:
    """Part of the cache key: a kit must not outlive the lack of the compiler."""
    compiler = find_compiler()
    if compiler is None or not os.path.isfile(compiler[0]):
        return {"compiler": compiler}
    about = os.stat(compiler[0])
    return {"compiler": compiler, "stamp": [about.st_size, int(about.st_mtime)]}
