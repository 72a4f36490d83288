"""Each family and task for real: small networks that ``scripts/train_demo.py`` trained on generated shapes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from edgeseg.data.shapes import make_shapes
from edgeseg.demo import golden
from edgeseg.evaluate.validate import validate
from edgeseg.network.checkpoint import load_checkpoint, save_checkpoint
from edgeseg.network.definition import Definition
from edgeseg.network.model import Network
from edgeseg.network.runtime import NetworkRuntime
from edgeseg.running.pipeline import Pipeline

pytestmark = pytest.mark.slow
NETWORKS = Path(__file__).with_name("networks")
NAMES = sorted(p.stem for p in NETWORKS.glob("*.pt"))
LIGHT = "onnx,openvino,tflite,ncnn,torchscript"
HEAVY = "saved_model,pb,tfjs,paddle,coreml,engine"
INT8 = "onnx,openvino,tflite,ncnn"


def edgeseg(*words: Any, code: int = 0) -> str:
    command = [sys.executable, "-m", "edgeseg.cli", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def compared(paths: list[str], reference: Path, data: Path, folder: Path, *more: Any) -> list[dict[str, Any]]:
    """What ``validate --reference`` says of each file."""
    report = folder / "compare.json"
    edgeseg("validate", *paths, "--reference", reference, f"data={data}", "--json", report, *more)
    return [m for m in json.loads(report.read_text())["models"] if m["path"] in paths]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    said = golden()["data"]
    folder = tmp_path_factory.mktemp("shapes")
    return make_shapes(folder / "shapes", train=60, val=said["val"], size=said["size"], seed=said["seed"])


@pytest.mark.parametrize("name", NAMES)
def test_it_reaches_its_golden_accuracy(name: str, data: Path) -> None:
    said = json.loads((NETWORKS / f"{name}.json").read_text())
    file = NETWORKS / f"{name}.pt"
    assert file.stat().st_size < 1_500_000
    runtime = NetworkRuntime(file)
    m = validate(Pipeline(runtime, runtime.manifest), data).metrics
    got = {"box.map": m.box.map, "box.map50": m.box.map50, "seg.map": m.seg.map, "seg.map50": m.seg.map50}
    for key, want in said["metrics"].items():
        assert got[key] == pytest.approx(want["value"], abs=want["tolerance"]), want["reason"]
        assert got[key] >= golden()["metrics"][key]["value"] - 0.02  # as good as the demo network
    assert ("seg.map" in said["metrics"]) == (load_checkpoint(file).task == "segment")


@pytest.mark.parametrize("name", NAMES)
def test_every_float_format_agrees_with_the_checkpoint(name: str, data: Path, tmp_path: Path) -> None:
    model = tmp_path / f"{name}.pt"
    model.write_bytes((NETWORKS / f"{name}.pt").read_bytes())
    edgeseg("export", model, "--format", LIGHT, "--imgsz", "160", "--json", tmp_path / "export.json")
    rows = json.loads((tmp_path / "export.json").read_text())["exports"]
    assert [r["format"] for r in rows] and not [r for r in rows if r["error"]]
    verdicts = compared([r["path"] for r in rows], model, data, tmp_path, "--limit", "4")
    assert len(verdicts) == len(rows)
    for v in verdicts:
        assert not v["error"] and not v["diverges"], v
        assert v["largest_score"] < 1e-3 and v["largest_box"] < 0.1, v


@pytest.mark.parametrize("name", NAMES)
def test_int8_agrees_with_the_float_network(name: str, data: Path, tmp_path: Path) -> None:
    model = tmp_path / f"{name}.pt"
    model.write_bytes((NETWORKS / f"{name}.pt").read_bytes())
    report = tmp_path / "export.json"
    edgeseg("export", model, "--format", INT8, "--int8", f"data={data}", "--imgsz", "160", "--json", report)
    rows = json.loads(report.read_text())["exports"]
    assert all(r["gate"]["passed"] for r in rows)
    for v in compared([r["path"] for r in rows], model, data, tmp_path):
        assert v["fidelity"]["reference"] > 300 and v["fidelity"]["agreement"] >= 0.95, v["fidelity"]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A YOLO26-seg network of random weights whose normalisation has seen images: tensors of a usual size, no objects."""
    torch.manual_seed(3)
    network = Network(Definition("demo", 4, "silu", 0.5, 0.125, 256, "yolo26"), ("a", "b", "c", "d")).train()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.8, 1.4)
                module.bias.normal_(0, 0.2)
                module.momentum = 0.3
        for _ in range(6):
            network(torch.rand(2, 3, 160, 160))
    return save_checkpoint(tmp_path_factory.mktemp("fresh") / "yolo26-seg.pt", network.eval())


def test_yolo26_in_every_float_format(fresh: Path, data: Path, tmp_path: Path) -> None:
    edgeseg("export", fresh, "--format", f"{LIGHT},{HEAVY}", "--imgsz", "160", "--json", tmp_path / "export.json")
    rows = json.loads((tmp_path / "export.json").read_text())["exports"]
    assert len(rows) == 11 and not [r for r in rows if r["error"]]
    for v in compared([r["path"] for r in rows], fresh, data, tmp_path, "--limit", "2"):
        assert not v["error"] and not v["diverges"], v
        assert all(c["snr_db"] is None or c["snr_db"] > 55 for c in v["tensors"].values()), v["tensors"]


def test_yolo26_in_integers_and_end_to_end(fresh: Path, data: Path, tmp_path: Path) -> None:
    report = tmp_path / "export.json"
    words = ("export", fresh, "--format", f"{INT8},coreml,edgetpu", "--int8", f"data={data}", "--imgsz", "160")
    edgeseg(*words, "--json", report)
    rows = json.loads(report.read_text())["exports"]
    assert all(r["gate"]["passed"] and r["gate"]["by"] == "tensors" for r in rows)
    edgeseg(*words, "--end2end", code=2)
    edgeseg("export", fresh, "--format", "onnx,tflite,ncnn", "--end2end", "--imgsz", "160", "--json", report)
    paths = [r["path"] for r in json.loads(report.read_text())["exports"]]
    alone = save_checkpoint(tmp_path / "alone.pt", load_checkpoint(fresh).end2end())
    for v in compared(paths, alone, data, tmp_path, "--limit", "2"):
        assert not v["error"] and not v["diverges"], v
