"""``edgeseg benchmark``: toy formats whose runtime is the network itself, sound, rounding, failing; then two real ones."""

import json
from pathlib import Path

import pytest

from edgeseg import registry
from edgeseg.cli import run as cli
from edgeseg.data.shapes import make_shapes
from edgeseg.resources import demo_checkpoint

pytest.importorskip("torch")

# No torch in the converters, which is what their processes would take longest for.
CONVERT = """
import os
from dataclasses import replace
from edgeseg.manifest import Manifest

def convert(job):
    job.note(f"made as {job.precision}")
    manifest = replace(Manifest.from_json(os.environ["TOY_MANIFEST"]), format=job.format, precision=job.precision)
    job.output.write_text(manifest.to_json())
"""
RUNTIME = """
import os
import numpy as np
from edgeseg.manifest import Manifest

class Runtime:
    def __init__(self, path, *, threads=None):
        from edgeseg.network.runtime import NetworkRuntime
        self.network = NetworkRuntime(os.environ["TOY_NETWORK"], threads=1)
        manifest = Manifest.from_json(path.read_text())
        self.step = 0.4 if manifest.precision == "int8" else 0.0
        self.input, self.outputs, self.metadata = manifest.input, manifest.outputs, manifest.to_metadata()

    def run(self, x):
        found = self.network.run(x)
        return [(np.rint(a / self.step) * self.step).astype(np.float32) for a in found] if self.step else found
"""
TOYS = {
    "sound": (("fp32", "int8"), CONVERT, RUNTIME),
    "floats": (("fp32",), CONVERT, RUNTIME),
    "burnt": (("fp32", "int8"), "def convert(job):\n    raise RuntimeError('the kiln is cold')\n", RUNTIME),
    "shut": (
        ("fp32",),
        CONVERT,
        "class Runtime:\n    def __init__(self, path, *, threads=None):\n        raise OSError('no key')\n",
    ),
}


@pytest.fixture(scope="module")
def manifest():
    from edgeseg.export.describe import describe
    from edgeseg.export.job import Job
    from edgeseg.network.checkpoint import load_checkpoint

    nowhere = Path("nowhere")
    return describe(
        Job("toy", demo_checkpoint(), "network", nowhere, nowhere, imgsz=(160, 160)), load_checkpoint(demo_checkpoint())
    )


@pytest.fixture
def toys(tmp_path, monkeypatch, manifest):
    """A place to work in, with the formats of ``TOYS`` and no others."""
    root = tmp_path / "targets"
    for name, (precisions, convert, runtime) in TOYS.items():
        (root / name).mkdir(parents=True)
        lines = [f'name = "{name}"', f'title = "{name.title()}"', f'suffix = ".{name}"', 'reads = ["network"]']
        lines += [f"precisions = {json.dumps(precisions)}", 'takes = ["imgsz", "head"]']
        (root / name / "target.toml").write_text("\n".join(lines))
        (root / name / "convert.py").write_text(convert)
        (root / name / "runtime.py").write_text(runtime)
    monkeypatch.setenv("EDGESEG_TARGETS", str(root))
    monkeypatch.setenv("EDGESEG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TOY_NETWORK", str(demo_checkpoint()))
    monkeypatch.setenv("TOY_MANIFEST", manifest.to_json())
    monkeypatch.setattr("edgeseg.registry.target_roots", lambda: [root])
    monkeypatch.chdir(tmp_path)
    registry._scan.cache_clear()
    yield tmp_path
    registry._scan.cache_clear()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp("benchmark") / "shapes", train=4, val=4, size=160, seed=5)


def words(data, *more):
    return ["benchmark", str(demo_checkpoint()), f"data={data}", "imgsz=160", "--threads", "1", *more]


def test_one_table_of_all_formats_with_a_row_for_each_that_fails(toys, data, capsys):
    assert cli(words(data, "--int8", "--json", "found.json", "--html", "page.html")) == 1
    said = capsys.readouterr()
    found = json.loads((toys / "found.json").read_text())
    rows = {r["format"]: r for r in found["formats"]}
    assert set(rows) == set(TOYS) and found["imgsz"] == [160, 160]
    for name, precision in {"sound": "int8", "floats": "fp32"}.items():
        r = rows[name]
        assert r["precision"] == precision and not r["error"] and r["size"] > 0
        assert 0 < r["speed_ms"]["inference"] <= r["p95_ms"]["inference"]
        assert f"made as {precision}" in r["export"]["notes"] and f"{name}: made as {precision}" in said.out
    same, coarse = rows["floats"], rows["sound"]
    assert same["fidelity"]["matched"] == 1 and same["metrics"]["box"]["map"] == found["reference"]["metrics"]["box"]["map"]
    assert coarse["fidelity"]["mask_iou"] < 1 and coarse["tensors"]["score"]["snr_db"] < 55
    assert "kiln is cold" in rows["burnt"]["error"] and rows["burnt"]["diverges"] == "export"
    assert "no key" in rows["shut"]["error"] and rows["shut"]["diverges"] == "opening"
    table = [line.split()[0] for line in said.out.splitlines() if line and not line.startswith(" ")]
    assert table[:2] == ["format", "network"] and set(table[2:6]) == set(TOYS)
    assert "floats does not take int8: exported as fp32" in said.err and "burnt: " in said.err
    assert "kiln is cold" in (toys / "page.html").read_text()
    assert (toys / "runs" / "benchmark" / "exp" / "demo-seg_int8.sound").is_file()


def test_what_was_exported_before_is_cached_and_json_goes_alone_to_standard_output(toys, data, capsys):
    one = ("--format", "floats", "--out", str(toys / "made"))
    assert cli(["export", str(demo_checkpoint()), "imgsz=160", *one]) == 0
    capsys.readouterr()
    assert cli(words(data, *one, "--limit", "2", "--json")) == 0
    out = capsys.readouterr().out
    (r,) = json.loads(out)["formats"]
    assert r["export"]["cached"] and not r["diverges"] and r["path"] == str(toys / "made" / "demo-seg.floats")


def test_a_precision_that_a_named_format_lacks_is_one_clear_error(toys, data, capsys):
    assert cli(words(data, "--format", "sound,floats", "--int8")) == 2
    assert "floats" in capsys.readouterr().err.lower() and not (toys / "runs").exists()


@pytest.mark.slow
def test_onnx_and_tflite_for_real(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = make_shapes(tmp_path / "shapes", train=60, val=12, size=160, seed=5)
    assert cli(words(data, "--format", "onnx,tflite", "--int8", "--json", "found.json")) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["reference"]["metrics"]["box"]["map"] > 0.5
    for r in found["formats"]:
        assert r["precision"] == "int8" and r["fidelity"]["matched"] > 0.9 and r["fidelity"]["mask_iou"] > 0.9
        assert r["metrics"]["seg"]["map"] > found["reference"]["metrics"]["seg"]["map"] - 0.05
