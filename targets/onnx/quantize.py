"""A float ONNX graph quantized: the decisions written down as Q/DQ pairs."""

from __future__ import annotations

import numpy as np
import onnx

from edgeseg.export.job import Job
from edgeseg.quantize.carried import probe_image

from . import qdq


def quantize(model: onnx.ModelProto, job: Job) -> onnx.ModelProto:
    """The graph (simplified, float32) with Q/DQ pairs, by the job's decisions; what the network does not have stays float.

    Raises:
        EdgesegError: a convolution that is not the network's.
    """
    decisions = job.decisions()
    names = decisions.by_values(values(model, probe_image(job.imgsz), job.batch))
    job.progress(0.8, "writing Q/DQ pairs")
    grids = {name: grid for name, ours in names.items() if (grid := decisions.tensors[ours].grid) is not None}
    held = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    nodes = {n.output[0]: n for n in model.graph.node if n.op_type in qdq.AXES and n.input[1] in held}
    ours = decisions.by_weights((output, held[n.input[1]]) for output, n in nodes.items())
    made: onnx.ModelProto = qdq.write(model, grids, ours, qdq.Writing())
    return made


def values(model: onnx.ModelProto, image: np.ndarray, batch: int = 1) -> dict[str, np.ndarray]:
    """What every float tensor of a graph holds after a run on one uint8 RGB image (h, w, 3), without the batch axis."""
    import onnxruntime as ort

    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    written = [name for n in model.graph.node for name in n.output if name]
    del whole.graph.output[:]
    whole.graph.output.extend(onnx.ValueInfoProto(name=name) for name in written)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(whole.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x = np.repeat(image.transpose(2, 0, 1)[None].astype(np.float32) / 255, batch, 0)
    entry = session.get_inputs()[0].name
    found = {entry: x[0]}
    for name, value in zip(written, session.run(written, {entry: x})):
        if isinstance(value, np.ndarray) and value.dtype == np.float32 and value.ndim > 1:
            found[name] = value[0]
    return found
