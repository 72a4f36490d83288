"""Equalization across layers: channels of a tensor that differ in size are made alike, where that changes nothing else.

Exact where one convolution reads what another writes with nothing between them. A SiLU, hard swish or ReLU6 in between
forbids it: ``silu(s x)`` is not ``s silu(x)``.
"""

from __future__ import annotations

from collections.abc import Iterable

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


def equalized(flow: Flow, images: Iterable[np.ndarray]) -> Flow:
    """The same function with even channels between the ``pairs``.

    Channel i of the tensor is divided by ``s_i = sqrt(a_i / w_i)`` and the weights that read it are multiplied by it: a_i is
    the channel's largest magnitude on ``images``, w_i that of the weights that read it. Both then have the same profile
    ``sqrt(a_i w_i)``, as in Nagel et al., arXiv:1906.04721, with what occurs in place of what weights would allow
    (Xiao et al., arXiv:2211.10438).

    Args:
        flow: the float network.
        images: letterboxed uint8 RGB (h, w, 3), a few.
    """
    import torch

    from edgeseg.quantize.simulate import Simulator, to_tensor

    chosen = pairs(flow)
    if not chosen:
        return flow
    reach: dict[str, np.ndarray] = {}
    wanted = {first.output for first, _ in chosen}

    def watch(name: str, y: torch.Tensor) -> None:
        if name in wanted:
            largest = y.abs().amax((0, 2, 3)).numpy()
            reach[name] = np.maximum(reach.get(name, 0.0), largest)

    simulator = Simulator(flow)
    for image in images:
        simulator.run(to_tensor([image]), watch)
    new: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for first, second in chosen:
        a = reach.get(first.output)
        # A convolution is one of two pairs at most: what the pair before made of it is taken on.
        (w1, b1), (w2, b2) = (new.get(n.output, (n.weight, n.bias)) for n in (first, second))
        if a is None or w1 is None or b1 is None or w2 is None or b2 is None:
            continue
        w = np.abs(w2).max((0, 2, 3))
        alive = (a > 1e-9 * a.max()) & (w > 1e-9 * w.max())
        if alive.sum() < 2 or a[alive].max() < UNEVEN * np.median(a[alive]):
            continue
        s = np.ones_like(a, dtype=np.float64)
        s[alive] = np.sqrt(a[alive] / w[alive])
        s[alive] /= np.exp(np.log(s[alive]).mean())
        new[first.output] = (w1 / channels(first.kind, s)).astype(np.float32), (b1 / s).astype(np.float32)
        new[second.output] = (w2 * s.reshape(1, -1, 1, 1)).astype(np.float32), b2
    return flow.with_weights(new) if new else flow
