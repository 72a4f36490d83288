"""One process or many: started by ``torchrun``, gradients averaged by DDP, batch statistics shared on request."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from edgeseg.errors import EdgesegError

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process among all of the run. ``world`` is 1 without ``torchrun``."""

    device: torch.device
    rank: int = 0
    world: int = 1

    @classmethod
    def start(cls, device: str = "auto") -> Processes:
        """Join the other processes, if ``torchrun`` started this one (it sets RANK, LOCAL_RANK and WORLD_SIZE).

        Raises:
            EdgesegError: no such device.
        """
        world = int(os.environ.get("WORLD_SIZE", "1"))
        if world == 1:
            return cls(pick_device(device))
        local = int(os.environ.get("LOCAL_RANK", "0"))
        cuda = device != "cpu" and torch.cuda.is_available()
        chosen = torch.device("cuda", local) if cuda else torch.device("cpu")
        if cuda:
            torch.cuda.set_device(chosen)
        if not dist.is_initialized():
            dist.init_process_group("nccl" if cuda else "gloo")
        return cls(chosen, dist.get_rank(), world)

    @property
    def main(self) -> bool:
        """Whether this process writes files and talks to people."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, as a new tensor without gradient."""
        total = tensor.detach().clone()
        if self.world > 1:
            dist.all_reduce(total)
        return total

    def share(self, make: Callable[[], T]) -> T:
        """What ``make`` gives in the main process (anything picklable), in every process; only the main one calls it."""
        if self.world == 1:
            return make()
        box: list[Any] = [make() if self.main else None]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def wrap(self, network: nn.Module) -> nn.Module:
        """The module to call in training: gradients are averaged over the processes when there are several."""
        if self.world == 1:
            return network
        ids = [self.device.index] if self.device.type == "cuda" else None
        wrapper = nn.parallel.DistributedDataParallel
        # Statistics are shared already, or differ on purpose; the switch that says so was renamed in torch 2.13.
        options: dict[str, Any] = {"device_ids": ids}
        new = "forward_sync_buffers" in inspect.signature(wrapper.__init__).parameters
        options["forward_sync_buffers" if new else "broadcast_buffers"] = False
        return wrapper(network, **options)

    def close(self) -> None:
        """Leave the group."""
        if self.world > 1 and dist.is_initialized():
            dist.destroy_process_group()


def pick_device(name: str) -> torch.device:
    """``auto`` is the first GPU (CUDA, then Apple's), else the CPU.

    Raises:
        EdgesegError: there is no such device here.
    """
    if name == "auto":
        mps = torch.backends.mps.is_available()
        return torch.device("cuda:0" if torch.cuda.is_available() else "mps" if mps else "cpu")
    try:
        device = torch.device(f"cuda:{name}" if name.isdigit() else name)
    except RuntimeError as e:
        raise EdgesegError(f"device={name} is no device", hint="Use device=cpu, device=cuda:0 or device=auto") from e
    known = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= known.get(device.type, 0):
        raise EdgesegError(f"device={name} is not there", hint="Use device=cpu or device=auto")
    return device


class _Sum(torch.autograd.Function):
    """Sum over all processes; so is its gradient, as each process holds a share of the loss."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].clone()
        dist.all_reduce(total)
        return total


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch normalisation with the mean and variance of all processes' batches, on any device (torch's own needs a GPU)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        if not self.training or not dist.is_initialized():
            return super().forward(x)
        shape = (1, -1, 1, 1)
        local = torch.cat((x.sum((0, 2, 3)), x.new_tensor([float(x.numel() // x.shape[1])])))
        total = _Sum.apply(local)
        number = total[-1]
        mean = total[:-1] / number
        centred = x - mean.view(shape)
        variance = _Sum.apply((centred * centred).sum((0, 2, 3))) / number
        with torch.no_grad():
            momentum = self.momentum or 0.1
            if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
                self.running_mean.lerp_(mean, momentum)
                self.running_var.lerp_(variance * number / (number - 1), momentum)
                self.num_batches_tracked.add_(1)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return centred * scale.view(shape) + self.bias.view(shape)


def share_statistics(network: nn.Module, processes: Processes) -> nn.Module:
    """The network with batch normalisation over all processes' images; with one process it stays as it is."""
    if processes.world == 1:
        return network
    if processes.device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.BatchNorm2d:
                twin = SharedBatchNorm(child.num_features, child.eps, child.momentum or 0.1).to(child.weight.device)
                twin.load_state_dict(child.state_dict())
                setattr(parent, name, twin)
    return network
