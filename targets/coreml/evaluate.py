"""Runs the saved program of a Core ML package in NumPy, in the precision that the program says.

It answers one question on machines without Core ML: does the file compute what the network computes? Weights come from the
package, compressed ones are expanded as the program tells, and every result is checked against the declared shape and
rounded to the declared type, so that half floats and integers cost what they cost on a device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from edgeseg.errors import EdgesegError

from . import operators
from .program import Name

Watch = Callable[[str, np.ndarray], None]


class Evaluator:
    """One program, ready to run.

    Args:
        program: a ``Program`` as ``read_program`` gives it.

    Raises:
        EdgesegError: an operator is not known (all are named), or a constant cannot be read.
    """

    def __init__(self, program: Any) -> None:
        self.program = program
        self._name = Name
        constants, self._known = operators.CONSTANTS, operators.OPERATORS
        unknown = sorted({op.type for op in program.operations if op.type not in constants | self._known or op.blocks})
        if unknown:
            raise EdgesegError(
                f"operators that the evaluator does not know: {', '.join(unknown)}",
                path=program.path,
                hint="Run it on macOS, where Core ML does",
            )
        # Constants by name, compressed ones expanded.
        self.constants: dict[str, Any] = {}
        self._operations = []
        for op in program.operations:
            if op.type in constants:
                self.constants[op.outputs[0].name] = self._apply(op, constants[op.type], self.constants)[0]
            else:
                self._operations.append(op)
        self._last = {n: i for i, op in enumerate(self._operations) for n in self._reads(op)}

    def run(self, x: np.ndarray, watch: Watch | None = None) -> list[np.ndarray]:
        """Outputs in the order of the program's for one input array of its shape.

        Args:
            x: the program's input; RGB in 0..1 where the package takes an image.
            watch: called with name and value of the input and of every tensor as it is computed.

        Raises:
            EdgesegError: the input has another shape, an operation fails, or it gives another shape than is declared.
        """
        entry = self.program.input
        if len(x.shape) != len(entry.shape) or any(n not in (-1, m) for n, m in zip(entry.shape, x.shape)):
            raise EdgesegError(f"an input of {list(x.shape)} where {list(entry.shape)} is expected", path=self.program.path)
        if self.program.image is not None:
            x = np.rint(x * np.float32(255.0))
            x = x[:, ::-1] if self.program.image == "bgr" else x
        live: dict[str, Any] = {entry.name: np.ascontiguousarray(x, dtype=np.float32)}
        if watch:
            watch(entry.name, live[entry.name])
        keep = {o.name for o in self.program.outputs}
        for i, op in enumerate(self._operations):
            for value, declared in zip(self._apply(op, self._known[op.type], {**self.constants, **live}), op.outputs):
                live[declared.name] = value
                if watch:
                    watch(declared.name, value)
            for name in self._reads(op):
                if self._last[name] == i and name not in keep:
                    live.pop(name, None)
        return [live[o.name].astype(o.dtype, copy=False) for o in self.program.outputs]

    def _reads(self, op: Any) -> set[str]:
        names = {v.name for bound in op.arguments.values() for v in bound if isinstance(v, self._name)}
        return names - self.constants.keys()

    def _apply(self, op: Any, operator: Callable[..., Any], known: Mapping[str, Any]) -> list[Any]:
        try:
            arguments = {key: self._argument(key, bound, known) for key, bound in op.arguments.items()}
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                results = operator(arguments)
                results = results if isinstance(results, list) and op.type != "const" else [results]
                return [self._declared(r, v) for r, v in zip(results, op.outputs, strict=True)]
        except EdgesegError as e:
            if e.path is not None:
                raise
            raise EdgesegError(f"{op.type} {op.name}: {e.what}", path=self.program.path, hint="Export it again") from e
        except (ValueError, IndexError, KeyError, TypeError, AttributeError) as e:
            what = f"{op.type} {op.name} cannot be computed ({type(e).__name__}: {e})"
            raise EdgesegError(what, path=self.program.path, hint="Export it again") from e

    def _argument(self, key: str, bound: tuple[Any, ...], known: Mapping[str, Any]) -> Any:
        values = [known[v.name] if isinstance(v, self._name) else v for v in bound]
        return values if key == "values" or len(values) != 1 else values[0]

    @staticmethod
    def _declared(result: Any, declared: Any) -> Any:
        """The result in the declared type, once its shape is what the program says."""
        if declared.dtype == "string" or isinstance(result, (str, list)):
            return result
        result = np.asarray(result)
        shape = result.shape
        if len(shape) != len(declared.shape) or any(n not in (-1, m) for n, m in zip(declared.shape, shape)):
            raise EdgesegError(f"it gives {list(shape)} where the program declares {list(declared.shape)}")
        dtype = {"int4": "int8", "uint4": "uint8"}.get(declared.dtype, declared.dtype)
        return result.astype(dtype, copy=False)
