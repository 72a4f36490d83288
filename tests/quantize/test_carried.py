"""Decisions as a file: written, read, compared, and matched to whatever a backend holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgeseg.data.shapes import shapes_image  # noqa: E402
from edgeseg.errors import EdgesegError  # noqa: E402
from edgeseg.network.checkpoint import load_checkpoint  # noqa: E402
from edgeseg.network.flow import network_flow  # noqa: E402
from edgeseg.quantize.carried import Carried, carry, load, probe_image, save, value_print  # noqa: E402
from edgeseg.quantize.constraints import Constraints, constrain  # noqa: E402
from edgeseg.quantize.decide import decide, look  # noqa: E402
from edgeseg.quantize.flow import Flow  # noqa: E402
from edgeseg.quantize.observe import Observed  # noqa: E402
from edgeseg.quantize.recipe import load_recipe  # noqa: E402
from edgeseg.quantize.simulate import Simulator, to_tensor  # noqa: E402

SIZE = (64, 64)
KINDS = {
    "everything": Constraints(wide=True),
    "inside": Constraints(rounds="inside", pairwise=True, floating={"deconv": ""}),
    "entries": Constraints(rounds="entries", symmetric=True, weights_alone=False, first=3, last_why="coarse"),
    "halves": Constraints(rounds="entries", half_scales=True),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> tuple[Path, ...]:
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(3):
        cv2.imwrite(str(folder / f"{i}.png"), shapes_image(i, 64)[0])
    return tuple(sorted(folder.iterdir()))


@pytest.fixture(scope="module")
def flow(tiny) -> Flow:
    return network_flow(load_checkpoint(tiny), SIZE)


@pytest.fixture(scope="module")
def observed(flow, images) -> Observed:
    return look(flow, load_recipe("int8"), images, SIZE)


@pytest.fixture(scope="module")
def carried(flow, images, observed) -> dict[str, Carried]:
    recipe, made = load_recipe("int8"), {}
    for name, limits in KINDS.items():
        decisions = decide(flow, recipe, images, SIZE, constraints=limits, observed=observed)
        made[name] = carry(flow, decisions, recipe, limits, SIZE, network="00", calibration=None)
    return made


def test_an_observation_survives_its_file(observed, tmp_path, flow, images) -> None:
    observed.save(tmp_path / "x.npz")
    again = Observed.load(tmp_path / "x.npz")
    recipe = load_recipe("int8")
    both = [decide(flow, recipe, images, SIZE, constraints=KINDS["inside"], observed=o) for o in (observed, again)]
    assert both[0].ranges == both[1].ranges
    assert all(np.array_equal(both[0].biases[k], both[1].biases[k]) for k in both[0].biases)


def test_deciding_alone_is_deciding_from_an_observation(observed, flow, images) -> None:
    recipe = load_recipe("int8")
    alone, given = (decide(flow, recipe, images, SIZE, observed=o) for o in (None, observed))
    assert alone.ranges == given.ranges


def test_the_same_tensor_has_the_same_range_for_every_kind_of_integers(carried, flow) -> None:
    """Where integers are of one kind (with a zero point), what is rounded at all has one range in every format."""
    whole, inside = carried["everything"].tensors, carried["inside"].tensors
    shared = [k for k in flow.channels if inside[k].grid is not None]
    assert len(shared) > 100
    assert all(inside[k].grid == whole[k].grid and inside[k].range == whole[k].range for k in shared)


def test_decisions_survive_their_file(carried, tmp_path) -> None:
    save(tmp_path / "d.json", list(carried.values()))
    for one, again in zip(carried.values(), load(tmp_path / "d.json"), strict=True):
        assert again.to_dict() == one.to_dict()
        for name, c in one.convolutions.items():
            assert np.array_equal(c.bias, again.convolutions[name].bias) and c.bias.dtype == np.float32
    lines = (tmp_path / "d.json").read_text().splitlines()
    first = next(iter(carried["everything"].convolutions))
    assert sum(line.strip().startswith(f'"{first}": {{"kind"') for line in lines) == len(
        KINDS
    )  # a line each: easy to compare


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_what_was_decided(carried, flow, images, observed, kind: str) -> None:
    decisions = decide(flow, load_recipe("int8"), images, SIZE, constraints=KINDS[kind], observed=observed)
    for name, c in carried[kind].convolutions.items():
        given = flow.producer[name].weight
        np.testing.assert_allclose(c.weight(given), decisions.weights.get(name, given), rtol=1e-6, atol=1e-8)
        if c.step is not None:
            np.testing.assert_allclose(c.step, decisions.weight_scales[name], rtol=1e-9)


def test_gains_and_equalization_travel(flow, images) -> None:
    recipe = load_recipe("int8")
    weights, correction = replace(recipe.weights, equalization="linear"), replace(recipe.correction, method="affine")
    recipe = replace(recipe, weights=weights, correction=correction)
    decisions = decide(flow, recipe, images, SIZE, constraints=KINDS["everything"])
    made = carry(flow, decisions, recipe, KINDS["everything"], SIZE)
    assert any(c.gain is not None and (c.gain != 1).any() for c in made.convolutions.values())
    for name, c in made.convolutions.items():
        np.testing.assert_allclose(c.weight(flow.producer[name].weight), decisions.weights[name], rtol=1e-5, atol=1e-7)


def test_tensors_are_found_whatever_their_order(carried, flow) -> None:
    seen: dict[str, np.ndarray] = {}
    x = to_tensor([probe_image(SIZE)])
    Simulator(flow).run(x, lambda name, y: seen.__setitem__(f"file/{name}", y[0].permute(1, 2, 0).numpy() * (1 + 1e-6)))
    seen["file/other"] = np.random.default_rng(0).normal(size=seen["file/images"].shape)
    found = carried["inside"].by_values(seen)
    assert "file/other" not in found and len(found) == len(seen) - 1
    for name, ours in found.items():
        # Two tensors of equal values may take each other's place: what is rounded must be the same.
        mine = name.removeprefix("file/")
        assert ours == mine or value_print(seen[name]) == pytest.approx(carried["inside"].tensors[mine].print, rel=1e-4)


def test_weights_are_found_whatever_their_order(carried, flow) -> None:
    weights = {n.output: n.weight.transpose(1, 2, 3, 0) for n in flow.nodes if n.weight is not None}
    found = carried["entries"].by_weights(reversed(weights.items()))
    assert {k: c.name for k, c in found.items()} == {k: k for k in weights}
    with pytest.raises(EdgesegError, match="none of the network's"):
        carried["entries"].by_weights([("odd", np.ones((3, 3, 1, 1)))])


def test_what_entries_and_outputs_get(carried, flow) -> None:
    entries = carried["entries"]
    convolutions = [c for c in entries.convolutions.values() if c.kind == "conv"]
    assert all(c.scale is None and c.entry is None for c in convolutions[:3])
    last = [entries.convolutions[name] for name in flow.outputs if name in entries.convolutions]
    assert last and all(c.scale is None for c in last)
    assert all(c.entry.zero_point == 0 for c in convolutions if c.entry is not None)
    halves = [c.entry.scale for c in carried["halves"].convolutions.values()]
    assert all(float(np.float16(s)) == s for s in halves)
    assert all(carried["inside"].tensors[name].grid is None for name in flow.outputs)


@pytest.mark.parametrize("text", ["", "{}", '{"schema": 1, "decisions": [{}]}', '{"schema": 1, "decisions": 3}', "[1]"])
def test_a_file_that_is_none(tmp_path, text: str) -> None:
    (tmp_path / "d.json").write_text(text)
    with pytest.raises(EdgesegError, match="no file of decisions") as e:
        load(tmp_path / "d.json")
    assert e.value.path == tmp_path / "d.json"


def test_a_table_with_an_unknown_key() -> None:
    with pytest.raises(EdgesegError, match="roundz"):
        Constraints.from_table({"roundz": "inside"})
    limits = KINDS["entries"]
    assert Constraints.of(limits.to_json()) == limits


def test_copies_stand_before_integer_convolutions_only(flow) -> None:
    given = constrain(flow, KINDS["entries"])
    copies = [n for n in given.nodes if n.kind == "copy"]
    assert copies and not {n.output for n in copies} & given.exact
    assert {n.output for n in flow.nodes} <= given.exact
