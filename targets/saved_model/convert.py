"""ONNX -> TensorFlow SavedModel: a folder with the graph, its variables and metadata.yaml."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from edgeseg.errors import EdgesegError
from edgeseg.export.describe import derive
from edgeseg.export.job import Job
from edgeseg.manifest import Manifest, Output, Tensor, write_sidecar

KERAS = "model.keras"
# Sums in another order differ by a few units in the last place; a wrong layout differs by the size of the values.
_TOLERANCE = 1e-3


def convert(job: Job) -> None:
    """Write the folder ``job.output``: one signature, float32 in (N, H, W, 3), channels-last outputs by name.

    Option ``keras`` adds the network as a Keras file (``model.keras``) to the folder.

    Raises:
        EdgesegError: an operator that none of our networks has, or the converted graph computes something else.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    job.progress(0.05, "reading the ONNX file")
    graph = onnx.load(str(job.source))
    props = {p.key: p.value for p in graph.metadata_props}
    manifest = derive(job, Manifest.from_metadata(props, path=str(job.source)), ("tensorflow-cpu", "keras"))
    manifest = replace(manifest, dynamic=False, imgsz=job.imgsz, batch=job.batch)
    job.progress(0.1, "starting TensorFlow")
    from . import network

    job.progress(0.4, "building the network")
    graph = _static(graph, job)
    model = network.Builder(graph, job.batch, job.imgsz).build()
    job.progress(0.5, "comparing with ONNX Runtime")
    _compare(graph, model, job)
    job.progress(0.7, "saving")
    _save(model, manifest, job)
    job.progress(1.0, "written")


def _static(graph: onnx.ModelProto, job: Job) -> onnx.ModelProto:
    """The graph with its sizes fixed and what then is constant computed; one that we have simplified stays as it is."""
    entry = graph.graph.input[0]
    dims = [d.dim_value for d in entry.type.tensor_type.shape.dim]
    wanted = [job.batch, 3, *job.imgsz]
    if dims == wanted and not any(n.op_type == "Shape" for n in graph.graph.node):
        return graph
    import onnxslim

    slim: onnx.ModelProto = onnxslim.slim(graph, input_shapes=[f"{entry.name}:{','.join(map(str, wanted))}"])
    return slim


def _compare(graph: onnx.ModelProto, model: Any, job: Job) -> None:
    """Refuse a conversion that computes something else than ONNX Runtime does on noise."""
    import onnxruntime

    x = np.random.default_rng(0).random((job.batch, 3, *job.imgsz), dtype=np.float32)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = session.run(None, {session.get_inputs()[0].name: x})
    found = model(np.ascontiguousarray(x.transpose(0, 2, 3, 1)), training=False)
    for out, a, b in zip(session.get_outputs(), found, wanted, strict=True):
        values = np.asarray(a).transpose(0, 3, 1, 2) if b.ndim == 4 else np.asarray(a)
        worst = float(np.abs(values - b).max() / max(np.abs(b).max(), 1e-6))
        if not worst < _TOLERANCE:
            raise EdgesegError(
                f"converted to TensorFlow, output {out.name} is off by {worst:.2g} of its range",
                path=job.source,
                hint="Export from the checkpoint (.pt)",
            )


def _save(model: Any, manifest: Manifest, job: Job) -> None:
    import tensorflow as tf

    height, width = job.imgsz
    spec = tf.TensorSpec((job.batch, height, width, 3), tf.float32, name=manifest.input.name)
    outputs = tuple(_channels_last(o, tuple(t.shape)) for o, t in zip(manifest.outputs, model.outputs, strict=True))

    @tf.function(input_signature=[spec])
    def serve(images: Any) -> dict[str, Any]:
        return dict(zip((o.name for o in outputs), model(images, training=False)))

    module = tf.Module()
    # The signature finds its variables through the module; Keras keeps them in wrappers that TensorFlow does not track.
    module.weights, module.serve = [w.value for w in model.weights], serve
    tf.saved_model.save(module, str(job.output), signatures={"serving_default": serve})
    if job.options.get("keras", False):
        model.save(str(job.output / KERAS))
    entry = Tensor(manifest.input.name, tuple(spec.shape), "float32", "nhwc")
    write_sidecar(job.output, manifest.with_tensors(entry, outputs))


def _channels_last(out: Output, shape: tuple[int, ...]) -> Output:
    """The output as the converted graph has it: feature maps channels last, the decoded tensor as it was."""
    return replace(out, shape=shape, layout="nhwc" if len(shape) == 4 else out.layout)
