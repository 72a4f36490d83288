"""The head: what the network says about the image, as maps. A task is which branches there are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from edgeseg.network.blocks import Branch, Proto, RichProto
from edgeseg.network.definition import COEFFS, STRIDES, Definition


class RawOutput(NamedTuple):
    """What the convolutions of the head give, before any decoding.

    ``maps`` has one ``(box, score, coeff)`` per stride 8, 16, 32, each (B, C, H/stride, W/stride): ``box`` 4*reg_max DFL
    logits (channel = side*reg_max + bin, sides left, top, right, bottom) or, where reg_max is 1, the 4 distances in cells;
    ``score`` nc logits, ``coeff`` 32 mask coefficients. ``proto`` is (B, 32, H/4, W/4). A detector has no ``coeff``, and
    None for ``proto``. Only in training, where the family has them: ``single``, the maps of the second copy of the branches,
    and ``semantic`` (B, nc, H/8, W/8), logits of the classes at each place.
    """

    maps: list[tuple[Tensor, ...]]
    proto: Tensor | None
    single: list[tuple[Tensor, ...]] | None = None
    semantic: Tensor | None = None

    def flat(self) -> tuple[Tensor, ...]:
        """All tensors, in the order of ``Network.outputs("raw", ...)``."""
        return (*(tensor for one in self.maps for tensor in one), *(() if self.proto is None else (self.proto,)))


class Branches(nn.Module):
    """One set of branches, each at every stride: ``box``, ``score``, and for segmentation ``coeff``."""

    def __init__(self, definition: Definition) -> None:
        super().__init__()
        channels, act, nc, plan = definition.levels, definition.act, definition.nc, definition.plan
        fine, sides = channels[0], 4 * plan.reg_max
        box, score, coeff = max(16, fine // 4, sides), max(fine, min(nc, 100)), max(fine // 4, COEFFS)
        self.box = nn.ModuleList(Branch(c, box, sides, act=act) for c in channels)
        self.score = nn.ModuleList(Branch(c, score, nc, act=act, separable=plan.separable) for c in channels)
        self.roles: tuple[tuple[str, int], ...] = (("box", sides), ("score", nc))
        if definition.task == "segment":
            self.coeff = nn.ModuleList(Branch(c, coeff, COEFFS, act=act) for c in channels)
            self.roles += (("coeff", COEFFS),)

    def read(self, maps: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
        """Maps of strides 8, 16, 32 -> the tensors of ``roles`` at each."""
        branches = [self.get_submodule(role) for role, _ in self.roles]
        return [tuple(branch[i](x) for branch in branches) for i, x in enumerate(maps)]  # type: ignore[index]

    @torch.no_grad()
    def init_bias(self) -> None:
        """Start training from even box bins and scores that expect about 5 objects in an image of 640 px."""
        for box, score, stride in zip(self.box, self.score, STRIDES):
            box.get_parameter("out.bias").fill_(1.0)
            bias = score.get_parameter("out.bias")
            bias.fill_(math.log(5 / bias.numel() / (640 / stride) ** 2))


class Head(Branches):
    """Branches at every stride and the prototypes.

    ``bins`` are the fixed DFL weights 0..15, where there are bins; ``single`` the second copy of the branches, where the
    family has one. Its boxes need no suppression, but it may not survive integers: exports take the first copy.
    """

    def __init__(self, definition: Definition) -> None:
        super().__init__(definition)
        plan, levels, act = definition.plan, definition.levels, definition.act
        self.reg_max = plan.reg_max
        if definition.task == "segment":
            hidden = definition.channels(256)
            self.proto: Proto = (
                RichProto(levels, hidden, COEFFS, definition.nc, act=act)
                if plan.rich_proto
                else Proto(levels[0], hidden, COEFFS, act=act)
            )
        if plan.reg_max > 1:
            # Not torch.arange: on the device "meta" it imports torch's compiler, which takes as long as torch itself.
            self.bins = nn.Parameter(torch.tensor([float(i) for i in range(plan.reg_max)]), requires_grad=False)
        if plan.single and not definition.end2end:
            self.single = Branches(definition)
        self.init_bias()

    def forward(self, maps: Sequence[Tensor]) -> RawOutput:
        """Maps of strides 8, 16, 32 -> ``RawOutput``."""
        found = self.read(maps)
        prototypes = self.proto if hasattr(self, "proto") else None
        if not self.training:
            return RawOutput(found, None if prototypes is None else prototypes(maps))
        # What the second copy learns must not bend the features: they serve the first.
        single = self.single.read([x.detach() for x in maps]) if hasattr(self, "single") else None
        if isinstance(prototypes, RichProto) and hasattr(prototypes, "semantic"):
            features = prototypes.summed(maps)
            return RawOutput(found, prototypes.made_of(features), single, prototypes.semantic(features))
        return RawOutput(found, None if prototypes is None else prototypes(maps), single)

    def drop_training(self) -> None:
        """Forget what a trained network does not compute: the second copy of the branches, the semantic classes."""
        if hasattr(self, "single"):
            del self.single
        if hasattr(self, "proto") and isinstance(self.proto, RichProto) and hasattr(self.proto, "semantic"):
            del self.proto.semantic

    @torch.no_grad()
    def init_bias(self) -> None:
        """As ``Branches`` does, for both copies."""
        super().init_bias()
        if hasattr(self, "single"):
            self.single.init_bias()
