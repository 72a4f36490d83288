"""Full-int8 TF Lite -> Edge TPU: compiled where ``edgetpu_compiler`` is, else a kit with a report of what will map."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from edgeseg.errors import EdgesegError
from edgeseg.export.describe import derive
from edgeseg.export.job import Job
from edgeseg.manifest import Manifest, append_zip, read_zip
from edgeseg.registry import target_by_name

NETWORK = "model_int8.tflite"
README = """# Kit for an Edge TPU file

The Edge TPU compiler was not on the machine that wrote this. On x86-64 Linux with `edgetpu_compiler` on the PATH
(https://coral.ai/docs/edgetpu/compiler), or with docker and a local image that has it (`EDGESEG_EDGETPU_IMAGE=name`), type

    python3 compile.py

It compiles `model_int8.tflite`, puts the metadata back, writes `compiler.log` and says what runs where. `report.txt` and
`report.json` hold what is expected by the documented limits. The int8 network itself runs anywhere on the CPU.
"""


def convert(job: Job) -> Path:
    """Write ``job.output``, a compiled file, or a kit beside it; returns which. The source must be integer throughout.

    Beside a compiled file lies ``<file>.report.json`` with both the prediction and what the compiler said.

    Raises:
        EdgesegError: the source is not integer, has no manifest, or the compiler failed.
    """
    target = target_by_name("edgetpu")
    compiling, mapping, lowering = (target.load(part) for part in ("compile", "mapping", "lower"))
    job.progress(0.05, "reading the int8 network")
    manifest = derive(job, Manifest.from_metadata(read_zip(job.source), path=str(job.source)))
    content, notes = lowering.lower(job.source.read_bytes())
    _check_integer(job, manifest)
    prediction = mapping.report(content)
    network = job.work / NETWORK
    network.write_bytes(content)
    append_zip(network, manifest)
    for note in notes:
        print(note, flush=True)  # for the log: nothing that changes a result
    command = compiling.find_compiler()
    if command is None:
        return _kit(job, network, prediction)
    job.progress(0.2, "edgetpu_compiler")
    try:
        compiled, facts, log = compiling.run_compiler(command, str(network), timeout_s=target.timeout_s // 4)
    except compiling.CompileError as e:
        raise EdgesegError(e.what, hint=e.hint) from e
    print(log, flush=True)
    compiling.embed(str(job.output), compiled, compiling.read_metadata(str(network)), facts)
    both = {"compiled": facts, "predicted": prediction.to_dict()}
    _write_json(job.output.with_name(job.output.name + ".report.json"), both)
    for said in compiling.sentences(facts):
        job.note(said)
    job.progress(1.0, "written")
    return job.output


def _check_integer(job: Job, manifest: Manifest) -> None:
    tensors = (manifest.input, *manifest.outputs)
    wrong = [t.name for t in tensors if t.dtype not in ("int8", "uint8")]
    if wrong or manifest.batch != 1:
        why = f"{', '.join(wrong)} are not int8" if wrong else f"its batch is {manifest.batch}"
        raise EdgesegError(f"the Edge TPU takes integers and one image at a time, and {why}", path=job.source)


def _kit(job: Job, network: Path, prediction: Any) -> Path:
    target = target_by_name("edgetpu")
    folder = job.output.with_name(target.stem(job.output) + target.kit_suffix)
    folder.mkdir(parents=True)
    shutil.copyfile(network, folder / NETWORK)
    shutil.copyfile(target.folder / "compile.py", folder / "compile.py")
    (folder / "compile.py").chmod(0o755)
    (folder / "README.md").write_text(README, encoding="utf-8")
    (folder / "report.txt").write_text(prediction.to_text(), encoding="utf-8")
    _write_json(folder / "report.json", prediction.to_dict())
    job.note("edgetpu_compiler is not on this machine: this is a kit. Where it is, type in the folder: python3 compile.py")
    for said in prediction.sentences():
        job.note(said)
    job.note("the kit's int8 network runs on the CPU with the reference kernels, so that it can be validated here")
    job.progress(1.0, "kit written")
    return folder


def _write_json(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, indent=1), encoding="utf-8")
