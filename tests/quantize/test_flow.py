"""The flow: stages found by walking, groups that share a scale; simulation, probes, observation and correction on it."""

import numpy as np
import pytest

from edgeseg.errors import EdgesegError
from edgeseg.quantize.flow import Flow, Node

torch = pytest.importorskip("torch")

from edgeseg.quantize.correct import Moments, level_scores, sequential  # noqa: E402
from edgeseg.quantize.decide import Decisions, choose_ranges, decide, level, rounded_weights, weight_scales  # noqa: E402
from edgeseg.quantize.observe import observe  # noqa: E402
from edgeseg.quantize.probe import probe  # noqa: E402
from edgeseg.quantize.ranges import overflows  # noqa: E402
from edgeseg.quantize.recipe import Recipe, load_recipe  # noqa: E402
from edgeseg.quantize.simulate import QParams, Simulator, fixed, operate, round_to, to_tensor  # noqa: E402


def conv(source: str, name: str, weight: np.ndarray) -> Node:
    pad = weight.shape[2] // 2
    return Node(
        "conv",
        (source,),
        name,
        {"stride": (1, 1), "pad": (pad,) * 4},
        weight.astype(np.float32),
        np.zeros(len(weight), np.float32),
    )


def silu(name: str) -> list[Node]:
    return [Node("sigmoid", (name,), f"{name}.s"), Node("mul", (name, f"{name}.s"), f"{name}.y")]


@pytest.fixture(scope="module")
def flow() -> Flow:
    """Backbone a -> upsampled into the neck n, from which the four roles branch."""
    rng = np.random.default_rng(0)

    def w(o: int, i: int, k: int) -> np.ndarray:
        return rng.normal(0, (1.5 / (i * k * k)) ** 0.5, (o, i, k, k))

    nodes = [
        conv("images", "a", w(8, 3, 3)),
        *silu("a"),
        Node("maxpool", ("a.y",), "p", {"kernel": (2, 2), "stride": (2, 2), "pad": (0, 0, 0, 0)}),
        Node("resize", ("p",), "u", {"size": (16, 16)}),
        Node("concat", ("u", "a.y"), "c"),
        conv("c", "n", w(8, 16, 1)),
        *silu("n"),
        conv("n.y", "b", w(8, 8, 3)),
        *silu("b"),
        conv("b.y", "box_8", w(64, 8, 1)),
        conv("n.y", "score_8", w(4, 8, 1)),
        Node("slice", ("n.y",), "half", {"begin": 4, "count": 4}),
        conv("half", "coeff_8", w(6, 4, 1)),
        conv("n.y", "proto", w(6, 8, 1)),
    ]
    sizes = {"images": 3, "a": 8, "n": 8, "b": 8, "p": 8, "u": 8, "c": 16, "half": 4}
    sizes |= {f"{k}{s}": 8 for k in "anb" for s in (".s", ".y")}
    sizes |= {"box_8": 64, "score_8": 4, "coeff_8": 6, "proto": 6}
    outputs = ("box_8", "score_8", "coeff_8", "proto")
    return Flow(tuple(nodes), "images", outputs, ("box", "score", "coeff", "proto"), sizes)


def pictures(count: int) -> list[np.ndarray]:
    return [np.random.default_rng(i).integers(0, 256, (16, 16, 3), np.uint8) for i in range(count)]


def test_stages_follow_from_the_graph(flow: Flow) -> None:
    assert flow.stages["a"] == flow.stages["a.y"] == flow.stages["p"] == "backbone"
    assert flow.stages["u"] == flow.stages["n"] == flow.stages["n.y"] == "neck"
    assert flow.stages["b"] == flow.stages["box_8"] == "box"
    assert (flow.stages["score_8"], flow.stages["half"], flow.stages["proto"]) == ("score", "coeff", "proto")


def test_what_only_moves_values_shares_a_scale(flow: Flow) -> None:
    group = {k for k, leader in flow.groups.items() if leader == flow.groups["c"]}
    assert group == {"a.y", "p", "u", "c"}
    assert flow.groups["half"] == flow.groups["n.y"] != flow.groups["n"]


def test_silus_are_found(flow: Flow) -> None:
    assert flow.silu_inputs == {"a": "a.y", "n": "n.y", "b": "b.y"}


def test_unknown_operators_are_refused() -> None:
    with pytest.raises(EdgesegError, match="gelu"):
        Node("gelu", ("a",), "b")


def test_the_simulation_is_the_network(flow: Flow) -> None:
    x = to_tensor(pictures(2))
    outputs = Simulator(flow).run(x)
    by_hand = torch.nn.functional.conv2d(x, torch.from_numpy(flow.nodes[0].weight), padding=1)
    assert outputs[0].shape == (2, 64, 16, 16)
    seen = {}
    Simulator(flow).run(x, lambda name, value: seen.setdefault(name, value))
    assert torch.allclose(seen["a"], by_hand, atol=1e-5)
    assert torch.allclose(seen["a.y"], torch.nn.functional.silu(by_hand), atol=1e-5)


