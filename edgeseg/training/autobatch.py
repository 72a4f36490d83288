"""How many images fit: measured on the device, by doubling."""

from __future__ import annotations

import torch

from edgeseg.network.model import Network
from edgeseg.training.loss import network_loss
from edgeseg.training.options import TrainOptions
from edgeseg.training.targets import Targets

SHARE = 0.7
"""Share of the device's free memory to fill."""
CPU_BATCH = 16
"""Larger batches are not faster on a CPU."""
LARGEST = 1024


def fitting_batch(network: Network, options: TrainOptions, device: torch.device) -> int:
    """The largest multiple of 8 (or a smaller power of two) for which a step takes at most 70 % of the free memory.

    Steps of 1, 2, 4 ... images are run and their peak memory taken; the rest is extrapolated from the last two. On a CPU,
    where memory is not what limits, it is 16.
    """
    if device.type != "cuda":
        return CPU_BATCH
    free = torch.cuda.mem_get_info(device)[0] * SHARE
    peaks: list[tuple[int, int]] = []
    batch = 1
    while batch <= LARGEST:
        try:
            peaks.append((batch, _peak(network, batch, options, device)))
        except torch.OutOfMemoryError:
            break
        if peaks[-1][1] * 2 > free:
            break
        batch *= 2
    network.zero_grad(set_to_none=True)
    torch.cuda.empty_cache()
    return from_peaks(peaks, free)


def from_peaks(peaks: list[tuple[int, int]], free: float) -> int:
    """The batch that the line through the last two (batch, bytes) reaches ``free`` at, rounded down to a multiple of 8."""
    if len(peaks) < 2:
        return 1
    (b0, m0), (b1, m1) = peaks[-2:]
    each = max((m1 - m0) / (b1 - b0), 1.0)
    most = int(b1 + (free - m1) / each)
    return max(1, min(most // 8 * 8 if most >= 8 else 1 << max(most, 1).bit_length() - 1, LARGEST))


def _peak(network: Network, batch: int, options: TrainOptions, device: torch.device) -> int:
    """Bytes at the peak of a forward and backward pass with 20 instances an image."""
    size = round(options.imgsz * (1 + options.multi_scale))
    side = -(-size // 32) * 32
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    owner = torch.arange(batch, device=device).repeat_interleave(20)
    boxes = torch.tensor([side * 0.3, side * 0.3, side * 0.7, side * 0.7], device=device).repeat(len(owner), 1)
    maps = torch.ones(batch, side // 4, side // 4, dtype=torch.int16, device=device)
    targets = Targets(owner, torch.zeros_like(owner), boxes, maps)
    state = {k: v.clone() for k, v in network.state_dict().items()}
    network.train()
    with torch.autocast(device.type, enabled=options.amp):
        output = network(torch.rand(batch, 3, side, side, device=device))
    network_loss(output, targets, network.strides).total.backward()
    network.load_state_dict(state)
    return torch.cuda.max_memory_allocated(device) - before
