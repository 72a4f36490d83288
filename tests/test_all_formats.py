"""Every format for real: the demo network exported to all of them at once, then put side by side with the checkpoint."""

import json
import subprocess
import sys

import pytest

from edgeseg.data.shapes import make_shapes
from edgeseg.registry import targets
from edgeseg.resources import demo_checkpoint

pytestmark = pytest.mark.slow
VALIDATE = """
import json, sys
from pathlib import Path
from jsonschema import Draft202012Validator
import edgeseg.decoders
from edgeseg.running.open import open_model

schema = json.loads(Path(edgeseg.decoders.__path__[0], "manifest.schema.json").read_text(encoding="utf-8"))
with open_model(sys.argv[1]) as opened:
    block = json.loads(opened.runtime.metadata["edgeseg"])
Draft202012Validator({**schema, "additionalProperties": False}).validate(block)
print("valid")
"""


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


def test_every_manifest_is_valid(exported):
    """By the JSON Schema, and with no key that it does not have. Each in a process of its own, as ever with runtimes."""
    for row in exported[3]:
        done = subprocess.run([sys.executable, "-c", VALIDATE, row["path"]], capture_output=True, text=True, check=False)
        assert done.returncode == 0 and done.stdout.split()[-1] == "valid", (row["path"], done.stderr[-2000:])


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
