"""A checkpoint opened like an artifact, so that the code that validates its exports validates it too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from edgeseg.errors import EdgesegError
from edgeseg.manifest import Manifest, Output, Tensor
from edgeseg.network.checkpoint import load_checkpoint
from edgeseg.network.model import Network


class NetworkRuntime:
    """The ``Runtime`` of ``running`` for a checkpoint or a network: fused, float32, on the CPU until ``to`` moves it.

    Any input size that is a multiple of 32 and any batch size run. ``manifest.imgsz`` is the size that the network was
    trained at, 640 if unknown.

    Args:
        path: whatever ``load_checkpoint`` takes, or a ``Network``, which is copied.
        threads: CPU threads; torch has one number for the whole process, None leaves it alone.
        head: ``raw``, or ``decoded`` for what the decoded head gives.
    """

    def __init__(self, path: str | Path | Network, *, threads: int | None = None, head: str = "raw") -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        network = path if isinstance(path, Network) else load_checkpoint(path)
        self.network = network.fuse().float().cpu()
        self._view = self.network.view(head).eval()
        self.input: Tensor = Tensor("images", (-1, 3, -1, -1))
        outputs = self.network.outputs(head, None, batch=-1)
        self.outputs: tuple[Tensor, ...] = outputs
        self.manifest = replace(network_manifest(self.network, self.input, outputs), head=head)
        self.metadata: Mapping[str, Any] = self.manifest.to_metadata()
        self.guesses: tuple[str, ...] = ()
        self.device, self.precision, self.seconds = "cpu", "fp32", 0.0

    def to(self, device: str) -> None:
        """Run on another device of torch from now on: ``cpu``, ``cuda:0``, ``mps``.

        Raises:
            EdgesegError: there is no such device here.
        """
        try:
            torch.zeros(1, device=device)
            self._view.to(device)
        except (RuntimeError, AssertionError, NotImplementedError) as e:
            raise EdgesegError(f"device={device} is not to be had here", hint="Use device=cpu, or leave it out") from e
        self.device = device

    def run(self, x: np.ndarray) -> list[np.ndarray]:
        """(B, 3, H, W) float32 RGB in 0..1 -> the head's tensors, in the order of ``outputs``.

        Raises:
            EdgesegError: another shape or dtype.
        """
        if x.ndim != 4 or x.shape[1] != 3 or x.shape[2] % 32 or x.shape[3] % 32 or x.dtype != np.float32:
            raise EdgesegError(f"the network takes float32 (B, 3, H, W), H and W multiples of 32, not {x.dtype} {x.shape}")
        start = perf_counter()
        with torch.inference_mode():
            images = torch.from_numpy(np.ascontiguousarray(x)).to(self.device)
            outputs = [t.cpu().numpy() for t in self._view(images)]
        self.seconds = perf_counter() - start
        return outputs

    def close(self) -> None:
        """Nothing to end: the network is freed with the last who holds it."""


def network_manifest(network: Network, input: Tensor, outputs: tuple[Output, ...]) -> Manifest:
    """The manifest of a network that is run as it is."""
    return Manifest(
        format="network",
        names=network.names,
        imgsz=trained_imgsz(network),
        input=input,
        outputs=outputs,
        task=network.task,
        reg_max=network.reg_max,
        end2end=network.definition.end2end,
        dynamic=True,
        description="edgeseg network",
        date=str(network.info.get("date", "")),
        license=str(network.info.get("license", "")),
        tools={"torch": torch.__version__},
    )


def trained_imgsz(network: Network, default: int = 640) -> tuple[int, int]:
    """(height, width) that the network was trained at, rounded up to multiples of 32; ``default`` when it does not say."""
    value = network.info.get("imgsz") or default
    pair = (value, value) if isinstance(value, (int, float)) else tuple(value)
    height, width = (max(32, -(-int(n) // 32) * 32) for n in (pair[0], pair[-1]))
    return height, width