def test_rounding_is_affine_with_an_exact_zero() -> None:
    q = QParams.from_range(-0.3, 2.0)
    x = torch.linspace(-1, 3, 1001)
    back = round_to(x, q).numpy()
    codes = back / q.scale + q.zero_point
    assert np.abs(codes - np.rint(codes)).max() < 1e-3
    assert codes.min() >= -128.01 and codes.max() <= 127.01
    assert 0.0 in round_to(torch.zeros(1), q)
    inside = (x.numpy() > q.range[0]) & (x.numpy() < q.range[1])
    assert np.abs(back - x.numpy())[inside].max() <= q.scale / 2 + 1e-6
    assert QParams.from_range(-3, 1, 16).zero_point == 0


def test_probes_are_the_squared_derivatives_on_average(flow: Flow) -> None:
    x = to_tensor(pictures(1))
    random = torch.Generator().manual_seed(0)
    runs = [probe(Simulator(flow), x, random)[0]["n"].squared for _ in range(300)]
    mean = torch.stack(runs).mean(0)
    # The obvious way: nudge n.y and look at what changes, in the same units. Here for the prototypes alone.
    only = Flow(flow.nodes, flow.input, ("proto",), ("proto",), flow.channels)
    sampled = torch.stack([probe(Simulator(only), x, random)[0]["n.y"].squared for _ in range(400)]).mean((0, 1, 3, 4))
    proto = Simulator(flow).run(x)[3]
    weight = next(n.weight for n in flow.nodes if n.output == "proto")[:, :, 0, 0]
    exact = (weight**2).sum(0) / (0.1 * float(proto.std())) ** 2 / proto.numel()
    assert np.allclose(sampled.numpy(), exact, rtol=0.15)
    assert mean.shape == (1, 8, 16, 16) and (mean >= 0).all()


def test_observation_streams_and_sees_extremes(flow: Flow) -> None:
    images, asked = pictures(5), []

    def stream():
        for i, image in enumerate(images):
            asked.append(i)
            yield image

    done: list[int] = []
    seen = observe(flow, stream(), lambda n: done.append(n) or len(asked)).histograms
    assert done == [1, 2, 3, 4, 5] and "a.s" not in seen and "c" in seen  # a convolution reads it
    lows: list[float] = []
    Simulator(flow).run(to_tensor(images), lambda name, v: lows.append(float(v.min())) if name == "n" else None)
    assert seen["n"].low == pytest.approx(lows[0], abs=1e-5)


def test_ranges_are_shared_in_groups_and_fixed_by_clips(flow: Flow) -> None:
    recipe = Recipe.from_dict({"name": "t", "clips": {"score": {"low": -8.0, "high": 5.0}}})
    chosen = choose_ranges(flow, observe(flow, pictures(3)).histograms, recipe)
    assert chosen["c"] == chosen["a.y"] == chosen["u"]
    assert chosen["score_8"] == (-8, 5) and chosen["images"] == (0, 1)


def test_a_missing_calibration_set_is_an_error(flow: Flow) -> None:
    with pytest.raises(EdgesegError, match="empty"):
        decide(flow, Recipe("t"), [], (16, 16))
    free = Recipe.from_dict({"name": "t", "activations": {"bits": 32}})
    assert decide(flow, free, [], (16, 16)).ranges == {}


def test_correction_takes_away_a_constant_error(flow: Flow) -> None:
    images = pictures(6)
    recipe = Recipe("t")
    scales = weight_scales(flow, recipe)
    ranges = dict(choose_ranges(flow, observe(flow, images).histograms, recipe))
    # A clip that is far too narrow: a large error of one sign.
    ranges["n"] = (-0.5, ranges["n"][1])
    plan = Decisions(ranges, dict.fromkeys(flow.channels, 8), scales, {}, {})
    params = plan.params(flow)
    assert params["a.s"] == fixed("sigmoid") == QParams(1 / 256, -128)
    rounded = rounded_weights(flow.nodes, scales)
    x = to_tensor(images)
    exact = Simulator(flow).run(x)

    def off(found: Flow) -> list[float]:
        return [float((a - b).mean((0, 2, 3)).abs().mean()) for a, b in zip(exact, Simulator(found, params).run(x))]

    plain = flow.with_weights({n.output: (rounded[n.output], n.bias) for n in flow.nodes if n.weight is not None})
    for method in ("bias", "affine"):
        done = plan.adjusted(flow, rounded, sequential(flow, rounded, params, images, method))
        mended = flow.with_weights({k: (done.weights[k], b) for k, b in done.biases.items()})
        before, after = off(plain), off(mended)
        assert after[0] < 0.5 * before[0] and after[3] < 0.5 * before[3]
        for k, w in done.weights.items():
            s = done.weight_scales[k].reshape(-1, 1, 1, 1)
            assert np.abs(w / s - np.rint(w / s)).max() < 1e-3


