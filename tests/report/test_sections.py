"""From what was measured to the sections of a page: the figures of the verdicts, and pages that the commands write."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseg.cli import run
from edgeseg.data.dataset import Dataset
from edgeseg.evaluate.parity import Verdict, compare
from edgeseg.evaluate.truth import load_truth
from edgeseg.report import sections
from edgeseg.resources import demo_checkpoint
from edgeseg.running.open import Opened
from edgeseg.running.runtime import Local

pytest.importorskip("torch")


class Shy:
    """The network with lower scores, as a quantized model may have them."""

    def __init__(self, runtime: Any, amount: float) -> None:
        self.runtime, self.amount = runtime, amount
        self.input, self.outputs, self.metadata = runtime.input, runtime.outputs, {}

    def run(self, x: np.ndarray) -> list[np.ndarray]:
        found = [np.array(a) for a in self.runtime.run(x)]
        return [a + self.amount if spec.role == "score" else a for spec, a in zip(self.runtime.manifest.outputs, found)]


@pytest.fixture(scope="module")
def verdicts(shapes_dataset: Dataset) -> list[Verdict]:
    from edgeseg.network.runtime import NetworkRuntime

    network = NetworkRuntime(demo_checkpoint())
    images = shapes_dataset.images("val")
    exact = replace(network.manifest, imgsz=(160, 160))
    others = [
        Opened(Path("a/m.tflite"), "shy", Local(Shy(network, -1.5)), replace(exact, format="tflite", precision="int8")),
        Opened(Path("b/m.tflite"), "bold", Local(Shy(network, 3.0)), replace(exact, format="tflite", precision="int8")),
    ]
    truth = load_truth(shapes_dataset, "val", images)
    found = compare(Opened(Path("demo.pt"), "demo", network, exact), others, images, truth)
    return [*found, Verdict(Path("c/broken.onnx"), "", "onnx", "fp32", "raw", 0, error="no such file", diverges="opening")]


def cells(section: Any, label: str) -> list[Any]:
    at = [c["label"] for c in section["columns"]].index(label)
    return [row["cells"][at] for row in section["rows"]]


def test_the_table_has_the_figures_of_the_verdicts(verdicts: list[Verdict]) -> None:
    names = sections.titles([v.path for v in verdicts])
    assert names == ["demo.pt", "a/m.tflite", "b/m.tflite", "broken.onnx"]
    table = json.loads(json.dumps(sections.table(verdicts, names)))
    assert [row["mark"] for row in table["rows"]] == ["first", "", "", ""] and cells(table, "Model") == names
    shown = [None if c is None else c["value"] for c in cells(table, "Agreement, %")]
    assert shown[3] is None and shown[:3] == [pytest.approx(100 * v.fidelity.agreement, abs=1e-5) for v in verdicts[:3]]
    assert shown[0] == 100 and shown[1] < 100
    for label, kind in (("Box AP", "box"), ("Mask AP", "seg")):
        values = [c if isinstance(c, float) else c["value"] for c in cells(table, label)[:3]]
        assert values == [pytest.approx(getattr(v.metrics, kind).map, abs=1e-6) for v in verdicts[:3]]
    assert [c["value"] for c in cells(table, "Missing")[:3]] == [v.fidelity.missing for v in verdicts[:3]]
    parts = cells(table, "Parts at")
    assert parts[3] == {"text": "opening: no such file", "tone": "bad"} and parts[0] == {"text": "nowhere", "tone": "good"}
    assert parts[1]["text"] == verdicts[1].diverges != ""


def test_the_plot_and_the_curves_have_every_model_that_ran(verdicts: list[Verdict]) -> None:
    names = sections.titles([v.path for v in verdicts])
    points = sections.plot(verdicts, names)["points"]
    assert [p["name"] for p in points] == names[:3] and [p["kind"] for p in points] == ["fp32", "int8", "int8"]
    assert all(p["values"]["ms"] > 0 and 0 <= p["values"]["box"] <= 1 for p in points)
    subjects = [(n, v.format, v.precision, v.metrics) for n, v in zip(names, verdicts) if v.metrics is not None]
    by_class, curves, mixups = sections.measured(subjects)
    assert [o["label"] for o in by_class["options"]] == ["boxes", "masks"]
    for _, _, _, m in subjects:
        line = curves["models"][0]["box"]["-1"]
        assert len(line) == 101 and np.mean(line) / 1000 == pytest.approx(subjects[0][3].box.map50, abs=1e-3)
        assert m.confusion is not None
    counts = mixups["options"][0]["section"]["entries"]
    assert (
        sum(n for _, there, n in counts if there < len(mixups["options"][0]["section"]["names"])) == subjects[0][3].instances
    )
    assert sections.measured([]) == []


def test_pictures_come_worst_first_and_once(verdicts: list[Verdict], monkeypatch: pytest.MonkeyPatch) -> None:
    names = sections.titles([v.path for v in verdicts])
    (viewer,) = sections.viewer(verdicts, names)
    assert [m["name"] for m in viewer["models"]] == names[:3]
    for m, v in enumerate(verdicts[1:3], 1):
        assert [viewer["pictures"][i]["name"] for i in viewer["orders"][m]] == [w.image.name for w in v.worst]
        for i, w in zip(viewer["orders"][m], v.worst):
            first, other = viewer["pictures"][i]["found"][0], viewer["pictures"][i]["found"][m]
            assert (len(first), len(other)) == (len(w.reference), len(w.other))
            missing = len(first) - len({d["pair"] for d in other if d["pair"] >= 0})
            extra = sum(d["pair"] < 0 for d in other)
            assert math.floor(w.badness + 1e-9) == missing + extra
    seen = [p["name"] for p in viewer["pictures"]]
    assert len(seen) == len(set(seen)) and viewer["right"] in (1, 2)
    monkeypatch.setattr(sections, "PICTURES", 1)
    (few,) = sections.viewer(verdicts, names)
    assert len(few["pictures"]) == 1 and all(set(order) <= {0} for order in few["orders"])
    assert sections.viewer([verdicts[0], verdicts[3]], [names[0], names[3]]) == []


def test_names_that_are_the_same_are_told_apart() -> None:
    paths = [Path("x/m.onnx"), Path("y/m.onnx"), Path("z/other.onnx"), Path("y/m.onnx")]
    assert sections.titles(paths) == ["x/m.onnx", "y/m.onnx #1", "other.onnx", "y/m.onnx #2"]


def page_of(file: Path) -> dict[str, Any]:
    (found,) = re.findall(r'id="data">(.*?)</script>', file.read_text(encoding="utf-8"), re.DOTALL)
    return json.loads(found)


def test_the_commands_write_pages(shapes_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = str(demo_checkpoint())
    words = ["validate", model, f"data={shapes_yaml}", "imgsz=64", "--json", "found.json", "--html"]
    assert run([*words, "alone.html"]) == 0
    found, page = json.loads(Path("found.json").read_text()), page_of(Path("alone.html"))
    kinds = [s["kind"] for s in page["sections"]]
    assert kinds[0] == "table" and {"choice", "curves"} <= set(kinds)
    table = page["sections"][0]
    (viewer,) = (s for s in page["sections"] if s["kind"] == "viewer")
    assert viewer["models"][0]["name"] == "labels" and len(viewer["pictures"]) == len(viewer["orders"][1]) > 0
    for picture in viewer["pictures"]:
        labels, found_there = picture["found"]
        assert labels and all(o["score"] == 1 and o["rings"] for o in labels)
        assert {d["pair"] for d in found_there} <= {-1, *range(len(labels))}
    assert cells(table, "Box AP") == [pytest.approx(found["metrics"]["box"]["map"], abs=1e-6)]
    assert run([*words, "beside.html", "--reference", model]) == 0
    page = page_of(Path("beside.html"))
    assert page["title"] == "Cross-format validation" and [s["kind"] for s in page["sections"]][:2] == ["table", "plot"]
    assert [c["value"] for c in cells(page["sections"][0], "Agreement, %")] == [100, 100]
