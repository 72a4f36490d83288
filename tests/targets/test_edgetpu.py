"""Edge TPU without a compiler: the prediction, the kit, and a fake compiler that prints what the real one prints."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeseg.errors import EdgesegError
from edgeseg.export.job import Job
from edgeseg.export.options import ExportOptions
from edgeseg.export.plan import make_plan
from edgeseg.manifest import Manifest, Output, Tensor, append_zip, read_zip
from edgeseg.registry import target_by_name, target_by_path
from edgeseg.running.open import open_model

pytest.importorskip("ai_edge_litert")

_spec = importlib.util.spec_from_file_location("small_tflite", Path(__file__).with_name("small_tflite.py"))
small = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(small)
network, run = small.network, small.run

LOG = """Edge TPU Compiler version 16.0.384591198
Started a compilation timeout timer of 180 seconds.

Model compiled successfully in 2229 ms.

Input model: network.tflite
Input size: 2.96MiB
Output model: network_edgetpu.tflite
Output size: 6.24MiB
On-chip memory used for caching model parameters: 5.81MiB
On-chip memory remaining for caching model parameters: 1.28MiB
Off-chip memory used for streaming uncached model parameters: 18.19KiB
Number of Edge TPU subgraphs: 1
Total number of operations: 20
Operation log: network_edgetpu.log

Operator                       Count      Status

CONV_2D                        12         Mapped to Edge TPU
CONV_2D                        2          More than one subgraph is not supported
LOGISTIC                       5          Mapped to Edge TPU
TRANSPOSE                      1          Operation is otherwise supported, but not mapped due to some unspecified limitation
Compilation child process completed within timeout period.
Compilation succeeded!
"""
SMALL = """Edge TPU Compiler version 15.0.340273435
On-chip memory used for caching model parameters: 0.00B
Off-chip memory used for streaming uncached model parameters: 0.00B
Number of Edge TPU subgraphs: 0
Total number of operations: 69
Number of operations that will run on Edge TPU: 0
Number of operations that will run on CPU: 69
See the operation log file for individual operation details.
"""


@pytest.fixture
def target():
    return target_by_name("edgetpu")


@pytest.fixture
def compiling(target):
    return target.load("compile")


@pytest.fixture
def bare(monkeypatch, compiling):
    """A machine without the compiler, whatever the real one has."""
    monkeypatch.setattr(compiling, "find_compiler", lambda: None)


@pytest.fixture
def source(tmp_path):
    """A small int8 file as the TF Lite target leaves it: manifest appended."""
    file = tmp_path / "model.tflite"
    file.write_bytes(network())
    entry = Tensor("images", (1, 8, 8, 3), "int8", "nhwc", 1 / 255, -128)
    proto = Output("proto", (1, 32, 32, 5), "int8", "nhwc", 0.05, 0, role="proto")
    about = {"precision": "int8", "source": {"file": "tiny.pt", "sha256": "0" * 64}, "recipe": "int8"}
    append_zip(file, Manifest("tflite", ("cat", "dog"), (8, 8), entry, (proto,), **about))
    return file


@pytest.fixture
def convert_edgetpu(target, source, tmp_path):
    def run_it(path: Path = source) -> Path:
        for name in ("out", "work"):
            (tmp_path / name).mkdir(exist_ok=True)
        job = Job("edgetpu", path, "tflite", tmp_path / "out" / "tiny_edgetpu.tflite", tmp_path / "work", precision="int8")
        return target.load("convert").convert(job)

    return run_it


def test_registry_and_plan(target):
    assert target_by_name("coral") is target and target_by_path(Path("x_edgetpu.tflite")) is target
    assert target_by_path(Path("x_edgetpu_kit")) is target and target_by_path(Path("x.tflite")).name == "tflite"
    plan = make_plan(["edgetpu", "tflite"], ExportOptions(int8=True, imgsz=320))
    assert [(s.format, s.precision, s.quantized) for s in plan.steps] == [
        ("observation", "int8", True),
        ("decisions", "int8", True),
        ("tflite", "int8", True),
        ("edgetpu", "int8", False),
    ]
    assert [s.format for s in make_plan(["coral"], ExportOptions()).steps][2:] == ["tflite", "edgetpu"]


def test_log_of_the_compiler(compiling):
    facts = compiling.parse_log(LOG)
    assert facts["compiler"] == "16.0.384591198" and facts["subgraphs"] == 1
    assert (facts["operators"], facts["operators_tpu"], facts["operators_cpu"]) == (20, 17, 3)
    assert facts["on_chip_bytes"] == round(5.81 * 2**20) and facts["streamed_bytes"] == round(18.19 * 1024)
    assert (
        facts["status"][0] == {"operator": "CONV_2D", "count": 12, "status": "Mapped to Edge TPU"}
        and len(facts["status"]) == 4
    )
    said = compiling.sentences(facts)
    assert said[0] == "17 of 20 operators run on the Edge TPU, in 1 part(s)"
    assert "2 CONV_2D (More than one subgraph is not supported); 1 TRANSPOSE (Operation is otherwise" in said[1]
    assert said[2] == "5.81 MiB of parameters stay on the chip, 0.02 MiB are streamed at every run"
    nothing = compiling.parse_log(SMALL)
    assert (nothing["operators"], nothing["operators_tpu"], nothing["operators_cpu"]) == (69, 0, 69)
    assert nothing["streamed_bytes"] == 0 and nothing["status"] == []


def test_kit(convert_edgetpu, bare, source, capsys):
    path = convert_edgetpu()
    assert path.name == "tiny_edgetpu_kit"
    assert sorted(f.name for f in path.iterdir()) == [
        "README.md", "compile.py", "model_int8.tflite", "report.json", "report.txt"
    ]  # fmt: skip
    said = capsys.readouterr().out
    assert "@note edgetpu_compiler is not on this machine: this is a kit" in said and "5 of 5 operators (100 %)" in said
    opened = open_model(path)
    assert opened.manifest.format == "edgetpu" and opened.manifest.recipe == "int8"
    assert "nothing is compiled" in opened.manifest.notes[-1]
    x = np.random.default_rng(0).integers(-128, 128, (1, 8, 8, 3), dtype=np.int8)
    assert np.array_equal(opened.runtime.run(x)[0], run(source.read_bytes()))
    assert (opened.runtime.outputs[0].scale, opened.runtime.outputs[0].zero_point) == (pytest.approx(0.05), 0)
    (path / "model_int8.tflite").unlink()
    with pytest.raises(EdgesegError, match="no kit"):
        open_model(path)


@pytest.mark.parametrize("batch", [1, 2])
def test_float_and_batches_are_refused(convert_edgetpu, bare, source, batch):
    manifest = Manifest.from_metadata(read_zip(source))
    entry = manifest.input if batch == 2 else Tensor("images", (1, 8, 8, 3), "float32", "nhwc")
    source.write_bytes(network())
    append_zip(source, replace(manifest, input=entry, batch=batch))
    with pytest.raises(EdgesegError, match="integers and one image.*batch is 2" if batch == 2 else "images are not int8"):
        convert_edgetpu()


COMPILER = """#!{python}
import pathlib, sys
words = sys.argv[1:]
folder, source = pathlib.Path(words[words.index("--out_dir") + 1]), pathlib.Path(words[-1])
with open({log!r}, "a") as f:
    f.write(" ".join(words) + "\\n")
