"""The head layouts as views of one network, made for tracing: no state, no cache, sizes taken from the maps."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from edgeseg.network.blocks import Attention
from edgeseg.network.definition import COEFFS, STRIDES

if TYPE_CHECKING:
    from edgeseg.network.model import Network
from typing import TYPE_CHECKING, Any


class RawView(nn.Module):
    """Ten tensors: box, score and coeff of strides 8, 16, 32, then proto; of a detector six: box and score."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) RGB in 0..1 -> maps as ``RawOutput`` has them, flat."""
        return self.network(images).flat()


class DecodedView(nn.Module):
    """Two tensors: ``prediction`` (B, 4+nc+32, N) and ``proto`` (B, 32, H/4, W/4); of a detector one: (B, 4+nc, N).

    ``prediction`` holds xywh (centre) in input pixels, scores in 0..1 and mask coefficients; the N anchors are ordered by
    stride 8, 16, 32 and row by row.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) RGB in 0..1 -> ``prediction`` and ``proto``."""
        maps, proto, *_ = self.network(images)
        parts = []
        for (box, score, *coeff), stride in zip(maps, STRIDES):
            boxes = decode_boxes(box, stride, self.network.reg_max)
            parts.append(torch.cat((boxes, score.flatten(2).sigmoid(), *(c.flatten(2) for c in coeff)), 1))
        return torch.cat(parts, 2), *(() if proto is None else (proto,))


