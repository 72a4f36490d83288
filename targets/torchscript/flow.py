"""A TorchScript archive as a ``Flow``: exported to ONNX, which has a reader."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import torch

from edgeseg.quantize.flow import Flow

from ..onnx import flow as onnx_flow
from .runtime import Runtime


def read(path: Path, imgsz: tuple[int, int]) -> Flow:
    """The network in an archive with the raw head.

    Raises:
        EdgesegError: it cannot be read, carries no manifest, has another head or an operator that is not known.
    """
    opened = Runtime(path)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter announces its own retirement at every call
        file = Path(folder) / "model.onnx"
        module = torch.jit.load(str(path), map_location="cpu").eval()
        names = [o.name for o in opened.outputs]
        torch.onnx.export(module, (torch.zeros(1, 3, *imgsz),), str(file), dynamo=False, output_names=names)
        found: Flow = onnx_flow.read(file, imgsz, opened.metadata)
    return found
