"""Correction after rounding: layer after layer, each on what the quantized layers before it really give.

Empirical bias correction (Nagel et al., "Data-free quantization through weight equalization and bias correction", 2019,
appendix) corrects all layers from one run, or ignores what comes behind the layer. Here layers are done in order, both
networks side by side, and an error counts by how much of it the next function lets through: by the slope of a SiLU or of
the score sigmoid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from edgeseg.quantize.flow import Flow, Node
from edgeseg.quantize.kinds import kind_of, silu_slope
from edgeseg.quantize.observe import Scores
from edgeseg.quantize.simulate import Each, QParams, Simulator, operate, round_to, side_by_side, to_tensor

if TYPE_CHECKING:
    import torch

    Pair = tuple[torch.Tensor, torch.Tensor]
    Kept = tuple[torch.Tensor, torch.Tensor, float] | None  # None: handed over

PRIOR = 50.0
"""Weight, in positions, of the belief that a channel errs as its layer does: rare classes are seen too seldom to judge."""


@dataclass(frozen=True)
class Adjusted:
    """What one convolution gets: a factor for the scale of each output channel's weights, and the new bias."""

    gain: np.ndarray
    bias: np.ndarray


POSITIONS = 6400
"""Positions of a tensor and image that are compared; the largest maps that give scores have no more."""


def sequential(
    flow: Flow,
    rounded: Mapping[str, np.ndarray],
    params: Mapping[str, QParams],
    images: Iterable[np.ndarray],
    method: str = "affine",
    progress: Callable[[float], None] = lambda done: None,
) -> dict[str, Adjusted]:
    """Gains and new biases by the output tensor of each convolution.

    Args:
        flow: the float network.
        rounded: weights as they will be stored (on their integer grid), by the output tensor of the convolution.
        params: quantization of the activations by tensor name; an absent tensor stays float.
        images: letterboxed uint8 RGB (h, w, 3); all their activations of a few layers are held at once, in half floats.
        method: ``bias`` leaves the gains at one, ``affine`` finds both.
        progress: called with 0..1.
    """
    import torch

    q = params.get(flow.input)

    def enter(image: np.ndarray) -> Kept:
        x = to_tensor([image]).contiguous(memory_format=torch.channels_last)
        return (x.half(), *_pack(round_to(x, q), q))

    with side_by_side() as each:
        live: dict[str, list[Kept]] = {flow.input: list(each(enter, images))}
        gates = {y: x for x, y in flow.silu_inputs.items()}
        skip = {s for y in gates for s in flow.producer[y].inputs if s != gates[y]}
        steps = [n for n in flow.nodes if n.output not in skip]
        reads = {n.output: (gates[n.output],) if n.output in gates else n.inputs for n in steps}
        last = {name: i for i, n in enumerate(steps) for name in reads[n.output]}
        found: dict[str, Adjusted] = {}
        for i, node in enumerate(steps):
            # Tensors that nothing reads later are handed over, and vanish image by image.
            taken = [live.pop(k) if last[k] == i else list(live[k]) for k in reads[node.output]]
            q = params.get(node.output)
            if node.weight is not None and node.bias is not None:
                adjusted, out = _convolution(flow, node, rounded[node.output], taken[0], q, method, each)
                found[node.output] = adjusted
            else:
                gate = next((params.get(s) for s in node.inputs if s in skip), None)
                out = _plain(node, taken, q, gate, each)
            if node.output in last:
                live[node.output] = out
            progress((i + 1) / len(steps))
    return found


def _take(kept: list[Kept], i: int) -> Pair:
    """The pair of one image, in float, dropped from the list."""
    found = kept[i]
    kept[i] = None
    exact, rough, step = cast("tuple[torch.Tensor, torch.Tensor, float]", found)
    return exact.float(), rough.float().mul_(step)


def _pack(rough: torch.Tensor, q: QParams | None) -> tuple[torch.Tensor, float]:
    """A rounded tensor in steps of its grid, which half floats hold exactly for 8 bits, and the step."""
    step = 1.0 if q is None or q.high > 127 else q.scale
    return (rough * (1 / step)).half(), step


def _plain(node: Node, taken: list[list[Kept]], q: QParams | None, gate: QParams | None, each: Each) -> list[Kept]:
    """An operator without weights; a SiLU's product (one input given) makes its own sigmoid."""
    import torch
    import torch.nn.functional as f

    @torch.no_grad()
    def one(i: int) -> Kept:
        pairs = [_take(kept, i) for kept in taken]
        exact, rough = [p[0] for p in pairs], [p[1] for p in pairs]
        if len(pairs) < len(node.inputs):
            rough.append(round_to(rough[0].sigmoid(), gate))
            made = f.silu(exact[0])
        else:
            made = operate(node, exact, None, None)
        return (made.half(), *_pack(round_to(operate(node, rough, None, None), q), q))

    return list(each(one, range(len(taken[0]))))


