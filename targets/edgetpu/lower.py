"""An int8 TF Lite file in the words that the Edge TPU compiler knows; every change keeps every output bit.

The compiler of 2021 (version 16, the last) reads operators as TensorFlow 2.5 wrote them.
"""

from __future__ import annotations

from typing import Any

from ..tflite import flatbuffer

#: Version that TensorFlow's converter writes for an int8 operator (tensorflow/lite/tools/versioning/op_version.cc).
INT8_VERSION = {
    **dict.fromkeys(("ADD", "AVERAGE_POOL_2D", "CONCATENATION", "LOGISTIC", "MAXIMUM", "MAX_POOL_2D", "MEAN", "MINIMUM"), 2),
    **dict.fromkeys(("MUL", "PAD", "PADV2", "RELU", "RELU6", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "SLICE"), 2),
    **dict.fromkeys(("SOFTMAX", "SPACE_TO_DEPTH", "SPLIT", "STRIDED_SLICE", "SUB", "SUM", "TANH", "TRANSPOSE"), 2),
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D"), 3),
    "TRANSPOSE_CONV": 2,
    "FULLY_CONNECTED": 4,
}


def lower(content: bytes) -> tuple[bytes, list[str]]:
    """The flatbuffer rewritten, without what was appended to it, and what was changed, each as a sentence.

    - RESIZE_NEAREST_NEIGHBOR by a whole factor loses ``half_pixel_centers`` (compilers 14 and 15 refuse it): with or
      without, it reads source pixel ``x // factor``.
    - Operators get the version that says int8; quantizers leave that of the float file.
    """
    model = flatbuffer.read(content)
    notes = []
    resized = sum(_plain_resize(model, graph, op) for graph in model.subgraphs for op in graph.operators)
    if resized:
        notes.append(f"{resized} enlargements written without half_pixel_centers, which gives the same pixels")
    changed = _set_versions(model)
    if changed:
        notes.append(f"operator versions set to those of int8: {', '.join(changed)}")
    return flatbuffer.pack(model, len(content) + 4096), notes


def _kind(model: Any, op: Any) -> str:
    code = model.operatorCodes[op.opcodeIndex]
    names = flatbuffer._OPERATORS
    return str(names.get(max(code.builtinCode, code.deprecatedBuiltinCode), code.builtinCode))


def _plain_resize(model: Any, graph: Any, op: Any) -> bool:
    if _kind(model, op) != "RESIZE_NEAREST_NEIGHBOR" or not op.builtinOptions.halfPixelCenters:
        return False
    before, after = (graph.tensors[i].shape for i in (op.inputs[0], op.outputs[0]))
    if op.builtinOptions.alignCorners or any(int(after[i]) % int(before[i]) for i in (1, 2)):
        return False
    op.builtinOptions.halfPixelCenters = False
    return True


def _set_versions(model: Any) -> list[str]:
    needed: dict[int, int] = {}
    for graph in model.subgraphs:
        for op in graph.operators:
            version = _version(model, graph, op)
            if version:
                needed[op.opcodeIndex] = max(version, needed.get(op.opcodeIndex, 0))
    changed = []
    for index, version in needed.items():
        code = model.operatorCodes[index]
        if code.version != version:
            name = flatbuffer._OPERATORS[max(code.builtinCode, code.deprecatedBuiltinCode)]
            changed.append(f"{name} {code.version} to {version}")
            code.version = version
        code.deprecatedBuiltinCode = min(max(code.builtinCode, code.deprecatedBuiltinCode), 127)
    return changed


def _version(model: Any, graph: Any, op: Any) -> int:
    """The version that an operator needs; 0 leaves it as it is (not int8, or not known here)."""
    from ai_edge_litert import schema_py_generated as schema

    kind = _kind(model, op)
    tensors = [graph.tensors[i] for i in (*op.inputs, *op.outputs) if i >= 0]
    if kind not in INT8_VERSION or not any(t.type == schema.TensorType.INT8 for t in tensors):
        return 0
    if kind == "TRANSPOSE_CONV" and len(op.inputs) > 3 and op.inputs[3] >= 0:
        return 4 if op.builtinOptions.fusedActivationFunction else 3
    if kind.startswith("RESIZE") and (op.builtinOptions.halfPixelCenters or op.builtinOptions.alignCorners):
        return 3
    if kind == "MUL":
        a, b, out = (float(t.quantization.scale[0]) for t in tensors[:3])
        return 3 if a * b / out >= 1 else 2
    return INT8_VERSION[kind]
