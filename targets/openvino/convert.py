"""ONNX -> OpenVINO IR: a folder with the graph (.xml), the weights (.bin) and the manifest (metadata.yaml).

INT8 comes from the Q/DQ pairs of the ONNX file, which OpenVINO reads: same ranges, same weights as there.
"""

from __future__ import annotations

import onnx
import openvino as ov

from edgeseg.errors import EdgesegError
from edgeseg.export.describe import derive
from edgeseg.export.job import Job
from edgeseg.manifest import Manifest, write_sidecar

from . import qdq


def convert(job: Job) -> None:
    """Write the folder ``job.output``; tensors keep the names, shapes and order of the ONNX file.

    Precision ``fp16`` compresses the weights to half floats, ``int8`` reads an int8 ONNX file; input and outputs stay
    float32.

    Raises:
        EdgesegError: int8 is wanted of an ONNX file that has no integers.
    """
    job.progress(0.1, "reading the ONNX file")
    given = onnx.load(str(job.source))
    props = {p.key: p.value for p in given.metadata_props}
    manifest = derive(job, Manifest.from_metadata(props, path=str(job.source)), ("openvino",))
    source = job.source
    if job.precision == "int8":
        source = job.work / "openvino.onnx"
        scores = [o.name for o in manifest.outputs if o.role == "score"]
        kept = qdq.keep_inputs_of_convolutions(given, scores)
        if not kept and all(i.data_type != onnx.TensorProto.INT8 for i in given.graph.initializer):
            raise EdgesegError("nothing in the ONNX file is integer", path=job.source, hint="Export int8")
        onnx.save(given, str(source))
    job.progress(0.3, "converting")
    model = ov.convert_model(str(source))
    job.output.mkdir(parents=True, exist_ok=True)
    # A name that does not depend on the scratch folder: tools of the ecosystem look for the only .xml.
    ov.save_model(model, str(job.output / "model.xml"), compress_to_fp16=job.precision == "fp16")
    write_sidecar(job.output, manifest)
    job.progress(1.0, "written")