def _convolution(
    flow: Flow, node: Node, weight: np.ndarray, kept: list[Kept], q: QParams | None, method: str, each: Each
) -> tuple[Adjusted, list[Kept]]:
    import torch

    arrays = (np.array(v, np.float32) for v in (node.weight, weight, node.bias))
    exact_w, rough_w, bias = (torch.from_numpy(v) for v in arrays)
    slope, sums = _slope(flow, node.output), Moments(bias.numel(), method == "affine")

    @torch.no_grad()
    def run(i: int) -> tuple[torch.Tensor, torch.Tensor, list[np.ndarray]]:
        exact, rough = _take(kept, i)
        exact, rough = operate(node, [exact], exact_w, bias), operate(node, [rough], rough_w, None)
        x, y = _some(exact), _some(rough)
        return exact.half(), rough, sums.of(slope(x), x - bias[:, None, None], y)

    waiting: list[tuple[torch.Tensor, torch.Tensor] | None] = []
    for exact, rough, part in each(run, range(len(kept))):
        sums.add(part)
        waiting.append((exact, rough))
    gain, shift = sums.fit()
    adjusted = Adjusted(gain.astype(np.float32), (shift + bias.numpy()).astype(np.float32))
    g, b = (torch.from_numpy(v)[:, None, None] for v in (adjusted.gain, adjusted.bias))

    @torch.no_grad()
    def finish(i: int) -> Kept:
        exact, rough = cast("tuple[torch.Tensor, torch.Tensor]", waiting[i])
        waiting[i] = None
        return (exact, *_pack(round_to(rough.mul_(g).add_(b), q), q))

    return adjusted, list(each(finish, range(len(waiting))))


def _some(t: torch.Tensor) -> torch.Tensor:
    """At most ``POSITIONS`` of a map's positions, evenly spread."""
    step = max(1, int((t.shape[2] * t.shape[3] / POSITIONS) ** 0.5)) if t.dim() == 4 else 1
    return t[:, :, step // 2 :: step, step // 2 :: step] if step > 1 else t


class Moments:
    """Weighted sums over positions, per channel: of the weight, of x, y, and for gains x x and x y (x exact, y rough)."""

    def __init__(self, channels: int, gains: bool) -> None:
        self.sums, self.gains = np.zeros((5, channels)), gains

    def of(self, w: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> list[np.ndarray]:
        """The sums of tensors (n, channels, h, w), for ``add``."""
        wx = w * x
        products = [w, wx, w * y, *((wx * x, wx * y) if self.gains else ())]
        return [t.sum((0, 2, 3)).double().numpy() for t in products]

    def add(self, part: list[np.ndarray]) -> None:
        """Count what ``of`` gave."""
        for total, one in zip(self.sums, part):
            total += one

    def fit(self) -> tuple[np.ndarray, np.ndarray]:
        """(gain, shift) per channel such that ``gain * y + shift`` is right on average at every true value.

        It is y that is regressed on x, and the line inverted: regressing x on y would shrink whatever is uncertain towards
        the mean, and scores with it. A channel that is seldom active leans on what all channels of the layer show together.
        """
        m, x, y, xx, xy = self.sums
        everything = max(m.sum(), 1e-9)
        common = (x.sum() - y.sum()) / everything
        gain = np.ones_like(m)
        if self.gains:
            variance = np.maximum(xx - x * x / np.maximum(m, 1e-9), 0)
            covariance = xy - x * y / np.maximum(m, 1e-9)
            prior = PRIOR * max(variance.sum() / everything, 1e-12)
            gain = np.clip((variance + prior) / np.maximum(covariance + prior, 1e-12), 0.8, 1.25)
        return gain, (x - gain * y + PRIOR * common) / (m + PRIOR)


def level_scores(
    flow: Flow,
    weights: Mapping[str, tuple[np.ndarray, np.ndarray]],
    params: Mapping[str, QParams],
    images: Iterable[np.ndarray],
    exact: Iterable[Scores],
) -> dict[str, float]:
    """How much to add to the logits of each score output so that scores are right on average where something is.

    The last link: measured behind the whole quantized network, on images that the correction of the layers has not seen,
    over what the float network scores highly. One number an output; an output with little to go by leans on all together.

    Args:
        flow: the float network.
        weights: (weight, bias) of the quantized network's convolutions, by their output.
        params: quantization of its activations.
        images: letterboxed uint8 RGB (h, w, 3), one in memory at a time.
        exact: the float network's scores on each of them (see ``Observed``).
    """
    rough = Simulator(flow.with_weights(weights), params)
    names = [name for name, role in zip(flow.outputs, flow.roles) if role == "score"]
    mass, total = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)

    def look(given: tuple[np.ndarray, Scores]) -> dict[str, tuple[float, float]]:
        found, (image, scores) = {}, given
        for name, logits in zip(flow.outputs, rough.run(to_tensor([image]))):
            if name in mass:
                at, s = scores[name]
                # Errors of scores, turned into logits by the slope: one logit far off must not outweigh many.
                found[name] = float((s - logits.flatten()[at].sigmoid().numpy()).sum()), float((s * (1 - s)).sum())
        return found

    with side_by_side() as each:
        for found in each(look, zip(images, exact)):
            for name, (error, slope) in found.items():
                total[name] += error
                mass[name] += slope
    common = sum(total.values()) / max(sum(mass.values()), 1e-9)
    few = PRIOR / 4
    return {name: (total[name] + few * common) / (mass[name] + few) for name in names} if sum(mass.values()) > few else {}


def _slope(flow: Flow, name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    import torch

    if name in flow.silu_inputs:
        return silu_slope
    if name in flow.activated:
        return kind_of(flow.producer[flow.activated[name]].kind).slope or torch.ones_like
    score = name in flow.outputs and flow.roles[flow.outputs.index(name)] == "score"
    return torch.sigmoid if score else torch.ones_like
