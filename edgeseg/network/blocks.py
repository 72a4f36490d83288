"""The blocks that YOLOv8-seg is made of. All maps are NCHW."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Values of the published training configuration; the weights of checkpoints assume them.
BN_EPS = 1e-3
BN_MOMENTUM = 0.03


def activation(name: str) -> nn.Module:
    """A fresh activation module: ``silu``, ``relu6`` or ``hardswish``."""
    kinds: dict[str, type[nn.Module]] = {"silu": nn.SiLU, "relu6": nn.ReLU6, "hardswish": nn.Hardswish}
    return kinds[name](inplace=True)


class Conv(nn.Module):
    """Convolution without bias, batch normalisation, activation; padding keeps the size at stride 1."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1, *, act: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(c_out, eps=BN_EPS, momentum=BN_MOMENTUM)
        self.act = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, ceil(H/stride), ceil(W/stride))."""
        return self.act(self.bn(self.conv(x)))

    @torch.no_grad()
    def fuse(self) -> None:
        """Fold the batch normalisation (its running statistics) into the convolution, in place; a second call does nothing.

        With g = weight / sqrt(var + eps): kernel * g, and bias - mean * g.
        """
        bn = self.bn
        if not isinstance(bn, nn.BatchNorm2d) or bn.running_mean is None or bn.running_var is None:
            return
        gain = bn.weight / torch.sqrt(bn.running_var + bn.eps)
        bias = bn.bias - bn.running_mean * gain
        self.conv.weight.mul_(gain.view(-1, 1, 1, 1))
        self.conv.bias = nn.Parameter(bias.clone())
        self.bn = nn.Identity()

    @torch.no_grad()
    def unfuse(self) -> None:
        """Undo ``fuse`` as far as it can be: a normalisation that only adds the bias, in place."""
        if self.conv.bias is None:
            return
        bn = nn.BatchNorm2d(self.conv.out_channels, eps=BN_EPS, momentum=BN_MOMENTUM)
        bn.weight.fill_((1 + BN_EPS) ** 0.5)
        bn.bias.copy_(self.conv.bias)
        self.conv.bias, self.bn = None, bn.train(self.training)


class Bottleneck(nn.Module):
    """Two 3x3 convolutions of equal width, with the input added where ``shortcut`` says so."""

    def __init__(self, channels: int, *, shortcut: bool, act: str) -> None:
        super().__init__()
        self.first = Conv(channels, channels, 3, act=act)
        self.second = Conv(channels, channels, 3, act=act)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        y = self.second(self.first(x))
        return x + y if self.shortcut else y


class C2f(nn.Module):
    """Split in two halves, a chain of bottlenecks on the second, and every intermediate map joined at the end."""

    def __init__(self, c_in: int, c_out: int, repeats: int, *, shortcut: bool, act: str) -> None:
        super().__init__()
        half = c_out // 2
        self.enter = Conv(c_in, 2 * half, act=act)
        self.chain = nn.ModuleList(Bottleneck(half, shortcut=shortcut, act=act) for _ in range(repeats))
        self.leave = Conv((2 + repeats) * half, c_out, act=act)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, H, W)."""
        maps = list(self.enter(x).chunk(2, 1))
        for block in self.chain:
            maps.append(block(maps[-1]))
        return self.leave(torch.cat(maps, 1))


class SPPF(nn.Module):
    """Spatial pyramid pooling: one 5x5 max-pooling applied three times, all four maps joined."""

    def __init__(self, channels: int, *, act: str) -> None:
        super().__init__()
        self.enter = Conv(channels, channels // 2, act=act)
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)
        self.leave = Conv(channels // 2 * 4, channels, act=act)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        maps = [self.enter(x)]
        for _ in range(3):
            maps.append(self.pool(maps[-1]))
        return self.leave(torch.cat(maps, 1))


class Branch(nn.Module):
    """One branch of the head at one stride: two 3x3 convolutions and a plain 1x1 convolution with bias."""

    def __init__(self, c_in: int, hidden: int, c_out: int, *, act: str) -> None:
        super().__init__()
        self.first = Conv(c_in, hidden, 3, act=act)
        self.second = Conv(hidden, hidden, 3, act=act)
        self.out = nn.Conv2d(hidden, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, H, W) logits."""
        return self.out(self.second(self.first(x)))


class Proto(nn.Module):
    """Mask prototypes from the map of stride 8, at twice its size."""

    def __init__(self, c_in: int, hidden: int, c_out: int, *, act: str) -> None:
        super().__init__()
        self.enter = Conv(c_in, hidden, 3, act=act)
        self.upsample = nn.ConvTranspose2d(hidden, hidden, 2, 2)
        self.refine = Conv(hidden, hidden, 3, act=act)
        self.leave = Conv(hidden, c_out, act=act)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, 2H, 2W)."""
        return self.leave(self.refine(self.upsample(self.enter(x))))
