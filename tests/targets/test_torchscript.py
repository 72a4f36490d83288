from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from edgeseg.errors import EdgesegError
from edgeseg.running.open import open_model


@pytest.mark.parametrize("head", ["raw", "decoded"])
def test_archive_is_the_network(convert, opened, difference, head):
    artifact = opened(convert("torchscript", head=head, batch=2))
    assert artifact.manifest.input.shape == (2, 3, 64, 96) and difference(artifact) < 1e-6


def test_metadata_is_where_the_ecosystem_looks(convert):
    extra = {"config.txt": ""}
    torch.jit.load(str(convert("torchscript", head="raw", batch=2)), _extra_files=extra)
    metadata = json.loads(extra["config.txt"])
    assert metadata["task"] == "segment" and metadata["stride"] == 32 and "edgeseg" in metadata
    assert metadata["names"] == {"0": "cat", "1": "dog", "2": 'o"dd, näme'}


def test_optimize_does_what_pytorch_has_and_says_what_it_has_not(convert, opened, difference, capsys):
    path = convert("torchscript", options={"optimize": True})
    assert difference(opened(path)) < 1e-4
    said = capsys.readouterr().out
    module = torch.jit.load(str(path))
    assert not list(module.parameters()), "weights are constants of the graph"
    assert "the graph was frozen instead" in said or "mobile" not in said


class Foreign(torch.nn.Module):
    """The two outputs of other tools' exports: 3 classes, 64 x 64 px, boxes in pixels, proto nested as they do."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor]]:
        return x.mean() + torch.arange(39 * 84).reshape(1, 39, 84) / 10.0, (torch.zeros(1, 32, 16, 16),)


def save_foreign(path, metadata):
    with torch.no_grad():
        module = torch.jit.trace(Foreign(), (torch.zeros(1, 3, 64, 64),))
    module.save(str(path), _extra_files={"config.txt": metadata})


def test_archive_of_another_tool(tmp_path):
    file = tmp_path / "foreign.torchscript"
    save_foreign(
        file, json.dumps({"imgsz": [64, 64], "batch": 1, "names": {"0": "a", "1": "b", "2": "c"}, "task": "segment"})
    )
    artifact = open_model(file)
    assert artifact.manifest.names == ("a", "b", "c") and artifact.manifest.head == "decoded"
    assert not artifact.manifest.normalized_boxes and artifact.manifest.input.shape == (1, 3, 64, 64)
    assert [a.shape for a in artifact.runtime.run(np.zeros((1, 3, 64, 64), np.float32))] == [(1, 39, 84), (1, 32, 16, 16)]


def test_an_archive_for_gray_pictures(tmp_path):
    class Gray(Foreign):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Conv2d(1, 2, 3)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor]]:
            return super().forward(self.first(x))

    file, about = tmp_path / "gray.torchscript", {"imgsz": [64, 64], "names": {"0": "a", "1": "b", "2": "c"}}
    with torch.no_grad():
        torch.jit.trace(Gray(), (torch.zeros(1, 1, 64, 64),)).save(str(file), _extra_files={"config.txt": json.dumps(about)})
    assert open_model(file).manifest.input.shape == (1, 1, 64, 64)


def test_bad_metadata(tmp_path):
    file = tmp_path / "foreign.torchscript"
    # A size that is none is not believed: the guess is 640, and the network shows that it is another.
    save_foreign(file, json.dumps({"imgsz": "large"}))
    with pytest.raises(EdgesegError, match="do not belong together"):
        open_model(file)


def test_the_manifest_is_read_without_loading_the_archive(convert, monkeypatch):
    path = convert("torchscript", head="decoded")
    monkeypatch.setattr(torch.jit, "load", lambda *a, **k: pytest.fail("the archive was loaded"))
    assert open_model(path).manifest.names
