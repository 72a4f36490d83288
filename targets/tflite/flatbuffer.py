"""Reading and rewriting TF Lite flatbuffers: names, operators, tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgeseg.errors import EdgesegError
from edgeseg.manifest import Output, Tensor

_OPERATORS = {v: k for k, v in vars(schema.BuiltinOperator).items() if not k.startswith("_")}
_DTYPES = {
    schema.TensorType.FLOAT32: "float32",
    schema.TensorType.FLOAT16: "float16",
    schema.TensorType.INT8: "int8",
    schema.TensorType.UINT8: "uint8",
    schema.TensorType.INT16: "int16",
    schema.TensorType.INT32: "int32",
}


def read(content: bytes) -> Any:
    """The model as the schema's object tree (``ModelT``), with all constants inside.

    Writers may put constants behind the flatbuffer and store offsets; a tree that is packed again would lose them, and
    runtimes before 2024 do not read them.
    """
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for buffer in model.buffers:
        if buffer.offset > 1 and buffer.size:
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    return model


def pack(model: Any, size: int = 1 << 20) -> bytes:
    """Serialize an object tree; ``size`` is the first guess at the number of bytes."""
    builder = flatbuffers.Builder(size)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def operators(content: bytes) -> Counter[str]:
    """How often each operator occurs, over all subgraphs, by its name in the schema (``CONV_2D`` ...)."""
    model = read(content)
    names = [_OPERATORS.get(max(c.builtinCode, c.deprecatedBuiltinCode), str(c.builtinCode)) for c in model.operatorCodes]
    return Counter(names[op.opcodeIndex] for graph in model.subgraphs for op in graph.operators)


def rename(content: bytes, input_name: str, output_names: Sequence[str]) -> bytes:
    """Give the input and the outputs their names, as tensors and in the signature, in the order of the subgraph.

    The converter calls them ``serving_default_output_0_output`` and the like, in the order in which the module returned
    them; a signature may list them in another order, so entries are found by the tensor that they point at.
    """
    model = read(content)
    graph = model.subgraphs[0]
    names = {int(graph.inputs[0]): input_name, **dict(zip((int(i) for i in graph.outputs), output_names, strict=True))}
    for index, name in names.items():
        graph.tensors[index].name = name.encode()
    for signature in model.signatureDefs or []:
        for entry in (*signature.inputs, *signature.outputs):
            entry.name = names[entry.tensorIndex].encode()
    return pack(model, len(content) + 4096)


def restore_names(content: bytes) -> bytes:
    """Inputs and outputs named as the signature says: quantizers insert tensors with names of their own."""
    model = read(content)
    graph = model.subgraphs[0]
    (signature,) = model.signatureDefs
    by_index = {entry.tensorIndex: entry.name for entry in (*signature.inputs, *signature.outputs)}
    for index in (*graph.inputs, *graph.outputs):
        graph.tensors[index].name = by_index[int(index)]
    return pack(model, len(content) + 4096)


def describe(content: bytes, expected: Sequence[Output]) -> tuple[Tensor, tuple[Output, ...]]:
    """Input and outputs as the flatbuffer has them: shapes, types and quantization, in the order of the subgraph.

    Args:
        content: the flatbuffer.
        expected: the outputs as the network gives them, channels first; names tell which is which.

    Raises:
        EdgesegError: an output is missing, or has another size than the network gave it.
    """
    graph = read(content).subgraphs[0]
    entry = _tensor(graph.tensors[graph.inputs[0]], "nhwc")
    by_name = {o.name: o for o in expected}
    outputs = []
    for index in graph.outputs:
        raw = graph.tensors[index]
        want = by_name.get(raw.name.decode())
        if want is None:
            raise EdgesegError(f"the converted network has an unexpected output {raw.name.decode()}")
        plain = _tensor(raw, "nhwc" if len(raw.shape) == 4 else "nchw")
        if (plain.channels, sorted(plain.shape)) != (want.channels, sorted(want.shape)):
            raise EdgesegError(f"output {plain.name} has shape {plain.shape} where the network gives {want.shape}")
        outputs.append(Output(**vars(plain), role=want.role, stride=want.stride))
    if len(outputs) != len(expected):
        raise EdgesegError(f"the converted network has {len(outputs)} outputs where {len(expected)} are expected")
    return entry, tuple(outputs)


def _tensor(raw: Any, layout: str) -> Tensor:
    scale, zero_point = None, None
    params = raw.quantization
    if params is not None and params.scale is not None and np.size(params.scale) == 1:
        scale, zero_point = float(params.scale[0]), int(params.zeroPoint[0])
    shape = tuple(int(n) for n in raw.shape)
    return Tensor(raw.name.decode(), shape, _DTYPES[raw.type], layout, scale, zero_point)


def values(content: bytes, x: np.ndarray) -> dict[int, np.ndarray]:
    """What each float tensor of the main subgraph holds after a run on one image ``x`` (1, h, w, 3) in float32, by its
    index: (n, ...), n of the first axis for each image of the batch."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES  # a delegate keeps what is inside to itself
    runner = Interpreter(model_content=content, experimental_op_resolver_type=plain, experimental_preserve_all_tensors=True)
    runner.allocate_tensors()
    entry = runner.get_input_details()[0]
    runner.set_tensor(entry["index"], np.repeat(x, entry["shape"][0], 0))
    runner.invoke()
    graph, batch = read(content).subgraphs[0], int(entry["shape"][0])
    computed = {entry["index"], *(i for op in graph.operators for i in op.outputs)}
    floats = (i for i in sorted(computed) if graph.tensors[i].type == schema.TensorType.FLOAT32)
    # The converter folds the heads of an attention into the batch: all of one image's are its values.
    return {i: runner.get_tensor(i).reshape(batch, -1, *graph.tensors[i].shape[1:])[0] for i in floats}
