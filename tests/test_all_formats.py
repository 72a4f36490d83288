"""Every format for real: the demo network exported to all of them at once, then put side by side with the checkpoint."""

import json
import subprocess
import sys

import pytest

from edgeseg.data.shapes import make_shapes
from edgeseg.registry import targets
from edgeseg.resources import demo_checkpoint

pytestmark = pytest.mark.slow


def edgeseg(*words, code=0):
    done = subprocess.run([sys.executable, "-m", "edgeseg.cli", *words], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def words(model, data):
    return ("export", str(model), "--format", "all", "--imgsz", "160", f"data={data}")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """All formats in one folder, by the toolchains that they need (installed when missing)."""
    folder = tmp_path_factory.mktemp("all")
    data = make_shapes(folder / "shapes", train=40, val=12, size=160, seed=5)
    model = folder / "demo-seg.pt"
    model.write_bytes(demo_checkpoint().read_bytes())
    edgeseg(*words(model, data), "--json", str(folder / "export.json"))
    return folder, data, model, json.loads((folder / "export.json").read_text())["exports"]


def test_every_format_is_made(exported):
    rows = exported[3]
    assert {r["format"] for r in rows} == set(targets())
    assert not [r for r in rows if r["error"]]


def test_a_second_run_takes_all_from_the_cache(exported):
    folder, data, model, _ = exported
    edgeseg(*words(model, data), "--json", str(folder / "again.json"))
    assert all(r["cached"] for r in json.loads((folder / "again.json").read_text())["exports"])


def test_every_float_format_agrees_with_the_checkpoint(exported):
    folder, data, model, rows = exported
    paths = [r["path"] for r in rows if r["precision"] == "fp32"]
    report = folder / "compare.json"
    page = folder / "compare.html"
    # Core ML's evaluator in NumPy takes seconds an image; a few tell enough.
    ask = ("validate", *paths, "--reference", str(model), f"data={data}", "--limit", "4")
    edgeseg(*ask, "--json", str(report), "--html", str(page))
    verdicts = {v["path"]: v for v in json.loads(report.read_text())["models"]}
    assert len(verdicts) == len(paths) + 1
    for path in paths:
        v = verdicts[path]
        assert not v["error"] and not v["diverges"], v
        assert v["largest_score"] < 1e-3 and v["largest_box"] < 0.1, v
    assert "data:image/jpeg" in page.read_text() or "nowhere" in page.read_text()
