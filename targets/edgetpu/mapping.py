"""What the Edge TPU compiler will map of an int8 TF Lite file, predicted from its documented limits.

Sources: "TensorFlow models on the Edge TPU" (https://coral.ai/docs/edgetpu/models-intro) for operators and their limits; for
operator versions the compiler's refusals reported at github.com/google-coral/edgetpu (issue 631: CONV_2D up to 5, 845:
TRANSPOSE_CONV up to 3; 187, 420: RESIZE_NEAREST_NEIGHBOR 3 refused by compilers 14 and 15). It is a prediction: the compiler
has limits that nobody documents, above all on the size of activations.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..tflite import flatbuffer

ASSUMED = "16.0"
CHIP_BYTES = 8 << 20
#: Sides up to which whole YOLO networks are reported to have been mapped; beyond, the compiler has given up on activations.
KNOWN_SIDE = 320
_MAPPED, _AFTER = "mapped", "after an operator that is not mapped (more than one part is not supported)"


@dataclass(frozen=True)
class Operator:
    """One operator: its place, name, version, output shape, and whether it is mapped or why not."""

    index: int
    kind: str
    version: int
    shape: tuple[int, ...]
    status: str

    @property
    def mapped(self) -> bool:
        """Whether the Edge TPU is expected to run it."""
        return self.status == _MAPPED


@dataclass(frozen=True)
class Report:
    """The prediction for one file. Bytes of weights and biases are those of the file; the compiler pads channels."""

    operators: tuple[Operator, ...]
    parameter_bytes: int
    peak_activation_bytes: int
    largest_activation_bytes: int
    risks: tuple[str, ...] = ()
    assumed_compiler: str = ASSUMED

    @property
    def percent(self) -> float:
        """Share of operators that are expected on the Edge TPU, 0..100."""
        return 100 * sum(o.mapped for o in self.operators) / max(1, len(self.operators))

    @property
    def streamed_bytes(self) -> int:
        """Parameters that cannot stay on the chip, at least."""
        return max(0, self.parameter_bytes - CHIP_BYTES)

    def rows(self) -> list[tuple[str, int, str]]:
        """(operator, count, status), as the compiler's own table has them."""
        return [(kind, n, status) for (kind, status), n in Counter((o.kind, o.status) for o in self.operators).items()]

    def sentences(self) -> list[str]:
        """The prediction for a person."""
        mapped = sum(o.mapped for o in self.operators)
        of = f"{mapped} of {len(self.operators)} operators ({math.floor(self.percent)} %)"
        said = [f"predicted by documented limits: {of} map to the Edge TPU"]
        rest = [(k, n, s) for k, n, s in self.rows() if s not in (_MAPPED, _AFTER)]
        if rest:
            said.append("on the CPU: " + "; ".join(f"{n} {k} ({s})" for k, n, s in rest) + ", and all that follows them")
        chip = f"{self.parameter_bytes / 2**20:.2f} MiB of parameters for 8 MiB on the chip"
        more = f", at least {self.streamed_bytes / 2**20:.2f} MiB are streamed at every run" if self.streamed_bytes else ""
        said.append(chip + more)
        return [*said, *self.risks]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        raw = asdict(self)
        raw["operators"] = [{**asdict(o), "mapped": o.mapped} for o in self.operators]
        summary = [{"operator": k, "count": n, "status": s} for k, n, s in self.rows()]
        return {"predicted": True, "percent_mapped": self.percent, "streamed_bytes_at_least": self.streamed_bytes, **raw} | {
            "status": summary
        }

    def to_text(self) -> str:
        """The same for reading."""
        width = max(len(k) for k, _, _ in self.rows())
        table = [f"{k:<{width}}  {n:>5}  {s}" for k, n, s in self.rows()]
        return "\n".join([*self.sentences(), "", f"{'Operator':<{width}}  Count  Status", *table, ""])


def report(content: bytes) -> Report:
    """Predict the mapping of the file ``content``."""
    model = flatbuffer.read(content)
    views = [_View(model, graph, i, flatbuffer._OPERATORS) for graph in model.subgraphs for i in range(len(graph.operators))]
    unmapped: set[int] = set()
    operators = []
    for i, view in enumerate(views):
        problem = _problem(view) if len(model.subgraphs) == 1 else "the file has more than one subgraph"
        status = problem or (_AFTER if unmapped & {int(t) for t in view.op.inputs} else _MAPPED)
        if status != _MAPPED:
            unmapped |= {int(t) for t in view.op.outputs}
        operators.append(Operator(i, view.kind, view.version, view.shape(view.op.outputs[0]), status))
    peak, largest = _activations(model)
    return Report(tuple(operators), _parameters(views), peak, largest, tuple(_risks(model, views, peak)))


