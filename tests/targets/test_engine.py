"""TensorRT without TensorRT: a recording stand-in of each generation, a fake trtexec, a fake CUDA driver in C."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
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
from edgeseg.manifest import Manifest
from edgeseg.registry import target_by_name, target_by_path
from edgeseg.running.open import open_model

_spec = importlib.util.spec_from_file_location("fake_tensorrt", Path(__file__).with_name("fake_tensorrt.py"))
fake = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fake)

GPU = {"gpu": "Fake Orin", "compute_capability": "8.7", "cuda_driver": "12.6"}
OUTPUTS = {"box": (1, 64, 8, 12), "proto": (1, 32, 16, 24)}


@pytest.fixture
def target():
    return target_by_name("engine")


@pytest.fixture
def build(target):
    return target.load("build")


@pytest.fixture
def convert_engine(convert, target, tmp_path):
    """``convert_engine(precision=..., options=...)`` -> what convert returned, from the tiny network's ONNX file."""

    def run(source: Path | None = None, **job) -> Path:
        path = source or convert("onnx", **({"options": {"dynamic": True}} if job.get("options", {}).get("dynamic") else {}))
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "work").mkdir(exist_ok=True)
        output = tmp_path / "out" / "tiny.engine"
        return target.load("convert").convert(Job("engine", path, "onnx", output, tmp_path / "work", imgsz=(64, 96), **job))

    return run


@pytest.fixture
def tensorrt(monkeypatch, build, tmp_path):
    """``tensorrt("10.3.0")`` puts a stand-in of that version, a GPU and an own cache in place, and returns its calls."""

    def install(version: str, outputs=OUTPUTS):
        calls = []
        monkeypatch.setitem(sys.modules, "tensorrt", fake.package(version, outputs, calls))
        monkeypatch.setattr(build, "gpu_facts", lambda: dict(GPU))
        monkeypatch.setenv("EDGESEG_HOME", str(tmp_path / "home"))
        return calls

    return install


@pytest.fixture
def bare(monkeypatch, build):
    """A machine without TensorRT and GPU, whatever the real one has."""
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr(build, "find_trtexec", lambda: None)
    monkeypatch.setattr(build, "_CUDA", ("no-such-library.so",))


@pytest.fixture
def driver(monkeypatch, build, tmp_path):
    library = fake.driver(tmp_path)
    if library is None:
        pytest.skip("no C compiler")
    monkeypatch.setattr(build, "_CUDA", (library,))
    return library


def test_registry_knows_engine_and_kit(target, tmp_path):
    assert target_by_name("tensorrt") is target_by_name("TRT") is target
    assert target_by_path(Path("a/x.engine")) is target and target_by_path(Path("x_fp16_engine_kit")) is target
    assert target.stem(Path("x_fp16_engine_kit")) == "x_fp16" and target.stem(Path("x.engine")) == "x"
    assert target.missing_modules(tmp_path / "x_engine_kit") == []


def test_precision_comes_from_the_onnx_file():
    plan = make_plan(["trt"], ExportOptions.of(half=True, workspace=2.0, dynamic=True))
    assert [(s.format, s.precision) for s in plan.steps] == [("onnx", "fp16"), ("engine", "fp16")]
    assert dict(plan.steps[0].options) == {"dynamic": True}
    assert dict(plan.steps[1].options) == {"dynamic": True, "workspace": 2.0}


@pytest.mark.parametrize(
    ("version", "precision", "network", "flags"),
    [
        ("8.2.1", "fp16", 1, [("set_flag", 1)]),
        ("8.6.1", "int8", 1, [("set_flag", 2)]),
        ("8.6.1", "fp32", 1, [("clear_flag", 0)]),
        ("10.3.0", "fp16", 2, []),
        ("10.13.3.9", "fp32", 2, [("clear_flag", 0)]),
        ("11.4.1", "int8", 0, []),
        ("11.0.0", "fp32", 0, [("clear_flag", 0)]),
    ],
)
def test_each_generation_is_asked_its_own_way(build, tensorrt, tmp_path, version, precision, network, flags):
    calls = tensorrt(version)
    file, cache = tmp_path / "x.onnx", tmp_path / "timing.cache"
    file.write_bytes(b"network")
    settings = {"precision": precision, "input": "images", "shape": [2, 3, 64, 96], "dynamic": True, "workspace": 1.5}
    engine, facts = build.build(str(file), settings, str(cache), lambda *_: None)
    assert engine.startswith(b"ptrt") and cache.read_bytes() == b"timed"
    assert facts["tensorrt"] == version and facts["tool"] == "tensorrt" and facts["gpu"] == "Fake Orin"
    assert calls[0] == ("network", network)
    assert [c for c in calls if c[0].endswith("_flag")] == flags
    assert ("profile", ("images", (1, 3, 32, 32), (2, 3, 64, 96), (2, 3, 64, 96))) in calls
    size = 3 << 29
    assert (("max_workspace_size", size) if version == "8.2.1" else ("workspace", 0, size)) in calls
    build.build(str(file), settings, str(cache), lambda *_: None)
    assert ("timing_cache", b"timed") in calls


