"""The gate at the end of an export: a toy format whose runtime is the network itself, sound or ruined as its file says."""

import json
import shutil

import pytest

from edgeseg import registry
from edgeseg.cli import run as cli
from edgeseg.data.dataset import load_dataset
from edgeseg.data.shapes import make_shapes
from edgeseg.errors import EdgesegError, StepFailed
from edgeseg.export import guard as guard_module
from edgeseg.export.api import export
from edgeseg.export.guard import held_out
from edgeseg.export.options import ExportOptions
from edgeseg.model import Model
from edgeseg.resources import demo_checkpoint

pytest.importorskip("torch")

CONVERT = """
from edgeseg.export.describe import describe
from edgeseg.network.checkpoint import load_checkpoint

def convert(job):
    manifest = describe(job, load_checkpoint(job.source))
    job.output.write_text(manifest.to_json())
"""
RUNTIME = """
import json
import os
import numpy as np
from edgeseg.manifest import Manifest

class Runtime:
    def __init__(self, path, *, threads=None):
        from edgeseg.network.runtime import NetworkRuntime
        if os.environ.get("TOY_BROKEN"):
            raise RuntimeError("no such accelerator")
        self.network = NetworkRuntime(os.environ["TOY_NETWORK"], threads=1)
        self.steps = json.loads(os.environ.get("TOY_STEPS", "{}"))
        manifest = Manifest.from_json(path.read_text())
        self.input, self.outputs, self.metadata = manifest.input, manifest.outputs, manifest.to_metadata()

    def run(self, x):
        steps = [self.steps.get(o.role, 0.02) for o in self.outputs]
        return [(np.rint(a / s) * s).astype(np.float32) for s, a in zip(steps, self.network.run(x))]
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A folder for artifacts, with a format ``toy``."""
    folder = tmp_path / "targets" / "toy"
    folder.mkdir(parents=True)
    lines = ['name = "toy"', 'title = "Toy"', 'suffix = ".toy"', 'reads = ["network"]', 'precisions = ["fp32", "int8"]']
    (folder / "target.toml").write_text("\n".join([*lines, 'takes = ["imgsz", "head"]']))
    (folder / "convert.py").write_text(CONVERT)
    (folder / "runtime.py").write_text(RUNTIME)
    monkeypatch.setenv("EDGESEG_TARGETS", str(folder.parent))
    monkeypatch.setenv("EDGESEG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TOY_NETWORK", str(demo_checkpoint()))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    registry._scan.cache_clear()
    yield tmp_path
    registry._scan.cache_clear()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp("guard") / "shapes", train=4, val=9, size=160, seed=5)


def run(data, out, **more):
    options = ExportOptions(imgsz=160, int8=True, data=data, recipe=more.pop("recipe", None))
    events = []
    (result,) = export(demo_checkpoint(), ["toy"], options, out=out, on_event=events.append, **more)
    return result, events


def test_a_sound_artifact_passes_and_the_verdict_is_remembered(toy, data, monkeypatch):
    result, events = run(data, toy)
    assert result.ok and result.path is not None and result.path.is_file()
    assert result.gate is not None and result.gate["passed"] and result.gate["images"] == 9
    assert any("9 images of val" in n for n in result.notes)
    assert any(e.step == "toy int8 gate" and e.text == "passed" for e in events)

    def never(*a, **k):
        raise AssertionError("the verdict was known")

    monkeypatch.setattr(guard_module, "judge", never)
    monkeypatch.setattr(guard_module, "open_model", never)
    again, _ = run(data, toy)
    assert again.cached and again.gate == result.gate and again.notes == result.notes