@pytest.mark.parametrize(("size", "stride", "groups"), [(1, 1, 1), (1, 2, 1), (1, 1, 4), (3, 1, 1)])
def test_a_convolution_is_pytorchs_own_with_its_gradient(size: int, stride: int, groups: int) -> None:
    torch.manual_seed(0)
    weight, bias, x = torch.randn(8, 8 // groups, size, size), torch.randn(8), torch.randn(1, 8, 12, 10)
    pad = size // 2
    node = Node("conv", ("x",), "y", {"stride": (stride, stride), "pad": (pad,) * 4, "groups": groups})
    for layout in (torch.contiguous_format, torch.channels_last):
        ours, theirs = (x.contiguous(memory_format=layout).clone().requires_grad_(True) for _ in range(2))
        made = operate(node, [ours], weight, bias)
        wanted = torch.nn.functional.conv2d(theirs, weight, bias, stride, pad, 1, groups)
        assert torch.allclose(made, wanted, atol=1e-5)
        made.square().sum().backward()
        wanted.square().sum().backward()
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-3)


def test_images_side_by_side_give_what_one_after_the_other_gives(flow: Flow) -> None:
    images = pictures(5)
    recipe = load_recipe("int8")

    def made(threads: int) -> list[np.ndarray]:
        usual = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            seen = observe(flow, images, levelling=range(len(images)))
            plan = Decisions(
                choose_ranges(flow, seen.histograms, recipe),
                dict.fromkeys(flow.channels, 8),
                weight_scales(flow, recipe),
                {},
                {},
            )
            rounded = rounded_weights(flow.nodes, plan.weight_scales)
            fitted = sequential(flow, rounded, plan.params(flow), images, "affine")
            done = level(flow, plan.adjusted(flow, rounded, fitted), images, seen.scores)
            return (
                [h.counts for h in seen.histograms.values()]
                + [v for a in fitted.values() for v in (a.gain, a.bias)]
                + [*done.biases.values()]
            )
        finally:
            torch.set_num_threads(usual)

    # Two images at once, on one thread each.
    for one, two in zip(made(1), made(2), strict=True):
        assert np.array_equal(one, two)


@pytest.mark.parametrize("gains", [False, True])
def test_moments_find_a_line_whatever_the_noise(gains: bool) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(1, 2, (3, 20_000))
    y = (x - 0.3) / (1.1 if gains else 1.0) + rng.normal(0, 0.8, x.shape)
    m = Moments(3, gains)
    a, b = (torch.from_numpy(v[None, :, :, None]) for v in (x, y))
    m.add(m.of(torch.ones_like(a), a, b))
    gain, shift = m.fit()
    assert np.allclose(gain, 1.1 if gains else 1.0, atol=0.02)
    assert np.allclose((gain[:, None] * y + shift[:, None] - x).mean(1), 0, atol=0.02)


def test_a_rare_channel_leans_on_its_layer() -> None:
    m, weight = Moments(2, False), torch.zeros(1, 2, 10_000, 1, dtype=torch.float64)
    weight[0, 0], weight[0, 1, 0] = 1, 1  # the second channel is active at one position
    exact = torch.tensor([0.5, 9.0], dtype=torch.float64)[None, :, None, None].expand_as(weight)
    m.add(m.of(weight, exact, torch.zeros_like(weight)))
    _, shift = m.fit()
    assert shift[0] == pytest.approx(0.5, abs=0.01)
    assert shift[1] == pytest.approx(0.67, abs=0.05)


def test_scores_are_levelled_behind_the_whole_network(flow: Flow) -> None:
    off = {n.output: (n.weight, n.bias - (0.4 if n.output == "score_8" else 0)) for n in flow.nodes if n.weight is not None}
    exact = observe(flow, pictures(3), levelling=range(3)).scores
    assert level_scores(flow, off, {}, pictures(3), exact)["score_8"] == pytest.approx(0.4, abs=0.03)
    same = {k: (w, b + (0.4 if k == "score_8" else 0)) for k, (w, b) in off.items()}
    assert level_scores(flow, same, {}, pictures(3), exact)["score_8"] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(("recipe", "spared"), [("int8", True), ("w8a32", False), ("int8-accurate", False)])
def test_weights_are_spared_from_overflow_only_where_integers_meet(recipe: str, spared: bool) -> None:
    rng = np.random.default_rng(0)
    weights = {name: (1 + np.abs(rng.normal(size=(4, 4, 1, 1)))).astype(np.float32) for name in ("a", "s", "b")}
    nodes = (conv("x", "a", weights["a"]), conv("a", "s", weights["s"]), conv("a", "b", weights["b"]))
    small = Flow(nodes, "x", ("s", "b"), ("score", "box"), dict.fromkeys("xasb", 4), pairwise=True)
    scales = weight_scales(small, load_recipe(recipe))
    assert {name: bool(overflows(weights[name], s).any()) for name, s in scales.items()} == dict.fromkeys("asb", not spared)