def fixed(network: Network, imgsz: tuple[int, int]) -> Network:
    """A copy for images of (height, width) ``imgsz`` alone, in which no size is read from a map.

    For converters that cannot read a traced size: coremltools 9.0 with NumPy 2.4, X2Paddle 1.6.
    """
    twin = copy.deepcopy(network)
    for module in twin.modules():
        if isinstance(module, Attention):
            module.size = (imgsz[0] // STRIDES[-1], imgsz[1] // STRIDES[-1])
    return twin


class FixedDecodedView(nn.Module):
    """``DecodedView`` for one image size, with every size a plain number and nothing but common operators.

    Args:
        network: the network.
        imgsz: (height, width) in pixels.
        normalized: give xywh in 0..1, as shares of width and height, in place of pixels.
        apart: give boxes, scores and coefficients as three tensors, which integers can serve: each has a scale of its own.
    """

    def __init__(self, network: Network, imgsz: tuple[int, int], *, normalized: bool = False, apart: bool = False) -> None:
        super().__init__()
        self.network, self.apart = fixed(network, imgsz), apart
        self.cells = [(imgsz[0] // s, imgsz[1] // s) for s in STRIDES]
        bins = network.reg_max
        self.register_buffer("bins", torch.arange(bins, dtype=torch.float32).reshape(1, 1, bins, 1))
        for i, (h, w) in enumerate(self.cells):
            y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
            self.register_buffer(f"anchors{i}", torch.stack((x.reshape(-1), y.reshape(-1)))[None].float())
            unit = torch.full((1, 4, 1), float(STRIDES[i]))
            shares = torch.tensor([imgsz[1], imgsz[0]] * 2).reshape(1, 4, 1)
            self.register_buffer(f"unit{i}", unit / shares if normalized else unit)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(1, 3, H, W) RGB in 0..1 -> ``prediction``, or its parts, and ``proto`` as ``DecodedView`` gives them."""
        maps, proto, *_ = self.network(images)
        bins, parts = self.network.reg_max, []
        for i, (box, score, *coeff) in enumerate(maps):
            count = self.cells[i][0] * self.cells[i][1]
            if bins > 1:
                sides = (box.reshape(-1, 4, bins, count).softmax(2) * self.bins).sum(2)
            else:
                sides = box.reshape(-1, 4, count)
            low, high = sides.split(2, 1)
            centre = getattr(self, f"anchors{i}") + (high - low) / 2
            boxes = torch.cat((centre, low + high), 1) * getattr(self, f"unit{i}")
            scores = score.reshape(-1, self.network.nc, count).sigmoid()
            parts.append((boxes, scores, *(c.reshape(-1, COEFFS, count) for c in coeff)))
        rest = () if proto is None else (proto,)
        if self.apart:
            return *(torch.cat(one, 2) for one in zip(*parts)), *rest
        return torch.cat([torch.cat(one, 1) for one in parts], 2), *rest


def decode_boxes(box: Tensor, stride: int, bins: int) -> Tensor:
    """Box logits of one stride to boxes: expected bin of each side (Generalized Focal Loss, Li et al. 2020), then pixels.

    Args:
        box: (B, 4*bins, h, w) logits, channel = side*bins + bin, sides left, top, right, bottom in units of ``stride``;
            with one bin the distances themselves.
        stride: input pixels of one cell; the anchor lies in the middle of its cell.
        bins: values of a side, 0..bins-1.

    Returns:
        (B, 4, h*w) xywh, centre, in input pixels, row by row.
    """
    height, width = box.shape[2], box.shape[3]
    if bins > 1:
        values = torch.arange(bins, device=box.device, dtype=box.dtype).view(1, 1, bins, 1)
        sides = (box.reshape(box.shape[0], 4, bins, -1).softmax(2) * values).sum(2)
    else:
        sides = box.flatten(2)
    left_top, right_bottom = sides.chunk(2, 1)
    x = (torch.arange(width, device=box.device, dtype=box.dtype) + 0.5).view(1, -1).expand(height, -1)
    y = (torch.arange(height, device=box.device, dtype=box.dtype) + 0.5).view(-1, 1).expand(-1, width)
    anchor = torch.stack((x.reshape(-1), y.reshape(-1))).unsqueeze(0)
    centre = anchor + (right_bottom - left_top) / 2
    return torch.cat((centre, left_top + right_bottom), 1) * stride


CONF, IOU, MAX_DET = 0.25, 0.7, 300
"""What such a file keeps: constants of its graph."""


class _Suppression(torch.autograd.Function):
    """ONNX's ``NonMaxSuppression``, which has no counterpart among PyTorch's own operators; traced, not computed."""

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any, most: Any, iou: Any, conf: Any) -> Any:
        return g.op("NonMaxSuppression", boxes, scores, most, iou, conf)

    @staticmethod
    def forward(ctx: Any, boxes: Tensor, scores: Tensor, most: Tensor, iou: Tensor, conf: Tensor) -> Tensor:
        # Any indices will do for the trace: one of the first class and box.
        return torch.zeros(1, 3, dtype=torch.int64)


class SuppressedView(DecodedView):
    """Two tensors: ``prediction`` (1, 300, 6+32) and ``proto`` (1, 32, H/4, W/4), of a detector (1, 300, 6); for one image.

    A row is x1, y1, x2, y2 in input pixels, score, class, mask coefficients; rows by falling score, zeros after the last.
    Each place counts with its best class, and boxes of one class with an IoU above 0.7 are one object, as in ``vision.nms``.
    """

    def __init__(self, network: Network) -> None:
        super().__init__(network)
        self.nc = network.nc
        self.register_buffer("most", torch.tensor([MAX_DET], dtype=torch.int64), persistent=False)
        self.register_buffer("iou", torch.tensor([IOU]), persistent=False)
        self.register_buffer("conf", torch.tensor([CONF]), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(1, 3, H, W) RGB in 0..1 -> ``prediction`` and ``proto``."""
        prediction, *proto = super().forward(images)
        rows = prediction.transpose(1, 2)
        centre, half = rows[..., :2], rows[..., 2:4] / 2
        boxes = torch.cat((centre - half, centre + half), 2)
        scores = prediction[:, 4 : 4 + self.nc]
        best, cls = scores.max(1, keepdim=True)
        only = torch.where(
            torch.arange(self.nc, device=scores.device).view(1, -1, 1) == cls, scores, torch.zeros_like(scores)
        )
        if self.network.definition.end2end:  # nothing to suppress: the best are the objects
            at = best[0, 0].topk(min(MAX_DET, best.shape[2])).indices
        else:
            at = _Suppression.apply(boxes, only, self.most, self.iou, self.conf)[:, 2]
        kept = torch.cat((boxes[0], best[0].T, cls[0].T.to(boxes.dtype), rows[0, :, 4 + self.nc :]), 1).index_select(0, at)
        filled = torch.cat((kept, kept.new_zeros(MAX_DET, kept.shape[1])), 0)
        order = filled[:, 4].topk(MAX_DET, sorted=True).indices
        return filled.index_select(0, order).unsqueeze(0), *proto
