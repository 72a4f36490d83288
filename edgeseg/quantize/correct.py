"""Correction after rounding: layer after layer, each on what the quantized layers before it really give.

Empirical bias correction (Nagel et al., "Data-free quantization through weight equalization and bias correction", 2019,
appendix) corrects all layers from one run, or ignores what comes behind the layer. Here layers are done in order, both
networks side by side, and an error counts by how much of it the next function lets through: by the slope of a SiLU or of
the score sigmoid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeseg.quantize.flow import Flow, Node
from edgeseg.quantize.kinds import kind_of, silu_slope
from edgeseg.quantize.simulate import QParams, operate, round_to

if TYPE_CHECKING:
    import torch

    Pair = tuple[torch.Tensor, torch.Tensor]

PRIOR = 50.0
"""Weight, in positions, of the belief that a channel errs as its layer does: rare classes are seen too seldom to judge."""


@dataclass(frozen=True)
class Adjusted:
    """What one convolution gets: a factor for the scale of each output channel's weights, and the new bias."""

    gain: np.ndarray
    bias: np.ndarray


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
        images: letterboxed uint8 RGB (h, w, 3); all their activations of a few layers are held at once, compactly.
        method: ``bias`` leaves the gains at one, ``affine`` finds both.
        progress: called with 0..1.
    """
    import torch

    from edgeseg.quantize.simulate import to_tensor

    with torch.no_grad():
        live: dict[str, list[Pair]] = {flow.input: []}
        for image in images:
            x = to_tensor([image])
            live[flow.input].append((x.half(), _store(x, params.get(flow.input))))
        gates = {y: x for x, y in flow.silu_inputs.items()}
        skip = {s for y in gates for s in flow.producer[y].inputs if s != gates[y]}
        steps = [n for n in flow.nodes if n.output not in skip]
        reads = {n.output: (gates[n.output],) if n.output in gates else n.inputs for n in steps}
        last = {name: i for i, n in enumerate(steps) for name in reads[n.output]}
        found: dict[str, Adjusted] = {}
        for i, node in enumerate(steps):
            # Tensors that nothing reads later are handed over, and vanish image by image.
            taken = [live.pop(k) if last[k] == i else list(live[k]) for k in reads[node.output]]
            q, grids = params.get(node.output), [params.get(k) for k in reads[node.output]]
            if node.weight is not None and node.bias is not None:
                adjusted, out = _convolution(flow, node, rounded[node.output], taken[0], grids[0], q, method)
                found[node.output] = adjusted
            else:
                gate = next((params.get(s) for s in node.inputs if s in skip), None)
                out = [_plain(node, pair, grids, q, gate) for pair in _drain(taken)]
            if node.output in last:
                live[node.output] = out
            progress((i + 1) / len(steps))
    return found


def _drain(lists: list[list[Pair]]) -> Iterator[list[Pair]]:
    """The pairs of one image after the other, dropped from their lists."""
    for source in lists:
        source.reverse()
    while lists[0]:
        yield [source.pop() for source in lists]


def _store(y: torch.Tensor, q: QParams | None) -> torch.Tensor:
    """The tensor rounded to its grid, in one byte a value where it has 8 bits."""
    import torch

    y = round_to(y, q)
    return y.half() if q is None or q.high > 127 else (y / q.scale + q.zero_point).round_().to(torch.int8)


def _load(y: torch.Tensor, q: QParams | None) -> torch.Tensor:
    return y.float() if q is None or q.high > 127 else (y.float() - q.zero_point) * q.scale


def _plain(
    node: Node, pairs: Sequence[Pair], grids: Sequence[QParams | None], q: QParams | None, gate: QParams | None
) -> Pair:
    """An operator without weights on one image; a SiLU's product (one input given) makes its own sigmoid."""
    import torch

    exact, rough = [p[0].float() for p in pairs], [_load(p[1], g) for p, g in zip(pairs, grids)]
    if len(pairs) < len(node.inputs):
        exact.append(torch.sigmoid(exact[0]))
        rough.append(round_to(torch.sigmoid(rough[0]), gate))
    return operate(node, exact, None, None).half(), _store(operate(node, rough, None, None), q)


