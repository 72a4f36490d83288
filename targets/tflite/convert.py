"""Checkpoint -> TF Lite through litert-torch (no TensorFlow), channels last, with the manifest appended as a ZIP."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import litert_torch
import torch

from edgeseg.decoders import edgefirst
from edgeseg.errors import EdgesegError
from edgeseg.export.describe import INPUT, describe
from edgeseg.export.job import Job
from edgeseg.manifest import Manifest, Output, append_zip
from edgeseg.network.blocks import Attention
from edgeseg.network.checkpoint import load_checkpoint
from edgeseg.network.views import FixedDecodedView

from . import flatbuffer

TURNS = 6
"""Transpositions that a self-attention is converted with: its matrices have the heads where images have their batch."""


def convert(job: Job) -> None:
    """Write ``job.output``: a TF Lite file with input ``images`` (N, H, W, 3), RGB.

    ``fp32`` and ``fp16`` (weights in half floats, arithmetic in float32) take 0..1 in float32; ``int8`` takes and gives
    int8 throughout. All 4-D outputs are channels last; ``prediction`` of the decoded head stays (N, 4+nc+32, anchors), its
    boxes in 0..1, which is what other tools' loaders expect of this format. In int8 it is three tensors: ``box``, ``score``
    and ``coeff``, each with a scale of its own.

    Raises:
        EdgesegError: the checkpoint cannot be read, or the converter left transpositions in a raw head.
    """
    job.progress(0.05, "loading the checkpoint")
    network = load_checkpoint(job.source).fuse().eval()
    manifest = describe(job, network, ("torch", "litert-torch", "ai-edge-quantizer", "ai-edge-litert"))
    job.progress(0.1, "converting to TF Lite")
    view = network.view("raw")
    if job.head == "decoded":
        apart = job.precision == "int8"
        view = FixedDecodedView(network, job.imgsz, normalized=True, apart=apart)
        outputs = _apart(manifest) if apart else manifest.outputs
        manifest = replace(manifest, normalized_boxes=True, outputs=outputs)
    content = flatbuffer.rename(_trace(view, job), INPUT, [o.name for o in manifest.outputs])
    count = flatbuffer.operators(content)["TRANSPOSE"]
    turned = TURNS * sum(isinstance(m, Attention) for m in network.modules())
    if job.head == "raw" and count > turned:
        raise EdgesegError(f"the converter left {count} transpositions in the graph", hint="Use litert-torch 0.10")
    if job.precision == "int8":
        job.progress(0.4, "quantizing")
        from .quantize import quantize

        content = quantize(content, job)
    elif job.precision == "fp16":
        job.progress(0.9, "half-precision weights")
        content = _to_half(content)
    job.progress(0.95, "writing")
    content = flatbuffer.restore_names(content)
    entry, outputs = flatbuffer.describe(content, manifest.outputs)
    job.output.write_bytes(content)
    manifest = replace(manifest, notes=(*manifest.notes, *job.unfollowed)).with_tensors(entry, outputs)
    append_zip(job.output, manifest, edgefirst.texts(manifest))
    job.progress(1.0, "written")


def _apart(manifest: Manifest) -> tuple[Output, ...]:
    """The outputs of a decoded head with boxes, scores and coefficients as tensors of their own."""
    whole, *rest = manifest.outputs
    batch, _, count = whole.shape
    sizes = {"box": 4, "score": manifest.nc}
    if rest:
        sizes["coeff"] = rest[0].channels
    return (*(Output(role, (batch, size, count), role=role) for role, size in sizes.items()), *rest)


def _trace(view: torch.nn.Module, job: Job) -> bytes:
    """The float flatbuffer of a view whose image tensors are turned channels last on both sides."""
    height, width = job.imgsz
    with torch.no_grad():
        # Also the warm-up: whatever a module keeps from its first call must not be born inside the trace.
        outputs = view(torch.rand(job.batch, 3, height, width))
    images = [i for i, t in enumerate(outputs) if t.ndim == 4]
    module = litert_torch.to_channel_last_io(view, args=[0], outputs=images).eval()
    sample = torch.rand(job.batch, height, width, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return litert_torch.convert(module, (sample,)).model_content()


def _to_half(content: bytes) -> bytes:
    """Weights of the convolutions in float16, each followed by a DEQUANTIZE that runtimes fold at load time."""
    from ai_edge_quantizer import qtyping, quantizer
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    weights = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
    config = qtyping.OpQuantizationConfig(
        weight_tensor_config=weights, compute_precision=qtyping.ComputePrecision.FLOAT, explicit_dequantize=True
    )
    q: Any = quantizer.Quantizer(content)
    q.update_quantization_recipe(
        regex=".*",
        operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
        op_config=config,
        algorithm_key=AlgorithmName.FLOAT_CASTING,
    )
    return bytes(q.quantize().quantized_model)
