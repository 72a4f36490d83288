"""The loss: boxes (CIoU and distribution focal loss, or distances), scores and masks (binary cross-entropy)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeseg.network.head import RawOutput
from edgeseg.training.assign import Assignment, assign, box_ciou
from edgeseg.training.targets import Prediction, Targets, flatten

PARTS = ("box", "mask", "score", "dfl")
Total = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class LossGains:
    """Weights of the parts of the loss, per image."""

    box: float = 7.5
    mask: float = 7.5
    score: float = 0.5
    dfl: float = 1.5


@dataclass(frozen=True)
class LossResult:
    """``total`` is what to differentiate; ``parts`` (4,) are the weighted means in the order of :data:`PARTS`, detached."""

    total: Tensor
    parts: Tensor


def dfl_loss(logits: Tensor, distance: Tensor) -> Tensor:
    """Distribution focal loss (arXiv:2006.04388, eq. 6): cross-entropy shared by the two bins around the true distance.

    Args:
        logits: (P, 4, reg_max). distance: (P, 4) in grid cells, clamped to the last bin.

    Returns:
        (P,) mean over the four sides.
    """
    last = logits.shape[-1] - 1
    distance = distance.clamp(0, last - 0.01)
    left = distance.floor()
    right_share = distance - left
    log_p = logits.log_softmax(-1)
    at_left = log_p.gather(-1, left.long().unsqueeze(-1)).squeeze(-1)
    at_right = log_p.gather(-1, left.long().unsqueeze(-1) + 1).squeeze(-1)
    return -(at_left * (1 - right_share) + at_right * right_share).mean(-1)


def mask_loss(proto: Tensor, coeff: Tensor, index_map: Tensor, ordinals: Tensor, boxes: Tensor) -> Tensor:
    """Binary cross-entropy of the masks of one image's positives inside their ground-truth boxes, summed over positives.

    A pixel counts when its centre lies inside the box; each positive's sum is divided by its box's area in mask pixels.

    Args:
        proto: (32, h, w). coeff: (P, 32). index_map: (h, w), ``ordinals``: (P,) the value of each positive's instance in it.
        boxes: (P, 4) xyxy in mask pixels (a quarter of input pixels).
    """
    h, w = index_map.shape
    logits = (coeff @ proto.flatten(1)).view(-1, h, w)
    truth = (index_map == ordinals[:, None, None]).to(logits.dtype)
    x = torch.arange(w, device=boxes.device) + 0.5
    y = torch.arange(h, device=boxes.device) + 0.5
    in_x = (x >= boxes[:, 0:1]) & (x < boxes[:, 2:3])
    in_y = (y >= boxes[:, 1:2]) & (y < boxes[:, 3:4])
    inside = in_y[:, :, None] & in_x[:, None, :]
    area = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).clamp_min(1)
    pixels = F.binary_cross_entropy_with_logits(logits, truth, reduction="none") * inside
    return (pixels.sum((1, 2)) / area).sum()


def semantic_loss(logits: Tensor, targets: Targets) -> Tensor:
    """Binary cross-entropy and Dice loss (Milletari et al. 2016), their mean, of the classes at each place.

    Args:
        logits: (B, nc, h, w). targets: ground truth.
    """
    nc = logits.shape[1]
    height, width = logits.shape[2:]
    truth = F.one_hot(targets.class_maps((height, width)), nc + 1)[..., 1:].permute(0, 3, 1, 2).to(logits.dtype)
    shares = logits.sigmoid()
    shared, both = (shares * truth).sum((2, 3)), shares.sum((2, 3)) + truth.sum((2, 3))
    dice = 1 - (2 * shared + 1) / (both + 1)
    return (F.binary_cross_entropy_with_logits(logits, truth) + dice.mean()) / 2


def share_of_single(done: float) -> float:
    """How much the second copy of the branches counts when a share ``done`` of the training is over: 0.2, in the end 0.9.

    The first copy, with many positives for an object, teaches first; the second learns to be alone.
    """
    return 0.2 + 0.7 * min(max(done, 0.0), 1.0)


def network_loss(
    output: RawOutput,
    targets: Targets,
    strides: Sequence[int],
    gains: LossGains | None = None,
    *,
    done: float = 0.0,
    total: Total | None = None,
) -> LossResult:
    """The loss of one batch, over all that a network gives.

    Args:
        output: of the network, in training or evaluation. targets: ground truth. strides: of the maps.
        gains, total: see ``branch_loss``.
        done: share of the training that is over, 0..1: see ``share_of_single``.
    """
    gains = gains or LossGains()
    many = branch_loss(flatten(output.maps, output.proto, strides), targets, gains, total=total)
    if output.single is None:
        return many
    proto = None if output.proto is None else output.proto.detach()
    single = branch_loss(flatten(output.single, proto, strides), targets, gains, positives=1, total=total)
    share = share_of_single(done)
    loss = many.total * (1 - share) + single.total * share
    parts = many.parts * (1 - share) + single.parts * share
    if output.semantic is not None:
        semantic = semantic_loss(output.semantic.float(), targets) * gains.mask
        images = semantic.new_tensor(float(targets.batch))
        whole = images if total is None else total(images)
        loss = loss + semantic * images
        parts = parts + torch.stack((semantic.detach() * images / whole, *semantic.new_zeros(3))).roll(1)
    return LossResult(loss, parts)


def branch_loss(
    prediction: Prediction,
    targets: Targets,
    gains: LossGains | None = None,
    *,
    positives: int = 10,
    total: Total | None = None,
) -> LossResult:
    """The loss of one set of branches.

    Box, DFL and score losses are divided by the sum of all classification targets (at least 1), the mask loss by the number
    of positives; ``total`` of the result is the weighted sum times the number of images, so that gradients of several
    batches add up to those of one large batch.

    Args:
        prediction: raw output by anchor. targets: ground truth.
        gains: weights of the parts.
        positives: most anchors that an object is learned at.
        total: sums a tensor over all processes (None: there is one). It is applied to the normalisers and the number of
            images, and the result's ``total`` is this process's share: summing its gradients over processes gives the
            gradient of the whole batch.
    """
    gains = gains or LossGains()
    boxes = prediction.boxes()
    scores = prediction.score.detach().sigmoid()
    positive = assign(scores, boxes.detach(), prediction.anchors, targets, topk=positives)
    goal = torch.zeros_like(prediction.score)
    goal[positive.image, positive.anchor, targets.classes[positive.target]] = positive.score

    sums = torch.stack((goal.sum(), goal.new_tensor(float(len(positive))), goal.new_tensor(float(targets.batch))))
    if total is not None:
        sums = total(sums)
    weight_sum, count, images = sums[0].clamp_min(1), sums[1].clamp_min(1), sums[2]

    score = F.binary_cross_entropy_with_logits(prediction.score, goal, reduction="sum") / weight_sum
    # Times zero: every parameter gets a gradient, also in a batch without instances (as synchronised training needs).
    box = dfl = prediction.box.sum() * 0
    mask = box
    if prediction.coeff is not None and prediction.proto is not None:
        mask = prediction.coeff.sum() * 0 + prediction.proto.sum() * 0
    if len(positive):
        at = (positive.image, positive.anchor)
        truth = targets.boxes[positive.target]
        box = ((1 - box_ciou(boxes[at], truth)) * positive.score).sum() / weight_sum
        centre, stride = prediction.anchors[positive.anchor], prediction.strides[positive.anchor]
        distance = torch.cat((centre - truth[:, :2], truth[:, 2:] - centre), -1) / stride
        if prediction.reg_max > 1:
            side = dfl_loss(prediction.box[at].view(-1, 4, prediction.reg_max), distance)
        else:
            side = (prediction.box[at] - distance).abs().mean(-1)
        dfl = (side * positive.score).sum() / weight_sum
        if prediction.coeff is not None and prediction.proto is not None:
            mask = mask + _masks(prediction.coeff, prediction.proto, prediction.strides, targets, positive) / count

    parts = torch.stack((box * gains.box, mask * gains.mask, score * gains.score, dfl * gains.dfl))
    return LossResult(parts.sum() * images, parts.detach())


def _masks(coeffs: Tensor, proto: Tensor, strides: Tensor, targets: Targets, positive: Assignment) -> Tensor:
    """Sum of the mask losses of all positives, image by image: the logits of one image's positives fit in memory."""
    h, w = proto.shape[2:]
    ordinals = targets.ordinals[positive.target]
    cell = strides[0, 0] / 2  # the prototypes have half the stride of the finest map
    scaled = targets.boxes[positive.target] / cell
    index_map = targets.masks
    if index_map.shape[1:] != (h, w):
        index_map = F.interpolate(index_map[:, None].float(), (h, w), mode="nearest")[:, 0]
    result = proto.new_zeros(())
    for image in range(targets.batch):
        mine = positive.image == image
        if mine.any():
            coeff = coeffs[image, positive.anchor[mine]]
            result = result + mask_loss(proto[image], coeff, index_map[image], ordinals[mine], scaled[mine])
    return result
