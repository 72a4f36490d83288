"""What a backend's integers can follow, declared in ``[quantize]`` of its ``target.toml`` and checked before any work.

A recipe says what should be; constraints say what a runtime has: which tensors are rounded at all, on what kind of grid, and
what stays float. ``decide`` gets the network with the constraints applied, so that every backend's decisions are made by one
and the same code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from edgeseg.errors import EdgesegError, brief
from edgeseg.quantize.flow import STAGES, Flow, Node

if TYPE_CHECKING:
    from edgeseg.quantize.recipe import Recipe

ROUNDS = {
    "everything": "every tensor, the outputs too",
    "inside": "every tensor but the outputs",
    "entries": "what convolutions read, each for itself",
}


@dataclass(frozen=True)
class Constraints:
    """What integers can do in one format.

    Attributes:
        rounds: a key of ``ROUNDS``.
        symmetric: signed integers without a zero point.
        pairwise: products of two neighbouring input channels may be added in 16 bits, which full-range weights overflow.
        half_scales: scales are half floats.
        wide: there are 16-bit activations.
        weights_alone: 8-bit weights may go with float activations.
        whole: nothing may stay float or have 16 bits.
        floating: convolutions that stay float, with the reason: ``conv``, ``deconv``, ``depthwise``.
        first, last: convolutions that stay float at the beginning (number) and at the outputs, with the reason.
    """

    rounds: str = "everything"
    symmetric: bool = False
    pairwise: bool = False
    half_scales: bool = False
    wide: bool = False
    weights_alone: bool = True
    whole: bool = False
    floating: Mapping[str, str] | None = None
    first: int = 0
    first_why: str = ""
    last_why: str = ""

    @classmethod
    def from_table(cls, table: Mapping[str, Any], where: str = "") -> Constraints:
        """Read ``[quantize]``.

        Raises:
            EdgesegError: an unknown key or a value of the wrong kind.
        """
        kinds = {f.name: str(f.type) for f in fields(cls)}
        for key, value in table.items():
            expected = {"bool": bool, "int": int, "str": str}.get(kinds.get(key, ""), Mapping)
            if key not in kinds or not isinstance(value, expected) or (key == "rounds" and value not in ROUNDS):
                raise EdgesegError(f"[quantize] {key} = {brief(value)} is not known", path=where or None)
        return cls(**table)

    @classmethod
    def of(cls, text: str) -> Constraints:
        """Read what ``to_json`` wrote."""
        return cls.from_table(json.loads(text))

    def to_json(self) -> str:
        """The table as one line."""
        return json.dumps(self.to_table(), sort_keys=True)

    @property
    def title(self) -> str:
        """In a word or two."""
        return f"{self.rounds}, symmetric" if self.symmetric else self.rounds

    def to_table(self) -> dict[str, Any]:
        """What ``from_table`` reads: the values that are not the usual ones."""
        usual = Constraints()
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != getattr(usual, f.name)}


def constrain(flow: Flow, c: Constraints) -> Flow:
    """The flow as a backend can follow it: what stays exact and float is marked, and copies stand where each reader rounds
    for itself."""
    convolutions = [n for n in flow.nodes if n.weight is not None]
    floating = {n.output for n in convolutions if {n.kind, _form(n)} & set(c.floating or {})}
    floating |= {n.output for n in [m for m in convolutions if m.kind == "conv"][: c.first]}
    floating |= {n.output for n in convolutions if n.output in flow.outputs} if c.last_why else set()
    channels, nodes, exact = dict(flow.channels), list(flow.nodes), set()
    if c.rounds == "entries":
        exact = {flow.input, *(n.output for n in nodes)}
        nodes = _with_copies(nodes, floating, channels)
    elif c.rounds == "inside":
        # A convolution in float reads and writes float; of its neighbours only the other side is rounded.
        exact = {n.inputs[0] for n in nodes if n.output in floating and len(flow.consumers[n.inputs[0]]) == 1}
        exact |= set(flow.outputs)
    return replace(
        flow,
        nodes=tuple(nodes),
        channels=channels,
        exact=frozenset(exact),
        floating=frozenset(floating),
        symmetric=c.symmetric,
        pairwise=c.pairwise,
        half_scales=c.half_scales,
    )


def _form(node: Node) -> str:
    groups = node.attrs.get("groups", 1)
    return "depthwise" if node.weight is not None and groups == len(node.weight) > 1 else node.kind


def _with_copies(nodes: Sequence[Node], floating: set[str], channels: dict[str, int]) -> list[Node]:
    """The nodes with a copy before every convolution in integers: it rounds what it reads for itself, sums and joined
    tensors get the float values, and no two tensors need the same scale."""
    made: list[Node] = []
    copies: dict[str, str] = {}
    for n in nodes:
        if n.weight is not None and n.output not in floating:
            source = n.inputs[0]
            if source not in copies:
                copies[source] = f"{source}/rounded"
                channels[copies[source]] = channels[source]
                made.append(Node("copy", (source,), copies[source]))
            n = replace(n, inputs=(copies[source],))
        made.append(n)
    return made


def misfit(recipe: Recipe, c: Constraints) -> str:
    """Why a backend cannot be int8 by a recipe, whatever the network; empty where it can."""
    bits = {s: (recipe.weight_bits(s), recipe.activation_bits(s)) for s in STAGES}
    if floats := [s for s, (weights, activations) in bits.items() if weights != 8 and activations != 32]:
        return f"it has integer activations with float weights ({', '.join(floats)}), and nothing multiplies these"
    if c.whole and (odd := [s for s, both in bits.items() if both != (8, 8)]):
        return f"all must be 8-bit weights and 8-bit activations, and it has others ({', '.join(odd)})"
    beside = [activations for weights, activations in bits.values() if weights == 8]
    if not beside:
        return "it has no 8-bit weights"
    if not c.weights_alone and not {8, 16 if c.wide else 8} & set(beside):
        return "8-bit weights need 8-bit activations there, and it has none"
    return ""


def unfollowed(flow: Flow, recipe: Recipe, c: Constraints) -> list[str]:
    """The lines of a recipe that a backend cannot follow, each with the reason."""
    forms = {_form(n) for n in flow.nodes if n.weight is not None}
    stays = [why for form, why in (c.floating or {}).items() if form in forms]
    found = [why for why in (*stays, c.first_why, c.last_why) if why]
    stages = sorted(set(flow.stages.values()))
    wide = [s for s in stages if recipe.activation_bits(s) == 16]
    if wide and not c.wide:
        found.append(f"16-bit activations ({', '.join(wide)}) stay float: there are no 16-bit integer kernels to run them")
    half = [s for s in stages if recipe.weight_bits(s) == 16]
    if half:
        found.append(f"16-bit weights ({', '.join(half)}) stay float: export half for half-precision weights")
    alone = [s for s in stages if recipe.activation_bits(s) in (32, 32 if c.wide else 16) and recipe.weight_bits(s) == 8]
    if alone and all(recipe.weight_bits(s) != 8 for s in stages if s not in alone):
        found.append("8-bit weights alone: a smaller file, computed in float")
    if alone and not c.weights_alone:
        found.append(f"8-bit weights with float activations ({', '.join(alone)}) stay float32: there is no such convolution")
    if "score" in recipe.clips and recipe.calibrated and c.rounds != "everything":
        found.append("the clip of the score is not needed: outputs are not rounded")
    return found
