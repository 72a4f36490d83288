"""Batch normalisation that was folded into the convolutions before: give it back the statistics that training relies on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from edgeseg.network.model import Network


def folded(network: Network) -> dict[str, nn.BatchNorm2d]:
    """Layers that say nothing of their inputs: mean exactly 0, the same variance and gain for every channel.

    Files that were rebuilt from a fused or quantized network look like that. Such a layer only adds its bias; in training,
    where it would normalise by the batch, its output would be another.
    """
    return {
        name: m
        for name, m in network.named_modules()
        if isinstance(m, nn.BatchNorm2d)
        and m.running_mean is not None
        and m.running_var is not None
        and m.num_features > 1
        and not m.running_mean.any()
        and bool((m.running_var == m.running_var[0]).all())
        and bool((m.weight == m.weight[0]).all())
    }


@torch.no_grad()
def measure(network: Network, names: Iterable[str], batches: Iterable[Tensor]) -> None:
    """Set mean and variance of layers to what really occurs, and gain and bias so that the output stays the same.

    With y = g (x - m) / sqrt(v + eps) + b before, and the measured m', v': g' = g sqrt(v' + eps) / sqrt(v + eps) and
    b' = b + g (m' - m) / sqrt(v + eps) give the same y.

    Args:
        network: in evaluation mode during this; its training mode is left as it was.
        names: of its normalisation layers. batches: images (B, 3, H, W) RGB in 0..1 on its device.
    """
    layers = [m for m in map(network.get_submodule, names) if isinstance(m, nn.BatchNorm2d)]
    sums = {layer: [torch.zeros(layer.num_features, dtype=torch.float64) for _ in range(2)] for layer in layers}
    counts = dict.fromkeys(layers, 0)

    def watch(layer: nn.BatchNorm2d) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            x = inputs[0].double()
            sums[layer][0] += x.sum((0, 2, 3)).cpu()
            sums[layer][1] += (x * x).sum((0, 2, 3)).cpu()
            counts[layer] += x.numel() // x.shape[1]

        return hook

    handles = [layer.register_forward_pre_hook(watch(layer)) for layer in layers]
    was_training = network.training
    network.eval()
    try:
        for images in batches:
            network(images)
    finally:
        network.train(was_training)
        for handle in handles:
            handle.remove()
    for layer in layers:
        mean, var = layer.running_mean, layer.running_var
        if counts[layer] < 2 or mean is None or var is None:
            continue
        new_mean = sums[layer][0] / counts[layer]
        new_var = (sums[layer][1] / counts[layer] - new_mean**2).clamp_min(1e-6)
        old = torch.sqrt(var.double().cpu() + layer.eps)
        gain, bias = layer.weight.double().cpu(), layer.bias.double().cpu()
        layer.bias.copy_(bias + gain * (new_mean - mean.double().cpu()) / old)
        layer.weight.copy_(gain * torch.sqrt(new_var + layer.eps) / old)
        mean.copy_(new_mean)
        var.copy_(new_var)