def test_timing_cache_of_another_version_is_dropped(build, tensorrt, tmp_path):
    calls = tensorrt("10.3.0")
    (tmp_path / "x.onnx").write_bytes(b"network")
    (tmp_path / "c").write_bytes(b"of another version")
    settings = {"precision": "fp16", "input": "images", "shape": [1, 3, 64, 96], "dynamic": False}
    build.build(str(tmp_path / "x.onnx"), settings, str(tmp_path / "c"), lambda *_: None)
    assert [c[1] for c in calls if c[0] == "timing_cache"] == [b"of another version", b""]


@pytest.mark.parametrize(
    ("content", "words"), [(b"unreadable", "cannot read.*no such operator"), (b"unbuildable", "could not")]
)
def test_refusals_of_tensorrt(build, tensorrt, tmp_path, content, words):
    tensorrt("10.3.0")
    (tmp_path / "x.onnx").write_bytes(content)
    settings = {"precision": "fp16", "input": "images", "shape": [1, 3, 64, 96], "dynamic": False}
    with pytest.raises(build.BuildError, match=words) as caught:
        build.build(str(tmp_path / "x.onnx"), settings, str(tmp_path / "c"), lambda *_: None)
    assert caught.value.hint


def test_int8_on_a_gpu_without_it(build, tensorrt, monkeypatch, tmp_path):
    tensorrt("8.2.1")
    monkeypatch.setattr(build, "gpu_facts", lambda: {"gpu": "NVIDIA Tegra X1", "compute_capability": "5.3"})
    with pytest.raises(build.BuildError, match=r"Tegra X1 \(compute capability 5.3\) has no 8-bit.*half"):
        build.build("x.onnx", {"precision": "int8"}, "c", lambda *_: None)


@pytest.mark.parametrize(
    ("banner", "version", "precision", "has", "has_not"),
    [
        ("8201", "8.2.1", "fp16", ["--fp16", "--workspace=1536"], ["--stronglyTyped", "--noTF32", "--memPoolSize"]),
        ("8502", "8.5.2", "int8", ["--int8", "--memPoolSize=workspace:1536"], ["--workspace="]),
        ("100300", "10.3.0", "int8", ["--stronglyTyped"], ["--int8", "--fp16"]),
        ("110401", "11.4.1", "fp32", ["--noTF32"], ["--stronglyTyped", "--fp16"]),
    ],
)
def test_trtexec_is_asked_in_its_own_words(build, tmp_path, banner, version, precision, has, has_not):
    program = fake.trtexec(tmp_path / "bin", banner)
    settings = {"precision": precision, "input": "images", "shape": [1, 3, 64, 96], "dynamic": True, "workspace": 1.5}
    engine, facts = build._build_by_trtexec(str(program), "a b.onnx", settings, str(tmp_path / "c"), lambda *_: None)
    words = (tmp_path / "bin" / "trtexec.log").read_text().splitlines()[-1]
    assert engine == b'ptrt{"proto": [1]}' and facts["tensorrt"] == version
    assert facts["latency_ms"] == {"min": 3.1, "max": 4.2, "mean": 3.4, "median": 3.3, "runs": 50, "what": "GPU only"}
    assert "--onnx=a b.onnx" in words and "--minShapes=images:1x3x32x32" in words and "--iterations=50" in words
    assert all(w in words for w in has) and not any(w in words for w in has_not)
    assert [f.name for f in tmp_path.glob("c*")] == ["c"]


def test_trtexec_that_fails(build, tmp_path):
    program = fake.trtexec(tmp_path / "bin", "100300", fake.FAILS)
    settings = {"precision": "fp16", "input": "images", "shape": [1, 3, 64, 96], "dynamic": False}
    with pytest.raises(build.BuildError, match="no such kernel"):
        build._build_by_trtexec(str(program), "x.onnx", settings, str(tmp_path / "c"), lambda *_: None)


@pytest.mark.parametrize("content", [b"", b"ptrt", b"ptrt" + bytes(100), b'\x05\0\0\0{"a"', b"\x02\0\0\0[]rest"])
def test_engines_without_metadata(build, content):
    assert build.unpack(content) == (content, {})


