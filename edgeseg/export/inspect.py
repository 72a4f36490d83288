"""A finished artifact looked at before it is called one: is it of its precision, and does it compute numbers?

This is run in the converter's own process, with the runtime of the format, where that is at hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeseg.errors import EdgesegError

if TYPE_CHECKING:
    from edgeseg.export.job import Job
    from edgeseg.registry import Target

WORDS = {"int8": "integer", "fp16": "half float"}


def inspect(target: Target, job: Job, path: Path) -> None:
    """Open an artifact, compare its precision with what it will be called, and run it once on noise.

    Raises:
        EdgesegError: nothing in it is of the precision asked for, it cannot be run, or it gives numbers that are none.
    """
    if not target.modules or target.missing_modules(path):
        return
    import numpy as np  # a converter's environment may lack it; one with a runtime has it

    runtime = target.load("runtime").Runtime(path)
    inside = runtime.precision() if hasattr(runtime, "precision") else job.precision
    wanted = WORDS.get(job.precision)
    if wanted is not None and inside != job.precision and (job.precision, inside) != ("fp16", "int8"):
        recipe = f" by the recipe {job.recipe.get('name', '')}" if job.recipe else ""
        hint = "Take another recipe" if job.precision == "int8" else "Export it without half"
        raise EdgesegError(f"{target.title} {job.precision}: nothing in it is {wanted}{recipe}", hint=hint)
    spec = runtime.input
    height, width = job.imgsz
    channels = spec.channels if spec.channels > 0 else 3
    shape = (job.batch, channels, height, width) if spec.layout == "nchw" else (job.batch, height, width, channels)
    rng = np.random.default_rng(0)
    if spec.dtype in ("int8", "uint8"):
        limits = np.iinfo(spec.dtype)
        x = rng.integers(limits.min, limits.max, shape, dtype=spec.dtype, endpoint=True)
    else:
        x = rng.random(shape, dtype=np.float32).astype(spec.dtype)
    for output, array in zip(runtime.outputs, runtime.run(x)):
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise EdgesegError(
                f"{target.title} {job.precision}: its output {output.name} holds infinite or undefined numbers",
                hint="Half floats end at 65504: export it as fp32, or train the network again",
            )