def _convolution(
    flow: Flow,
    node: Node,
    weight: np.ndarray,
    pairs: list[Pair],
    grid: QParams | None,
    q: QParams | None,
    method: str,
) -> tuple[Adjusted, list[Pair]]:
    import torch

    exact_w, bias = torch.from_numpy(np.array(node.weight)), torch.from_numpy(np.array(node.bias))
    rough_w = torch.from_numpy(np.array(weight, np.float32))
    slope, sums = _slope(flow, node.output), Moments(bias.numel())
    found = []
    for (pair,) in _drain([pairs]):
        exact = operate(node, [pair[0].float()], exact_w, bias)
        rough = operate(node, [_load(pair[1], grid)], rough_w, bias)
        w = slope(exact)
        x, y = exact - bias[:, None, None], rough - bias[:, None, None]
        sums.add(*(t.sum((0, 2, 3)).double().numpy() for t in (w, w * x, w * y, w * x * x, w * x * y)))
        found.append((exact.half(), _pack(y, q)))
    gain, shift = sums.fit(method == "affine")
    g, b = (torch.from_numpy(v.astype(np.float32))[:, None, None] for v in (gain, shift + bias.numpy()))
    for i, (e, y) in enumerate(found):
        found[i] = (e, _store(_unpack(y, q) * g + b, q))
    return Adjusted(gain.astype(np.float32), (shift + bias.numpy()).astype(np.float32)), found


FINE = 64
"""Parts of a step in which values wait to be rounded: two bytes each, where half floats would round twice."""


def _pack(y: torch.Tensor, q: QParams | None) -> torch.Tensor:
    import torch

    return y if q is None or q.high > 127 else (y * (FINE / q.scale)).round().clamp_(-32768, 32767).to(torch.int16)


def _unpack(y: torch.Tensor, q: QParams | None) -> torch.Tensor:
    return y if q is None or q.high > 127 else y.float() * (q.scale / FINE)


class Moments:
    """Weighted sums over positions, per channel: of the weight, of x, y, x x and x y (x exact, y rough)."""

    def __init__(self, channels: int) -> None:
        self.sums = np.zeros((5, channels))

    def add(self, *sums: np.ndarray) -> None:
        """Add the five sums of one image."""
        self.sums += np.stack(sums)

    def fit(self, gains: bool) -> tuple[np.ndarray, np.ndarray]:
        """(gain, shift) per channel such that ``gain * y + shift`` is right on average at every true value.

        It is y that is regressed on x, and the line inverted: regressing x on y would shrink whatever is uncertain towards
        the mean, and scores with it. A channel that is seldom active leans on what all channels of the layer show together.
        """
        m, x, y, xx, xy = self.sums
        everything = max(m.sum(), 1e-9)
        common = (x.sum() - y.sum()) / everything
        gain = np.ones_like(m)
        if gains:
            variance = np.maximum(xx - x * x / np.maximum(m, 1e-9), 0)
            covariance = xy - x * y / np.maximum(m, 1e-9)
            prior = PRIOR * max(variance.sum() / everything, 1e-12)
            gain = np.clip((variance + prior) / np.maximum(covariance + prior, 1e-12), 0.8, 1.25)
        return gain, (x - gain * y + PRIOR * common) / (m + PRIOR)


SEEN = 0.1
"""Scores from here on count when scores are levelled: what lies below is no candidate at any usual threshold."""


def level_scores(
    flow: Flow,
    weights: Mapping[str, tuple[np.ndarray, np.ndarray]],
    params: Mapping[str, QParams],
    images: Iterable[np.ndarray],
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, float]:
    """How much to add to the logits of each score output so that scores are right on average where something is.

    The last link: measured behind the whole quantized network, on images that the correction of the layers has not seen,
    over what the float network scores ``SEEN`` or more. One number an output; an output with little to
    go by leans on all together.

    Args:
        flow: the float network.
        weights: (weight, bias) of the quantized network's convolutions, by their output.
        params: quantization of its activations.
        images: letterboxed uint8 RGB (h, w, 3), one in memory at a time.
        progress: called with the number of images done.
    """
    import torch

    from edgeseg.quantize.simulate import Simulator, to_tensor

    exact, rough = Simulator(flow), Simulator(flow.with_weights(weights), params)
    names = [name for name, role in zip(flow.outputs, flow.roles) if role == "score"]
    mass, total = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    for done, image in enumerate(images, 1):
        x = to_tensor([image])
        for name, a, b in zip(flow.outputs, exact.run(x), rough.run(x)):
            if name in mass:
                s = torch.sigmoid(a)
                w = s * (1 - s) * (s >= SEEN)
                # Errors of scores, turned into logits by the slope: one logit far off must not outweigh many.
                total[name] += float(((s - torch.sigmoid(b)) * (s >= SEEN)).sum())
                mass[name] += float(w.sum())
        progress(done)
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
