"""What runs on a node, without Ray: a job in an archive, back as an archive; versions that must agree."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from edgeseg.cluster import connect, node
from edgeseg.errors import EdgesegError
from edgeseg.export.job import Job
from edgeseg.store import make_folder


def test_an_archive_holds_what_was_packed(tmp_path: Path) -> None:
    make_folder(tmp_path / "from" / "source" / "deep")
    (tmp_path / "from" / "source" / "deep" / "a.bin").write_bytes(b"\x00\x01")
    (tmp_path / "from" / "b").write_text("not asked for")
    archive = node.packed(tmp_path / "from", ["source"])
    assert archive == node.packed(tmp_path / "from", ["source"])
    node.unpack(archive, tmp_path / "to")
    assert [p.relative_to(tmp_path / "to").as_posix() for p in (tmp_path / "to").rglob("*") if p.is_file()] == [
        "source/deep/a.bin"
    ]
    assert (tmp_path / "to" / "source" / "deep" / "a.bin").read_bytes() == b"\x00\x01"


def shipped(tmp_path: Path, network: Path) -> tuple[node.Shipped, bytes]:
    place = tmp_path / "driver"
    make_folder(place / "source")
    (place / "source" / "net.pt").write_bytes(network.read_bytes())
    job = Job(
        "torchscript",
        place / "source" / "net.pt",
        "network",
        place / "out" / "model.torchscript",
        place / "work",
        imgsz=(64, 64),
    )
    from edgeseg.environments.toolchains import toolchain_of
    from edgeseg.registry import target_by_name

    pins = node.pins(toolchain_of(target_by_name("torchscript")))
    return node.Shipped(job.to_json(), str(place), pins, 1, 500.0, True), node.packed(place, ["source"])


@pytest.fixture
def demo() -> Path:
    import edgeseg.demo

    return Path(edgeseg.demo.__path__[0]) / "demo-seg.pt"


def test_a_job_comes_back_with_its_artifact_and_its_log(tmp_path: Path, demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESEG_HOME", str(tmp_path / "home"))
    said: list[float] = []
    sent, files = shipped(tmp_path, demo)
    done = node.perform(sent, files, [], lambda share, words: said.append(share), threading.Event())
    assert done.ended.code == 0 and done.error is None and said
    node.unpack(done.files, tmp_path / "back")
    assert (tmp_path / "back" / "out" / "model.torchscript").stat().st_size > 1e6
    assert str(tmp_path / "driver") in (tmp_path / "back" / "out" / "result.json").read_text()
    assert not list((tmp_path / "home" / "work").iterdir())


def test_other_packages_on_a_node_are_refused_before_any_work(
    tmp_path: Path, demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGESEG_HOME", str(tmp_path / "home"))
    sent, files = shipped(tmp_path, demo)
    done = node.perform(replace(sent, toolchain="torch 1.0"), files, [], lambda *_: None, threading.Event())
    assert done.error is not None and "differ between the driver and" in done.error[0] and not done.files


def test_nobody_asked_for_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with connect(None) as cluster:
        assert cluster is None


def test_without_ray_there_is_one_line_with_the_command(tmp_path: Path, demo: Path) -> None:
    code = "import sys; sys.modules['ray'] = None; from edgeseg.cli import main; main(sys.argv[1:])"
    words = ["export", str(demo), "--format", "torchscript", "--ray", "local", "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == 'error: --ray needs Ray. pip install "edgeseg[ray]"\n'
    assert not list(tmp_path.iterdir())


def test_no_cluster_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "not an address")
    with pytest.raises(EdgesegError, match="no Ray cluster answers at not an address"):
        connect(None)
