"""One run of a stranger's file on a grey image: what its tensors say that their shapes do not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeseg.manifest import Output, Tensor

if TYPE_CHECKING:
    from edgeseg.running.runtime import Runtime

GREY = 114


class Probe:
    """The outputs for one grey image, computed when they are first needed."""

    def __init__(self, runtime: Runtime, entry: Tensor, input_max: float = 1.0) -> None:
        self._runtime, self._entry, self._max = runtime, entry, input_max
        self._outputs: list[np.ndarray] | None = None

    @property
    def outputs(self) -> list[np.ndarray]:
        """The arrays, in the order of the runtime's outputs."""
        if self._outputs is None:
            entry, grey = self._entry, self._max * GREY / 255
            if entry.scale is not None and entry.zero_point is not None:
                limits = np.iinfo(entry.dtype)
                grey = float(np.clip(round(GREY / 255 / entry.scale) + entry.zero_point, limits.min, limits.max))
            # A copy: what a runtime gives may be overwritten by its next run.
            self._outputs = [np.array(a) for a in self._runtime.run(np.full(entry.shape, grey, dtype=entry.dtype))]
        return self._outputs

    def real(self, index: int, spec: Output) -> np.ndarray:
        """One output as float64, dequantized, channels first; of a batch the first image: (C, ...)."""
        values = self.outputs[index][0].astype(np.float64)
        if spec.scale is not None and spec.zero_point is not None:
            values = (values - spec.zero_point) * spec.scale
        return np.moveaxis(values, -1, 0) if spec.layout == "nhwc" else values
