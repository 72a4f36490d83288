"""Checkpoint -> TorchScript: a trace, with the metadata in the archive's ``config.txt``."""

from __future__ import annotations

import json
import warnings

import torch

from edgeseg.errors import EdgesegError
from edgeseg.graph.describe import describe
from edgeseg.graph.job import Job
from edgeseg.network.checkpoint import load_checkpoint

METADATA = "config.txt"


def convert(job: Job) -> None:
    """Write ``job.output``: a TorchScript archive, float32 in (N, 3, H, W), RGB in 0..1, and float32 out.

    Option ``optimize``: PyTorch's mobile optimization, where this build of PyTorch has it.

    Raises:
        EdgesegError: ``optimize`` on a PyTorch without XNNPACK, or the checkpoint cannot be read.
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
            module = _optimize(module)
    extra = {METADATA: json.dumps(manifest.to_metadata())}
    module.save(str(job.output), _extra_files=extra)
    job.progress(1.0, "written")


def _optimize(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    try:
        from torch.utils.mobile_optimizer import optimize_for_mobile

        return optimize_for_mobile(module)
    except (ImportError, RuntimeError) as e:
        raise EdgesegError(
            f"PyTorch {torch.__version__} cannot optimize for mobile here (it was built without XNNPACK)",
            hint="Export without optimize, or use a PyTorch built with USE_XNNPACK=1",
        ) from e
