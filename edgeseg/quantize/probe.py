"""How much an error in any tensor would change what the decoder makes of the outputs: squared gradients of random probes.

The expectation of the squared gradient of ``sum(r * u)``, r standard normal, is the sum over all u of the squared
derivatives (Hutchinson's estimator of the diagonal of the Gauss-Newton matrix). u are the decoder's own quantities, each in
units of what is tolerable: scores, distances to the box sides, mask coefficients where there is something, prototypes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeseg.quantize.flow import Flow
from edgeseg.quantize.kinds import kind_of
from edgeseg.quantize.simulate import Simulator, operate

if TYPE_CHECKING:
    import torch

SCORE = 0.03
"""A tolerable error of a score (0..1)."""
DISTANCE = 0.25
"""A tolerable error of a box side, in cells of its stride."""
MASK = 0.1
"""A tolerable error of coefficients and prototypes, relative to their root mean square."""


def watched(flow: Flow) -> set[str]:
    """Tensors that have values of their own: not a sigmoid's output (its range is known), nor what only moves values,
    unless a convolution reads it: some backends round that for itself."""
    own = {n.output for n in flow.nodes if kind_of(n.kind).span is None and not kind_of(n.kind).moves}
    return {flow.input} | own | {n.inputs[0] for n in flow.nodes if n.weight is not None}


@dataclass(frozen=True)
class Seen:
    """One tensor on one image: the values taken, their squared gradients (None: no influence), and of the whole tensor, or
    of each channel (c,), the extremes, and the number of positions."""

    values: torch.Tensor
    squared: torch.Tensor | None
    low: torch.Tensor
    high: torch.Tensor
    positions: int


def probe(
    simulator: Simulator,
    x: torch.Tensor,
    random: torch.Generator,
    take: Callable[[torch.Tensor], torch.Tensor] = lambda t: t,
    apart: Collection[str] = (),
) -> tuple[dict[str, Seen], list[torch.Tensor]]:
    """Run the float network on one image and give every watched tensor with its squared gradient, and the outputs.

    Args:
        simulator: the float network.
        x: (1, 3, h, w) RGB in 0..1.
        random: where the probe comes from.
        take: picks positions out of (1, c, h, w), or of another rank; applied to values and gradients alike as they arise,
            so that no second set of whole tensors is ever held.
        apart: tensors whose channels have extremes of their own.

    Returns:
        By tensor name. An activation's input comes with the gradient of its output, because its error is judged there.
    """
    import torch
    import torch.nn.functional as f

    flow = simulator.flow
    names, inside = watched(flow) - flow.clipped, {y: x for x, y in flow.silu_inputs.items()}
    steps = [n for n in flow.nodes if n.kind != "sigmoid" or not _is_gate(flow, n.output)]
    reads = {n.output: (inside[n.output],) if n.output in inside else n.inputs for n in steps}
    last = {name: i for i, n in enumerate(steps) for name in reads[n.output]}
    values: dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]] = {}
    squared: dict[str, torch.Tensor] = {}

    def watch(name: str, y: torch.Tensor) -> None:
        z = y.detach().movedim(1, -1)  # as it lies in memory
        low, high = z.flatten(0, -2).aminmax(dim=0) if name in apart else z.aminmax()
        values[name] = take(y.detach()).clone(), low, high, y[0, 0].numel()
        if name not in flow.activated:
            y.register_hook(lambda g: squared.__setitem__(name, take(g) ** 2))

    live = {flow.input: x.contiguous(memory_format=torch.channels_last).requires_grad_(True)}
    with torch.enable_grad():
        watch(flow.input, live[flow.input])
        for i, n in enumerate(steps):
            given = [live[k] for k in reads[n.output]]
            y = f.silu(given[0]) if n.output in inside else operate(n, given, *simulator.weights.get(n.output, (None, None)))
            live[n.output] = y
            if n.output in names:
                watch(n.output, y)
            del given
            for k in reads[n.output]:
                if last[k] == i and k not in flow.outputs:
                    live.pop(k, None)
        outputs = [live[k] for k in flow.outputs]
        total = torch.zeros(())
        for u, w in _quantities(flow, outputs):
            total = total + (u * w * torch.randn(u.shape, generator=random)).sum()
        live.clear()
        total.backward()
    seen = {k: Seen(v[0], squared.get(flow.activated.get(k, k)), *v[1:]) for k, v in values.items()}
    return seen, [y.detach() for y in outputs]


def _is_gate(flow: Flow, name: str) -> bool:
    return all(n.output in flow.silu_inputs.values() for n in flow.consumers[name])


def _quantities(flow: Flow, outputs: list[torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """What the decoder computes, and the weight of each element: each role as a whole counts one tolerance."""
    import torch

    by_role: dict[str, list[torch.Tensor]] = {}
    for role, value in zip(flow.roles, outputs):
        by_role.setdefault(role, []).append(value)
    scores = [torch.sigmoid(z) for z in by_role.get("score", [])]
    sure = [s.detach().amax(1, keepdim=True) for s in scores]
    mass = sum(float((s * s).sum()) for s in sure) ** 0.5 + 1e-6
    found = [(s, torch.full_like(s, 1 / (SCORE * mass))) for s in scores]
    for box, s in zip(by_role.get("box", []), sure):
        bins = box.shape[1] // 4
        places = torch.arange(bins, dtype=box.dtype)[None, None, :, None, None]
        distance = box if bins == 1 else (box.unflatten(1, (4, bins)).softmax(2) * places).sum(2)
        found.append((distance, (s / (DISTANCE * mass * 2)).expand_as(distance)))
    pairs = list(zip(by_role.get("coeff", []), sure))
    power = sum(float((s * s * c.detach() ** 2).sum()) for c, s in pairs)
    for c, s in pairs:
        # The root mean square over channels where something is, times the root of their number, is the norm of a vector.
        norm = (power / (mass * mass)) ** 0.5 + 1e-9
        found.append((c, (s / (MASK * norm * mass)).expand_as(c)))
    for p in by_role.get("proto", []):
        found.append((p, torch.full_like(p, 1 / (MASK * (float(p.detach().std()) + 1e-9) * p.numel() ** 0.5))))
    return found
