"""Giving folded batch normalisation its statistics back changes nothing in evaluation and makes training agree with it."""

from __future__ import annotations

import copy

import torch

from edgeseg.network.definition import Definition
from edgeseg.network.model import Network
from edgeseg.training.statistics import folded, measure


def test_measured_statistics_keep_the_output_and_make_training_agree() -> None:
    torch.manual_seed(0)
    network = Network(Definition(variant="tiny", depth=0.33, width=0.0625, max_channels=128, nc=2), ("a", "b")).eval()
    with torch.no_grad():
        for m in network.modules():
            if isinstance(m, torch.nn.BatchNorm2d):
                m.bias.uniform_(-0.5, 1.0)
                m.running_var.fill_(0.9990234375)
    layers = folded(network)
    assert len(layers) == sum(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules())
    x = torch.rand(16, 3, 96, 96)
    before = network(x).proto
    worse = (copy.deepcopy(network).train()(x).proto - before).abs().mean().item()
    measure(network, layers, [x[:8], x[8:]])
    assert not folded(network) and not network.training
    after = network(x).proto
    assert torch.allclose(before, after, atol=1e-4)
    assert (copy.deepcopy(network).train()(x).proto - before).abs().mean().item() < 0.02 * worse


def test_trained_statistics_are_left_alone() -> None:
    network = Network(Definition(variant="tiny", depth=0.33, width=0.0625, max_channels=128, nc=2), ("a", "b")).train()
    network(torch.rand(2, 3, 64, 64))
    assert not folded(network)
