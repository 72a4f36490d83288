"""Runs on an emulated board under the plugin of ``count_instructions.c``, and marks where one part ends and another begins.

counted.py cold IMAGE predict MODEL IMAGE ...     the real command; a mark when it opens the image
counted.py frame MODEL IMAGE                      one frame after two others: two marks a part
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from typing import Any

MARK = 1_000_000_000
PARTS = ("read", "preprocess", "inference", "postprocess", "masks", "drawing")
FRAMES = 3


def mark(number: int) -> None:
    with contextlib.suppress(OSError):
        os.close(MARK + number)


def cold(image: str, argv: list[str]) -> None:
    seen: list[bool] = []

    def opened(event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and not seen and str(args[0]) == image:
            seen.append(True)
            mark(0)

    sys.addaudithook(opened)
    from edgeseg.cli import main

    main(argv)


def frame(model: str, image: str) -> None:
    from edgeseg.predict.result import predict_frame
    from edgeseg.predict.sources import Frame
    from edgeseg.running import pipeline
    from edgeseg.running.open import open_model

    def counted(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            mark(2 * PARTS.index(part))
            try:
                return function(*args, **kwargs)
            finally:
                mark(2 * PARTS.index(part) + 1)

        return called

    from edgeseg.data.images import read_image

    opened = open_model(model, threads=1)
    one = opened.pipeline()
    pipeline.prepare = counted("preprocess", pipeline.prepare)  # type: ignore[assignment]
    pipeline.postprocess = counted("postprocess", pipeline.postprocess)  # type: ignore[assignment]
    opened.runtime.run = counted("inference", opened.runtime.run)  # type: ignore[method-assign]
    for _ in range(FRAMES):
        result = predict_frame(one, Frame(counted("read", read_image)(image), image))
        counted("masks", lambda found: found.tiles.tiles)(result.detections)
        counted("drawing", result.plot)()
    print(len(result))


if __name__ == "__main__":
    if sys.argv[1] == "cold":
        cold(sys.argv[2], sys.argv[3:])
    else:
        frame(*sys.argv[2:])
