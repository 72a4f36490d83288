"""Recipes: what is accepted, and what a mistake is told."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgeseg.errors import EdgesegError
from edgeseg.quantize.recipe import Recipe, load_recipe
from edgeseg.resources import calib_root


@pytest.mark.parametrize("file", sorted(calib_root().glob("*.toml")), ids=lambda f: f.stem)
def test_built_in_recipes_load_and_travel(file: Path) -> None:
    recipe = load_recipe(file.stem)
    assert recipe.name == file.stem and recipe.title
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert load_recipe(file) == recipe


def test_what_the_built_in_recipes_mean() -> None:
    int8 = load_recipe("int8")
    assert int8.calibrated and int8.activation_bits("proto") == 8 and int8.weight_bits("neck") == 8
    assert (int8.clips["score"].low, int8.clips["score"].high) == (-8, 5)
    assert not load_recipe("w8a32").calibrated and not load_recipe("fp16").calibrated
    assert load_recipe("w8a16").activation_bits("backbone") == 16
    mixed = load_recipe("mixed")
    assert mixed.activation_bits("backbone") == 16 and mixed.activation_bits("neck") == mixed.weight_bits("backbone") == 8


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ('images = 9\n[activations]\nmetod = "mse"\n', 3, "unknown key 'metod'. Did you mean 'method'"),
        ("\n[stages.bakbone]\nactivations = 16\n", 2, "unknown stage 'bakbone'. Did you mean 'backbone'"),
        ("[clips.scores]\nlow = 0.0\nhigh = 1.0\n", 1, "unknown role 'scores'. Did you mean 'score'"),
        ("imagse = 3\n", 1, "unknown key 'imagse'. Did you mean 'images'"),
        ("images = 0\n", 1, "no whole number above 0"),
        ("[weights]\n# comment\nbits = 7\n", 3, "none of 8, 16, 32"),
        ('[activations]\nmethod = "median"\n', 2, "none of minmax, percentile, mse, kl"),
        ("[activations]\npercentile = 2.0\n", 2, "out of range"),
        ("[activations]\nbits = true\n", 2, "must be int"),
        ("[clips.score]\nlow = 1.0\n", 1, "needs high"),
        ("[clips.score]\nlow = 1.0\nhigh = 0.0\n", 2, "ends before it begins"),
        ("weights = 3\n", 1, "must be a table"),
        ("images = = 3\n", 1, "no valid TOML"),
        ("[stages]\nneck = { weights = 8, bots = 4 }\n", 2, "unknown key 'bots'"),
    ],
)
def test_mistakes_are_told_with_their_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(EdgesegError) as e:
        load_recipe(file)
    assert words in str(e.value)
    assert f"mine.toml:{line}:" in str(e.value)


def test_no_such_recipe_names_the_nearest() -> None:
    with pytest.raises(EdgesegError, match="Did you mean 'int8-accurate'"):
        load_recipe("int8-acurate")


def test_learned_ranges_travel_but_no_file_gives_them(tmp_path) -> None:
    recipe = replace(load_recipe("int8"), learned={"keys": [[1.0, 2.0, 3.0]], "ranges": [[-1.0, 2.0, 0.0, 2.0]]})
    again = Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())))
    assert again.learned == recipe.learned and again.same_rules(load_recipe("int8"))
    assert "learned" not in load_recipe("int8").to_dict()
    assert not again.same_rules(load_recipe("w8a16"))
    file = tmp_path / "mine.toml"
    file.write_text("[learned]\nkeys = []\n")
    with pytest.raises(EdgesegError, match="unknown key 'learned'"):
        load_recipe(file)


def test_recipes_in_checkpoints_of_the_first_release_are_read() -> None:
    raw = load_recipe("int8").to_dict()
    raw["correction"]["margin"] = 1.0
    assert Recipe.from_dict(raw) == load_recipe("int8")
