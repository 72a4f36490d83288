"""The committed demo network is what its script says, and as good as its golden figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeseg.data.shapes import SHAPE_NAMES, make_shapes
from edgeseg.demo import CHECKPOINT, golden
from edgeseg.evaluate.validate import validate
from edgeseg.network.checkpoint import load_checkpoint
from edgeseg.network.runtime import NetworkRuntime
from edgeseg.running.pipeline import Pipeline


def test_the_checkpoint_is_small_and_says_where_it_comes_from() -> None:
    assert CHECKPOINT.stat().st_size < 3_000_000
    network = load_checkpoint(CHECKPOINT)
    assert network.names == SHAPE_NAMES and not network.fused
    assert network.info["imgsz"] == golden()["data"]["size"]
    assert network.info["script"] == golden()["training"]["script"]
    assert (Path(__file__).parents[2] / network.info["script"]).is_file()


def measure(folder: Path, count: int) -> dict[str, float]:
    data = golden()["data"]
    file = make_shapes(folder / "shapes", train=data["train"], val=count, size=data["size"], seed=data["seed"])
    runtime = NetworkRuntime(CHECKPOINT)
    m = validate(Pipeline(runtime, runtime.manifest), file).metrics
    return {"box.map": m.box.map, "box.map50": m.box.map50, "seg.map": m.seg.map, "seg.map50": m.seg.map50}


def test_it_finds_the_shapes(tmp_path: Path) -> None:
    got = measure(tmp_path, 24)
    assert got["box.map50"] > 0.8 and got["seg.map"] > 0.55


@pytest.mark.slow
def test_it_reaches_its_golden_accuracy(tmp_path: Path) -> None:
    got = measure(tmp_path, golden()["data"]["val"])
    for name, want in golden()["metrics"].items():
        assert got[name] == pytest.approx(want["value"], abs=want["tolerance"]), want["reason"]
