"""Ranges that a network learned in training, carried over to the flow of whatever backend quantizes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgeseg.quantize.flow import Flow


def learned_ranges(flow: Flow, learned: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """The learned range of each tensor of any backend's flow of the same network.

    Convolutions correspond by their weights, since backends order and name them differently; sums, pooling and joined
    tensors have the range of their group, what attention multiplies is found by name. A tensor that has none is absent.

    Args:
        flow: the backend's view of the network.
        learned: ``keys``, a fingerprint for each convolution, and ``ranges``, as many rows: low and high of what it writes,
            then of the activation behind it (the same again where there is none, zeros where a tensor is not rounded);
            ``others``: low and high of tensors whose group has no convolution, by name in the network's own flow.
    """
    rows = dict(zip(map(tuple, learned["keys"]), learned["ranges"]))
    leaders: dict[str, tuple[float, float]] = {}
    for n in flow.nodes:
        row = rows.get(fingerprint(n.weight)) if n.weight is not None else None
        if row is not None:
            behind = flow.activated.get(n.output, n.output)
            for name, low, high in ((n.output, *row[:2]), (behind, *row[2:])):
                if high > low:
                    leaders[flow.groups[name]] = (low, high)
    for name, (low, high) in learned.get("others", {}).items():
        if name in flow.groups:
            leaders.setdefault(flow.groups[name], (low, high))
    for n in flow.nodes:
        if n.kind == "copy" and flow.groups[n.inputs[0]] in leaders:
            leaders[flow.groups[n.output]] = leaders[flow.groups[n.inputs[0]]]
    return {name: leaders[leader] for name, leader in flow.groups.items() if leader in leaders}


def learned_of(qat: Mapping[str, Any]) -> dict[str, Any]:
    """What ``learned_ranges`` takes, of what training left in a checkpoint's ``info["qat"]``."""
    return {key: qat[key] for key in ("keys", "ranges", "others") if key in qat}


def fingerprint(weight: np.ndarray) -> tuple[float, ...]:
    """What tells a convolution's weights apart in any backend: their number, total magnitude and largest, to six digits."""
    size = np.abs(np.asarray(weight, np.float64))
    return (float(size.size), float(f"{size.sum():.6g}"), float(f"{size.max():.6g}"))