class _View:
    """One operator with what the checks ask for."""

    def __init__(self, model: Any, graph: Any, index: int, names: dict[int, str]) -> None:
        self.model, self.graph, self.op = model, graph, graph.operators[index]
        code = model.operatorCodes[self.op.opcodeIndex]
        number = max(code.builtinCode, code.deprecatedBuiltinCode)
        self.kind, self.version = names.get(number, str(number)), int(code.version)
        self.options = self.op.builtinOptions

    def shape(self, tensor: int) -> tuple[int, ...]:
        found = self.graph.tensors[tensor].shape
        return () if found is None else tuple(int(n) for n in found)

    def data(self, tensor: int) -> np.ndarray | None:
        """Raw bytes of a constant, None for an activation."""
        found = self.model.buffers[self.graph.tensors[tensor].buffer].data
        return None if found is None or np.size(found) == 0 else np.asarray(found, np.uint8)

    def ints(self, slot: int) -> np.ndarray:
        """A constant of int32 in an input slot, empty where it is none."""
        data = self.data(self.op.inputs[slot]) if slot < len(self.op.inputs) else None
        return np.zeros(0, np.int32) if data is None else np.frombuffer(data.tobytes(), np.int32)

    @property
    def activations(self) -> list[int]:
        """Tensors that are computed, inputs then outputs."""
        return [int(i) for i in (*self.op.inputs, *self.op.outputs) if i >= 0 and self.data(int(i)) is None]


def _problem(view: _View) -> str:
    """Why an operator is not mapped, empty if nothing speaks against it."""
    if view.kind not in _LIMITS:
        return "operator not supported"
    highest, check = _LIMITS[view.kind]
    if view.version > highest:
        return f"operator version {view.version} not supported (up to {highest})"
    return _tensor_problem(view) or check(view)


