"""The manifest of a conversion that starts from a checkpoint: what every converter would otherwise write for itself."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import edgeseg
from edgeseg.errors import EdgesegError
from edgeseg.export.job import Job
from edgeseg.manifest import Manifest, Tensor

if TYPE_CHECKING:
    from edgeseg.network.model import Network

INPUT = "images"
WORDS = {"segment": "instance segmentation", "detect": "detection"}


def describe(job: Job, network: Network, tools: Sequence[str] = ()) -> Manifest:
    """The manifest of ``network`` exported as ``job`` says, with channels-first float32 tensors.

    A converter replaces the tensors by those of the finished file (``Manifest.with_tensors``) where they differ.

    Args:
        job: the step.
        network: the loaded checkpoint.
        tools: distributions whose versions go into the manifest beside ours; those that are not installed are left out.
    """
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            what = f"tensor {name} holds infinite or undefined numbers: nothing that is made of it could see"
            raise EdgesegError(what, path=job.source, hint="Train it again, or take an older checkpoint")
    height, width = job.imgsz
    args = {"imgsz": list(job.imgsz), "batch": job.batch, "head": job.head}
    args |= {"half": job.precision == "fp16", "int8": job.precision == "int8", **job.options}
    return Manifest(
        format=job.format,
        names=tuple(network.names),
        imgsz=(height, width),
        input=Tensor(INPUT, (job.batch, 3, height, width)),
        outputs=tuple(network.outputs(job.head, job.imgsz, job.batch)),
        head=job.head,
        precision=job.precision,
        task=network.task,
        reg_max=network.reg_max,
        end2end=network.definition.end2end,
        batch=job.batch,
        description=f"{job.source.stem}: {network.definition.title} {WORDS[network.task]}, {len(network.names)} classes",
        date=_now().isoformat(timespec="seconds"),
        version=edgeseg.__version__,
        license=str(network.info.get("license", "")),
        args=args,
        recipe=None if job.recipe is None else str(job.recipe.get("name", "")),
        calibration=job.calibration_info,
        tools=_versions(tools),
        source={**_source(job.source), **{k: str(network.info[k]) for k in ("data", "data_sha256") if network.info.get(k)}},
    )


def derive(job: Job, source: Manifest | None, tools: Sequence[str] = ()) -> Manifest:
    """The manifest of an artifact made from another one, whose manifest is ``source``: same network, same tensors.

    Raises:
        EdgesegError: the source carries no manifest.
    """
    if source is None:
        raise EdgesegError("it carries no edgeseg manifest", path=job.source, hint="Export from the checkpoint")
    for said in source.notes:
        job.note(said)
    return replace(
        source,
        format=job.format,
        precision=job.precision,
        date=_now().isoformat(timespec="seconds"),
        version=edgeseg.__version__,
        args={**source.args, **job.options, "half": job.precision == "fp16", "int8": job.precision == "int8"},
        recipe=source.recipe if job.recipe is None else str(job.recipe.get("name", "")),
        calibration=job.calibration_info or source.calibration,
        tools={**source.tools, **_versions(tools)},
    )


def _now() -> datetime:
    """The time of the export; ``SOURCE_DATE_EPOCH`` (seconds) makes files reproducible."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    return datetime.fromtimestamp(int(epoch), timezone.utc) if epoch.isdigit() else datetime.now(timezone.utc)


def _versions(tools: Sequence[str]) -> dict[str, str]:
    found = {"edgeseg": edgeseg.__version__}  # a toolchain's environment has no distribution of it, only the package
    for tool in tools:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[tool] = importlib.metadata.version(tool)
    return found


def _source(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {"file": path.name}
    with path.open("rb") as f:
        digest = hashlib.sha256()
        while block := f.read(1 << 20):
            digest.update(block)
    return {"file": path.name, "sha256": digest.hexdigest()}