def test_metadata_in_front_reads_as_other_tools_read_it(build, convert):
    manifest = open_model(convert("onnx")).manifest
    content = build.pack(b"ptrt-engine", {**manifest.to_metadata(), "engine": json.dumps(GPU)})
    assert build.unpack(content)[0] == b"ptrt-engine"
    # What the ecosystem's loader does with such a file, in its own steps.
    size = int.from_bytes(content[:4], byteorder="little")
    metadata = json.loads(content[4 : 4 + size].decode("utf-8"))
    assert content[4 + size :] == b"ptrt-engine"
    assert int(metadata["stride"]) == 32 and int(metadata["batch"]) == 1 and metadata["task"] == "segment"
    assert ast.literal_eval(metadata["imgsz"]) == [64, 96] and ast.literal_eval(metadata["names"])[0] == "cat"
    assert replace(manifest) == Manifest.from_metadata(metadata)


def test_engine_is_converted_and_runs(convert_engine, tensorrt, driver, build, monkeypatch):
    """The whole way on a fake GPU: ONNX, builder, file, driver calls, outputs in the manifest's order."""
    from edgeseg import registry

    raw = {
        f"{role}_{s}": (1, c, 64 // s, 96 // s)
        for s in (8, 16, 32)
        for role, c in (("box", 64), ("score", 3), ("coeff", 32))
    }
    tensorrt("10.3.0", dict(reversed([*raw.items(), ("proto", (1, 32, 16, 24))])))
    path = convert_engine(precision="fp16")
    assert path.name == "tiny.engine"
    monkeypatch.setattr(registry.Target, "missing_modules", lambda self, path=None: [])
    opened = open_model(path)
    assert opened.manifest.format == "engine" and opened.manifest.tools["tensorrt"] == "10.3.0"
    assert [o.name for o in opened.runtime.outputs] == [*raw, "proto"] == [o.name for o in opened.manifest.outputs]
    facts = json.loads(opened.runtime.metadata["engine"])
    assert {k: facts[k] for k in GPU} == GPU and facts["precision"] == "fp16"
    for value in (0.25, 0.75):
        found = opened.runtime.run(np.full((1, 3, 64, 96), value, np.float32))
        assert [a.shape for a in found] == [o.shape for o in opened.manifest.outputs]
        # The stand-in numbers its outputs the other way round.
        assert [float(a.flat[-1]) for a in found] == [value + 9 - i for i in range(10)]
    assert build.time_engine(build.unpack(path.read_bytes())[0], (1, 3, 64, 96), runs=3)["runs"] == 3


def test_driver_facts_and_errors(build, driver):
    assert build.gpu_facts() == GPU
    assert build.machine_facts()["gpu"] == "Fake Orin"
    with pytest.raises(build.BuildError, match=r"cuMemAlloc_v2 failed .*out of memory"):
        build.Cuda().start().allocate(1 << 40)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gpu": "NVIDIA Thor", "compute_capability": "11.0"}, r"built for Fake Orin .*8\.7.* has NVIDIA Thor .*11\.0"),
        ({"gpu": "Fake Orin Nano"}, "Fake Orin Nano"),
        ({"tensorrt": "10.13.0"}, r"TensorRT 10\.3\.0, and this machine has .* TensorRT 10\.13\.0"),
    ],
)
def test_refusal_says_what_for(target, change, words):
    runtime = target.load("runtime")
    built = {**GPU, "tensorrt": "10.3.0"}
    assert runtime.refusal(built, {**built, "tensorrt": "10.3.0.26", "cuda_driver": "13.0"}) == ""
    assert runtime.refusal({}, built) == ""
    import re

    assert re.search(words, runtime.refusal(built, {**built, **change}))


def test_engine_of_another_version_is_refused(convert_engine, tensorrt, driver, target):
    tensorrt("10.3.0")
    path = convert_engine(precision="fp16")
    tensorrt("10.7.0")
    with pytest.raises(EdgesegError, match=r"was built for .* 10\.3\.0") as caught:
        target.load("runtime").Runtime(path)
    assert "edgeseg export tiny.pt --format engine --half --imgsz 64,96" in caught.value.hint
    path.write_bytes(b"trash" * 10)
    with pytest.raises(EdgesegError, match="refuses this engine"):
        target.load("runtime").Runtime(path)


def test_engine_without_a_gpu(convert_engine, tensorrt, build, target, monkeypatch):
    tensorrt("10.3.0")
    path = convert_engine()
    monkeypatch.setattr(build, "_CUDA", ("no-such-library.so",))
    with pytest.raises(EdgesegError, match="no NVIDIA driver"):
        target.load("runtime").Runtime(path)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EdgesegError, match="TensorRT is needed"):
        target.load("runtime").Runtime(path)


