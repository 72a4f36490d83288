"""Checkpoint -> ONNX through PyTorch's tracing exporter, simplified by onnxslim, with the manifest in the file."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import onnx
import torch
from torch import nn

from edgeseg.decoders import edgefirst, page
from edgeseg.environments import npm
from edgeseg.export.describe import INPUT, describe
from edgeseg.export.job import Job
from edgeseg.manifest import Manifest, Output, Tensor
from edgeseg.network.checkpoint import load_checkpoint
from edgeseg.network.model import Network, RawOutput

DEFAULT_OPSET = 17
WEB = Path(__file__).resolve().parent / "web"
LIBRARIES = (
    "onnxruntime-web/dist/ort.wasm.min.mjs",
    "onnxruntime-web/dist/ort-wasm-simd-threaded.mjs",
    "onnxruntime-web/dist/ort-wasm-simd-threaded.wasm",
    "onnxruntime-web/dist/ort.jspi.min.mjs",
    "onnxruntime-web/dist/ort-wasm-simd-threaded.jspi.mjs",
    "onnxruntime-web/dist/ort-wasm-simd-threaded.jspi.wasm",
)


def convert(job: Job) -> None:
    """Write ``job.output``: an ONNX file with float32 input ``images`` (N, 3, H, W), RGB in 0..1, and float32 outputs.

    Options: ``opset`` (11..20, int8 from 13, default 17), ``simplify`` (default true), ``dynamic`` (batch, height and
    width are free), ``page`` (a static page beside the file).
    Precision ``int8`` has Q/DQ pairs up to the raw outputs, by the recipe; input and outputs stay float32.
    Precision ``fp16`` keeps weights and arithmetic in half floats between two casts, so that every reader feeds the same.

    Raises:
        EdgesegError: the checkpoint cannot be read.
    """
    opset, dynamic = int(job.options.get("opset", DEFAULT_OPSET)), bool(job.options.get("dynamic", False))
    packages = (
        npm.ensure(WEB, say=lambda text: job.progress(0.0, text), again=page.AGAIN) if job.options.get("page") else None
    )
    job.progress(0.05, "loading the checkpoint")
    network = load_checkpoint(job.source).fuse().eval()
    manifest = describe(job, network, ("torch", "onnx", "onnxslim"))
    view = network.view(job.head)
    names = [o.name for o in manifest.outputs]
    if job.precision == "fp16":
        view.network = _Half(network)
    sample = torch.rand(job.batch, 3, *job.imgsz)
    with torch.no_grad():
        view(sample)  # whatever a module keeps from its first call must not be born inside the trace
    job.progress(0.2, "tracing")
    traced = job.work / "traced.onnx"
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracing exporter announces its own retirement at every call
        torch.onnx.export(
            view,
            (sample,),
            str(traced),
            dynamo=False,
            opset_version=opset,
            input_names=[INPUT],
            output_names=names,
            dynamic_axes=_dynamic_axes(manifest) if dynamic else None,
        )
    model = onnx.load(str(traced))
    if job.options.get("simplify", True) or job.precision == "int8":
        job.progress(0.6, "simplifying")
        import onnxslim

        model = onnxslim.slim(model)
    if job.precision == "int8":
        from .quantize import quantize

        model = quantize(model, job)
        manifest = replace(manifest, notes=(*manifest.notes, *job.unfollowed))
    job.progress(0.85, "checking")
    manifest = _describe(model, manifest, dynamic=dynamic)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(job.output))
    if packages is not None:
        page.write_page(job.output, manifest, WEB, packages, LIBRARIES)
        job.note(page.NOTE)
    job.progress(1.0, "written")


def _dynamic_axes(manifest: Manifest) -> dict[str, dict[int, str]]:
    """Free dimensions by tensor. Names differ by stride, since one name stands for one number in ONNX."""
    axes = {INPUT: {0: "batch", 2: "height", 3: "width"}}
    for out in manifest.outputs:
        if len(out.shape) == 3:
            axes[out.name] = {0: "batch", 2: "anchors"}
        else:
            stride = out.stride or 4
            axes[out.name] = {0: "batch", 2: f"height_{stride}", 3: f"width_{stride}"}
    return axes


class _Half(nn.Module):
    """A network in half floats between two casts.

    What a head layout does after it stays in float32: half floats step by 0.5 between 512 and 1024, which as a pixel
    coordinate would be the error of every box.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.body, self.head = network.half(), network.head
        self.definition, self.nc, self.reg_max = network.definition, network.nc, network.reg_max

    def forward(self, images: torch.Tensor) -> RawOutput:
        maps, proto, *_ = self.body(images.half())
        floats = [tuple(tensor.float() for tensor in one) for one in maps]
        return RawOutput(floats, None if proto is None else proto.float())


def _describe(model: onnx.ModelProto, manifest: Manifest, *, dynamic: bool) -> Manifest:
    """Embed the manifest, with the shapes and types that the finished graph really has, and return it."""
    (entry,) = model.graph.input
    by_name = {value.name: value for value in model.graph.output}
    shape, dtype = _shape_and_type(entry)
    outputs = []
    for out in manifest.outputs:
        out_shape, out_dtype = _shape_and_type(by_name[out.name])
        outputs.append(Output(out.name, out_shape, out_dtype, out.layout, role=out.role, stride=out.stride))
    final = replace(manifest, dynamic=dynamic).with_tensors(Tensor(entry.name, shape, dtype), tuple(outputs))
    onnx.helper.set_model_props(model, {**final.to_metadata(), **edgefirst.properties(final)})
    model.producer_name, model.producer_version = "edgeseg", final.version
    return final


def _shape_and_type(value: onnx.ValueInfoProto) -> tuple[tuple[int, ...], str]:
    kind = value.type.tensor_type
    shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim)
    return shape, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
