"""SavedModel -> frozen TensorFlow GraphDef. The format has no room for metadata: it lies in ``<file>.yaml``."""

from __future__ import annotations

from dataclasses import replace

import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from edgeseg.export.describe import derive
from edgeseg.export.job import Job
from edgeseg.manifest import Manifest, read_sidecar, write_sidecar


def convert(job: Job) -> None:
    """Write ``job.output``: a frozen graph whose input is called ``images`` and whose outputs have the manifest's names."""
    job.progress(0.1, "reading the SavedModel")
    source = Manifest.from_metadata(read_sidecar(job.source), path=str(job.source))
    manifest = derive(job, source, ("tensorflow-cpu",))
    model = tf.saved_model.load(str(job.source))  # the function keeps no reference to its variables
    serve = model.signatures["serving_default"]
    job.progress(0.5, "freezing")
    frozen = convert_variables_to_constants_v2(serve)
    names = sorted(serve.structured_outputs)  # the order in which a signature returns its dictionary
    graph = frozen.graph.as_graph_def()
    found = dict(zip(names, frozen.outputs, strict=True))
    for out in manifest.outputs:
        # A frozen graph calls its outputs Identity, Identity_1 ..: an alias gives each its own name.
        graph.node.add(op="Identity", name=out.name, input=[found[out.name].name]).attr[
            "T"
        ].type = tf.float32.as_datatype_enum
    job.output.write_bytes(graph.SerializeToString())
    write_sidecar(job.output, replace(manifest, input=replace(manifest.input, name=frozen.inputs[0].op.name)))
    job.progress(1.0, "written")
