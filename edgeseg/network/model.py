"""A network as a PyTorch module: backbone, neck, head."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from edgeseg.errors import EdgesegError
from edgeseg.manifest import HEADS, Output
from edgeseg.network.blocks import PSA, SPPF, Attention, C2f, Conv
from edgeseg.network.definition import COEFFS, STRIDES, Definition
from edgeseg.network.head import Head, RawOutput


class Stage(nn.Module):
    """One level of the backbone: halve the size, then mix."""

    def __init__(self, definition: Definition, name: str, c_in: int, c_out: int) -> None:
        super().__init__()
        self.down = Conv(c_in, c_out, 3, 2, act=definition.act)
        self.mix = _mixing(definition, name, c_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, H/2, W/2)."""
        return self.mix(self.down(x))


def _mixing(definition: Definition, name: str, c_in: int) -> C2f:
    return C2f(c_in, definition.mix(name), squeeze=definition.plan.squeeze, act=definition.act)


class Backbone(nn.Module):
    """Image to three maps, of strides 8, 16 and 32. ``p2`` has stride 4, ``p5`` stride 32."""

    def __init__(self, definition: Definition) -> None:
        super().__init__()
        act, plan = definition.act, definition.plan
        c1, c2, c3, c4, c5 = definition.stages
        m2, m3, m4, m5 = (definition.mix(name).channels for name in ("p2", "p3", "p4", "p5"))
        self.stem = Conv(3, c1, 3, 2, act=act)
        self.p2 = Stage(definition, "p2", c1, c2)
        self.p3 = Stage(definition, "p3", m2, c3)
        self.p4 = Stage(definition, "p4", m3, c4)
        self.p5 = Stage(definition, "p5", m4, c5)
        self.sppf = SPPF(m5, act=act, summed=plan.pooled_sum)
        self.attend = PSA(m5, definition.repeats(plan.attention), act=act) if plan.attention else None

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, H, W) RGB in 0..1 -> maps of strides 8, 16, 32."""
        p3 = self.p3(self.p2(self.stem(image)))
        p4 = self.p4(p3)
        p5 = self.sppf(self.p5(p4))
        return p3, p4, p5 if self.attend is None else self.attend(p5)


class Neck(nn.Module):
    """Path aggregation: coarse maps go up to the fine ones, and the result comes down again."""

    def __init__(self, definition: Definition) -> None:
        super().__init__()
        c3, c4, c5, top = (definition.mix(name).channels for name in ("p3", "p4", "p5", "top4"))
        fine, middle, _ = definition.levels
        act = definition.act
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.top4 = _mixing(definition, "top4", c5 + c4)
        self.out3 = _mixing(definition, "out3", top + c3)
        self.down3 = Conv(fine, fine, 3, 2, act=act)
        self.out4 = _mixing(definition, "out4", fine + top)
        self.down4 = Conv(middle, middle, 3, 2, act=act)
        self.out5 = _mixing(definition, "out5", middle + c5)

    def forward(self, p3: Tensor, p4: Tensor, p5: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps of strides 8, 16, 32 -> maps of the same strides."""
        top4 = self.top4(torch.cat((self.upsample(p5), p4), 1))
        out3 = self.out3(torch.cat((self.upsample(top4), p3), 1))
        out4 = self.out4(torch.cat((self.down3(out3), top4), 1))
        out5 = self.out5(torch.cat((self.down4(out4), p5), 1))
        return out3, out4, out5


