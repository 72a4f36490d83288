"""Checkpoint -> TorchScript: a trace, with the metadata in the archive's ``config.txt``."""

from __future__ import annotations

import json
import warnings

import torch

from edgeseg.export.describe import describe
from edgeseg.export.job import Job
from edgeseg.network.checkpoint import load_checkpoint

METADATA = "config.txt"


def convert(job: Job) -> None:
    """Write ``job.output``: a TorchScript archive, float32 in (N, 3, H, W), RGB in 0..1, and float32 out.

    Option ``optimize``: PyTorch's mobile optimization; where this build of PyTorch has none, weights are frozen into
    the graph, which is the part of it that runs everywhere, and a note says so.

    Raises:
        EdgesegError: the checkpoint cannot be read.
    """
    job.progress(0.05, "loading the checkpoint")
    network = load_checkpoint(job.source).fuse().eval()
    manifest = describe(job, network, ("torch",))
    view = network.view(job.head)
    sample = torch.rand(job.batch, 3, *job.imgsz)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer announces its own retirement at every call
        view(sample)  # whatever a module keeps from its first call must not be born inside the trace
        job.progress(0.3, "tracing")
        module = torch.jit.trace(view, (sample,), check_trace=False)
        if job.options.get("optimize", False):
            job.progress(0.7, "optimizing for mobile")
            module = _optimize(module, job)
    extra = {METADATA: json.dumps(manifest.to_native(), default=str)}
    module.save(str(job.output), _extra_files=extra)
    job.progress(1.0, "written")


def _optimize(module: torch.jit.ScriptModule, job: Job) -> torch.jit.ScriptModule:
    try:
        from torch.utils.mobile_optimizer import optimize_for_mobile

        return optimize_for_mobile(module)
    except (ImportError, RuntimeError):
        job.note(f"PyTorch {torch.__version__} has no mobile optimization (no XNNPACK in it): the graph was frozen instead")
        return torch.jit.freeze(module.eval())
