"""A finished artifact is what it is called, and gives numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgeseg.cli import run
from edgeseg.errors import EdgesegError
from edgeseg.model import Model
from edgeseg.network.checkpoint import load_checkpoint, save_checkpoint

pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("format", ["onnx", "ncnn"])
def test_an_int8_file_without_integers_is_refused(tiny: Path, shapes_yaml: Path, tmp_path: Path, format: str) -> None:
    """By a recipe that fits the format, but quantizes what this network does not have."""
    pytest.importorskip({"onnx": "onnxruntime"}.get(format, format))
    recipe = tmp_path / "masks.toml"
    recipe.write_text("weights.bits = 32\nactivations.bits = 32\nstages.proto = {weights = 8, activations = 8}\n")
    wanted = {"int8": True, "recipe": recipe, "data": shapes_yaml, "images": 4, "boxes_only": True, "head": "raw"}
    with pytest.raises(EdgesegError, match="nothing in it is integer by the recipe masks"):
        Model(tiny).export(format=format, imgsz=64, out=tmp_path / "out", **wanted)
    assert not list(tmp_path.rglob("tiny*"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_undefined_weights_are_refused_by_name(tiny: Path, tmp_path: Path, value: float) -> None:
    network = load_checkpoint(tiny)
    with torch.no_grad():
        network.neck.out3.enter.conv.weight[0, 0, 0, 0] = value
    file = save_checkpoint(tmp_path / "broken.pt", network)
    with pytest.raises(EdgesegError, match=r"neck\.out3\.enter.*infinite or undefined"), pytest.warns(UserWarning):
        load_checkpoint(file)
        Model(file).export(format="onnx", imgsz=64, out=tmp_path / "out")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_half_floats_that_overflow_are_refused(tiny: Path, tmp_path: Path) -> None:
    network = load_checkpoint(tiny)
    with torch.no_grad():
        network.head.proto.leave.bn.weight.fill_(3e5)
    file = save_checkpoint(tmp_path / "loud.pt", network)
    assert Model(file).export(format="onnx", imgsz=64, out=tmp_path).is_file()
    with pytest.raises(EdgesegError, match="infinite or undefined numbers"):
        Model(file).export(format="onnx", half=True, imgsz=64, out=tmp_path)


def test_without_calibration_data_the_float_branches_are_made(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ``--format all`` on a machine without a network: what needs no images is there, the rest says why."""
    from edgeseg.export import plan

    known = {n: t for n, t in plan.targets().items() if n in ("torchscript", "tflite", "edgetpu")}
    monkeypatch.setattr(plan, "targets", lambda: known)
    words = ["export", str(tiny), "-f", "all", "imgsz=64", f"data={tmp_path / 'gone.yaml'}", "--out", str(tmp_path / "out")]
    assert run(words) == 1
    said = capsys.readouterr()
    assert "gone.yaml" in said.err and (tmp_path / "out" / "tiny-seg.torchscript").is_file()
    assert (tmp_path / "out" / "tiny-seg.tflite").is_file() and not list((tmp_path / "out").glob("*edgetpu*"))
    assert run([*words[:2], "-f", "edgetpu", *words[4:]]) == 2
