"""Checkpoint -> Core ML: an ML program (``.mlpackage``) by coremltools, with the manifest in its user's metadata."""

from __future__ import annotations

import logging
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgeseg.export.describe import INPUT, describe
from edgeseg.export.job import Job
from edgeseg.manifest import Manifest
from edgeseg.network.checkpoint import load_checkpoint
from edgeseg.network.model import Network
from edgeseg.network.views import FixedDecodedView, fixed


def convert(job: Job) -> None:
    """Write the folder ``job.output``: float32 input ``images`` (N, 3, H, W), RGB in 0..1, and float32 outputs.

    ``fp32`` computes in float32, ``fp16`` in half floats (but for the decoding of boxes). ``int8`` holds the weights as
    8-bit integers and computes in half floats; where the recipe wants 8-bit activations too, what enters convolutions is
    quantized, with ranges from the calibration images. Runs from iOS 16 and macOS 13, quantized activations from iOS 17.

    Raises:
        EdgesegError: the checkpoint or a calibration image cannot be read.
    """
    logging.getLogger("coremltools").setLevel(logging.ERROR)  # it warns of versions that it was not tried with
    job.progress(0.05, "loading the checkpoint")
    network = load_checkpoint(job.source).fuse().eval()
    manifest = describe(job, network, ("torch", "coremltools"))
    job.progress(0.1, "converting")
    model = _program(network, job, job.head, half=job.precision != "fp32")
    if job.precision == "int8":
        from .quantize import quantize

        weights = (p.detach().numpy() for name, p in network.named_parameters() if p.ndim == 4)
        model, notes = quantize(model, weights, job)
        manifest = replace(manifest, notes=(*manifest.notes, *notes, *job.unfollowed))
        for note in notes:
            job.note(note)
    job.progress(0.9, "writing")
    _save(model, manifest, job.output)
    job.progress(1.0, "written")


def _program(network: Network, job: Job, head: str, *, half: bool) -> Any:
    """The network as an ``MLModel`` of coremltools."""
    import coremltools as ct

    outputs = network.outputs(head, job.imgsz, job.batch)
    return ct.convert(
        _trace(network, job, head),
        # Left open, the types would be half floats wherever the arithmetic is.
        inputs=[ct.TensorType(INPUT, shape=(job.batch, 3, *job.imgsz), dtype=np.float32)],
        outputs=[ct.TensorType(o.name, dtype=np.float32) for o in outputs],
        convert_to="mlprogram",
        compute_precision=_half() if half else ct.precision.FLOAT32,
        minimum_deployment_target=ct.target.iOS16,
        skip_model_load=True,
    )


def _trace(network: Network, job: Job, head: str) -> torch.jit.ScriptModule:
    view = fixed(network, job.imgsz).view("raw") if head == "raw" else FixedDecodedView(network, job.imgsz)
    sample = torch.rand(job.batch, 3, *job.imgsz)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer announces its own retirement at every call
        view(sample)  # whatever a module keeps from its first call must not be born inside the trace
        return torch.jit.trace(view, (sample,), check_trace=False)


def _half() -> Any:
    """Half floats but for the decoding of boxes: between 512 and 1024 half floats step by 0.5 pixels."""
    import coremltools as ct

    known: dict[int, bool] = {}

    def decoding(op: Any) -> bool:
        if op is None:
            return False
        if id(op) not in known:
            known[id(op)] = _decodes(op)
            sources = [v for value in op.inputs.values() for v in (value if isinstance(value, (list, tuple)) else [value])]
            known[id(op)] = known[id(op)] or any(decoding(v.op) for v in sources if v is not None)
        return known[id(op)]

    return ct.transform.FP16ComputePrecision(op_selector=lambda op: not decoding(op))


def _decodes(op: Any) -> bool:
    """Whether boxes begin to be decoded here: a softmax over bins (attention has one too), sides split in two halves."""
    if op.op_type == "softmax":
        return int(op.inputs["axis"].val) == 2
    return op.op_type == "split" and len(op.inputs["x"].shape) == 3


def _save(model: Any, manifest: Manifest, output: Path) -> None:
    """Save with the metadata; the hash of the weights follows once they are written."""
    from . import program

    model.short_description, model.author = manifest.description, manifest.author
    model.version, model.license = manifest.version, manifest.license
    model.user_defined_metadata.update(manifest.to_metadata())
    _write(model, output)
    weights = program.weights_file(output)
    if weights is not None:
        model.user_defined_metadata[program.WEIGHTS_HASH] = program.weights_hash(weights)
        _write(model, output)


def _write(model: Any, output: Path) -> None:
    # coremltools insists on the suffix, which a scratch name does not have.
    place = output.with_name(output.name + ".mlpackage")
    for old in (place, output):
        shutil.rmtree(old, ignore_errors=True)
    model.save(str(place))
    place.rename(output)
