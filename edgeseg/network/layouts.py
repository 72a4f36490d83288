"""The published layer lists: which of our parts has which number there, and what other trainers call our tensors.

Their files number the layers (``model.0.conv.weight`` ...): backbone, pooling, attention where there is one, then the neck
with its enlarging and joining layers, which have no weights, then the head.
"""

from __future__ import annotations

from torch import nn

from edgeseg.network import blocks
from edgeseg.network.definition import Definition, Family
from edgeseg.network.head import Head

_CHAIN = {"enter": "cv1", "leave": "cv2", "chain": "m"}
_WORDS: dict[type[nn.Module], dict[str, str]] = {
    blocks.Bottleneck: {"first": "cv1", "second": "cv2"},
    blocks.CrossStage: {"enter": "cv1", "skip": "cv2", "leave": "cv3", "chain": "m"},
    blocks.C2f: _CHAIN,
    blocks.PSA: _CHAIN,
    blocks.SPPF: _CHAIN,
    blocks.Attention: {"read": "qkv", "place": "pe", "leave": "proj"},
    blocks.Attending: {"attention": "attn", "widen": "ffn.0", "narrow": "ffn.1"},
    blocks.Separable: {"spatial": "0", "across": "1"},
    blocks.Branch: {"first": "0", "second": "1", "out": "2"},
    blocks.Proto: {"enter": "cv1", "refine": "cv2", "leave": "cv3"},
    blocks.RichProto: {
        "enter": "cv1", "refine": "cv2", "leave": "cv3", "coarse": "feat_refine", "fuse": "feat_fuse", "semantic": "semseg",
    },
    Head: {
        "box": "cv2", "score": "cv3", "coeff": "cv4", "bins": "dfl.conv.weight",
        "single.box": "one2one_cv2", "single.score": "one2one_cv3", "single.coeff": "one2one_cv4",
    },
}  # fmt: skip
"""What the children of each of our blocks are called there."""


def layer_numbers(plan: Family) -> dict[str, int]:
    """Our parts that have weights, with their numbers: ``backbone.stem`` is 0, the head the last."""
    parts = ["backbone.stem", *(f"backbone.{p}.{part}" for p in ("p2", "p3", "p4", "p5") for part in ("down", "mix"))]
    parts += ["backbone.sppf", *(["backbone.attend"] if plan.attention else [])]
    numbers = {part: i for i, part in enumerate(parts)}
    after = len(parts) - 1
    places = {"top4": 3, "out3": 6, "down3": 7, "out4": 9, "down4": 10, "out5": 12}
    return numbers | {f"neck.{part}": after + at for part, at in places.items()} | {"head": after + 13}


def layer_kinds(plan: Family, head: str) -> list[str]:
    """The names of all layers in their order; ``head`` is the last."""
    mix = "C2f" if plan.squeeze == 1 else "C3k2"
    up, down = ["Upsample", "Concat", mix], ["Conv", "Concat", mix]
    backbone = ["Conv", *["Conv", mix] * 4, "SPPF", *(["C2PSA"] if plan.attention else [])]
    return [*backbone, *up * 2, *down * 2, head]


def foreign_names(network: nn.Module, definition: Definition) -> dict[str, str]:
    """The layer-numbered name of each of a network's tensors: ``backbone.stem.conv.weight`` -> ``0.conv.weight``."""
    numbers = layer_numbers(definition.plan)
    return {key: _translate(network, key, numbers) for key in network.state_dict()}


def _translate(network: nn.Module, key: str, numbers: dict[str, int]) -> str:
    tokens = key.split(".")
    depth = next(d for d in (1, 2, 3) if ".".join(tokens[:d]) in numbers)
    module, said = network.get_submodule(".".join(tokens[:depth])), [str(numbers[".".join(tokens[:depth])])]
    while depth < len(tokens):
        words = _WORDS.get(type(module), {})
        count = 2 if ".".join(tokens[depth : depth + 2]) in words else 1
        step = ".".join(tokens[depth : depth + count])
        said.append(words.get(step, step))
        depth += count
        if depth < len(tokens):
            module = module.get_submodule(step)
    return ".".join(said)
