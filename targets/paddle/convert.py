"""Checkpoint -> PaddlePaddle through X2Paddle's tracing converter: a folder with graph, weights and metadata.yaml."""

from __future__ import annotations

import shutil
from dataclasses import replace

import torch
from paddle import inference  # X2Paddle imports it late otherwise, which crashes once other frameworks are loaded

from edgeseg.errors import EdgesegError
from edgeseg.export.describe import describe
from edgeseg.export.job import Job
from edgeseg.manifest import Manifest, Tensor, write_sidecar
from edgeseg.network.checkpoint import load_checkpoint
from edgeseg.network.views import FixedDecodedView

GRAPH, WEIGHTS = "model.json", "model.pdiparams"


def convert(job: Job) -> None:
    """Write the folder ``job.output``; float32 in (N, 3, H, W), RGB in 0..1, and float32 out, in the manifest's order.

    Raises:
        EdgesegError: the converted network has other outputs than the checkpoint.
    """
    job.progress(0.05, "loading the checkpoint")
    network = load_checkpoint(job.source).fuse().eval()
    manifest = describe(job, network, ("paddlepaddle", "x2paddle", "torch"))
    view = network.view("raw") if job.head == "raw" else FixedDecodedView(network, job.imgsz)
    sample = torch.rand(job.batch, 3, *job.imgsz)
    with torch.no_grad():
        view(sample)  # whatever a module keeps from its first call must not be born inside the trace
    job.progress(0.2, "X2Paddle")
    from x2paddle.convert import pytorch2paddle

    made = job.work / "x2paddle"
    pytorch2paddle(module=view, save_dir=str(made), jit_type="trace", input_examples=[sample], disable_feedback=True)
    job.output.mkdir(parents=True, exist_ok=True)
    for name in (GRAPH, WEIGHTS):
        shutil.move(made / "inference_model" / name, job.output / name)
    # Paddle's own names tell nothing: of a folder that lost its metadata, so much is still known.
    graph = (job.output / GRAPH).read_text(encoding="utf-8")
    (job.output / GRAPH).write_text(
        graph.replace('"magic":"pir"', '"magic":"pir","producer":"edgeseg"', 1), encoding="utf-8"
    )
    job.progress(0.9, "checking")
    write_sidecar(job.output, _with_real_names(manifest, job))
    job.progress(1.0, "written")


def _with_real_names(manifest: Manifest, job: Job) -> Manifest:
    """The manifest with the names that Paddle gave; the order of the outputs is that of the traced module."""
    predictor = inference.create_predictor(inference.Config(str(job.output / GRAPH), str(job.output / WEIGHTS)))
    names = predictor.get_output_names()
    if len(names) != len(manifest.outputs):
        raise EdgesegError(f"{len(names)} outputs where {len(manifest.outputs)} are expected", path=job.output)
    (entry,) = predictor.get_input_names()
    outputs = tuple(replace(o, name=n) for o, n in zip(manifest.outputs, names))
    return manifest.with_tensors(Tensor(entry, manifest.input.shape), outputs)