def test_rebuild_command_without_a_manifest(target):
    assert "<checkpoint>.pt" in target.load("runtime").rebuild_command(None)


def test_kit_runs_in_onnx_runtime(convert_engine, bare, convert, difference, capsys):
    path = convert_engine(options={"workspace": 2.0})
    assert path.name == "tiny_engine_kit"
    assert sorted(f.name for f in path.iterdir()) == ["README.md", "build.py", "metadata.json", "model.onnx"]
    said = capsys.readouterr().out
    assert "@note TensorRT is not installed here: this is a build kit" in said and "python3 build.py" in said
    opened = open_model(path)
    assert opened.manifest.format == "engine" and "no engine is built yet" in opened.manifest.notes[-1]
    assert difference(opened) < 1e-5
    (path / "metadata.json").write_text("[]")
    with pytest.raises(EdgesegError, match="no build kit"):
        open_model(path)


def run_kit(kit: Path, path: str, library: str | None, *more: str) -> subprocess.CompletedProcess:
    """The script as a user types it: only the standard library, nothing of edgeseg."""
    code = f"import sys; sys.argv[0] = {str(kit / 'build.py')!r}\n" + (
        f"import ctypes; real = ctypes.CDLL\nctypes.CDLL = lambda n: real({library!r} if n == 'libcuda.so.1' else n)\n"
    )
    code += "import runpy; runpy.run_path(sys.argv[0], run_name='__main__')"
    env = {"PATH": path, "HOME": str(kit)}
    return subprocess.run([sys.executable, "-I", "-c", code, *more], capture_output=True, text=True, env=env, check=False)


def test_kit_builds_and_reports(convert_engine, bare, monkeypatch, build, tmp_path):
    kit = convert_engine(precision="fp16", options={"workspace": 2.0})
    library = fake.driver(tmp_path)
    if library is None:
        pytest.skip("no C compiler")
    program = fake.trtexec(tmp_path / "bin", "100300")
    done = run_kit(kit, f"{program.parent}{os.pathsep}/usr/bin{os.pathsep}/bin", library)
    assert done.returncode == 0, done.stderr
    assert "Building for Fake Orin" in done.stdout and "edgeseg predict" in done.stdout and "3.3 ms" in done.stdout
    report = json.loads((kit / "report.json").read_text())
    assert report["ok"] and report["tensorrt"] == "10.3.0" and report["machine"]["compute_capability"] == "8.7"
    assert report["latency_ms"]["runs"] == 50 and report["bytes"] == (kit / "tiny.engine").stat().st_size
    engine, metadata = build.unpack((kit / "tiny.engine").read_bytes())
    manifest = Manifest.from_metadata(metadata)
    assert engine.startswith(b"ptrt") and manifest.precision == "fp16" and manifest.format == "engine"
    assert json.loads(metadata["engine"])["gpu"] == "Fake Orin" and "build" not in metadata
    assert "--memPoolSize=workspace:2048" in (tmp_path / "bin" / "trtexec.log").read_text()


@pytest.mark.parametrize("gpu", [False, True])
def test_kit_says_what_is_missing(convert_engine, bare, tmp_path, gpu):
    kit = convert_engine()
    library = fake.driver(tmp_path) if gpu else "no-such-library.so"
    if library is None:
        pytest.skip("no C compiler")
    done = run_kit(kit, "/usr/bin:/bin", library)
    words = "neither the tensorrt package nor trtexec" if gpu else "no NVIDIA GPU answers"
    assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr
    report = json.loads((kit / "report.json").read_text())
    assert not report["ok"] and words in report["error"]


def test_kit_script_is_for_old_pythons(target):
    """Nothing newer than Python 3.6, which the oldest Jetson has, and nothing but the standard library and TensorRT."""
    source = (target.folder / "build.py").read_text()
    tree = ast.parse(source, feature_version=(3, 6))
    names = {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert names - {"tensorrt"} <= set(sys.stdlib_module_names) and "__future__" not in names
    assert not any(isinstance(n, ast.NamedExpr) for n in ast.walk(tree))


def test_cache_key_follows_the_machine(target, build, bare, monkeypatch):
    machine = target.load("machine")
    before = machine.facts()
    assert before == {"tensorrt": before["tensorrt"], "trtexec": None, "gpu": {}}
    monkeypatch.setattr(build, "find_trtexec", lambda: sys.executable)
    assert machine.facts()["trtexec"][0] == sys.executable != before["trtexec"]


def test_int8_needs_pairs(convert_engine):
    with pytest.raises(EdgesegError, match="no Q/DQ pairs"):
        convert_engine(precision="int8")
