"""The search finds the cheapest precision that loses little enough, measures no more than it must, and resumes."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.errors import EdgesegError
from edgeseg.export.search import Limits, Measured, Memory, cheapest, frontier, search, to_toml, with_islands
from edgeseg.quantize.flow import STAGES
from edgeseg.quantize.recipe import FLOAT, Clip, load_recipe


def world(losses, costs, calls=None):
    """What each stage loses in 8 bits and what it costs to take it out."""

    def measure(islands):
        if calls is not None:
            calls.append(dict(islands))
        loss = sum(v for k, v in losses.items() if k not in islands)
        ms = 1 + sum(costs[k] * (1 if bits == FLOAT else 2) for k, bits in islands.items())
        return Measured(tuple(sorted(islands.items())), loss, loss / 2, ms, 1000)

    return measure


LOSSES = {"backbone": 0.6, "neck": 0.05, "box": 0.3, "score": 0.2, "coeff": 0.01, "proto": 0.0}
ORDER = sorted(LOSSES, key=lambda s: -LOSSES[s])


def test_nothing_is_taken_out_when_all_8_bit_will_do():
    calls = []
    found = search(ORDER, world(LOSSES, dict.fromkeys(STAGES, 1.0), calls), Limits(2.0))
    assert found.best is not None and found.best.islands == () and calls == [{}]


def test_stages_are_taken_out_until_it_is_enough_and_put_back_where_they_are_not_needed():
    said = []
    found = search(ORDER, world(LOSSES, dict.fromkeys(STAGES, 1.0)), Limits(0.6), say=said.append)
    # Without the backbone 0.56 is left, which is enough.
    assert found.best is not None and dict(found.best.islands) == {"backbone": FLOAT}
    found = search(ORDER, world(LOSSES, dict.fromkeys(STAGES, 1.0)), Limits(0.1))
    assert found.best is not None and set(dict(found.best.islands)) == {"backbone", "box", "score"}
    assert said[0].startswith("all 8 bit: box -1.16, mask -0.58 points, agreement")


def test_an_order_that_is_wrong_is_mended():
    found = search(["proto", "coeff", "neck", "backbone"], world(LOSSES, dict.fromkeys(STAGES, 1.0)), Limits(0.6))
    assert found.best is not None and set(dict(found.best.islands)) == {"backbone"}


def test_nothing_fits_and_what_cannot_be_made_is_no_choice():
    inside = world({**LOSSES, "always": 1.0}, dict.fromkeys(STAGES, 1.0))
    assert search(ORDER, inside, Limits(0.5)).best is None
    found = search(ORDER, lambda islands: None if len(islands) == 1 else inside(islands), Limits(1.3))
    assert found.best is not None and all(len(m.islands) != 1 for m in found.measured)


@given(
    losses=st.lists(st.floats(0, 1), min_size=4, max_size=4),
    costs=st.lists(st.floats(0.01, 1), min_size=4, max_size=4),
    limit=st.floats(0.01, 2),
)
def test_what_is_found_is_within_the_limit_and_no_measured_one_is_cheaper(losses, costs, limit):
    stages = STAGES[:4]
    measure = world(dict(zip(stages, losses)), dict(zip(stages, costs)))
    order = sorted(stages, key=lambda s: -losses[stages.index(s)])
    found = search(order, measure, Limits(limit))
    every = [measure(dict.fromkeys(some, FLOAT)) for n in range(5) for some in itertools.combinations(stages, n)]
    assert (found.best is None) == (not any(m.drop <= limit for m in every))
    if found.best is not None:
        assert found.best.drop <= limit
        assert all(found.best.ms <= m.ms * 1.03 + 1e-9 for m in found.measured if m.drop <= limit)


def test_equally_fast_ones_are_told_apart_by_size_and_the_frontier_keeps_what_nothing_beats():
    a, b = Measured((), 0.5, 0.1, 10.0, 500), Measured((("box", 32),), 0.2, 0.1, 10.2, 400)
    c, d = Measured((("neck", 32),), 0.1, 0.3, 20.0, 900), Measured((("score", 32),), 0.4, 0.1, 30.0, 950)
    limits = Limits(1.0)
    assert cheapest([a, b, c, d], limits) == b and cheapest([a, c], limits) == a and cheapest([a], Limits(0.1)) is None
    assert frontier([a, b, c, d], limits) == (a, b) + (() if c.drop >= b.drop else (c,))
    assert Measured.from_dict(json.loads(json.dumps(b.to_dict()))) == b


def test_a_title_names_stages_by_their_bits():
    m = Measured((("backbone", FLOAT), ("box", 16), ("neck", FLOAT)), 0.1, 0.1, 1.0, 1)
    assert m.title == "backbone, neck float; box 16 bit" and Measured((), 0, 0, 1.0, 1).title == "all 8 bit"


def test_memory_outlives_an_interruption(tmp_path):
    file, calls = tmp_path / "search" / "measured.json", []

    def make(name):
        calls.append(name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return {"name": name}

    first = Memory(file)
    for name in ("a", "b"):
        first.recall(name, lambda name=name: make(name))
    with pytest.raises(KeyboardInterrupt):
        first.recall("c", lambda: make("c"))
    again = Memory(file)
    assert [again.recall(n, lambda n=n: make(n))["name"] for n in ("a", "b", "c")] == ["a", "b", "c"]
    assert calls == ["a", "b", "c", "c"]
    file.write_text("{half")
    assert Memory(file).known == {}


@pytest.mark.parametrize("name", ["int8", "int8-accurate", "w8a16"])
def test_a_recipe_with_islands_can_be_written_and_read(tmp_path, name):
    recipe = with_islands(load_recipe(name), {"backbone": FLOAT, "score": 16})
    assert recipe.activation_bits("backbone") == FLOAT and recipe.activation_bits("score") == 16
    assert recipe.name == f"{name}-backbone-float-score-16"
    file = tmp_path / f"{recipe.name}.toml"
    file.write_text(to_toml(recipe))
    assert load_recipe(file) == recipe


def test_islands_everywhere_are_none(tmp_path):
    recipe = with_islands(load_recipe("int8"), dict.fromkeys(STAGES, FLOAT))
    assert recipe.activations.bits == FLOAT and not recipe.stages and not recipe.calibrated


def test_the_search_needs_int8_and_a_network(tmp_path, shapes_yaml):
    from edgeseg.cli import run as cli
    from edgeseg.export.mixed import Mixed
    from edgeseg.export.options import ExportOptions
    from edgeseg.resources import demo_checkpoint

    with pytest.raises(EdgesegError, match="no number of AP points"):
        Limits(-1.0)
    with pytest.raises(EdgesegError, match="quantizes no activations"):
        Mixed(demo_checkpoint(), "tflite", ExportOptions(imgsz=96, int8=True, data=shapes_yaml, recipe="w8a32"), Limits(0.5))
    for limit in (["--max-drop", "0.5"], ["--min-agreement", "0.9"], ["--int8", "--min-agreement", "90"]):
        assert cli(["export", str(demo_checkpoint()), "-f", "tflite", *limit]) == 2
    assert load_recipe("int8").clips["score"] == Clip(-8.0, 5.0)
