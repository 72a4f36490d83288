"""Sensitivity: what is lost when one stage, or one layer, is quantized and all else stays float.

It is simulated, so every format has the same answer. Only what depends on the quantized part is computed again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeseg.quantize.decide import Decisions, rounded_weights
from edgeseg.quantize.flow import HEAD_STAGES, STAGES, Flow, Node
from edgeseg.quantize.relevance import relevant
from edgeseg.quantize.simulate import QParams, Simulator, operate, round_to, to_tensor

if TYPE_CHECKING:
    import torch

EVERYTHING = "everything"
#: Sees the float outputs and those of a part, of one image: (part's name, number of the image, float outputs, outputs).
Watch = Callable[[str, int, list[np.ndarray], list[np.ndarray]], None]


@dataclass(frozen=True)
class Part:
    """What is quantized together: the tensors that are rounded and the convolutions whose weights are.

    ``name`` is the stage, or the layer's; ``kind`` says what a layer is, for people.
    """

    name: str
    stage: str
    kind: str
    tensors: frozenset[str]
    weights: frozenset[str]
    parameters: int = 0


@dataclass(frozen=True)
class Loss:
    """What quantizing a part alone costs.

    ``snr`` is in dB by role at the network's outputs, of what is ``relevant`` there (infinite where nothing changed).
    ``loss`` is the noise over the signal power, averaged over the roles: what parts are ranked by.
    """

    part: Part
    snr: Mapping[str, float]
    loss: float
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; None in place of infinity."""
        p = self.part
        snr = {role: round(db, 2) if math.isfinite(db) else None for role, db in self.snr.items()}
        about = {"name": p.name, "stage": p.stage, "kind": p.kind, "parameters": p.parameters}
        return {**about, "loss": self.loss, "snr_db": snr, **self.extra}


def stage_parts(flow: Flow) -> list[Part]:
    """One part for each stage, and one for everything, in the order of the network."""
    found = []
    for stage in (*STAGES, EVERYTHING):
        nodes = [n for n in flow.nodes if stage in (EVERYTHING, flow.stages[n.output])]
        entry = {flow.input} if stage in ("backbone", EVERYTHING) else set()
        if nodes:
            found.append(_part(stage, stage if stage != EVERYTHING else "", "", nodes, entry))
    return found


def layer_parts(flow: Flow, names: Mapping[str, str] | None = None) -> list[Part]:
    """One part for each convolution with its activation, and for each sum; in the order of the network.

    Args:
        flow: the network.
        names: what to call convolutions, by their output tensor; by default stage and number.
    """
    found, number = [], dict.fromkeys(STAGES, 0)
    for n in flow.nodes:
        if n.weight is None and n.kind != "add":
            continue
        stage = flow.stages[n.output]
        number[stage] += 1
        behind = flow.activated.get(n.output)
        nodes = [n, *([flow.producer[behind], *_gates(flow, n.output)] if behind is not None else [])]
        name = (names or {}).get(n.output, f"{stage}.{number[stage]}" + (" add" if n.kind == "add" else ""))
        found.append(_part(name, stage, _kind(n), nodes, set()))
    return found


def _gates(flow: Flow, name: str) -> list[Node]:
    return [n for n in flow.consumers[name] if n.kind == "sigmoid"]


def _kind(n: Node) -> str:
    if n.weight is None:
        return n.kind
    a, b = (1, 0) if n.kind == "conv" else (0, 1)
    size = "x".join(map(str, n.weight.shape[2:]))
    return f"{n.kind} {size} {n.weight.shape[a]}-{n.weight.shape[b]}"


def _part(name: str, stage: str, kind: str, nodes: Sequence[Node], more: set[str]) -> Part:
    weighted = [n for n in nodes if n.weight is not None]
    count = sum(int(n.weight.size) for n in weighted if n.weight is not None)
    tensors = frozenset({n.output for n in nodes} | more)
    return Part(name, stage, kind, tensors, frozenset(n.output for n in weighted), count)


def sensitivity(
    flow: Flow,
    decisions: Decisions,
    parts: Sequence[Part],
    images: Iterable[np.ndarray],
    watch: Watch = lambda name, image, exact, rough: None,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Loss]:
    """The loss caused by each part alone.

    Args:
        flow: the float network.
        decisions: ranges, bits and weight scales; its corrections are left out, they belong to all parts together.
        parts: what is quantized in turn.
        images: letterboxed uint8 RGB (h, w, 3).
        watch: sees the outputs.
        progress: called with the number of parts done, over all images.

    Returns:
        In the order of ``parts``.
    """
    params = decisions.params(flow)
    exact = Simulator(flow)
    rounded = _rounded(flow, decisions)
    sums = {p.name: {role: np.zeros(2) for role in HEAD_STAGES} for p in parts}
    done = 0
    for number, image in enumerate(images):
        base: dict[str, torch.Tensor] = {}
        reference = [t.numpy() for t in exact.run(to_tensor([image]), base.__setitem__)]
        for part in parts:
            outputs = _again(flow, exact.weights, rounded, params, part, base)
            _add(sums[part.name], flow.roles, reference, outputs)
            watch(part.name, number, reference, outputs)
            done += 1
            progress(done)
    return [_loss(part, sums[part.name]) for part in parts]


def _rounded(flow: Flow, decisions: Decisions) -> dict[str, torch.Tensor]:
    import torch

    plain = {k: v for k, v in rounded_weights(flow.nodes, decisions.weight_scales).items() if k in decisions.weight_scales}
    return {
        k: torch.from_numpy(np.array(v, np.float32)).contiguous(memory_format=torch.channels_last) for k, v in plain.items()
    }


def _again(
    flow: Flow,
    weights: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
    rounded: Mapping[str, torch.Tensor],
    params: Mapping[str, QParams],
    part: Part,
    base: Mapping[str, torch.Tensor],
) -> list[np.ndarray]:
    """The outputs with ``part`` quantized; what it does not reach is taken from ``base``."""
    import torch

    last = {name: i for i, n in enumerate(flow.nodes) for name in n.inputs}
    now: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        if flow.input in part.tensors and flow.input in params:
            now[flow.input] = round_to(base[flow.input], params[flow.input])
        for i, n in enumerate(flow.nodes):
            if n.output in part.tensors or n.output in part.weights or any(k in now for k in n.inputs):
                weight, bias = weights.get(n.output, (None, None))
                if n.output in part.weights:
                    weight = rounded.get(n.output, weight)
                y = operate(n, [now.get(k, base[k]) for k in n.inputs], weight, bias)
                now[n.output] = round_to(y, params.get(n.output) if n.output in part.tensors else None)
            for k in n.inputs:
                if last[k] == i and k not in flow.outputs:
                    now.pop(k, None)
    return [now.get(k, base[k]).numpy() for k in flow.outputs]


def _add(
    sums: dict[str, np.ndarray], roles: Sequence[str], reference: Sequence[np.ndarray], outputs: Sequence[np.ndarray]
) -> None:
    for role, r, o in zip(roles, relevant(roles, reference, reference), relevant(roles, reference, outputs)):
        sums[role] += (float((r.astype(np.float64) ** 2).sum()), float(((r.astype(np.float64) - o) ** 2).sum()))


def _loss(part: Part, sums: Mapping[str, np.ndarray]) -> Loss:
    snr, shares = {}, []
    for role, (signal, noise) in sums.items():
        share = noise / max(signal, 1e-12) if noise else 0.0
        shares.append(share)
        snr[role] = -10 * math.log10(share) if share else math.inf
    return Loss(part, snr, float(np.mean(shares)))