def test_pictures_without_labels_judge(toy, data, tmp_path):
    folder = tmp_path / "wild"
    folder.mkdir()
    for source in load_dataset(data).images("val")[:5]:
        shutil.copy(source, folder)
    result, _ = run(data, toy, judge=folder)
    assert result.gate is not None and result.gate["passed"] and result.gate["images"] == 5
    assert any(f"5 images of {folder}" in n for n in result.notes)
    (calibrated, *_) = load_dataset(data).images("train")
    shutil.copy(calibrated, folder / f"again{calibrated.suffix}")  # no judge
    again, _ = run(data, toy, judge=folder)
    assert again.gate is not None and again.gate["images"] == 5
    with pytest.raises(EdgesegError, match="nowhere"):
        run(data, toy, judge=tmp_path / "nowhere")
    with pytest.raises(EdgesegError, match="only int8 has one"):
        export(demo_checkpoint(), ["toy"], ExportOptions(imgsz=160), out=toy, judge=folder)


def test_a_ruined_artifact_is_refused_with_its_role_and_kept_by_force(toy, data, monkeypatch, capsys):
    monkeypatch.setenv("TOY_STEPS", json.dumps({"score": 9.0}))
    result, _ = run(data, toy)
    assert isinstance(result.error, StepFailed) and result.error.exit_code == 1 and result.path is None
    assert result.gate is not None and list(result.gate["culprits"]) == ["score"]
    text = str(result.error)
    assert "the score branch" in text and "--recipe int8-accurate" in text and "edgeseg sensitivity" in text
    assert not list(toy.glob("*.toy"))
    kept, _ = run(data, toy, force=True)
    assert kept.ok and kept.path is not None and kept.path.is_file() and any("kept by force" in n for n in kept.notes)
    assert kept.to_dict()["gate"]["passed"] is False

    words = ["export", str(demo_checkpoint()), "-f", "toy", "--int8", "--imgsz", "160", f"data={data}", "--out", str(toy)]
    assert cli(words) == 1
    assert "score branch" in capsys.readouterr().err
    with pytest.raises(StepFailed, match="score branch"):
        Model(demo_checkpoint()).export("toy", int8=True, imgsz=160, data=str(data), out=toy)


def test_a_runtime_that_does_not_work_here_is_said(toy, data, monkeypatch):
    monkeypatch.setenv("TOY_BROKEN", "1")
    result, _ = run(data, toy)
    assert isinstance(result.error, StepFailed) and result.path is None
    assert "the gate could not run" in str(result.error) and "no such accelerator" in str(result.error)
    kept, _ = run(data, toy, force=True)
    assert kept.ok and kept.gate["passed"] is None and any("kept by force: the gate could not run" in n for n in kept.notes)


def test_a_runtime_that_is_missing_is_said_with_the_command(toy, data, monkeypatch):
    file = toy / "targets" / "toy" / "target.toml"
    file.write_text(file.read_text() + '\n[runtime]\nmodules = ["no_such_module"]\nextra = "toy"\n')
    registry._scan.cache_clear()
    result, _ = run(data, toy)
    assert "no_such_module" in str(result.error) and 'pip install "edgeseg[toy]"' in str(result.error)
    assert run(data, toy, force=True)[0].ok


def test_float_exports_are_not_judged(toy):
    options = ExportOptions(imgsz=160)
    (result,) = export(demo_checkpoint(), ["toy"], options, out=toy)
    assert result.ok and result.gate is None and not result.notes


def test_held_out_images_never_calibrated(tmp_path, data):
    dataset = load_dataset(data)
    train, val = dataset.images("train"), dataset.images("val")
    chosen, where = held_out(dataset, train[:2], 4)
    assert chosen == [val[0], val[3], val[5], val[8]] and where == "4 images of val"
    twin = tmp_path / "twin.png"
    twin.write_bytes(val[0].read_bytes())
    assert val[0] not in held_out(dataset, [twin], 32)[0]
    chosen, where = held_out(dataset, [*val, *train[:3]], 32)
    assert chosen == train[3:] and "of train that did not calibrate" in where
    with pytest.raises(EdgesegError, match="every image of the dataset calibrates"):
        held_out(dataset, [*val, *train], 32)
