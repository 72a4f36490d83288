"""Runs an OpenVINO IR folder on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from edgeseg.errors import EdgesegError
from edgeseg.manifest import Tensor, named_by_us, read_sidecar


class Runtime:
    """One compiled OpenVINO model. Free dimensions show as -1.

    Args:
        path: the folder, with one ``.xml`` in it, or one such file.
        threads: CPU threads (None: OpenVINO takes the physical cores).

    Raises:
        EdgesegError: no or several ``.xml`` files, or several inputs.
    """

    input: Tensor
    outputs: tuple[Tensor, ...]
    metadata: Mapping[str, Any]

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        graphs = [path] if path.is_file() else sorted(path.glob("*.xml"))
        if len(graphs) != 1:
            raise EdgesegError(
                f"{len(graphs)} .xml files where one is expected", path=path, hint="Give the .xml file itself"
            )
        if not graphs[0].with_suffix(".bin").is_file():
            hint = "Copy the .bin file beside the .xml file"
            raise EdgesegError("its weights are not there", path=graphs[0].with_suffix(".bin"), hint=hint)
        # One image at a time, as a camera delivers them; without this hint the plugin may split cores into streams.
        config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        if threads:
            config["INFERENCE_NUM_THREADS"] = threads
        self._model = _core().compile_model(str(graphs[0]), "CPU", config)
        if len(self._model.inputs) != 1:
            raise EdgesegError(f"{len(self._model.inputs)} inputs where one image is expected", path=path)
        self.input = _tensor(self._model.inputs[0], 0)
        self.outputs = tuple(_tensor(o, i) for i, o in enumerate(self._model.outputs))
        self.metadata = read_sidecar(graphs[0].parent, ours=named_by_us(o.name for o in self.outputs))
        self._graph = graphs[0]
        self.guesses = () if self.metadata else ("there is no metadata.yaml beside it: names and size are not known",)

    def precision(self) -> str:
        """What is inside: int8 where something is quantized, fp16 where the weights are half floats, else fp32."""
        kinds: set[str] = set()
        for op in _core().read_model(str(self._graph)).get_ops():
            name = op.get_type_name()
            if name == "FakeQuantize":
                return "int8"
            if name == "Constant" and len(op.get_output_shape(0)) == 4:
                kinds.add(op.get_output_element_type(0).get_type_name())
        return "int8" if kinds & {"i8", "u8"} else "fp16" if "f16" in kinds else "fp32"

    def run(self, x: np.ndarray) -> list[np.ndarray]:
        """Outputs for one input array of the file's own shape and type."""
        found = self._model([x], share_inputs=True, share_outputs=True)
        return [found[o] for o in self._model.outputs]


@cache
def _core() -> ov.Core:
    """One for the life of the process. The CPU plugin lays its own stack under the signal handlers of the thread that loads
    it, and frees that stack when its last user goes: in another thread, the next signal would end the process.
    """
    return ov.Core()


def _tensor(port: Any, index: int) -> Tensor:
    shape = tuple(d.get_length() if d.is_static else -1 for d in port.get_partial_shape())
    name = port.get_any_name() if port.get_names() else f"tensor_{index}"
    return Tensor(name, shape, np.dtype(port.get_element_type().to_dtype()).name)
