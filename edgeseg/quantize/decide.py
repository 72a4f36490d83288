"""What a recipe means for one network: ranges, bits, weight scales and biases, for any backend to write down."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from edgeseg.errors import EdgesegError
from edgeseg.quantize import ranges
from edgeseg.quantize.calibration import iterate
from edgeseg.quantize.constraints import Constraints, constrain
from edgeseg.quantize.correct import Adjusted, level_scores, sequential
from edgeseg.quantize.equalize import equalized
from edgeseg.quantize.flow import Flow, Node
from edgeseg.quantize.kinds import channels, kind_of
from edgeseg.quantize.learned import learned_ranges
from edgeseg.quantize.observe import LEVELLING, Histogram, Observed, Scores, observe
from edgeseg.quantize.recipe import FLOAT, Recipe
from edgeseg.quantize.simulate import QParams, fake_quantize_weight, fixed
from edgeseg.quantize.simulate import weight_scales as largest

Report = Callable[[float, str], None]
UNIT = (0.0, 1.0)


@dataclass(frozen=True)
class Decisions:
    """The outcome, all by tensor name; a convolution is named by its output tensor.

    ``ranges``: (lo, hi) of each activation that is quantized. ``bits``: of each activation (8, 16, or 32: float).
    ``weight_scales``: symmetric scale of each output channel of 8-bit weights. ``weights`` (on the grid of these scales) and
    ``biases``: of the convolutions that were corrected or equalized; their scales and weights hold
    ``gains`` and ``factors`` (of equalization) already.
    """

    ranges: Mapping[str, tuple[float, float]]
    bits: Mapping[str, int]
    weight_scales: Mapping[str, np.ndarray]
    weights: Mapping[str, np.ndarray]
    biases: Mapping[str, np.ndarray]
    gains: Mapping[str, np.ndarray] = field(default_factory=dict)
    factors: Mapping[str, np.ndarray] = field(default_factory=dict)

    def adjusted(self, flow: Flow, rounded: Mapping[str, np.ndarray], found: Mapping[str, Adjusted]) -> Decisions:
        """With the gains of a correction in weights and scales, and its biases."""
        scales, weights, gains = dict(self.weight_scales), {}, {}
        for n in flow.nodes:
            if n.output in found:
                gain = gains[n.output] = found[n.output].gain
                weights[n.output] = rounded[n.output] * channels(n.kind, gain)
                if n.output in scales:
                    scales[n.output] = scales[n.output] * gain
        biases = {k: a.bias for k, a in found.items()}
        return replace(self, weight_scales=scales, weights=weights, biases=biases, gains=gains)

    def params(self, flow: Flow) -> dict[str, QParams]:
        """Quantization of the activations as integer kernels have it; a sigmoid's is fixed by the kernels."""
        found = {}
        for name, (lo, hi) in self.ranges.items():
            node, bits = flow.producer.get(name), self.bits.get(name, 8)
            if bits != FLOAT:
                given = fixed(node.kind) if node is not None and bits == 8 else None
                symmetric = flow.symmetric and bits == 8
                q = QParams.symmetric(lo, hi) if symmetric else given or QParams.from_range(lo, hi, bits)
                found[name] = q.half() if flow.half_scales else q
        return found


def look(
    flow: Flow, recipe: Recipe, images: Sequence[Path], imgsz: tuple[int, int], report: Report = lambda done, what: None
) -> Observed:
    """Observe the float network on the calibration set: what decisions for every backend start from.

    Args:
        flow: the float network.
        recipe: its equalization and the number of images that correct layers count here.
        images: the calibration set, in order.
        imgsz: (height, width) in pixels.
        report: called with 0..1 and what is being done.

    Raises:
        EdgesegError: no images.
    """
    if not images:
        raise EdgesegError("the calibration set is empty", hint="Give data=YOUR.yaml with a train split")
    total, even = len(images), recipe.weights.equalization != "none" and not recipe.learned
    say = lambda n: report(n / total, f"observing image {n} of {total}")  # noqa: E731
    return observe(flow, iterate(images, imgsz), say, levelling=_fresh(recipe, total), even=even)


