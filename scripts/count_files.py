"""How many of the project's files a command really enters: those of which a function is called, in any thread.

    python scripts/count_files.py

Runs, in this process, ``predict`` on an ONNX file of the demo network and the main process of an INT8 export to ONNX, and
lists the files of ``edgeseg/`` and ``targets/`` with the calls into each. What a module does while it is imported does not
count: only functions that are called do.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def entered(run: Callable[[], Any]) -> Counter[str]:
    """Calls by file of the project while ``run`` runs."""
    found: Counter[str] = Counter()
    prefixes = tuple(f"{ROOT}{os.sep}{part}{os.sep}" for part in ("edgeseg", "targets"))

    def watch(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        # Bodies of modules and classes run when they are imported; only functions have optimized locals.
        if event == "call" and code.co_flags & inspect.CO_OPTIMIZED and code.co_filename.startswith(prefixes):
            found[code.co_filename.removeprefix(f"{ROOT}{os.sep}")] += 1

    threading.setprofile(watch)
    sys.setprofile(watch)
    try:
        run()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    return found


def command(*words: str) -> Callable[[], None]:
    """An ``edgeseg`` command in this process, silent."""
    from edgeseg.cli import main

    def run() -> None:
        sys.argv = ["edgeseg", *words]
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            contextlib.suppress(SystemExit),
        ):
            main()

    return run


def show(title: str, found: Counter[str]) -> None:
    """A line for each file, the most called first."""
    print(f"\n{title}: {len(found)} files, {sum(found.values())} calls")
    for name, calls in found.most_common():
        print(f"  {calls:7d}  {name}")


def main() -> None:
    """Make a small dataset and the files, then count."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        os.environ["EDGESEG_HOME"] = str(place / "home")
        os.chdir(place)
        from edgeseg.data.shapes import make_shapes

        data = make_shapes(place / "shapes", train=8, val=4, size=96, seed=1)
        model = ROOT / "edgeseg" / "demo" / "demo-seg.pt"
        words = (
            "export",
            str(model),
            "--format",
            "onnx",
            "--int8",
            "--data",
            str(data),
            "--imgsz",
            "96",
            "--out",
            str(place),
        )
        exported = entered(command(*words))
        picture = next((place / "shapes").rglob("*.png"), None) or next((place / "shapes").rglob("*.jpg"))
        predicted = entered(command("predict", str(place / "demo-seg_int8.onnx"), str(picture)))
        show("predict on an ONNX file", predicted)
        show("export --int8, the main process", exported)


if __name__ == "__main__":
    main()
