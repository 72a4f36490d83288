from __future__ import annotations

from pathlib import Path

import pytest

from edgeseg.errors import EdgesegError
from edgeseg.network.definition import FAMILIES, SUFFIXES, VARIANTS, Definition, builtin_definition, load_definition


@pytest.mark.parametrize("variant", VARIANTS)
def test_built_in_definitions_are_packaged(variant: str) -> None:
    for name in (f"yolov8{variant}-seg", f"yolov8{variant}-seg.yaml"):
        definition, names = load_definition(name)
        assert definition == Definition(variant, nc=80) and names is None


def test_channels_and_repeats_follow_the_published_scales() -> None:
    assert Definition("n").stages == (16, 32, 64, 128, 256)
    assert Definition("m").stages == (48, 96, 192, 384, 576)
    assert Definition("x").stages == (80, 160, 320, 640, 640)
    assert (Definition("n").repeats(3), Definition("n").repeats(6)) == (1, 2)
    assert (Definition("m").repeats(3), Definition("l").repeats(6)) == (2, 6)


def test_a_file_of_the_users_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("width: 0.125\ndepth: 0.33\nmax_channels: 256\nact: relu6\nnames: {0: a, 1: b}\n")
    definition, names = load_definition(file)
    assert definition.nc == 2 and names == ("a", "b") and definition.act == "relu6" and definition.stages[-1] == 32
    assert load_definition(file, nc=5) == (definition.with_classes(5), None)
    assert Definition.from_dict(definition.to_dict()) == definition


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("variant: q\n", "variant 'q'"),
        ("variant: n\nnumber_of_classes: 3\n", "number_of_classes"),
        ("variant: n\nnc: 0\n", "nc must be"),
        ("variant: n\nnc: three\n", "nc must be"),
        ("variant: n\nnc: true\n", "nc must be"),
        ("variant: n\nact: gelu\n", "gelu"),
        ("variant: n\nwidth: -1\n", "width must be"),
        ("variant: n\nwidth: 1e9\n", "width must be"),
        ("variant: [n]\n", "is no text"),
        ("family: yolo12\n", "none of yolov8, yolo11, yolo26"),
        ("task: pose\n", "none of segment, detect"),
        ("width: 0.1\n", "depth"),
        ("variant: n\nnc: 2\nnames: [a]\n", "1 names"),
        ("variant: n\nnames: {1: a}\n", "without gaps"),
        ("variant: n\nnames: seven\n", "list of class names"),
        ("nc: 80\nbackbone: []\nhead: []\n", "list of layers"),
        ("- 1\n", "no YAML mapping"),
        ("a: [\n", "no valid YAML"),
    ],
)
def test_mistakes_name_the_file_and_the_key(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(EdgesegError) as error:
        load_definition(file)
    assert str(file) in str(error.value) and words in str(error.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_size_and_task_is_built_in(family: str) -> None:
    for variant in VARIANTS:
        for task, suffix in SUFFIXES.items():
            definition, _ = load_definition(f"{family}{variant}{suffix}.yaml")
            assert definition == Definition(variant, family=family, task=task)


def test_unknown_names() -> None:
    assert builtin_definition("yolov8n-seg.pt") is None and builtin_definition("../definitions/yolov8n-seg") is None
    with pytest.raises(EdgesegError, match="no such definition"):
        load_definition("yolov8z-seg.yaml")


@pytest.mark.parametrize("text", ["width: 64", "depth: 4000"])
def test_a_definition_larger_than_memory_is_refused(tmp_path: Path, text: str) -> None:
    values = {"variant": "custom", "depth": 0.33, "width": 0.25, "max_channels": 1024}
    key, value = text.split(": ")
    path = tmp_path / "w.yaml"
    path.write_text("\n".join(f"{k}: {v}" for k, v in {**values, key: value}.items()))
    with pytest.raises(EdgesegError, match="larger than edgeseg builds"):
        load_definition(path)


@pytest.mark.parametrize("text", ["nc: " + "9" * 5000, "nc: 2024-13-45", "nc: " + "[" * 5000])
def test_a_value_that_python_cannot_hold_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "w.yaml"
    path.write_text(text)
    with pytest.raises(EdgesegError, match="no valid YAML"):
        load_definition(path)
