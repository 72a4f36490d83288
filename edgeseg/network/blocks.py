"""The blocks that the networks are made of. All maps are NCHW."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.network.definition import Mix

# Values of the published training configuration; the weights of checkpoints assume them.
BN_EPS = 1e-3
BN_MOMENTUM = 0.03


def activation(name: str) -> nn.Module:
    """A fresh activation module: ``silu``, ``relu6`` or ``hardswish``."""
    kinds: dict[str, type[nn.Module]] = {"silu": nn.SiLU, "relu6": nn.ReLU6, "hardswish": nn.Hardswish}
    return kinds[name](inplace=True)


class Conv(nn.Module):
    """Convolution without bias, batch normalisation, activation (``act=None``: none); padding keeps the size at stride 1."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1, *, act: str | None, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(c_out, eps=BN_EPS, momentum=BN_MOMENTUM)
        self.act = activation(act) if act else nn.Identity()

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
    """Two 3x3 convolutions, ``squeeze`` times as wide in between, with the input added where ``shortcut`` says so."""

    def __init__(self, channels: int, *, shortcut: bool, act: str, squeeze: float = 1.0) -> None:
        super().__init__()
        hidden = int(channels * squeeze)
        self.first = Conv(channels, hidden, 3, act=act)
        self.second = Conv(hidden, channels, 3, act=act)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        y = self.second(self.first(x))
        return x + y if self.shortcut else y


class CrossStage(nn.Module):
    """Half of the channels through two bottlenecks, half past them, both joined (CSPNet, Wang et al. 2020)."""

    def __init__(self, channels: int, *, shortcut: bool, act: str) -> None:
        super().__init__()
        half = channels // 2
        self.enter = Conv(channels, half, act=act)
        self.skip = Conv(channels, half, act=act)
        self.chain = nn.Sequential(*(Bottleneck(half, shortcut=shortcut, act=act) for _ in range(2)))
        self.leave = Conv(2 * half, channels, act=act)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        return self.leave(torch.cat((self.chain(self.enter(x)), self.skip(x)), 1))


class Attention(nn.Module):
    """Self-attention among all positions (Vaswani et al. 2017), with a depthwise convolution for where they are.

    A head has 64 channels of values (about: there is at least one head), and half as many of queries and of keys. ``size``
    is the maps' (height, width) where it is fixed, None where it is read from them.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.size: tuple[int, int] | None = None
        self.heads = max(channels // 64, 1)
        self.values = channels // self.heads
        self.keys = self.values // 2
        self.read = Conv(channels, channels + 2 * self.keys * self.heads, act=None)
        self.place = Conv(channels, channels, 3, act=None, groups=channels)
        self.leave = Conv(channels, channels, act=None)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        channels = self.values * self.heads
        height, width = self.size or x.shape[2:]
        read = self.read(x).view(-1, self.heads, 2 * self.keys + self.values, height * width)
        query, key, value = read.split((self.keys, self.keys, self.values), 2)
        weights = ((query.transpose(2, 3) @ key) * self.keys**-0.5).softmax(3)
        mixed = (value @ weights.transpose(2, 3)).view(-1, channels, height, width)
        return self.leave(mixed + self.place(value.reshape(-1, channels, height, width)))


class Attending(nn.Module):
    """Attention, then two 1x1 convolutions (twice as wide in between), each added to its input."""

    def __init__(self, channels: int, *, act: str) -> None:
        super().__init__()
        self.attention = Attention(channels)
        self.widen = Conv(channels, 2 * channels, act=act)
        self.narrow = Conv(2 * channels, channels, act=None)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        x = x + self.attention(x)
        return x + self.narrow(self.widen(x))


class PSA(nn.Module):
    """Partial self-attention: half of the channels pass a chain of ``Attending``, half do not (Wang et al. 2024)."""

    def __init__(self, channels: int, repeats: int, *, act: str) -> None:
        super().__init__()
        half = channels // 2
        self.enter = Conv(channels, 2 * half, act=act)
        self.chain = nn.Sequential(*(Attending(half, act=act) for _ in range(repeats)))
        self.leave = Conv(2 * half, channels, act=act)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        past, through = self.enter(x).chunk(2, 1)
        return self.leave(torch.cat((past, self.chain(through)), 1))


class C2f(nn.Module):
    """Split in two halves, a chain on the second, and every intermediate map joined at the end.

    ``mix`` is what the chain is made of, channels and repeats as this network has them; its bottlenecks have ``squeeze``.
    """

    def __init__(self, c_in: int, mix: Mix, *, squeeze: float, act: str) -> None:
        super().__init__()
        half = int(mix.channels * mix.share)
        self.enter = Conv(c_in, 2 * half, act=act)
        self.chain = nn.ModuleList(self._member(half, mix, squeeze, act) for _ in range(mix.repeats))
        self.leave = Conv((2 + mix.repeats) * half, mix.channels, act=act)

    @staticmethod
    def _member(channels: int, mix: Mix, squeeze: float, act: str) -> nn.Module:
        if mix.attends:
            first = Bottleneck(channels, shortcut=mix.shortcut, act=act, squeeze=squeeze)
            return nn.Sequential(first, Attending(channels, act=act))
        if mix.deep:
            return CrossStage(channels, shortcut=mix.shortcut, act=act)
        return Bottleneck(channels, shortcut=mix.shortcut, act=act, squeeze=squeeze)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, H, W)."""
        maps = list(self.enter(x).chunk(2, 1))
        for block in self.chain:
            maps.append(block(maps[-1]))
        return self.leave(torch.cat(maps, 1))