def _tensor_problem(view: _View) -> str:
    from ai_edge_litert import schema_py_generated as schema

    eight = (schema.TensorType.INT8, schema.TensorType.UINT8)
    for index in view.activations:
        tensor = view.graph.tensors[index]
        if tensor.type not in eight:
            return "works on another type than int8 or uint8"
        if tensor.shapeSignature is not None and any(int(n) < 0 for n in tensor.shapeSignature):
            return "a tensor has a dynamic size"
        if any(n > 1 for n in view.shape(index)[:-3]):
            return "a tensor has more than 3 dimensions larger than 1"
        if tensor.quantization is None or np.size(tensor.quantization.scale) != 1:
            return "an activation has not one scale"
    weights = {"CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "TRANSPOSE_CONV": 1, "FULLY_CONNECTED": 1}.get(view.kind)
    if weights is not None and view.data(view.op.inputs[weights]) is None:
        return "weights are not constant"
    return ""


def _nothing(view: _View) -> str:
    del view
    return ""


def _dilation(view: _View) -> str:
    same = view.options.dilationWFactor == view.options.dilationHFactor
    return "" if same else "dilation differs between width and height"


def _no_activation(view: _View) -> str:
    return "fused activation function" if view.options.fusedActivationFunction else ""


def _concatenation(view: _View) -> str:
    constants = [view.data(i) for i in view.op.inputs if view.data(i) is not None]
    if constants and (len(view.op.inputs) != 2 or any(c is not None and c.any() for c in constants)):
        return "a constant input that is not zero padding"
    return _no_activation(view)


def _pad(view: _View) -> str:
    padding = view.ints(1)
    if not padding.size:
        return "padding is not constant"
    return "padding of the batch" if len(view.shape(view.op.inputs[0])) > 3 and padding[:2].any() else ""


def _softmax(view: _View) -> str:
    shape = view.shape(view.op.inputs[0])
    long = [n for n in shape if n > 1]
    return "" if len(long) <= 1 and math.prod(shape) <= 16_000 else "more than one dimension, or more than 16000 elements"


def _reduction(view: _View) -> str:
    rank = len(view.shape(view.op.inputs[0]))
    axes = {int(a) % rank for a in view.ints(1)}
    if rank > 3 and 0 in axes:
        return "reduction over the batch"
    odd = view.shape(view.op.inputs[0])[-1] % 4
    return "reduction over channels that are no multiple of 4" if view.kind == "MEAN" and rank - 1 in axes and odd else ""


def _strided_slice(view: _View) -> str:
    masks = view.options.ellipsisMask or view.options.newAxisMask
    return "strides other than 1, or masks" if masks or (view.ints(3) != 1).any() else ""


def _fully_connected(view: _View) -> str:
    if view.options.weightsFormat:
        return "shuffled weights"
    return "" if sum(n > 1 for n in view.shape(view.op.outputs[0])) <= 1 else "output has more than one dimension"


# Operator: (highest version that compiler 16 is taken to know, further limits). Where no refusal is known the version is
# the one that TensorFlow 2.5 wrote for int8, so that the prediction is rather too strict.
_LIMITS: dict[str, tuple[int, Callable[[_View], str]]] = {
    "ADD": (2, _nothing),
    "AVERAGE_POOL_2D": (2, _no_activation),
    "CONCATENATION": (2, _concatenation),
    "CONV_2D": (5, _dilation),
    "DEPTHWISE_CONV_2D": (6, _dilation),
    "EXPAND_DIMS": (1, _nothing),
    "FULLY_CONNECTED": (4, _fully_connected),
    "L2_NORMALIZATION": (2, _nothing),
    "LOGISTIC": (2, _nothing),
    "MAXIMUM": (2, _nothing),
    "MAX_POOL_2D": (2, _no_activation),
    "MEAN": (2, _reduction),
    "MINIMUM": (2, _nothing),
    "MUL": (3, _nothing),
    "PACK": (2, _nothing),
    "PAD": (2, _pad),
    "PRELU": (1, _nothing),
    "QUANTIZE": (2, _nothing),
    "REDUCE_MAX": (2, _reduction),
    "REDUCE_MIN": (2, _reduction),
    "RELU": (2, _nothing),
    "RELU6": (2, _nothing),
    "RELU_N1_TO_1": (1, _nothing),
    "RESHAPE": (1, _nothing),
    "RESIZE_BILINEAR": (3, _nothing),
    "RESIZE_NEAREST_NEIGHBOR": (3, _nothing),
    "RSQRT": (2, _nothing),
    "SLICE": (2, _nothing),
    "SOFTMAX": (2, _softmax),
    "SPACE_TO_DEPTH": (2, _nothing),
    "SPLIT": (2, _nothing),
    "SQUARED_DIFFERENCE": (2, _nothing),
    "SQUEEZE": (1, _nothing),
    "STRIDED_SLICE": (2, _strided_slice),
    "SUB": (2, _nothing),
    "SUM": (2, _reduction),
    "TANH": (2, _nothing),
    "TRANSPOSE": (2, _nothing),
    "TRANSPOSE_CONV": (3, _nothing),
}


def _parameters(views: list[_View]) -> int:
    """Bytes of weights and biases; shapes, axes and paddings are compiled into the code."""
    slots = {"CONV_2D": (1, 2), "DEPTHWISE_CONV_2D": (1, 2), "FULLY_CONNECTED": (1, 2), "TRANSPOSE_CONV": (1, 3)}
    held: dict[int, int] = {}
    for view in views:
        for slot in slots.get(view.kind, ()):
            index = int(view.op.inputs[slot]) if slot < len(view.op.inputs) else -1
            data = view.data(index) if index >= 0 else None
            if data is not None:
                held[view.graph.tensors[index].buffer] = int(data.size)
    return sum(held.values())


def _activations(model: Any) -> tuple[int, int]:
    """(most bytes of activations alive at once in the order of the file, bytes of the largest)."""
    graph = model.subgraphs[0]
    sizes, last = {}, {}
    for i, op in enumerate(graph.operators):
        for index in (*op.inputs, *op.outputs):
            if index >= 0 and (model.buffers[graph.tensors[index].buffer].data is None):
                sizes[int(index)], last[int(index)] = math.prod(int(n) for n in graph.tensors[index].shape), i
    alive, peak = {int(i) for i in graph.inputs}, 0
    for i, op in enumerate(graph.operators):
        alive |= {int(o) for o in op.outputs}
        peak = max(peak, sum(sizes.get(t, 0) for t in alive))
        alive = {t for t in alive if last.get(t, -1) > i or t in graph.outputs}
    return peak, max(sizes.values(), default=0)


def _risks(model: Any, views: list[_View], peak: int) -> list[str]:
    risks = []
    graph = model.subgraphs[0]
    sides = [int(n) for n in graph.tensors[graph.inputs[0]].shape][1:3]
    if len(sides) == 2 and max(sides) > KNOWN_SIDE:
        risks.append(
            f"not documented: compilers have left operators on the CPU, or given up, for large activations ({sides[0]}x"
            f"{sides[1]}, {peak / 2**20:.1f} MiB alive at once); users report whole networks mapped up to {KNOWN_SIDE} px"
        )
    if any(v.kind.startswith("RESIZE") and v.version > 2 for v in views):
        risks.append("compilers 14 and 15 refuse half_pixel_centers; 16 takes it")
    if any(v.kind == "RESHAPE" for v in views):
        risks.append("RESHAPE of large tensors may stay on the CPU")
    return risks
