"""Q/DQ ONNX as OpenVINO likes it: what its convolutions read is rounded, and nothing else.

OpenVINO computes the function behind a convolution in float before it rounds, at no cost; pairs between the two would only
lose accuracy. Where scores are made they stay: scores were levelled with them, and without them all rise together.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx

_CONVOLUTIONS = ("Conv",)
_THROUGH = ("Concat", "Slice", "Split", "MaxPool", "Resize", "QuantizeLinear", "DequantizeLinear")


def keep_inputs_of_convolutions(model: onnx.ModelProto, scores: Collection[str] = ()) -> int:
    """Take out, in place, the activations' pairs that no convolution profits from; returns how many are left.

    What leads to the outputs ``scores`` and to nothing else keeps its pairs.

    A pair whose values are only moved about on their way to a convolution stays: the convolution's own pair rounds the same
    way, and integers are moved faster.
    """
    graph = model.graph
    constants = {i.name for i in graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    branch = set(scores)
    for node in reversed(graph.node):
        for name in node.output:
            after = {o for r in readers.get(name, []) for o in r.output}
            if after and after <= branch:
                branch.add(name)
    pairs = {}
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] not in constants:
            (after,) = readers[node.output[0]]
            pairs[after.output[0]] = (node, after)

    def useful(name: str) -> bool:
        return any(
            (node.op_type in _CONVOLUTIONS and node.input[0] == name)
            or (node.op_type in _THROUGH and any(useful(o) for o in node.output))
            for node in readers.get(name, [])
        )

    renamed, dropped = {}, set()
    for name, (first, second) in pairs.items():
        if first.output[0] not in branch and not useful(name):
            renamed[name] = first.input[0]
            dropped |= {id(first), id(second)}
    kept = [n for n in graph.node if id(n) not in dropped]
    for node in kept:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    del graph.node[:]
    graph.node.extend(kept)
    return len(pairs) - len(renamed)
