"""TorchScript -> ncnn through pnnx: a folder with the graph (.param), the weights (.bin) and metadata.yaml."""

from __future__ import annotations

import json
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

from edgeseg.errors import EdgesegError
from edgeseg.export.describe import derive
from edgeseg.export.job import Job
from edgeseg.manifest import Manifest, Tensor, write_sidecar

from .check import mark

PARAM, BIN = "model.ncnn.param", "model.ncnn.bin"


def convert(job: Job) -> None:
    """Write the folder ``job.output``. Blobs are called ``in0`` and ``out0`` .. in the order of the manifest's outputs.

    Precision ``fp16`` stores the weights as half floats, ``int8`` has integer convolutions by the recipe; input and outputs
    stay float32. ncnn has no batch axis.

    Raises:
        EdgesegError: a batch other than 1, or pnnx fails.
    """
    if job.batch != 1:
        raise EdgesegError(f"ncnn runs one image at a time, batch {job.batch} is not possible", hint="Export with batch=1")
    manifest = derive(job, _manifest(job.source), ("pnnx",))
    job.output.mkdir(parents=True, exist_ok=True)
    job.progress(0.2, "pnnx")
    _pnnx(job)
    outputs = tuple(replace(o, name=f"out{i}") for i, o in enumerate(manifest.outputs))
    _check(job.output / PARAM, outputs)
    mark(job.output / PARAM)
    if job.precision == "int8":
        from .quantize import quantize

        quantize(job.output / PARAM, job.output / BIN, job)
    manifest = replace(manifest, notes=(*manifest.notes, *job.unfollowed))
    write_sidecar(job.output, manifest.with_tensors(Tensor("in0", manifest.input.shape), outputs))
    job.progress(1.0, "written")


def _manifest(source: Path) -> Manifest | None:
    """The manifest of a TorchScript archive, read without torch: it lies in ``<name>/extra/config.txt``."""
    with zipfile.ZipFile(source) as z:
        member = next((n for n in z.namelist() if n.endswith("extra/config.txt")), None)
        return None if member is None else Manifest.from_metadata(json.loads(z.read(member)), path=str(source))


def _pnnx(job: Job) -> None:
    from pnnx import EXEC_PATH

    height, width = job.imgsz
    # pnnx writes half a dozen files beside its input unless each is given a place.
    scratch = {
        "pnnxparam": job.work / "model.pnnx.param",
        "pnnxbin": job.work / "model.pnnx.bin",
        "pnnxpy": job.work / "model_pnnx.py",
        "pnnxonnx": job.work / "model.pnnx.onnx",
        "ncnnpy": job.work / "model_ncnn.py",
        "ncnnparam": job.output / PARAM,
        "ncnnbin": job.output / BIN,
    }
    command = [EXEC_PATH, str(job.source), f"inputshape=[1,3,{height},{width}]f32"]
    command += [f"{k}={v}" for k, v in scratch.items()] + [f"fp16={int(job.precision == 'fp16')}"]
    done = subprocess.run(command, cwd=job.work, check=False)
    if done.returncode or not (job.output / PARAM).is_file():
        raise EdgesegError(f"pnnx failed (exit {done.returncode})", path=job.source, hint="Its output is in the step's log")


def _check(param: Path, outputs: tuple[Tensor, ...]) -> None:
    """pnnx drops what it cannot express with a warning only: make sure that every output is there."""
    lines = [line.split() for line in param.read_text().splitlines()[2:]]
    blobs = {blob for line in lines for blob in line[4 : 4 + int(line[2]) + int(line[3])]}
    missing = [o.name for o in outputs if o.name not in blobs]
    foreign = sorted({line[0] for line in lines if line[0].startswith(("pnnx.", "aten::", "prim::", "torch."))})
    if missing or foreign:
        what = f"operators {foreign}" if foreign else f"outputs {missing}"
        raise EdgesegError(f"ncnn cannot express {what}", path=param, hint="Export with head=raw")
