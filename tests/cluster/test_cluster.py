"""A real cluster of three nodes on this machine: the same files and figures as one machine, also when a node dies."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import edgeseg.demo
from edgeseg.cluster import connect
from edgeseg.data.dataset import load_dataset
from edgeseg.data.shapes import make_shapes
from edgeseg.evaluate.parity import Verdict, compare
from edgeseg.evaluate.truth import load_truth
from edgeseg.evaluate.validate import validate
from edgeseg.export.api import export
from edgeseg.export.options import ExportOptions
from edgeseg.export.run import Event
from edgeseg.running.open import open_model

pytestmark = pytest.mark.slow
DEMO = Path(edgeseg.demo.__path__[0]) / "demo-seg.pt"
FORMATS = ["onnx", "openvino"]  # TorchScript writes random ids


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A head that runs nothing, and three nodes of one core."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("EDGESEG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.nodes = [cluster.add_node(num_cpus=1) for _ in range(3)]
    yield cluster
    cluster.shutdown()


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    """Networks that differ: the demo network, weights scaled."""
    from edgeseg.network.checkpoint import load_checkpoint, save_checkpoint

    found = []
    for number in range(2):
        network = load_checkpoint(DEMO)
        for parameter in network.parameters():
            parameter.data *= 1 + number / 1000
        save_checkpoint(tmp_path / f"net{number}.pt", network)
        found.append(tmp_path / f"net{number}.pt")
    return found


def figures(verdict: Verdict) -> dict[str, Any]:
    """All but the milliseconds."""
    return {k: v for k, v in verdict.to_dict().items() if k not in ("speed_ms", "p95_ms")}


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_same_files_as_one_machine_though_a_node_dies(
    nodes: Any, models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, killed = ExportOptions.of(imgsz=(64, 64)), threading.Event()

    def listen(event: Event) -> None:
        if event.kind == "progress" and not killed.is_set():
            killed.set()
            threading.Thread(target=nodes.remove_node, args=(nodes.nodes[0],), kwargs={"allow_graceful": False}).start()

    with connect(nodes.address) as cluster:
        assert cluster is not None and (cluster.cores, cluster.slots) == (1, 3)
        for model in models:
            made = export(model, FORMATS, options, out=tmp_path / "ray", on_event=listen, performer=cluster)
            assert [r.error for r in made] == [None, None] and not any(r.cached for r in made)
    assert killed.is_set()
    monkeypatch.setenv("EDGESEG_HOME", str(tmp_path / "alone"))
    for model in models:
        made = export(model, FORMATS, options, out=tmp_path / "here")
        assert [r.error for r in made] == [None, None] and not any(r.cached for r in made)
    assert digests(tmp_path / "ray") == digests(tmp_path / "here")


def test_the_same_figures_as_one_machine_though_a_node_dies(nodes: Any, tmp_path: Path) -> None:
    dataset = make_shapes(tmp_path / "shapes", train=1, val=120, size=160, seed=7)
    sorted((tmp_path / "shapes" / "images" / "val").iterdir())[40].write_bytes(b"no picture")
    (result,) = export(DEMO, ["onnx"], ExportOptions.of(imgsz=(160, 160)), out=tmp_path)
    assert result.path is not None
    with open_model(result.path, threads=1) as opened:
        alone = validate(opened.pipeline(), dataset)

        def watch(done: int, total: int) -> None:
            if done == 24:
                nodes.remove_node(nodes.nodes[1], allow_graceful=False)

        with connect(nodes.address) as cluster:
            assert cluster is not None
            dealt = validate(cluster.spread(opened, 1, {}), dataset, progress=watch)
            assert cluster is not None
            images, labels = load_dataset(dataset).images("val"), load_truth(load_dataset(dataset), "val", None)
            (other,) = export(DEMO, ["onnx"], ExportOptions.of(imgsz=(160, 160), half=True), out=tmp_path)
            assert other.path is not None
            with open_model(other.path, threads=1, apart=True) as half:
                dealt_too = cluster.compare(opened, [half], images, labels, threads=1)
                together = compare(opened, [half], images, labels)
    for one, other in zip(dealt_too, together, strict=True):
        for key, value in figures(other).items():
            assert figures(one)[key] == value, key
    assert dealt.metrics.to_dict() == alone.metrics.to_dict()
    assert (dealt.images, dealt.skipped, dealt.warnings) == (alone.images, alone.skipped, alone.warnings)
    assert alone.skipped and dealt.speed_ms["inference"] > 0
