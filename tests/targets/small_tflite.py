"""Small TF Lite files from nothing: what the tests of the Edge TPU feed."""

from __future__ import annotations

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgeseg.registry import target_by_name


class Graph:
    """A TF Lite file from nothing: int8 tensors with one scale, operators one after the other."""

    def __init__(self) -> None:
        self.model = schema.ModelT()
        self.model.version, self.model.operatorCodes, self.model.buffers = 3, [], [schema.BufferT()]
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators, self.graph.inputs, self.graph.outputs = [], [], [], []
        self.model.subgraphs = [self.graph]

    def tensor(self, shape, kind="INT8", data=None, scale=0.1, scales=1, zero=0, name="t"):
        tensor = schema.TensorT()
        tensor.shape, tensor.type, tensor.buffer = list(shape), getattr(schema.TensorType, kind), 0
        tensor.name = f"{name}{len(self.graph.tensors)}".encode() if name == "t" else name.encode()
        if kind in ("INT8", "UINT8") or scales > 1:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = [scale] * scales
            tensor.quantization.zeroPoint = [zero] * scales
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            self.model.buffers.append(buffer)
            tensor.buffer = len(self.model.buffers) - 1
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def op(self, kind, inputs, outputs, version=1, options=None, **values):
        code = schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, kind)
        code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), version
        self.model.operatorCodes.append(code)
        op = schema.OperatorT()
        op.opcodeIndex, op.inputs, op.outputs = len(self.model.operatorCodes) - 1, list(inputs), list(outputs)
        if options:
            op.builtinOptions = getattr(schema, f"{options}T")()
            op.builtinOptionsType = getattr(schema.BuiltinOptions, options)
            for name, value in values.items():
                setattr(op.builtinOptions, name, value)
        self.graph.operators.append(op)
        return outputs[0]

    def conv(self, x, channels_in, channels_out, shape, **values):
        rng = np.random.default_rng(channels_out)
        weight = rng.integers(-127, 128, (channels_out, 1, 1, channels_in), dtype=np.int8)
        w = self.tensor(weight.shape, data=weight, scale=0.01, scales=channels_out)
        bias = self.tensor((channels_out,), "INT32", rng.integers(-99, 99, channels_out, np.int32), 0.001, channels_out)
        options = {"strideW": 1, "strideH": 1, "dilationWFactor": 1, "dilationHFactor": 1, **values}
        return self.op("CONV_2D", [x, w, bias], [self.tensor(shape)], 1, "Conv2DOptions", **options)

    def bytes(self, inputs, outputs) -> bytes:
        self.graph.inputs, self.graph.outputs = list(inputs), list(outputs)
        return target_by_name("tflite").load("flatbuffer").pack(self.model)


def network() -> bytes:
    """Convolution, SiLU, enlargement by 2 with half pixels, transposed convolution with a bias."""
    g = Graph()
    x = g.tensor((1, 8, 8, 3), scale=1 / 255, zero=-128, name="images")
    y = g.conv(x, 3, 4, (1, 8, 8, 4))
    sigmoid = g.op("LOGISTIC", [y], [g.tensor((1, 8, 8, 4), scale=1 / 256, zero=-128)])
    y = g.op("MUL", [y, sigmoid], [g.tensor((1, 8, 8, 4), scale=0.06, zero=-40)], 1, "MulOptions")
    size = g.tensor((2,), "INT32", np.array([16, 16], np.int32))
    big = g.tensor((1, 16, 16, 4), scale=0.06, zero=-40)
    options = "ResizeNearestNeighborOptions"
    y = g.op("RESIZE_NEAREST_NEIGHBOR", [y, size], [big], 3, options, halfPixelCenters=True)
    rng = np.random.default_rng(3)
    w = g.tensor((5, 2, 2, 4), data=rng.integers(-127, 128, (5, 2, 2, 4), dtype=np.int8), scale=0.01, scales=5)
    bias = g.tensor((5,), "INT32", rng.integers(-99, 99, 5, np.int32), 0.0006, 5)
    shape = g.tensor((4,), "INT32", np.array([1, 32, 32, 5], np.int32))
    out = g.tensor((1, 32, 32, 5), scale=0.05, name="proto")
    g.op("TRANSPOSE_CONV", [shape, w, y, bias], [out], 3, "TransposeConvOptions", strideW=2, strideH=2)
    return g.bytes([x], [out])


def run(content: bytes) -> np.ndarray:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(model_content=content, experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
    interpreter.allocate_tensors()
    entry, out = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    x = np.random.default_rng(0).integers(-128, 128, entry["shape"], dtype=np.int8)
    interpreter.set_tensor(entry["index"], x)
    interpreter.invoke()
    return interpreter.get_tensor(out["index"])
