"""ONNX -> TensorRT engine where TensorRT and a GPU are, else a build kit: the ONNX file, the manifest, one script."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgeseg.errors import EdgesegError
from edgeseg.export.describe import derive
from edgeseg.export.job import Job
from edgeseg.manifest import Manifest
from edgeseg.registry import target_by_name
from edgeseg.resources import cache_root

README = """# Build kit for a TensorRT engine

An engine fits one GPU and one TensorRT version, so it is built where it runs. Copy this folder there and type

    python3 build.py

It needs Python 3.6 and TensorRT (a Jetson with JetPack has both; edgeseg itself is not needed). It builds the engine beside
itself, with the metadata inside, times 50 runs, writes `report.json` and says what to type next.

`model.onnx` is the network ({precision}, input {shape}); `metadata.json` is what goes into the engine.
"""


def convert(job: Job) -> Path:
    """Write ``job.output``, an engine with its metadata in front, or a kit beside it; returns which.

    Input and outputs stay those of the ONNX file (float32, channels first). ``int8`` reads a Q/DQ file. Options: ``dynamic``
    (every multiple of 32 up to the exported size), ``workspace`` (GiB that the builder may use).

    Raises:
        EdgesegError: TensorRT refused the network, or the ONNX file does not run.
    """
    from . import build, qdq

    job.progress(0.02, "reading the ONNX file")
    model = onnx.load(str(job.source))
    props = {p.key: p.value for p in model.metadata_props}
    manifest = derive(job, Manifest.from_metadata(props, path=str(job.source)), ("onnx",))
    if job.precision == "int8":
        changed = qdq.fit(model)
        for note in changed:
            job.note(note)
        manifest = replace(manifest, notes=(*manifest.notes, *changed))
        onnx.checker.check_model(model)
    settings = {
        "precision": job.precision,
        "input": manifest.input.name,
        "shape": [job.batch, 3, *job.imgsz],
        "dynamic": bool(job.options.get("dynamic", False)),
        "workspace": job.options.get("workspace"),
    }
    gpu = build.gpu_facts()
    tool = build.import_tensorrt() or build.find_trtexec()
    if not gpu or tool is None:
        why = "there is no NVIDIA GPU here" if tool is not None else "TensorRT is not installed here"
        return _kit(job, model, manifest, settings, why)
    file = job.work / "model.onnx"
    onnx.save(model, str(file))
    cache = cache_root() / "tensorrt" / f"timing-{gpu['compute_capability']}-{_version(build, tool)}.cache"
    cache.parent.mkdir(parents=True, exist_ok=True)
    try:
        engine, facts = build.build(str(file), settings, str(cache), job.progress)
    except build.BuildError as e:
        raise EdgesegError(e.what, hint=e.hint) from e
    job.output.write_bytes(build.pack(engine, _metadata(manifest, facts)))
    job.note(
        f"runs on {facts['gpu']} (compute capability {facts['compute_capability']}) with TensorRT {facts['tensorrt']} only"
    )
    job.progress(1.0, "written")
    return job.output


def _version(build: Any, tool: Any) -> str:
    return str(build.trtexec_version(tool) if isinstance(tool, str) else tool.__version__)


def _metadata(manifest: Manifest, facts: Mapping[str, Any]) -> dict[str, Any]:
    tools = {**manifest.tools, "tensorrt": str(facts["tensorrt"])}
    return {**replace(manifest, tools=tools).to_metadata(), "engine": json.dumps(dict(facts))}


def _kit(job: Job, model: onnx.ModelProto, manifest: Manifest, settings: Mapping[str, Any], why: str) -> Path:
    target = target_by_name("engine")
    stem = target.stem(job.output)
    folder = job.output.with_name(stem + target.kit_suffix)
    folder.mkdir(parents=True)
    onnx.save(model, str(folder / "model.onnx"))
    shutil.copyfile(target.folder / "build.py", folder / "build.py")
    (folder / "build.py").chmod(0o755)
    text = json.dumps({**manifest.to_metadata(), "build": dict(settings)}, indent=1, ensure_ascii=False)
    (folder / "metadata.json").write_text(text, encoding="utf-8")
    shape = "x".join(map(str, settings["shape"]))
    (folder / "README.md").write_text(README.format(precision=job.precision, shape=shape), encoding="utf-8")
    job.progress(0.8, "running the ONNX file")
    _check(folder, manifest, tuple(settings["shape"]))
    job.note(f"{why}: this is a build kit. Copy the folder to the Jetson and type there: python3 build.py")
    job.note("the kit's ONNX file runs in ONNX Runtime, so that it can be validated here; no engine was built or measured")
    job.progress(1.0, "build kit written")
    return folder


def _check(folder: Path, manifest: Manifest, shape: tuple[int, ...]) -> None:
    """One run in ONNX Runtime: every output is there, in its shape, and finite."""
    from ..onnx.runtime import Runtime

    runtime = Runtime(folder / "model.onnx")
    found = runtime.run(np.full(shape, 114 / 255, np.float32))
    names = [o.name for o in runtime.outputs]
    if names != [o.name for o in manifest.outputs] or not all(np.isfinite(a).all() for a in found):
        raise EdgesegError(f"the ONNX file does not give what its manifest says ({', '.join(names)})", path=folder)
