"""What the manifest of every converter says of itself."""

import importlib.metadata

import pytest

import edgeseg
from edgeseg.export.describe import describe
from edgeseg.export.job import Job
from edgeseg.network.checkpoint import load_checkpoint

pytest.importorskip("torch")


def test_tools_name_edgeseg_where_it_is_a_folder_and_no_distribution(tiny, tmp_path, monkeypatch):
    """As in the environment of a toolchain, which finds edgeseg on PYTHONPATH."""
    real = importlib.metadata.version

    def version(name):
        if name == "edgeseg":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    job = Job("onnx", tiny, "network", tmp_path / "x.onnx", tmp_path, imgsz=(64, 64))
    manifest = describe(job, load_checkpoint(tiny), ("numpy", "no-such-package"))
    assert dict(manifest.tools) == {"edgeseg": edgeseg.__version__, "numpy": real("numpy")}
