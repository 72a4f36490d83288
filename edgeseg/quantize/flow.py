"""A network as a quantizer sees it: few kinds of operators, named tensors, float weights; no format and no framework.

Every backend reads its own file into a ``Flow``; ranges, corrections and the simulation work on that, so that the same
recipe means the same thing everywhere. Stages and roles are found by walking the graph, never by names of nodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from edgeseg.quantize.kinds import Function, kind_of, silu

HEAD_STAGES = ("box", "score", "coeff", "proto")
STAGES = ("backbone", "neck", *HEAD_STAGES)


@dataclass(frozen=True, eq=False)
class Node:
    """One operator with a single output tensor; tensors are float with a batch axis, those of pictures NCHW.

    A ``copy`` is the same tensor for one kind of reader, so that it may be rounded for that reader alone.
    ``weight`` is (out, in / groups, kh, kw) for ``conv``, (in, out, kh, kw) for ``deconv``. ``attrs`` holds ``stride``
    (h, w), ``pad`` (top, left, bottom, right), ``groups`` and ``dilation`` where they are not one, ``kernel`` (h, w),
    ``size`` (h, w) of a resize, ``begin``, ``count`` and ``axis`` of a slice, ``axis`` of a concatenation (1 where it is
    left out) or a softmax, ``shape`` of a reshape, ``order`` of a transpose, ``factor`` of a scale.
    """

    kind: str
    inputs: tuple[str, ...]
    output: str
    attrs: Mapping[str, Any] = field(default_factory=dict)
    weight: np.ndarray | None = None
    bias: np.ndarray | None = None

    def __post_init__(self) -> None:
        kind_of(self.kind)


@dataclass(frozen=True, eq=False)
class Flow:
    """Operators in executable order, the input tensor, and the output tensors with their roles (in the same order).

    A backend says what it keeps in float whatever the recipe wants: activations (``exact``) and the weights of convolutions
    (``floating``, by their output). ``symmetric``: its activations are signed integers without a zero point. ``pairwise``:
    its runtimes may add the products of two neighbouring input channels in 16 bits, which full-range weights would overflow.
    ``half_scales``: its scales are half floats.
    """

    nodes: tuple[Node, ...]
    input: str
    outputs: tuple[str, ...]
    roles: tuple[str, ...]
    channels: Mapping[str, int]
    exact: frozenset[str] = frozenset()
    floating: frozenset[str] = frozenset()
    symmetric: bool = False
    pairwise: bool = False
    half_scales: bool = False

    @cached_property
    def producer(self) -> dict[str, Node]:
        """The node that writes each tensor (the input has none)."""
        return {n.output: n for n in self.nodes}

    @cached_property
    def consumers(self) -> dict[str, tuple[Node, ...]]:
        """The nodes that read each tensor."""
        found: dict[str, list[Node]] = {self.input: [], **{n.output: [] for n in self.nodes}}
        for n in self.nodes:
            for name in dict.fromkeys(n.inputs):
                found[name].append(n)
        return {k: tuple(v) for k, v in found.items()}

    @cached_property
    def silu_inputs(self) -> dict[str, str]:
        """Input tensor of each SiLU written as ``x * sigmoid(x)``, to the tensor that the product writes."""
        found = {}
        for n in self.nodes:
            if n.kind == "mul":
                for x, s in (n.inputs, n.inputs[::-1]):
                    gate = self.producer.get(s)
                    if gate is not None and gate.kind == "sigmoid" and gate.inputs == (x,):
                        found[x] = n.output
        return found

    @cached_property
    def activated(self) -> dict[str, str]:
        """Input tensor of each activation, to the tensor that the activation writes."""
        return {**self.silu_inputs, **{n.inputs[0]: n.output for n in self.nodes if kind_of(n.kind).activation}}

    def flattened(self, name: str) -> Function | None:
        """The function behind a tensor that lets little of some values through, if there is one."""
        if name in self.silu_inputs:
            return silu
        return kind_of(self.producer[self.activated[name]].kind).flattens if name in self.activated else None

    @cached_property
    def clipped(self) -> frozenset[str]:
        """Tensors that a ReLU6 reads: never rounded themselves, since integer convolutions clip while they round."""
        return frozenset(n.inputs[0] for n in self.nodes if kind_of(n.kind).clips)

    @cached_property
    def stages(self) -> dict[str, str]:
        """The stage of each node, by its output tensor.

        What leads to outputs of one role only is that role's branch. Of the rest, all that the first upsampling depends on
        is the backbone (its deepest level is upsampled first), and what follows is the neck.
        """
        reach: dict[str, set[str]] = {name: set() for name in self.consumers}
        for name, role in zip(self.outputs, self.roles):
            reach[name].add(role)
        for n in reversed(self.nodes):
            for name in n.inputs:
                reach[name] |= reach[n.output]
        shared = {n.output for n in self.nodes if len(reach[n.output]) > 1}
        ups = [n for n in self.nodes if n.kind == "resize" and n.output in shared]
        backbone = self._ancestors(ups[0].inputs) if ups else shared
        stages = {}
        for n in self.nodes:
            role = next(iter(reach[n.output]), "neck")
            stages[n.output] = role if n.output not in shared else "backbone" if n.output in backbone else "neck"
        return stages

    def _ancestors(self, names: Sequence[str]) -> set[str]:
        todo, seen = list(names), set()
        while todo:
            name = todo.pop()
            if name not in seen and name in self.producer:
                seen.add(name)
                todo.extend(self.producer[name].inputs)
        return seen

    @cached_property
    def groups(self) -> dict[str, str]:
        """Each tensor's group leader: tensors of one group hold the same values moved about, and share one scale."""
        leader = {name: name for name in self.consumers}

        def find(name: str) -> str:
            while leader[name] != name:
                name = leader[name]
            return name

        for n in self.nodes:
            if kind_of(n.kind).moves:
                for name in n.inputs:
                    a, b = find(name), find(n.output)
                    if a != b:
                        leader[b] = a
        return {name: find(name) for name in leader}

    def with_weights(self, new: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Flow:
        """The same flow with the (weight, bias) of the nodes named by their output tensor replaced."""
        nodes = tuple(
            replace(n, weight=new[n.output][0], bias=new[n.output][1]) if n.output in new else n for n in self.nodes
        )
        return replace(self, nodes=nodes)
