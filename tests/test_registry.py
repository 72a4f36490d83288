from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgeseg import registry
from edgeseg.errors import EdgesegError
from edgeseg.registry import BrokenTarget, Target, target_by_name, target_by_path, targets

BUILT_IN = Path(__file__).resolve().parents[1] / "targets"


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """``outside(name, toml)`` adds a target; there are no others."""
    monkeypatch.setattr(registry, "target_roots", lambda: [tmp_path])
    monkeypatch.setattr(registry, "_scan", registry._scan.__wrapped__)

    def add(name: str, toml: str) -> Path:
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "target.toml").write_text(toml)
        return tmp_path / name

    return add


def toml(name="mine", **more):
    lines = {"name": name, "title": "Mine", "suffix": ".mine", **more}
    return "".join(f"{k} = {v if isinstance(v, list) else repr(v)}\n" for k, v in {"reads": ["network"], **lines}.items())


@pytest.mark.parametrize("name", sorted(p.parent.name for p in BUILT_IN.glob("*/target.toml")))
def test_built_in_targets_are_whole(name):
    target = targets()[name]
    assert target.folder == BUILT_IN / name and (target.folder / "convert.py").is_file()
    assert target.reads and set(target.precisions) <= {"fp32", "fp16", "int8"} and "imgsz" in target.options
    assert ("int8" in target.precisions[1:]) == ("int8" in target.options), "a choice needs its option, the only one none"
    assert target_by_path(Path(target.artifact_name("net"))) is target


def test_names_and_suffixes_are_unique():
    words = [w for t in targets().values() for w in (t.name, *t.aliases)]
    assert len(words) == len(set(words))
    assert len({t.suffix for t in targets().values()}) == len(targets())


def test_by_name_alias_and_case():
    assert target_by_name(" TFLite ") is target_by_name("litert") is targets()["tflite"]


def test_unknown_name_suggests():
    with pytest.raises(EdgesegError, match="Did you mean 'onnx'") as caught:
        target_by_name("onx")
    assert "torchscript" in caught.value.hint


def test_longest_suffix_wins(outside):
    outside("mine", toml())
    outside("long", toml("long", suffix="_quantized.mine"))
    assert target_by_path(Path("a.mine")).name == "mine" and target_by_path(Path("A_QUANTIZED.MINE")).name == "long"
    assert target_by_path(Path("a.unknown")) is None


def test_outside_targets_join_and_replace(tmp_path, monkeypatch):
    for name in ("mine", "onnx"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "target.toml").write_text(toml(name, aliases=[f"own-{name}"], suffix=f".own_{name}"))
    monkeypatch.setenv("EDGESEG_TARGETS", str(tmp_path))
    assert target_by_name("own-mine").folder == tmp_path / "mine" and target_by_name("onnx").title == "Mine"
    assert target_by_name("tflite").folder == BUILT_IN / "tflite"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("name = ", "no valid TOML"),
        ("name = 'mine'\n", "key is missing"),
        (toml(colour="blue"), "unknown"),
        (toml("other"), "'other' is not the folder's"),
        (toml() + "[runtime]\nmodules = []\nspeed = 3\n", "unknown keys"),
    ],
)
def test_bad_toml_is_left_out_and_named(outside, text, what):
    folder = outside("mine", text)
    with pytest.warns(BrokenTarget, match=what) as caught:
        found = targets()
    assert str(folder / "target.toml") in str(caught[0].message)
    assert "mine" not in found


def test_limits_and_settings(outside):
    outside("mine", toml() + "[convert]\ntimeout_s = 5\nmemory_mb = 10\n[settings]\nneeds_mb = 4\n")
    target = targets()["mine"]
    assert (target.timeout_s, target.memory_mb, target.settings) == (5, 10, {"needs_mb": 4})


@pytest.mark.parametrize(
    "wrong",
    [
        *("limits = 3", "[settings]\nbits = 4", '[options.speed]\ntype = "fast"', '[options.speed]\nhelp = "x"'),
        *('[options.speed]\ntype = "int"\nwidest = 3', 'options = ["imgsz"]', "[convert]\nretries = 2"),
    ],
)
def test_a_key_that_nothing_reads_is_an_error(outside, wrong):
    with pytest.warns(BrokenTarget):
        outside("mine", toml() + wrong + "\n")
        targets()
    assert "mine" not in targets()
    with pytest.raises(EdgesegError, match="mine"):  # asked for by name, it says what is wrong
        target_by_name("mine")


def test_the_suffix_ends_the_artifact_s_name():
    assert Target("a", "A", Path("."), ".onnx", ("network",)).artifact_name("x") == "x.onnx"


def test_missing_modules_and_alternatives():
    target = Target(
        "a", "A", Path("."), ".a", ("network",), modules=("json", "no_such_a|json", "no_such_b|no_such_c", "no.such.d")
    )
    assert target.missing_modules() == ["no_such_b", "no.such.d"]


def test_load_once_and_only_what_is_there(outside):
    folder = outside("mine", toml())
    (folder / "convert.py").write_text("import itertools\nserial = itertools.count()\n")
    (folder / "runtime.py").write_text("raise RuntimeError('broken')\n")
    target = targets()["mine"]
    assert target.load("convert") is target.load("convert")
    with pytest.raises(EdgesegError, match=r"has no helper\.py"):
        target.load("helper")
    with pytest.raises(RuntimeError, match="broken"):
        target.load("runtime")
    assert "edgeseg_targets.mine.runtime" not in sys.modules
    del sys.modules["edgeseg_targets.mine.convert"]


def test_a_folder_anywhere_is_a_package_and_the_newest_of_a_name_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_scan", registry._scan.__wrapped__)
    for n, line in ((1, "from . import helper\nvalue = helper.VALUE"), (2, "from ..mine.helper import VALUE as value")):
        folder = tmp_path / str(n) / "mine"
        folder.mkdir(parents=True)
        (folder / "target.toml").write_text(toml())
        (folder / "helper.py").write_text(f"VALUE = {n}\n")
        (folder / "convert.py").write_text(line)
        monkeypatch.setattr(registry, "target_roots", lambda root=folder.parent: [root])
        assert targets()["mine"].load("convert").value == n
    for name in [m for m in sys.modules if m.startswith("edgeseg_targets.mine")]:
        del sys.modules[name]
