"""A tiny network, and conversions of it that all tests of a session share."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeseg.export import deciding
from edgeseg.export.job import Job
from edgeseg.network.checkpoint import load_checkpoint, save_checkpoint
from edgeseg.network.definition import Definition
from edgeseg.network.model import Network
from edgeseg.quantize.constraints import Constraints
from edgeseg.registry import Target, target_by_name
from edgeseg.running.open import Opened, open_model

NAMES = ("cat", "dog", 'o"dd, näme')
Convert = Callable[..., Path]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a network with 3 classes and random weights and statistics."""
    torch.manual_seed(7)
    network = Network(Definition(variant="n", nc=3, depth=0.33, width=0.125), NAMES)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.05, 0.2)
    return save_checkpoint(tmp_path_factory.mktemp("tiny") / "tiny.pt", network)


def _decided(target: Target, source: Path, folder: Path, source_format: str = "network", **job) -> Path:
    """Decisions for what the integers of ``target`` can follow, as the graph makes them before it converts."""
    limits = Constraints.from_table(target.quantize).to_json()
    kept = {k: job[k] for k in ("imgsz", "recipe", "calibration", "calibration_info") if k in job}
    file = folder / "decisions.json"
    deciding.convert(Job("decisions", source, source_format, file, folder, options={"constraints": limits}, **kept))
    return file


@pytest.fixture(scope="session")
def decided() -> Callable[..., Path]:
    """``decided(target, checkpoint, folder, imgsz=..., recipe=..., calibration=...)`` -> the file of decisions."""
    return _decided


@pytest.fixture(scope="session")
def convert(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Convert:
    """``convert("onnx", precision=..., head=..., imgsz=..., batch=..., options={...}, apart=...)`` -> the artifact's path.

    ``apart`` runs the converter in a process of its own, as the runner does.
    """
    made: dict[str, Path] = {}

    def run(name: str, *, apart: bool = False, source: Path = tiny, **job) -> Path:
        key = f"{name} {source} {sorted(job.items())}"
        if key not in made:
            target, folder = target_by_name(name), tmp_path_factory.mktemp(name)
            output = folder / target.artifact_name("tiny")
            job.setdefault("imgsz", (64, 96))
            if job.get("precision") == "int8" and target.quantize:
                job["given"] = _decided(target, source if source.suffix == ".pt" else tiny, folder, **job)
            whole = Job(target.name, source, "network", output, folder, **job)
            if apart:
                file = folder / "job.json"
                file.write_text(whole.to_json())
                command, log = [sys.executable, "-m", "edgeseg.export.worker", str(file)], folder / "log.txt"
                # The worker ends when its standard input does, which is how it notices that its parent is gone.
                with (
                    log.open("wb") as out,
                    subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=out) as worker,
                ):
                    assert worker.wait() == 0, log.read_text(errors="replace")[-2000:]
            else:
                target.load("convert").convert(whole)
            made[key] = output
        return made[key]

    return run


@pytest.fixture(scope="session")
def difference(tiny: Path) -> Callable[..., float]:
    """``difference(artifact)``: largest difference to PyTorch over all outputs, as a share of each one's largest value."""

    def measure(opened: Opened, size: tuple[int, int] | None = None, batch: int | None = None) -> float:
        height, width = size or opened.manifest.imgsz
        x = torch.rand(batch or opened.manifest.batch, 3, height, width, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            wanted = load_checkpoint(tiny).fuse().view(opened.manifest.head)(x)
        given = x.numpy()
        if opened.manifest.input.layout == "nhwc":
            given = np.ascontiguousarray(given.transpose(0, 2, 3, 1))
        got = opened.runtime.run(given)
        assert len(got) == len(wanted) == len(opened.manifest.outputs)
        worst = 0.0
        for spec, a, b in zip(opened.manifest.outputs, got, wanted):
            if spec.role == "prediction" and opened.manifest.normalized_boxes:
                a = a * np.array([width, height] * 2 + [1] * (a.shape[1] - 4), np.float32)[:, None]
            b = b.numpy().transpose(0, 2, 3, 1) if spec.layout == "nhwc" else b.numpy()
            assert a.shape == b.shape and a.dtype == np.float32, spec
            worst = max(worst, float(np.abs(a - b).max() / np.abs(b).max()))
        return worst

    return measure


@pytest.fixture(scope="session")
def opened() -> Callable[[Path], Opened]:
    """``opened(path)``: the artifact, after checking that its manifest says what the file itself says."""

    def check(path: Path) -> Opened:
        artifact = open_model(path)
        manifest, runtime = artifact.manifest, artifact.runtime
        assert manifest.names == NAMES and manifest.format == artifact.target.name
        assert manifest.source["file"] == "tiny.pt" and len(manifest.source["sha256"]) == 64
        assert manifest.tools["edgeseg"] == manifest.version
        assert (runtime.input.shape, runtime.input.dtype) == (manifest.input.shape, manifest.input.dtype)
        for said, real in zip(manifest.outputs, runtime.outputs, strict=True):
            assert (said.name, said.shape, said.dtype) == (real.name, real.shape, real.dtype)
            assert (said.scale, said.zero_point) == (real.scale, real.zero_point)
        return artifact

    return check
