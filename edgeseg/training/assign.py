"""Which anchors answer for which instance: task-aligned assignment (Feng et al., TOOD, arXiv:2108.07755)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeseg.training.targets import Targets

EPS = 1e-9


@dataclass(frozen=True)
class Assignment:
    """The positive anchors of a batch, one entry each, ordered by image, then anchor.

    Attributes:
        image: (P,) int64. anchor: (P,) int64. target: (P,) int64, row of :class:`Targets`.
        score: (P,) float32 in 0..1, the classification target: the alignment of this anchor relative to the best of its
            instance, times the best overlap that the instance gets.
    """

    image: Tensor
    anchor: Tensor
    target: Tensor
    score: Tensor

    def __len__(self) -> int:
        return len(self.image)


def box_ciou(a: Tensor, b: Tensor) -> Tensor:
    """Complete IoU of paired boxes (..., 4) xyxy: IoU minus the centre distance and aspect penalties (arXiv:1911.08287).

    The trade-off weight of the aspect penalty carries no gradient, as in the paper. Values reach from about -1.5 to 1.
    """
    aw, ah = a[..., 2] - a[..., 0], a[..., 3] - a[..., 1]
    bw, bh = b[..., 2] - b[..., 0], b[..., 3] - b[..., 1]
    iw = torch.minimum(a[..., 2], b[..., 2]) - torch.maximum(a[..., 0], b[..., 0])
    ih = torch.minimum(a[..., 3], b[..., 3]) - torch.maximum(a[..., 1], b[..., 1])
    overlap = iw.clamp_min(0) * ih.clamp_min(0)
    iou = overlap / (aw * ah + bw * bh - overlap + EPS)
    hull_w = torch.maximum(a[..., 2], b[..., 2]) - torch.minimum(a[..., 0], b[..., 0])
    hull_h = torch.maximum(a[..., 3], b[..., 3]) - torch.minimum(a[..., 1], b[..., 1])
    dx = (a[..., 0] + a[..., 2] - b[..., 0] - b[..., 2]) / 2
    dy = (a[..., 1] + a[..., 3] - b[..., 1] - b[..., 3]) / 2
    distance = (dx * dx + dy * dy) / (hull_w * hull_w + hull_h * hull_h + EPS)
    aspect = (4 / math.pi**2) * (torch.atan(bw / (bh + EPS)) - torch.atan(aw / (ah + EPS))) ** 2
    with torch.no_grad():
        weight = aspect / (1 - iou + aspect + EPS)
    return iou - distance - weight * aspect


@torch.no_grad()
def assign(
    scores: Tensor,
    boxes: Tensor,
    anchors: Tensor,
    targets: Targets,
    *,
    topk: int = 10,
    alpha: float = 0.5,
    beta: float = 6.0,
) -> Assignment:
    """Choose the anchors that answer for each instance.

    An anchor is a candidate for an instance when its centre lies strictly inside the box. Candidates are ranked by
    ``score(class)**alpha * max(CIoU, 0)**beta``; the ``topk`` best above zero are positive. An anchor that several
    instances want goes to the one it overlaps most (the earlier one, if equal).

    Args:
        scores: (B, N, nc) in 0..1. boxes: (B, N, 4) xyxy input pixels. anchors: (N, 2) input pixels.
        targets: ground truth.
        topk, alpha, beta: as in the paper's section 3.2, with the values that YOLOv8 uses.
    """
    batch, count, _ = scores.shape
    low, high = targets.boxes[:, None, :2], targets.boxes[:, None, 2:]
    instance, anchor = ((anchors > low) & (anchors < high)).all(-1).nonzero(as_tuple=True)
    image = targets.image[instance]
    overlap = box_ciou(targets.boxes[instance], boxes[image, anchor]).clamp_min(0)
    align = scores[image, anchor, targets.classes[instance]] ** alpha * overlap**beta

    dense = align.new_zeros(len(targets), count)
    dense[instance, anchor] = align
    best, at = dense.topk(min(topk, count), dim=1)
    chosen = torch.zeros_like(dense, dtype=torch.bool).scatter_(1, at, best > 0)[instance, anchor]
    instance, anchor, image, overlap, align = (t[chosen] for t in (instance, anchor, image, overlap, align))

    place = image * count + anchor
    most = overlap.new_zeros(batch * count).scatter_reduce_(0, place, overlap, "amax")
    wins = overlap == most[place]
    instance, place, overlap, align = (t[wins] for t in (instance, place, overlap, align))
    earliest = instance.new_full((batch * count,), len(targets)).scatter_reduce_(0, place, instance, "amin")
    wins = instance == earliest[place]
    instance, place, overlap, align = (t[wins] for t in (instance, place, overlap, align))

    top_align = align.new_zeros(len(targets)).scatter_reduce_(0, instance, align, "amax")
    top_overlap = overlap.new_zeros(len(targets)).scatter_reduce_(0, instance, overlap, "amax")
    score = align / top_align[instance].clamp_min(torch.finfo(align.dtype).tiny) * top_overlap[instance]
    order = place.argsort()
    place = place[order]
    return Assignment(place // count, place % count, instance[order], score[order])