def _fresh(recipe: Recipe, total: int) -> range:
    """Numbers of the images on which scores are levelled: not those that corrected the layers, where there are others."""
    first = recipe.correction.images if recipe.correction.images < total else 0
    return range(first, min(first + LEVELLING, total))


def decide(
    flow: Flow,
    recipe: Recipe,
    images: Sequence[Path],
    imgsz: tuple[int, int],
    report: Report = lambda done, what: None,
    *,
    constraints: Constraints | None = None,
    observed: Observed | Callable[[], Observed] | None = None,
) -> Decisions:
    """Calibrate a network by a recipe.

    Args:
        flow: the float network.
        recipe: what to do.
        images: the calibration set, in order.
        imgsz: (height, width) in pixels.
        report: called with 0..1 and what is being done.
        constraints: what the backend's integers can follow; None: the flow says it already.
        observed: what ``look`` found on these images, or what gives it when it is needed; None: looked at here.

    Raises:
        EdgesegError: no images where the recipe needs some.
    """
    given = flow if constraints is None else constrain(flow, constraints)
    bits, scales = activation_bits(given, recipe), _scales(given, recipe, constraints)
    if not recipe.calibrated:
        return Decisions({}, bits, scales, {}, {})
    learned = learned_ranges(given, recipe.learned) if recipe.learned else {}
    if learned:
        known = {name: UNIT for name, leader in given.groups.items() if leader == given.groups[given.input]}
        learned = {**known, **_spans(given), **learned}
    if learned and all(name in learned for name, b in bits.items() if b != FLOAT):
        # Weights and biases were trained for these very ranges: there is nothing left to correct.
        return Decisions(learned, bits, scales, {}, {})
    seen = observed() if callable(observed) else observed
    seen = seen or look(flow, recipe, images, imgsz, lambda done, what: report(0.6 * done, what))
    flow = equalized(given, seen.factors)
    changed = [n for n in flow.nodes if n is not given.producer[n.output]]
    scales |= _scales(flow, recipe, constraints, changed)
    chosen = {**choose_ranges(flow, seen.histograms, recipe), **learned}
    biases = {n.output: n.bias for n in changed if n.bias is not None}
    first = Decisions(chosen, bits, scales, rounded_weights(changed, scales), biases, factors=seen.factors)
    if recipe.correction.method == "none" or learned:
        return first
    few, begun = iterate(images[: recipe.correction.images], imgsz), 0.0 if observed else 0.6
    rounded = rounded_weights(flow.nodes, scales)
    say = lambda d: report(begun + (0.9 - begun) * d, "correcting layer after layer")  # noqa: E731
    adjusted = sequential(flow, rounded, first.params(flow), few, recipe.correction.method, say)
    done = first.adjusted(flow, rounded, adjusted)
    fresh = [images[i] for i in _fresh(recipe, len(images))]
    report(0.9, "levelling scores")
    return level(flow, done, iterate(fresh, imgsz), seen.scores)


def _scales(flow: Flow, recipe: Recipe, c: Constraints | None, nodes: Sequence[Node] | None = None) -> dict[str, np.ndarray]:
    """Scales of the weights that will be integers, of all convolutions or of ``nodes``."""
    found = weight_scales(flow, recipe, nodes)
    if c is None or c.weights_alone:
        return found
    bits = activation_bits(flow, recipe)
    return {name: s for name, s in found.items() if bits[flow.producer[name].inputs[0]] == 8}


def level(flow: Flow, decisions: Decisions, images: Iterable[np.ndarray], scores: Sequence[Scores]) -> Decisions:
    """With score logits levelled."""
    weights = {k: (decisions.weights[k], b) for k, b in decisions.biases.items()}
    biases, params = dict(decisions.biases), decisions.params(flow)
    for name, shift in level_scores(flow, weights, params, images, scores).items():
        if name in biases:
            biases[name] = (biases[name] + shift).astype(np.float32)
    return replace(decisions, biases=biases)


