"""What the loss compares predictions with: the ground truth of one batch, and the network's output laid out by anchor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Targets:
    """Ground truth of a batch, all instances of all images in one list, no padding.

    Attributes:
        image: (T,) int64, index of the image in the batch; sorted.
        classes: (T,) int64.
        boxes: (T, 4) float32, xyxy in input pixels.
        masks: (B, h, w) int16, index map at a quarter of the input's size: 0 is background, ``k`` the k-th instance (from 1)
            of that image. Where instances overlap, the smaller one lies on top.
    """

    image: Tensor
    classes: Tensor
    boxes: Tensor
    masks: Tensor

    def __len__(self) -> int:
        return len(self.image)

    @property
    def batch(self) -> int:
        """Number of images."""
        return len(self.masks)

    def class_maps(self, size: tuple[int, int]) -> Tensor:
        """(B, h, w) int64: the class at each place of a map of (h, w) ``size``, from 1; 0 is background."""
        masks = self.masks
        if masks.shape[1:] != size:
            masks = F.interpolate(masks[:, None].float(), size, mode="nearest")[:, 0]
        counts = torch.bincount(self.image, minlength=self.batch)
        row = masks.long() + (counts.cumsum(0) - counts)[:, None, None]
        return torch.where(masks > 0, torch.cat((self.classes.new_zeros(1), self.classes + 1))[row], 0)

    @property
    def ordinals(self) -> Tensor:
        """(T,) int64: the value that each instance has in the index map of its image (from 1)."""
        counts = torch.bincount(self.image, minlength=self.batch)
        first = counts.cumsum(0) - counts
        return torch.arange(len(self), device=self.image.device) - first[self.image] + 1

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Targets:
        """The same on another device."""
        move = [t.to(device, non_blocking=non_blocking) for t in (self.image, self.classes, self.boxes, self.masks)]
        return Targets(*move)


@dataclass(frozen=True)
class Prediction:
    """Raw network output with one row per anchor; strides one after the other, each row-major.

    Attributes:
        box: (B, N, 4 * reg_max) DFL logits, channel = side * reg_max + bin, sides l, t, r, b; with one bin the distances.
        score: (B, N, nc) logits.
        coeff: (B, N, 32), None of a detector.
        proto: (B, 32, h, w), None of a detector.
        anchors: (N, 2) x, y of the anchor centres in input pixels.
        strides: (N, 1) input pixels per grid cell.
    """

    box: Tensor
    score: Tensor
    coeff: Tensor | None
    proto: Tensor | None
    anchors: Tensor
    strides: Tensor

    @property
    def reg_max(self) -> int:
        """Bins per box side."""
        return self.box.shape[-1] // 4

    def boxes(self) -> Tensor:
        """Decoded boxes (B, N, 4), xyxy in input pixels: anchor minus/plus the expected distance times the stride."""
        batch, count, _ = self.box.shape
        sides = self.box
        if self.reg_max > 1:
            bins = torch.arange(self.reg_max, dtype=self.box.dtype, device=self.box.device)
            sides = self.box.view(batch, count, 4, self.reg_max).softmax(-1) @ bins
        distance = sides * self.strides
        return torch.cat((self.anchors - distance[..., :2], self.anchors + distance[..., 2:]), -1)


def flatten(maps: Sequence[tuple[Tensor, ...]], proto: Tensor | None, strides: Sequence[int]) -> Prediction:
    """Lay the maps of each stride, (box, score, coeff) of shape (B, C, h, w), out by anchor, in float32."""
    box, score, *coeff = (torch.cat([m[i].flatten(2) for m in maps], 2).transpose(1, 2).float() for i in range(len(maps[0])))
    anchors, scale = [], []
    for (first, *_), stride in zip(maps, strides):
        h, w = first.shape[2:]
        y, x = torch.meshgrid(
            torch.arange(h, device=first.device) + 0.5, torch.arange(w, device=first.device) + 0.5, indexing="ij"
        )
        anchors.append(torch.stack((x, y), -1).view(-1, 2) * stride)
        scale.append(torch.full((h * w, 1), float(stride), device=first.device))
    coeffs, protos = (coeff[0], proto.float()) if coeff and proto is not None else (None, None)
    return Prediction(box, score, coeffs, protos, torch.cat(anchors), torch.cat(scale))
