"""SavedModel -> TF.js graph model: a folder with model.json, weight shards and metadata.yaml."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from edgeseg.decoders import page
from edgeseg.environments import npm
from edgeseg.errors import EdgesegError
from edgeseg.export.describe import derive
from edgeseg.export.job import Job
from edgeseg.manifest import Manifest, read_sidecar, write_sidecar

WEB = Path(__file__).resolve().parent / "web"
LIBRARIES = (
    "@tensorflow/tfjs-core/dist/tf-core.min.js",
    "@tensorflow/tfjs-converter/dist/tf-converter.min.js",
    "@tensorflow/tfjs-backend-wasm/dist/tf-backend-wasm.min.js",
    "@tensorflow/tfjs-backend-wasm/dist/tfjs-backend-wasm-simd.wasm",
    "@tensorflow/tfjs-backend-webgpu/dist/tf-backend-webgpu.min.js",
    "long/LICENSE",
)

# tensorflowjs imports these for models that are none of ours; its own requirements never resolve together.
STUBS: dict[str, tuple[str, ...]] = {
    "tensorflow_decision_forests": (),
    "tensorflow_hub": (),
    "tensorflowjs.converters.jax_conversion": ("convert_jax",),
}


def convert(job: Job) -> None:
    """Write the folder ``job.output``, its outputs called as in the manifest.

    ``fp16`` and ``int8`` are about the weights in the files: TF.js loads them into floats and computes in floats.
    The option ``page`` writes a static page beside the folder.
    """
    from . import weights

    packages = (
        npm.ensure(WEB, say=lambda text: job.progress(0.0, text), again=page.AGAIN) if job.options.get("page") else None
    )
    job.progress(0.05, "reading the SavedModel")
    source = Manifest.from_metadata(read_sidecar(job.source), path=str(job.source))
    manifest = derive(job, source, ("tensorflow-cpu", "tensorflowjs"))
    job.progress(0.1, "tensorflowjs")
    _tensorflowjs(job.source, job.output, {"edgeseg": manifest.to_json(), "task": manifest.task})
    job.progress(0.8, "weights")
    model = weights.read(job.output)
    _name(model.json["signature"], manifest)
    _check(model.json, manifest, job.output)
    weights.unfold(model)
    notes = _shrink(weights, model, job)
    manifest = replace(manifest, notes=(*manifest.notes, *notes))
    # TF.js names what predict() returns by going through these two side by side; the converter leaves them in two orders.
    names = [o.name for o in manifest.outputs]
    model.json["signature"]["outputs"] = {n: model.json["signature"]["outputs"][n] for n in names}
    model.json["userDefinedMetadata"] |= {"edgeseg": manifest.to_json(), "structuredOutputKeys": names}
    weights.write(model, job.output)
    write_sidecar(job.output, manifest)
    if packages is not None:
        page.write_page(job.output, manifest, WEB, packages, LIBRARIES)
        notes.append(page.NOTE)
    for note in notes:
        job.note(note)
    job.progress(1.0, "written")


def _shrink(weights: ModuleType, model: Any, job: Job) -> list[str]:
    """Make the weights what the precision says, and say what that means."""
    if job.precision == "fp16":
        weights.halve(model)
        return ["weights stored as half floats, loaded into floats"]
    if job.precision != "int8":
        return []
    recipe = job.recipe or {}
    said = recipe.get("weights", {})
    notes = []
    if int(said.get("bits", 8)) != 8:
        notes.append(f"the recipe's {said['bits']} bits for weights are not followed: int8 stores 8 here; half stores 16")
    per_channel = said.get("granularity", "channel") == "channel"
    weights.quantize(model, per_channel=per_channel)
    how = "one scale per output channel" if per_channel else "one scale per tensor"
    notes.append(f"weights only: kernels stored as 8-bit integers, {how}; activations and arithmetic are float")
    ignored = [k for k in ("activations", "clips", "correction", "stages") if recipe.get(k)]
    if ignored:
        notes.append(f"of the recipe, {', '.join(ignored)} are not followed: all kernels become integers, nothing else")
    return notes


def _tensorflowjs(source: Path, output: Path, metadata: dict[str, str]) -> None:
    with _stubs():
        from tensorflowjs.converters import tf_saved_model_conversion_v2 as conversion

        conversion.convert_tf_saved_model(str(source), str(output), use_structured_outputs_names=True, metadata=metadata)


@contextmanager
def _stubs() -> Iterator[None]:
    """Empty modules in place of those that are imported but never used here."""
    missing = [name for name in STUBS if name not in sys.modules]
    for name in missing:
        module = types.ModuleType(name)
        module.__dict__.update(dict.fromkeys(STUBS[name]))
        sys.modules[name] = module
    try:
        yield
    finally:
        for name in missing:
            sys.modules.pop(name, None)


def _name(signature: dict[str, Any], manifest: Manifest) -> None:
    """Give the outputs their names where several have one shape: tensorflowjs tells them apart by nothing else.

    It leaves TensorFlow's own words there, ``Identity_3:0`` for the fourth of the outputs sorted by name.
    """
    ordered = sorted(o.name for o in manifest.outputs)
    left = {word: re.fullmatch(r"Identity(?:_(\d+))?:0", word) for word in signature["outputs"]}
    signature["outputs"] = {
        ordered[int(match[1] or 0)] if match else word: signature["outputs"][word] for word, match in left.items()
    }


def _check(model: dict[str, Any], manifest: Manifest, path: Path) -> None:
    """The signature must speak of the manifest's tensors: names and shapes."""
    found = {
        name: tuple(int(d["size"]) for d in info["tensorShape"]["dim"])
        for kind in ("inputs", "outputs")
        for name, info in model["signature"][kind].items()
    }
    wanted = {t.name: t.shape for t in (manifest.input, *manifest.outputs)}
    if found != wanted:
        odd = sorted(set(found.items()) ^ set(wanted.items()))
        raise EdgesegError(f"tensorflowjs changed the tensors {odd}", path=path, hint="Export the SavedModel again")