class SPPF(nn.Module):
    """Spatial pyramid pooling: one 5x5 max-pooling applied three times, all four maps joined.

    ``summed``: the input is added to the result, and the first convolution has no activation.
    """

    def __init__(self, channels: int, *, act: str, summed: bool = False) -> None:
        super().__init__()
        self.summed = summed
        self.enter = Conv(channels, channels // 2, act=None if summed else act)
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)
        self.leave = Conv(channels // 2 * 4, channels, act=act)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        maps = [self.enter(x)]
        for _ in range(3):
            maps.append(self.pool(maps[-1]))
        y = self.leave(torch.cat(maps, 1))
        return x + y if self.summed else y


class Separable(nn.Module):
    """A depthwise 3x3 convolution, then a 1x1 convolution over the channels."""

    def __init__(self, c_in: int, c_out: int, *, act: str) -> None:
        super().__init__()
        self.spatial = Conv(c_in, c_in, 3, act=act, groups=c_in)
        self.across = Conv(c_in, c_out, act=act)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, H, W)."""
        return self.across(self.spatial(x))


class Branch(nn.Module):
    """One branch of the head at one stride: two 3x3 convolutions (or separable ones), then a plain 1x1 one with bias."""

    def __init__(self, c_in: int, hidden: int, c_out: int, *, act: str, separable: bool = False) -> None:
        super().__init__()
        self.first = Separable(c_in, hidden, act=act) if separable else Conv(c_in, hidden, 3, act=act)
        self.second = Separable(hidden, hidden, act=act) if separable else Conv(hidden, hidden, 3, act=act)
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

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps of strides 8, 16, 32, the first (B, c_in, H, W) -> (B, c_out, 2H, 2W)."""
        return self.leave(self.refine(self.upsample(self.enter(maps[0]))))


class RichProto(Proto):
    """Prototypes from all three maps: the coarse ones, refined and enlarged, are added to the finest.

    ``semantic`` tells the classes at each place of the finest map: it teaches the prototypes in training, and is not part
    of what a trained network computes.
    """

    def __init__(self, channels: Sequence[int], hidden: int, c_out: int, nc: int, *, act: str) -> None:
        super().__init__(hidden, hidden, c_out, act=act)
        fine = channels[0]
        self.coarse = nn.ModuleList(Conv(c, fine, act=act) for c in channels[1:])
        self.fuse = Conv(fine, hidden, 3, act=act)
        self.semantic = nn.Sequential(
            Conv(fine, hidden, 3, act=act), Conv(hidden, hidden, 3, act=act), nn.Conv2d(hidden, nc, 1)
        )

    def summed(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps of strides 8, 16, 32 -> (B, c_in, H, W), all that they say at the finest stride."""
        total = maps[0]
        for i, (refine, coarse) in enumerate(zip(self.coarse, maps[1:])):
            total = total + F.interpolate(refine(coarse), scale_factor=float(2 << i), mode="nearest")
        return total

    def made_of(self, features: Tensor) -> Tensor:
        """What ``summed`` gives -> (B, c_out, 2H, 2W)."""
        return super().forward([self.fuse(features)])

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps of strides 8, 16, 32, the first (B, c_in, H, W) -> (B, c_out, 2H, 2W)."""
        return self.made_of(self.summed(maps))
