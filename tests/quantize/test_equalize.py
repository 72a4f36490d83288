"""Equalization across layers: the same function, even channels, and something gained."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from edgeseg.data.shapes import shapes_image
from edgeseg.quantize.decide import decide
from edgeseg.quantize.equalize import between, equalized, pairs
from edgeseg.quantize.flow import Flow, Node
from edgeseg.quantize.observe import EQUALIZING, observe
from edgeseg.quantize.recipe import load_recipe
from edgeseg.quantize.simulate import Simulator, to_tensor

SIZE = (32, 32)


def network(spread: float, first: str = "conv", copy: bool = False) -> Flow:
    """Two convolutions with nothing between them; the channels between differ by up to ``spread`` either way."""
    random = np.random.default_rng(0)
    scale = np.exp(random.uniform(-1, 1, 8) * np.log(spread))
    attrs = {"stride": (1, 1), "pad": (0, 0, 0, 0), "kernel": (1, 1)}
    w1 = random.normal(size=(8, 3, 1, 1)) * scale.reshape(-1, 1, 1, 1)
    b1, b2 = random.normal(size=8) * scale, random.normal(size=4)
    w2 = random.normal(size=(4, 8, 1, 1)) / scale.reshape(1, -1, 1, 1)
    w1 = w1.transpose(1, 0, 2, 3) if first == "deconv" else w1
    arrays = [a.astype(np.float32) for a in (w1, b1, w2, b2)]
    middle = [Node("copy", ("a",), "c")] if copy else []
    nodes = (
        Node(first, ("x",), "a", attrs, *arrays[:2]),
        *middle,
        Node("conv", ("c" if copy else "a",), "y", attrs, *arrays[2:]),
    )
    return Flow(nodes, "x", ("y",), ("proto",), {"x": 3, "a": 8, "c": 8, "y": 4})


@pytest.fixture
def images():
    return [shapes_image(seed, 32)[0][..., ::-1].copy() for seed in range(3)]


@pytest.mark.parametrize("first", ["conv", "deconv"])
@pytest.mark.parametrize("copy", [False, True])
def test_the_same_function_with_even_channels(images, first, copy) -> None:
    flow = network(30.0, first, copy)
    even = equalized(flow, observe(flow, images, even=True).factors)
    x = to_tensor(images)
    seen = [{}, {}]
    (a,), (b,) = (Simulator(f).run(x, s.__setitem__) for f, s in zip((flow, even), seen))
    assert np.allclose(a, b, rtol=1e-3, atol=1e-4 * float(a.abs().max()))
    before, after = (s["a"].abs().amax((0, 2, 3)).numpy() for s in seen)
    assert after.max() / after.min() < 0.3 * before.max() / before.min()


def test_nothing_is_done_to_even_channels_or_behind_a_function(images) -> None:
    flow = network(1.0)
    assert equalized(flow, observe(flow, images, even=True).factors) is flow
    nodes = (flow.nodes[0], Node("hardswish", ("a",), "h"), replace(flow.nodes[1], inputs=("h",)))
    assert not pairs(replace(flow, nodes=nodes))
    read_twice = (*flow.nodes, replace(flow.nodes[1], output="z"))
    assert not pairs(replace(flow, nodes=read_twice, outputs=("y", "z"), roles=("proto", "proto")))
    assert not pairs(replace(flow, outputs=("a", "y"), roles=("proto", "proto")))


@pytest.mark.parametrize("number", [3, EQUALIZING, EQUALIZING + 2])
@pytest.mark.parametrize("copy", [False, True])
def test_one_look_counts_what_a_second_at_the_even_network_would(number, copy) -> None:
    flow = network(30.0, copy=copy)
    images = [shapes_image(seed, 32)[0][..., ::-1].copy() for seed in range(number)]
    assert between(flow) == ({"a": "a", "c": "a"} if copy else {"a": "a"})
    once = observe(flow, images, even=True)
    again = observe(equalized(flow, once.factors), images)
    assert set(once.histograms) == set(again.histograms)
    for name, h in once.histograms.items():
        other = again.histograms[name]
        assert (h.low, h.high) == pytest.approx((other.low, other.high), rel=1e-3, abs=1e-5), name
        assert h.counts.sum() == pytest.approx(other.counts.sum(), rel=1e-3), name
        # Neither rounds alike: what lies on the edge of a bin falls into the next.
        assert np.abs(np.cumsum(h.counts) - np.cumsum(other.counts)).max() < 0.02 * h.counts.sum(), name


@pytest.mark.parametrize("method", ["none", "bias"])
def test_it_earns_its_place_where_channels_are_uneven(tmp_path, images, method) -> None:
    paths = []
    for i, image in enumerate(images):
        paths.append(tmp_path / f"{i}.png")
        cv2.imwrite(str(paths[-1]), image[..., ::-1])
    flow, x = network(30.0), to_tensor(images)
    (wanted,) = Simulator(flow).run(x)
    noise = {}
    for equalization in ("none", "linear"):
        recipe = load_recipe("int8")
        correction = replace(recipe.correction, method=method)
        recipe = replace(recipe, weights=replace(recipe.weights, equalization=equalization), correction=correction)
        decisions = decide(replace(flow, exact=frozenset({"y"})), recipe, paths, SIZE)
        stored = {k: (decisions.weights[k], b) for k, b in decisions.biases.items()}
        assert set(stored) == (set() if equalization == method == "none" else {"a", "y"})
        (got,) = Simulator(flow.with_weights(stored), decisions.params(flow)).run(x)
        noise[equalization] = float(((got - wanted) ** 2).mean())
    assert noise["linear"] < 0.5 * noise["none"]