def rounded_weights(nodes: Iterable[Node], scales: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The weights of every convolution as they will be stored; those without a scale stay float."""
    found = {}
    for n in nodes:
        if n.weight is not None:
            s = scales.get(n.output)
            found[n.output] = n.weight if s is None else fake_quantize_weight(n.weight, n.kind, 8, s)
    return found


def activation_bits(flow: Flow, recipe: Recipe) -> dict[str, int]:
    """Bits of every activation tensor by the stage that writes it; the input has those of the first stage.

    Where tensors of one group would differ, which a concatenation forbids, the group takes the most.
    """
    own = {n.output: recipe.activation_bits(flow.stages[n.output]) for n in flow.nodes}
    own[flow.input] = recipe.activation_bits("backbone")
    own.update(dict.fromkeys((*flow.exact, *flow.clipped), FLOAT))
    return own


def weight_scales(flow: Flow, recipe: Recipe, nodes: Sequence[Node] | None = None) -> dict[str, np.ndarray]:
    """Scales of the weights that have 8 bits, of all convolutions or of ``nodes``."""
    found, bits = {}, activation_bits(flow, recipe)
    for n in flow.nodes if nodes is None else nodes:
        if n.weight is None or n.output in flow.floating or recipe.weight_bits(flow.stages[n.output]) != 8:
            continue
        axis = kind_of(n.kind).axis or 0
        if recipe.weights.granularity == "tensor":
            found[n.output] = np.full(n.weight.shape[axis], np.abs(n.weight).max() / 127.0)
        elif recipe.learned:
            found[n.output] = largest(n.weight, n.kind)  # as training rounded them
        else:
            found[n.output] = ranges.weight_scale(n.weight, axis)
        # Where activations stay float nothing is added up in 16 bits, and the full range is free of charge.
        if flow.pairwise and n.kind == "conv" and bits[n.inputs[0]] == 8:
            found[n.output] = _widened(n.weight, found[n.output], recipe.weights.granularity)
    return found


def _widened(weight: np.ndarray, scale: np.ndarray, granularity: str) -> np.ndarray:
    """The scales with those made coarser that let a convolution overflow."""
    over = ranges.overflows(weight, scale)
    if granularity == "tensor":
        return scale * (127.0 / (ranges.PAIR // 2)) if over.any() else scale
    made = scale.copy()
    if over.any():
        made[over] = ranges.weight_scale(weight[over], pairwise=True)
    return made


def choose_ranges(flow: Flow, seen: Mapping[str, Histogram], recipe: Recipe) -> dict[str, tuple[float, float]]:
    """A range for every activation; tensors that must share a scale get one that serves all of them."""
    groups: dict[str, list[str]] = {}
    for name, leader in flow.groups.items():
        groups.setdefault(leader, []).append(name)
    found: dict[str, tuple[float, float]] = {}
    for names in groups.values():
        chosen = _range(flow, names, seen, recipe)
        found.update(dict.fromkeys(names, chosen))
    return found


def _spans(flow: Flow) -> dict[str, tuple[float, float]]:
    """The ranges that are known without looking."""
    spans = {n.output: kind_of(n.kind).span for n in flow.nodes}
    return {name: span for name, span in spans.items() if span is not None}


def _range(flow: Flow, names: Sequence[str], seen: Mapping[str, Histogram], recipe: Recipe) -> tuple[float, float]:
    if flow.input in names:
        return UNIT
    for name, role in zip(flow.outputs, flow.roles):
        if name in names and role in recipe.clips:
            clip = recipe.clips[role]
            return clip.low, clip.high
    together: Histogram | None = None
    for name in names:
        node = flow.producer[name]
        source = node.inputs[0] if node.kind == "copy" else name
        # What is only moved about is counted where it was made.
        if source in seen and not kind_of(node.kind).moves and kind_of(node.kind).span is None:
            together = seen[source] if together is None else together.merged(seen[source])
    if together is None:
        return UNIT
    a = recipe.activations
    function = next((f for f in (flow.flattened(name) for name in names) if f is not None), None)
    method = a.silu_input if function else a.method
    if method == "mse" and flow.symmetric:
        return ranges.mse_symmetric(together)
    if method == "mse":
        return ranges.mse(together, function or ranges.identity, centred=recipe.correction.method != "none")
    if method == "percentile":
        return ranges.percentile(together, a.percentile)
    return ranges.kl(together) if method == "kl" else ranges.minmax(together)