if {picky} and "--search_delegate" not in words:
    print("ERROR: Restored original execution plan after delegate application failure.")
    sys.exit("Compilation failed: Compilation failed due to large activation tensors in model.")
content = source.read_bytes()
end = content.find(b"PK\\x03\\x04")
(folder / (source.stem + "_edgetpu.tflite")).write_bytes(content[:end] if end > 0 else content)
print({text!r})
"""


@pytest.fixture
def compiler(tmp_path):
    """A fake compiler in a folder of its own; it drops what follows the flatbuffer, as the real one does."""

    def make(picky: bool = False) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        file = folder / "edgetpu_compiler"
        log = str(tmp_path / "words")
        file.write_text(COMPILER.format(python=sys.executable, log=log, picky=picky, text=LOG))
        file.chmod(0o755)
        return folder

    return make


@pytest.mark.parametrize("picky", [False, True])
def test_compiled(convert_edgetpu, compiler, monkeypatch, tmp_path, capsys, picky):
    monkeypatch.setenv("PATH", f"{compiler(picky)}:/usr/bin:/bin")
    path = convert_edgetpu()
    assert path.name == "tiny_edgetpu.tflite"
    calls = (tmp_path / "words").read_text().splitlines()
    assert len(calls) == 1 + picky and "--show_operations --timeout_sec=" in calls[0]
    manifest = Manifest.from_metadata(read_zip(path))
    assert manifest.tools["edgetpu_compiler"] == "16.0.384591198" and manifest.format == "edgetpu"
    assert manifest.args["edgetpu"]["operators_tpu"] == 17 and manifest.args["edgetpu"]["streamed_bytes"] == round(
        18.19 * 1024
    )
    assert any("1 TRANSPOSE" in n for n in manifest.notes)
    both = json.loads(path.with_name(path.name + ".report.json").read_text())
    assert both["compiled"]["operators_cpu"] == 3 and both["predicted"]["percent_mapped"] == 100
    assert "@note on the CPU: 2 CONV_2D" in capsys.readouterr().out
    # The fake maps nothing, so that the CPU runs the file.
    assert open_model(path).manifest.names == ("cat", "dog")


def test_compiler_that_fails(convert_edgetpu, monkeypatch, tmp_path):
    file = tmp_path / "bin" / "edgetpu_compiler"
    file.parent.mkdir()
    file.write_text("#!/bin/sh\necho \"ERROR: Didn't find op for builtin opcode 'CONV_2D' version '6'\"; exit 1\n")
    file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{file.parent}:/usr/bin:/bin")
    with pytest.raises(EdgesegError, match="Didn't find op for builtin opcode 'CONV_2D'"):
        convert_edgetpu()


def test_kit_compiles_elsewhere(convert_edgetpu, bare, compiler, tmp_path):
    kit = convert_edgetpu()
    script = [sys.executable, "-I", str(kit / "compile.py")]
    env = {"PATH": "/usr/bin:/bin"}
    done = subprocess.run(script, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 1 and "there is no edgetpu_compiler" in done.stderr and "Traceback" not in done.stderr
    env["PATH"] = f"{compiler()}:/usr/bin:/bin"
    done = subprocess.run(script, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    assert "17 of 20 operators run on the Edge TPU" in done.stdout and "edgeseg predict" in done.stdout
    manifest = Manifest.from_metadata(read_zip(kit / "tiny_edgetpu.tflite"))
    assert manifest.args["edgetpu"]["compiler"] == "16.0.384591198" and (kit / "compiler.log").is_file()


def test_kit_script_needs_nothing(target):
    tree = ast.parse((target.folder / "compile.py").read_text(), feature_version=(3, 8))
    names = {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert names <= set(sys.stdlib_module_names)


def test_docker_image_is_never_pulled(compiling, monkeypatch, tmp_path):
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\ntest "$3" = local\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path) + ":/usr/bin:/bin")
    monkeypatch.setenv(compiling.IMAGE, "elsewhere")
    assert compiling.find_compiler() is None
    monkeypatch.setenv(compiling.IMAGE, "local")
    found = compiling.find_compiler()
    assert found[0] == str(docker) and "--pull=never" in found and found[-2:] == ["local", "edgetpu_compiler"]
    assert target_by_name("edgetpu").load("machine").facts()["compiler"] == found


def test_compiled_file_without_the_library(source, tmp_path, target, monkeypatch):
    file = tmp_path / "x_edgetpu.tflite"
    file.write_bytes(source.read_bytes() + b"edgetpu-custom-op")
    runtime = target.load("runtime")

    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    def no_device(name):
        raise ValueError("Failed to load delegate from libedgetpu.so.1\n")

    for load, words in ((missing, "libedgetpu is not installed"), (no_device, "no Edge TPU answers")):
        monkeypatch.setattr(runtime, "load_delegate", load)
        with pytest.raises(EdgesegError, match=words) as caught:
            open_model(file)
        assert "libedgetpu1-std" in caught.value.hint


def test_compiled_file_on_a_device(source, tmp_path, target, monkeypatch):
    """The delegate that was loaded is the one that the interpreter gets."""
    file = tmp_path / "x_edgetpu.tflite"
    file.write_bytes(source.read_bytes() + b"edgetpu-custom-op")
    runtime, given = target.load("runtime"), {}
    real = runtime.Interpreter
    monkeypatch.setattr(runtime, "load_delegate", lambda name: f"delegate of {name}")
    monkeypatch.setattr(runtime, "Interpreter", lambda model_path, **more: given.update(more) or real(model_path=model_path))
    assert runtime.Runtime(file, threads=2).outputs[0].name == "proto"
    assert given == {"num_threads": 2, "experimental_delegates": ["delegate of libedgetpu.so.1"]}
