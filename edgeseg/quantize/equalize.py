"""Equalization across layers: channels of a tensor that differ in size are made alike, where that changes nothing else.

Exact where one convolution reads what another writes with nothing between them. A SiLU, hard swish or ReLU6 in between
forbids it: ``silu(s x)`` is not ``s silu(x)``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeseg.quantize.flow import Flow, Node
from edgeseg.quantize.kinds import channels

#: A tensor whose channels differ by less than this (largest to median) is left as it is.
UNEVEN = 2.0


def pairs(flow: Flow) -> list[tuple[Node, Node]]:
    """The convolutions of which the second alone reads what the first writes, with nothing but a copy between them."""
    found = []
    for first in flow.nodes:
        if first.weight is None or first.bias is None or first.output in flow.outputs:
            continue
        readers = flow.consumers[first.output]
        while len(readers) == 1 and readers[0].kind == "copy":
            readers = flow.consumers[readers[0].output]
        plain = len(readers) == 1 and readers[0].kind == "conv" and readers[0].attrs.get("groups", 1) == 1
        if plain and readers[0].weight is not None:
            found.append((first, readers[0]))
    return found


def between(flow: Flow) -> dict[str, str]:
    """The tensors that equalization changes, to what the first of their ``pairs`` writes: that, and its copies."""
    found = {}
    for first, second in pairs(flow):
        name = second.inputs[0]
        while name != first.output:
            found[name] = first.output
            name = flow.producer[name].inputs[0]
        found[name] = name
    return found


def factors(flow: Flow, reach: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the channels between each of the ``pairs`` are divided by, by the tensor between them.

    ``s_i = sqrt(a_i / w_i)``: a_i is the channel's largest magnitude on some images, w_i that of the weights that read it.
    Both then have the same profile ``sqrt(a_i w_i)``, as in Nagel et al., arXiv:1906.04721, with what occurs in place of
    what weights would allow (Xiao et al., arXiv:2211.10438).

    Args:
        flow: the float network.
        reach: the largest magnitude of each channel, (c,), by the tensor that the first convolution writes.
    """
    found: dict[str, np.ndarray] = {}
    for first, second in pairs(flow):
        a = reach.get(first.output)
        if a is None or second.weight is None:
            continue
        w = np.abs(second.weight).max((0, 2, 3))
        alive = (a > 1e-9 * a.max()) & (w > 1e-9 * w.max())
        if alive.sum() < 2 or a[alive].max() < UNEVEN * np.median(a[alive]):
            continue
        s = np.ones_like(a, dtype=np.float64)
        s[alive] = np.sqrt(a[alive] / w[alive])
        s[alive] /= np.exp(np.log(s[alive]).mean())
        found[first.output] = s
    return found


def equalized(flow: Flow, divided: Mapping[str, np.ndarray]) -> Flow:
    """The same function with even channels: those of ``divided`` divided, the weights that read them multiplied."""
    new: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for first, second in pairs(flow) if divided else ():
        s = divided.get(first.output)
        (w1, b1), (w2, b2) = (new.get(n.output, (n.weight, n.bias)) for n in (first, second))
        if s is None or w1 is None or b1 is None or w2 is None or b2 is None:
            continue
        new[first.output] = (w1 / channels(first.kind, s)).astype(np.float32), (b1 / s).astype(np.float32)
        new[second.output] = (w2 * s.reshape(1, -1, 1, 1)).astype(np.float32), b2
    return flow.with_weights(new) if new else flow
