"""What lies where an artifact goes: ours is replaced, everybody else's stays."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from edgeseg.errors import EdgesegError
from edgeseg.export import placing
from edgeseg.manifest import Manifest, Output, Tensor

WEB = """
def convert(job):
    job.output.mkdir()
    (job.output / "weights").write_bytes(job.source.read_bytes())
    (job.output / "deep").mkdir()
    (job.output / "deep" / "more").write_text("more")
"""
MANIFEST = Manifest("toy", ("a",), (64, 64), Tensor("x", (1, 3, 64, 64)), (Output("y", (1, 37, 84)),))


def tree(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def web(toys) -> Path:
    """A toy whose artifact is a folder; where it goes."""
    toys.add("web", WEB, suffix="_web_model")
    return toys.model.with_name("net_web_model")


def test_files_of_a_person_inside_an_artifact_stay(toys, web: Path) -> None:
    toys.export("web")
    (web / "notes.txt").write_text("mine")
    (web / "deep" / "notes.txt").write_text("mine too")
    (web / "own" / "empty").mkdir(parents=True)
    (web / "link").symlink_to("notes.txt")
    toys.model.write_text("other weights")
    (result,) = toys.export("web")
    assert result.path == web and result.notes == ()
    assert tree(web) == {
        "weights": "other weights",
        "deep/more": "more",
        "notes.txt": "mine",
        "deep/notes.txt": "mine too",
        "link": "mine",
    }
    assert (web / "link").is_symlink() and (web / "own" / "empty").is_dir() and toys.hidden() == []


def test_a_folder_or_file_of_somebody_else_is_refused_before_any_work(toys, web: Path) -> None:
    toys.counting("toy")
    web.mkdir()
    (web / "thesis.txt").write_text("years")
    with pytest.raises(EdgesegError, match=r"net_web_model: this folder is in the way, and edgeseg did not write it\. Move"):
        toys.export("web", "toy")
    assert toys.runs == [] and tree(web) == {"thesis.txt": "years"}
    for name, make in {
        "file": lambda p: p.write_text("of another tool"),
        "folder": lambda p: (p.mkdir(), (p / "a").write_text("b")),
    }.items():
        place = toys.model.with_name("net.toy")
        make(place)
        with pytest.raises(EdgesegError, match=f"this {name} is in the way"):
            toys.export("toy", force=True)
        assert place.exists() and toys.runs == []
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    place.touch()  # nothing is lost with an empty file
    assert toys.export("toy")[0].ok


def test_a_file_where_a_folder_of_ours_was(toys, web: Path) -> None:
    toys.export("web")
    toys.add("web", suffix="_web_model")
    (result,) = toys.export("web")
    assert "a folder is where the file must go" in str(result.error) and (web / "weights").is_file()


def test_a_name_that_a_new_file_would_take(toys, web: Path) -> None:
    toys.export("web")
    (web / "labels").write_text("mine")
    toys.add("web", WEB + "    (job.output / 'labels').write_text('new')\n", suffix="_web_model")
    (result,) = toys.export("web")
    assert "labels: this file is in the way" in str(result.error) and tree(web)["labels"] == "mine"
    assert toys.hidden() == []


def test_what_was_changed_is_replaced_and_said(toys, web: Path) -> None:
    toys.add("toy")
    toy, _ = (r.path for r in toys.export("toy", "web"))
    toy.write_text("scribble")
    (web / "weights").write_text("scribble")
    results = toys.export("toy", "web")
    assert [len(r.notes) for r in results] == [1, 1]
    assert results[0].notes == (f"{toy} had been changed since edgeseg wrote it: replaced",)
    assert f"{web / 'weights'} had been" in results[1].notes[0] and tree(web)["weights"] == "weights"
    assert all(r.notes == () for r in toys.export("toy", "web"))


def test_the_manifest_tells_what_is_ours_where_the_record_is_lost(toys, web: Path) -> None:
    toys.export("web")
    (web / "notes.txt").write_text("mine")
    shutil.rmtree(toys.home)
    with pytest.raises(EdgesegError, match="in the way"):
        toys.export("web")
    (web / "metadata.yaml").write_text(MANIFEST.to_yaml())
    toys.model.write_text("other weights")
    assert toys.export("web")[0].ok
    assert tree(web)["weights"] == "other weights" and tree(web)["notes.txt"] == "mine"


@pytest.mark.parametrize("text", [MANIFEST.to_yaml(), str(MANIFEST.to_metadata())], ids=["yaml", "plain"])
def test_how_a_manifest_looks_in_a_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "a").write_bytes(b"\0weights\xff" * 1000 + text.encode() + b"more")
    assert placing._has_manifest(tmp_path / "a")
    (tmp_path / "c.pb").write_text("graph")
    assert not placing._has_manifest(tmp_path / "c.pb")
    (tmp_path / "c.pb.yaml").write_text(MANIFEST.to_yaml())
    assert placing._has_manifest(tmp_path / "c.pb")
    (tmp_path / "b").write_text("exported by edgeseg from /home/edgeseg/net.pt")
    assert not placing._has_manifest(tmp_path / "b")


def test_real_artifacts_are_known_without_a_record(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second export over the first, with another cache folder."""
    from edgeseg.export.api import export
    from edgeseg.export.options import ExportOptions

    for home in ("one", "two"):
        monkeypatch.setenv("EDGESEG_HOME", str(tmp_path / home))
        results = export(tiny, ["torchscript", "onnx"], ExportOptions(imgsz=(64, 64)), out=tmp_path / "out", offline=True)
        assert [str(r.error or "") for r in results] == ["", ""]


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_a_link_in_the_place_is_followed(toys, tmp_path: Path) -> None:
    toys.add("toy")
    (tmp_path / "disk").mkdir()
    place = toys.model.with_name("net.toy")
    place.symlink_to(tmp_path / "disk" / "far.toy")
    for _ in range(2):
        assert toys.export("toy")[0].ok
    assert place.is_symlink() and (tmp_path / "disk" / "far.toy").read_bytes() == b"weights|toy fp32"
    assert [p.name for p in (tmp_path / "disk").iterdir()] == ["far.toy"]
