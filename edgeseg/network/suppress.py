"""Non-maximum suppression inside the graph: the head layout ``nms``, for exporters that write ONNX."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from edgeseg.network.views import DecodedView

if TYPE_CHECKING:
    from edgeseg.network.model import Network

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
