from __future__ import annotations

import copy
import errno
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from edgeseg.errors import EdgesegError
from edgeseg.network.checkpoint import load_checkpoint, load_training_state, save_checkpoint
from edgeseg.network.definition import find_checkpoint
from edgeseg.network.model import Network
from edgeseg.network.torchfile import TorchFile


def test_round_trip(small: Network, tmp_path: Path) -> None:
    small.info = {"imgsz": 320, "data": "shapes.yaml"}
    optimizer = torch.optim.AdamW(small.parameters())
    path = save_checkpoint(
        tmp_path / "new" / "last.pt", small, epoch=3, optimizer=optimizer.state_dict(), best=(1, 0.5, None)
    )
    found = load_checkpoint(path)
    assert (found.definition, found.names, found.info, found.fused) == (small.definition, small.names, small.info, False)
    assert all(torch.equal(v, small.state_dict()[k]) for k, v in found.state_dict().items()) and not found.training
    state = load_training_state(path)
    assert state["epoch"] == 3 and state["best"] == (1, 0.5, None) and set(state["optimizer"]) == {"state", "param_groups"}
    assert torch.load(path, weights_only=True)["edgeseg"] == 1
    assert [p.name for p in path.parent.iterdir()] == ["last.pt"]


def test_fused_and_half_networks(small: Network, tmp_path: Path) -> None:
    fused = small.fuse()
    found = load_checkpoint(save_checkpoint(tmp_path / "fused.pt", fused))
    assert found.fused and all(torch.equal(v, fused.state_dict()[k]) for k, v in found.state_dict().items())
    half = load_checkpoint(save_checkpoint(tmp_path / "half.pt", copy.deepcopy(small).half()))
    assert half.backbone.stem.conv.weight.dtype == torch.float32


def test_state_that_cannot_be_loaded_is_not_written(small: Network, tmp_path: Path) -> None:
    endless: list[Any] = []
    endless.append(endless)
    for bad in ({"when": object()}, {"a": {(1, 2): 3}}, {"path": Path("x")}, {"loop": endless}):
        with pytest.raises(EdgesegError, match=r"bad\.pt"):
            save_checkpoint(tmp_path / "bad.pt", small, **bad)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_disk_full_keeps_the_old_file(small: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    path = save_checkpoint(tmp_path / "last.pt", small, epoch=1)
    before = path.read_bytes()

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, where, full)
    with pytest.raises(EdgesegError, match="No space left"):
        save_checkpoint(path, small, epoch=2)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_disk_full_is_said_though_torch_says_something_else(
    small: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real write that fails within ``torch.save``, which then complains of positions in its zip file."""

    class Full:
        def __init__(self, handle: int, mode: str) -> None:
            os.close(handle)

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *args: Any) -> None: ...

        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def flush(self) -> None: ...

    monkeypatch.setattr(os, "fdopen", Full)
    with pytest.raises(EdgesegError, match="No space left"):
        save_checkpoint(tmp_path / "last.pt", small)
    assert not list(tmp_path.iterdir())


def test_damaged_and_newer_checkpoints(small: Network, tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "last.pt", small)
    content = torch.load(path, weights_only=True)

    def fails(words: str, **changes: Any) -> None:
        torch.save({**content, **changes}, path)
        with pytest.raises(EdgesegError, match=words) as error:
            load_checkpoint(path)
        assert "last.pt" in str(error.value)

    fails("schema 2", edgeseg=2)
    fails("unknown keys", definition={"height": 3})
    fails("damaged", state={})
    fails("2 names", names=["a", "b"])
    fails("damaged", definition=None)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(EdgesegError, match="cut short"):
        load_checkpoint(path)


def test_fresh_networks_are_seeded(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    a, b, c = (load_checkpoint("yolov8n-seg.yaml", nc=2, seed=s) for s in (0, 0, 1))
    assert torch.equal(a.backbone.stem.conv.weight, b.backbone.stem.conv.weight)
    assert not torch.equal(a.backbone.stem.conv.weight, c.backbone.stem.conv.weight)
    assert torch.equal(before, torch.random.get_rng_state()) and a.nc == 2 and not a.training
    (tmp_path / "mine.yaml").write_text("variant: n\nnames: [cat, dog]\n")
    assert load_checkpoint(tmp_path / "mine.yaml").names == ("cat", "dog")


def test_absent_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EdgesegError, match="no such checkpoint"):
        load_checkpoint("mine.pt")
    with pytest.raises(EdgesegError, match=r"yolo11n-seg\.pt"):
        load_checkpoint("yolov8z.pt")
    with pytest.raises(EdgesegError, match="no such checkpoint"):
        find_checkpoint(tmp_path / "elsewhere" / "yolov8n-seg.pt")


def test_well_known_names_are_looked_for_here_and_in_the_cache(
    small: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, home = tmp_path / "here", tmp_path / "home"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("EDGESEG_HOME", str(home))
    save_checkpoint(home / "weights" / "yolov8n-seg.pt", small)
    assert load_checkpoint("yolov8n-seg").names == small.names
    assert find_checkpoint("yolov8n-seg.pt") == home / "weights" / "yolov8n-seg.pt"
    save_checkpoint("yolov8n-seg.pt", small)
    assert find_checkpoint("yolov8n-seg.pt") == Path("yolov8n-seg.pt")
    assert find_checkpoint("yolov8n-seg") == Path("yolov8n-seg.pt")


def test_the_bytes_that_were_checked_are_the_ones_that_load(
    small: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_checkpoint(tmp_path / "a.pt", small)
    content = TorchFile.read

    def swapped(file: TorchFile) -> Any:
        found = content(file)
        path.write_bytes(b"another file by now")
        return found

    monkeypatch.setattr(TorchFile, "read", swapped)
    found = load_checkpoint(path)
    assert all(torch.equal(v, small.state_dict()[k]) for k, v in found.state_dict().items())


def test_a_definition_that_claims_more_than_the_tensors_is_refused(small: Network, tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "a.pt", small)
    content = torch.load(path, weights_only=True)
    content["definition"].update(variant="custom", depth=0.33, width=2.0, max_channels=1024)
    torch.save(content, path)
    with pytest.raises(EdgesegError, match=r"where .* belongs"):
        load_checkpoint(path)


def test_undefined_weights_are_said(small: Network, tmp_path: Path) -> None:
    broken = copy.deepcopy(small)
    with torch.no_grad():
        broken.backbone.stem.conv.weight[0] = float("nan")
    with pytest.warns(UserWarning, match="infinite or undefined"):
        load_checkpoint(save_checkpoint(tmp_path / "a.pt", broken))


def test_no_torch_that_runs_what_a_checkpoint_says() -> None:
    """Up to 2.5, ``torch.load(weights_only=True)`` could be made to run code (CVE-2025-32434)."""
    from packaging.requirements import Requirement

    text = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    pins = [Requirement(r).specifier for r in re.findall(r'"(torch[<>=][^"]*)"', text)]
    assert pins and not any("2.5.1" in p for p in pins) and all("2.6.0" in p for p in pins)
