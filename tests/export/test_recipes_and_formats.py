"""Every recipe with every format that has integers: it works, or is refused before any work."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from edgeseg.cli import run
from edgeseg.errors import EdgesegError
from edgeseg.export.api import export
from edgeseg.export.options import ExportOptions
from edgeseg.export.plan import Given, check_recipe, make_plan
from edgeseg.hashing import content_hash
from edgeseg.model import Model
from edgeseg.quantize.carried import Carried, save
from edgeseg.quantize.constraints import Constraints
from edgeseg.quantize.recipe import load_recipe
from edgeseg.registry import targets
from edgeseg.resources import calib_root, demo_checkpoint

NO_WEIGHTS, ALONE, OTHERS = "it has no 8-bit weights", "need 8-bit activations there, and it has none", "and it has others"
FOLLOWS_ALL = {"fp16": NO_WEIGHTS}
BOTH = {**FOLLOWS_ALL, "w8a16": ALONE, "w8a32": ALONE}
REFUSED = {
    **dict.fromkeys(("coreml", "onnx", "openvino", "tfjs", "tflite"), FOLLOWS_ALL),
    **dict.fromkeys(("engine", "ncnn"), BOTH),
    "edgetpu": dict.fromkeys(("fp16", "int8-accurate", "mixed", "w8a16", "w8a32"), OTHERS),
}
"""What of ``calib/`` a format refuses, and in which words; it takes all others."""

FLOATS = "[weights]\nbits = 32\n[activations]\nbits = 32\n[correction]\nmethod = 'none'\n"
OWN = {
    "weights of one stage": f"{FLOATS}[stages.backbone]\nweights = 8\n",
    "one stage": f"{FLOATS}[stages.neck]\nweights = 8\nactivations = 8\n",
    "one stage of 16 bits": f"{FLOATS}[stages.neck]\nweights = 8\nactivations = 16\n",
    "half weights in one stage": "[stages.neck]\nweights = 16\nactivations = 32\n",
    "float weights": "[stages.neck]\nweights = 32\n",
    "one scale": "[weights]\ngranularity = 'tensor'\n",
}
"""Recipes that a person may write."""

OWN_REFUSED = {
    "weights of one stage": {"ncnn": ALONE, "engine": ALONE, "edgetpu": OTHERS},
    "one stage": {"edgetpu": OTHERS},
    "one stage of 16 bits": {"ncnn": ALONE, "engine": ALONE, "edgetpu": OTHERS},
    "half weights in one stage": {"edgetpu": OTHERS},
    "float weights": dict.fromkeys(REFUSED, r"integer activations with float weights \(neck\)"),
    "one scale": {},
}


@pytest.fixture
def own(tmp_path: Path):
    def write(name: str) -> str:
        file = tmp_path / "own.toml"
        file.write_text(OWN[name])
        return str(file)

    return write


def planned(format: str, recipe: str, why: str | None) -> None:
    """A plan is made, or the recipe is refused for the reason given with others that the format takes."""
    options = ExportOptions(int8=True, recipe=recipe)
    if why is None:
        assert make_plan([format], options).wanted[0].precision == "int8"
        return
    with pytest.raises(EdgesegError, match=why) as refused:
        make_plan([format], options)
    assert refused.value.exit_code == 2 and f"({format}) cannot be int8 by the recipe" in refused.value.what
    others = re.search(r"--recipe ([^;]+)", refused.value.hint)
    assert others and all(make_plan([format], ExportOptions(int8=True, recipe=r)) for r in others[1].split(", "))


def test_each_recipe_is_planned_for_each_format_or_refused() -> None:
    assert set(REFUSED) == {t.name for t in targets().values() if "int8" in t.precisions}
    for format, refused in REFUSED.items():
        for recipe in (p.stem for p in calib_root().glob("*.toml")):
            planned(format, recipe, refused.get(recipe))


@pytest.mark.parametrize("name", OWN)
def test_so_is_a_recipe_of_ones_own(own, name: str) -> None:
    for format in REFUSED:
        planned(format, own(name), OWN_REFUSED[name].get(format))


def test_half_floats_take_no_recipe() -> None:
    for name, target in targets().items():
        if "fp16" in target.precisions:
            assert make_plan([name], ExportOptions(half=True)).wanted[0].precision == "fp16"
            with pytest.raises(EdgesegError, match="recipe belongs to int8"):
                make_plan([name], ExportOptions(half=True, recipe="fp16"))


def test_all_leaves_out_what_cannot_follow() -> None:
    plan = make_plan(["all"], ExportOptions(int8=True, recipe="w8a32"))
    assert {s.format for s in plan.wanted if s.precision == "int8"} == set(REFUSED) - {"engine", "ncnn", "edgetpu"}
    assert any(n.startswith("ncnn left out: ncnn (ncnn) cannot be int8 by the recipe w8a32") for n in plan.notes)


def test_what_is_integer_already_is_not_asked_for_its_recipe() -> None:
    plan = make_plan(["edgetpu"], ExportOptions(), Given("tflite", "int8", "raw", (64, 64), 1))
    check_recipe(plan.wanted, load_recipe("w8a32"))


def test_refused_before_any_work(tiny: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    """By the command, in Python, and where the recipe comes with kept decisions."""
    home, data = tmp_path / "home", str(tmp_path / "not there.yaml")
    monkeypatch.setenv("EDGESEG_HOME", str(home))
    words = ["export", str(tiny), "-f", "onnx,ncnn", "--int8", "--recipe", "w8a16", "--data", data, "--out", str(tmp_path)]
    assert run(words) == 2 and ALONE in capsys.readouterr().err.replace("\n", " ")
    with pytest.raises(EdgesegError, match=ALONE):
        Model(tiny).export(format="engine", int8=True, recipe="w8a32", data=data, imgsz=64, out=tmp_path)
    limits = Constraints.from_table(targets()["onnx"].quantize)
    about = {"network": content_hash(tiny), "imgsz": [64, 64]}
    save(kept := tmp_path / "kept.json", [Carried(limits, load_recipe("w8a32"), {}, {}, about=about)])
    with pytest.raises(EdgesegError, match=ALONE):
        export(tiny, ["engine"], ExportOptions(int8=True, imgsz=64), out=tmp_path, decisions=kept)
    assert not list(tmp_path.rglob("*.log")) and not list(tmp_path.glob("tiny*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "recipe", "notes"),
    [
        ("tflite", "w8a32", ("8-bit weights alone",)),
        ("tflite", "weights of one stage", ("8-bit weights alone",)),
        ("openvino", "w8a32", ("8-bit weights alone",)),
        ("openvino", "w8a16", ("8-bit weights alone", "16-bit activations (backbone, box, coeff")),
    ],
)
def test_converted(own, shapes_yaml: Path, tmp_path: Path, monkeypatch, format: str, recipe: str, notes) -> None:
    """What was refused at the end of all work is made, passes the gate and says what it is."""
    pytest.importorskip({"tflite": "ai_edge_litert"}.get(format, format))
    monkeypatch.setenv("EDGESEG_HOME", str(tmp_path / "home"))
    model = Model(shutil.copy(demo_checkpoint(), tmp_path))
    given = own(recipe) if recipe in OWN else recipe
    made = model.export(format=format, int8=True, recipe=given, data=shapes_yaml, imgsz=96, images=4)
    info = Model(made).info()
    assert (info["precision"], info["recipe"]) == ("int8", Path(given).stem)
    assert all(any(said.startswith(n) for said in info["notes"]) for n in notes)
    assert info["size"] < 2_500_000  # 2.9 MB as floats