class Network(nn.Module):
    """A network of one of the families, for segmentation or detection.

    Args:
        definition: its numbers.
        names: class names, ``definition.nc`` of them; by default ``class0`` ... .

    Attributes:
        backbone, neck, head: the three parts; the head's are ``box``, ``score``, ``coeff`` and ``proto``.
        reg_max: bins of each box side; 1: the head gives distances.
        info: what a checkpoint says besides the weights (``imgsz``, ``data`` ...), {} for a fresh network.
        fused: whether batch normalisation is folded into the convolutions.

    Raises:
        EdgesegError: the number of names is not ``definition.nc``.
    """

    strides = STRIDES

    def __init__(self, definition: Definition, names: Sequence[str] | None = None) -> None:
        super().__init__()
        names = tuple(names) if names is not None else tuple(f"class{i}" for i in range(definition.nc))
        if len(names) != definition.nc:
            raise EdgesegError(f"{len(names)} names for a network of {definition.nc} classes")
        self.definition, self.names, self.reg_max = definition, names, definition.plan.reg_max
        self.info: dict[str, Any] = {}
        self.fused = False
        self.backbone, self.neck, self.head = Backbone(definition), Neck(definition), Head(definition)

    @property
    def nc(self) -> int:
        """Number of classes."""
        return self.definition.nc

    @property
    def task(self) -> str:
        """``segment`` or ``detect``."""
        return self.definition.task

    def forward(self, images: Tensor) -> RawOutput:
        """(B, 3, H, W) float RGB in 0..1, H and W multiples of 32 -> ``RawOutput``, in training and evaluation alike."""
        return self.head(self.neck(*self.backbone(images)))

    def fuse(self) -> Network:
        """A copy in evaluation mode with batch normalisation folded into the convolutions; this network stays as it is.

        What only training uses is left out: the one-to-one head is had from ``end2end`` before.
        """
        twin = copy.deepcopy(self).eval()
        for module in twin.modules():
            if isinstance(module, Conv):
                module.fuse()
        twin.head.drop_training()
        twin.fused = True
        return twin

    def unfuse(self) -> Network:
        """A copy with batch normalisation again, which only adds a bias so far; the outputs are the same in evaluation."""
        twin = copy.deepcopy(self)
        for module in twin.modules():
            if isinstance(module, Conv):
                module.unfuse()
        twin.fused = False
        return twin

    def end2end(self) -> Network:
        """A copy that has the second copy of the branches in place of the first: its boxes need no suppression.

        Raises:
            EdgesegError: the network has no second copy, or none any more.
        """
        if self.definition.end2end:
            return copy.deepcopy(self)
        twin = Network(replace(self.definition, end2end=True), self.names).train(self.training)
        if self.fused:
            what = "its normalisation is folded in, and what only training used is left out: so is the one-to-one head"
            raise EdgesegError(what, hint="Take the checkpoint before (qat=true and fuse leave it out)")
        own = self.state_dict()
        branches = ("head.box.", "head.score.", "head.coeff.")
        theirs = {k: k.replace("head.", "head.single.", 1) if k.startswith(branches) else k for k in twin.state_dict()}
        twin.load_state_dict({k: own[other] for k, other in theirs.items()})
        twin.info = dict(self.info)
        return twin

    def boxes_only(self) -> Network:
        """A copy without coefficients and prototypes: the detector that a segmentation network contains."""
        twin = copy.deepcopy(self)
        if self.task == "segment":
            twin.definition = replace(self.definition, task="detect")
            for branches in (twin.head, *([twin.head.single] if hasattr(twin.head, "single") else [])):
                del branches.coeff
                branches.roles = tuple(r for r in branches.roles if r[0] != "coeff")
            del twin.head.proto
        return twin

    def view(self, head: str = "raw") -> nn.Module:
        """This network with a flat tuple of tensors as output, in the order of ``outputs(head, ...)``; weights are shared.

        ``raw``: box, score and coeff of strides 8, 16, 32, then proto. ``decoded``: ``prediction`` and ``proto``;
        so has ``nms``, which only ONNX can run.

        Raises:
            EdgesegError: no such head layout.
        """
        from edgeseg.network.views import DecodedView, RawView, SuppressedView

        _check_head(head)
        views: dict[str, type[nn.Module]] = {"raw": RawView, "decoded": DecodedView, "nms": SuppressedView}
        return views[head](self)

    def outputs(self, head: str, imgsz: int | tuple[int, int] | None, batch: int = 1) -> tuple[Output, ...]:
        """The output tensors of ``view(head)``, NCHW, float32.

        Args:
            head: ``raw``, ``decoded`` or ``nms``.
            imgsz: pixels, one number or (height, width), multiples of 32; None for dynamic sizes (-1).
            batch: batch size, -1 for dynamic.
        """
        _check_head(head)
        size = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
        if size is not None and any(n <= 0 or n % STRIDES[-1] for n in size):
            raise EdgesegError(f"imgsz {size[0]}x{size[1]} is no multiple of {STRIDES[-1]}")

        def at(stride: int) -> tuple[int, int]:
            return (-1, -1) if size is None else (size[0] // stride, size[1] // stride)

        extra = COEFFS if self.task == "segment" else 0
        proto = (Output("proto", (batch, COEFFS, *at(4)), role="proto"),) if extra else ()
        if head == "raw":
            roles = self.head.roles
            maps = [Output(f"{r}_{s}", (batch, c, *at(s)), role=r, stride=s) for s in STRIDES for r, c in roles]
            return (*maps, *proto)
        if head == "nms":
            from edgeseg.network.views import MAX_DET

            rows = Output("prediction", (batch, MAX_DET, 6 + extra), layout="nhwc", role="prediction")
            return (rows, *proto)
        count = -1 if size is None else sum(at(s)[0] * at(s)[1] for s in STRIDES)
        return (Output("prediction", (batch, 4 + self.nc + extra, count), role="prediction"), *proto)


def _check_head(head: str) -> None:
    if head not in HEADS:
        raise EdgesegError(f"head layout {head!r} is none of {', '.join(HEADS)}")


def count_parameters(network: nn.Module) -> int:
    """Number of weights: the fixed DFL weights, and what only training uses, included."""
    return sum(p.numel() for p in network.parameters())


def count_flops(network: Network, imgsz: int | tuple[int, int] = 640) -> int:
    """Floating-point operations of the fused network for one image: two for each product in convolutions and matrices.

    Newer published figures count so; the table of YOLOv8 of 2023 counts each transposed convolution four times.

    Shapes are propagated on the meta device, so nothing is computed and ``network`` is not touched.
    """
    height, width = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
    with torch.device("meta"):
        twin = Network(network.definition, network.names).eval()
    total = 0

    def add(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.ConvTranspose2d):
            total += 2 * args[0].numel() * math.prod(module.weight.shape[1:])
        elif isinstance(module, Attention):
            total += 2 * out[0, 0].numel() ** 2 * module.heads * (module.keys + module.values)
        elif isinstance(module, nn.Conv2d):
            total += 2 * out.numel() * math.prod(module.weight.shape[1:])

    for module in twin.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, Attention)):
            module.register_forward_hook(add)
    with torch.no_grad():
        twin(torch.empty(1, 3, height, width, device="meta"))
    return total
