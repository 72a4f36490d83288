"""Sensitivity: one part at a time equals the whole simulation, and what reaches no output of a role costs it nothing."""

import json
import math

import numpy as np
import pytest

from edgeseg.cli import run as cli
from edgeseg.data.shapes import make_shapes
from edgeseg.quantize.decide import Decisions
from edgeseg.quantize.flow import Flow, Node
from edgeseg.quantize.relevance import relevant
from edgeseg.quantize.sensitivity import EVERYTHING, layer_parts, sensitivity, stage_parts
from edgeseg.quantize.simulate import Simulator, to_tensor
from edgeseg.resources import demo_checkpoint

pytest.importorskip("torch")


@pytest.fixture
def flow() -> Flow:
    """Two convolutions with a SiLU between, then one for each role."""
    rng = np.random.default_rng(0)

    def conv(source, output, channels, outputs, size=3):
        weight = rng.normal(0, 0.5, (outputs, channels, size, size)).astype(np.float32)
        attrs = {"stride": (1, 1), "pad": (size // 2,) * 4}
        return Node("conv", (source,), output, attrs, weight, rng.normal(0, 0.1, outputs).astype(np.float32))

    counts = {"box": 64, "score": 2, "coeff": 4, "proto": 4}
    nodes = [conv("x", "a", 3, 8), Node("sigmoid", ("a",), "g"), Node("mul", ("a", "g"), "m"), conv("m", "b", 8, 8)]
    nodes += [conv("b", role, 8, n, 1) for role, n in counts.items()]
    channels = {"x": 3, "a": 8, "g": 8, "m": 8, "b": 8, **counts}
    return Flow(tuple(nodes), "x", tuple(counts), tuple(counts), channels)


@pytest.fixture
def decisions(flow: Flow) -> Decisions:
    names = [flow.input, *(n.output for n in flow.nodes)]
    ranges = {n: (0.0, 1.0) if n in ("x", "g") else (-6.0, 6.0) for n in names}
    scales = {n.output: np.abs(n.weight).max((1, 2, 3)) / 127 for n in flow.nodes if n.weight is not None}
    return Decisions(ranges, dict.fromkeys(names, 8), scales, {}, {})


def images(count: int = 2) -> list[np.ndarray]:
    return list(np.random.default_rng(1).integers(0, 255, (count, 8, 8, 3), np.uint8))


def test_everything_is_the_whole_simulation(flow, decisions):
    seen = {}
    parts = stage_parts(flow)
    assert [p.name for p in parts] == ["backbone", "box", "score", "coeff", "proto", EVERYTHING]
    losses = sensitivity(flow, decisions, parts, images(1), lambda name, i, exact, rough: seen.update({name: rough}))
    bits = {n.output: 8 for n in flow.nodes if n.weight is not None}
    whole = Simulator(flow, decisions.params(flow), bits).run(to_tensor(images(1)))
    for ours, theirs in zip(seen[EVERYTHING], whole):
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5)
    by_name = {loss.part.name: loss for loss in losses}
    assert by_name[EVERYTHING].loss > max(loss.loss for name, loss in by_name.items() if name != EVERYTHING) * 0.5
    assert by_name["score"].snr["box"] == math.inf and math.isfinite(by_name["score"].snr["score"])
    assert all(math.isfinite(db) for db in by_name["backbone"].snr.values())


def test_layers_are_convolutions_with_their_activation(flow, decisions):
    done = []
    parts = layer_parts(flow, {"a": "stem"})
    assert [p.name for p in parts] == ["stem", "backbone.2", "box.1", "score.1", "coeff.1", "proto.1"]
    assert parts[0].tensors == {"a", "g", "m"} and parts[0].weights == {"a"} and parts[0].kind == "conv 3x3 3-8"
    losses = sensitivity(flow, decisions, parts, images(2), progress=done.append)
    assert done == list(range(1, 13)) and len(losses) == 6
    assert losses[0].to_dict()["parameters"] == 8 * 3 * 9
    assert losses[3].to_dict()["snr_db"]["box"] is None


def test_noise_where_nothing_is_seen_does_not_count():
    score = np.full((1, 2, 1, 2), -20.0, np.float32)
    score[0, 0, 0, 0] = 3.0
    coeff = np.ones((1, 4, 1, 2), np.float32)
    noisy = coeff.copy()
    noisy[..., 1] = 9.0  # where there is nothing
    roles = ("score", "coeff")
    exact, rough = (relevant(roles, [score, coeff], [score, c]) for c in (coeff, noisy))
    assert np.abs(exact[1] - rough[1]).max() < 1e-3 and exact[1].max() == pytest.approx(np.sqrt(1 / (1 + np.exp(-3))))
    assert exact[0].min() == 0 and exact[0].max() == pytest.approx(11)


def test_box_logits_are_compared_as_distances():
    score = np.full((1, 1, 1, 1), 20.0, np.float32)
    box = np.zeros((1, 64, 1, 1), np.float32)
    box[0, 5] = 50.0  # left: five cells; the others: the mean of all bins
    same = box - 7.0  # a softmax does not see it
    roles = ("box", "score")
    first, second = (relevant(roles, [box, score], [b, score])[0] for b in (box, same))
    np.testing.assert_allclose(first.ravel(), [5, 7.5, 7.5, 7.5], rtol=1e-5)
    np.testing.assert_allclose(first, second)


def test_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = make_shapes(tmp_path / "shapes", train=6, val=2, size=160, seed=5)
    words = ["sensitivity", str(demo_checkpoint()), f"data={data}", "--images", "1", "--plot", "p.png", "--json", "s.json"]
    assert cli(words) == 0
    out = capsys.readouterr()
    assert "passes, about" in out.err and "everything" in out.out and "most is lost in" in out.out
    found = json.loads((tmp_path / "s.json").read_text())
    assert {p["name"] for p in found["parts"]} >= {"backbone", "neck", "box", "score", "coeff", "proto", "everything"}
    assert found["parts"] == sorted(found["parts"], key=lambda p: -p["loss"])
    assert (tmp_path / "p.png").stat().st_size > 1000
    assert cli([*words[:3], "--by", "block"]) == 2
    assert cli(["sensitivity", "model.onnx"]) == 2
    assert cli([*words[:3], "--recipe", "fp16"]) == 2
    capsys.readouterr()
    wrong = {
        "plot=p.gif": "a plot is",
        "plot=nowhere/p.png": "its folder does not exist",
        "seed=-1": "seed -1",
        "imgsz=33": "imgsz 33 is no multiple of 32 up to 65536",
        "imgsz=131072": "imgsz 131072 is no multiple of 32 up to 65536",
    }
    for word, says in wrong.items():
        assert cli([*words[:3], word]) == 2
        said = capsys.readouterr()
        assert says in said.err and "passes" not in said.err and not said.out


def test_command_by_layer_calls_layers_by_their_names(tmp_path, capsys):
    data = make_shapes(tmp_path / "shapes", train=4, val=1, size=96, seed=5)
    words = ["sensitivity", str(demo_checkpoint()), f"data={data}", "--by", "layer", "--imgsz", "96", "--json", "-"]
    assert cli(words) == 0
    parts = json.loads(capsys.readouterr().out)["parts"]
    names = [p["name"] for p in parts]
    assert "backbone.stem" in names and len(set(names)) == len(names) > 70
