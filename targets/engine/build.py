#!/usr/bin/env python3
"""Build a TensorRT engine from an ONNX file, on the machine that will run it, and report how fast it is.

Needs nothing but Python 3.6 and TensorRT: its Python package, or ``trtexec``. In a build kit, type ``python3 build.py``. The
engine file starts with the length of its metadata (4 bytes, little endian) and the metadata as JSON, then the engine itself,
which is how tools of the ecosystem keep it.
"""

# Python 3.6 is what the oldest Jetson has: no `from __future__ import annotations`, no `X | None`, no `list[str]`.
# ruff: noqa: UP006, UP021, UP035, UP045

import argparse
import ctypes
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from typing import Any, Callable, Dict, List, Optional, Tuple

TRTEXEC = "/usr/src/tensorrt/bin/trtexec"
HEADER_LIMIT = 1 << 24
_CUDA = ("libcuda.so.1", "libcuda.so", "nvcuda.dll")
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
# Integer arithmetic of 8 bits came with these; the Jetson Nano (5.3), TX1 (5.3) and TX2 (6.2) lack it.
_NO_INT8 = ("5.0", "5.2", "5.3", "6.0", "6.2")

Say = Callable[[float, str], None]


class BuildError(Exception):
    """Something that a person must change; ``hint`` is what to do."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what + (". " + hint if hint else ""))
        self.what, self.hint = what, hint


class Cuda:
    """The CUDA driver, called directly: its functions are the same in every version, and it is there where a GPU is.

    Memory is device memory, addresses are integers. One stream, on the primary context of device 0, which TensorRT uses too.
    """

    def __init__(self) -> None:
        self.lib = _load_driver()
        if self.lib is None:
            raise BuildError("there is no NVIDIA driver on this machine", "Run this on the machine with the GPU")
        self._call("cuInit", ctypes.c_uint(0))
        self._device, self._context, self.stream = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuDeviceGet", ctypes.byref(self._device), ctypes.c_int(0))

    def start(self) -> "Cuda":
        """Make the primary context current and create the stream."""
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)
        self.use()
        self._call("cuStreamCreate", ctypes.byref(self.stream), ctypes.c_uint(1))
        return self

    def use(self) -> None:
        """Make the context current in this thread."""
        self._call("cuCtxSetCurrent", self._context)

    def facts(self) -> Dict[str, str]:
        """Name of the GPU, its compute capability and the newest CUDA version that the driver knows."""
        name, number = ctypes.create_string_buffer(256), ctypes.c_int()
        self._call("cuDeviceGetName", name, ctypes.c_int(256), self._device)
        parts = []
        for attribute in (_MAJOR, _MINOR):
            self._call("cuDeviceGetAttribute", ctypes.byref(number), ctypes.c_int(attribute), self._device)
            parts.append(str(number.value))
        self._call("cuDriverGetVersion", ctypes.byref(number))
        driver = f"{number.value // 1000}.{number.value % 1000 // 10}"
        return {"gpu": name.value.decode("utf-8", "replace"), "compute_capability": ".".join(parts), "cuda_driver": driver}

    def allocate(self, size: int) -> int:
        """Address of ``size`` bytes of device memory."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(size, 1)))
        return int(address.value)

    def free(self, address: int) -> None:
        """Give device memory back."""
        self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def upload(self, address: int, host: int, size: int) -> None:
        """Copy from host memory; complete after ``wait``."""
        self._call(
            "cuMemcpyHtoDAsync_v2", ctypes.c_uint64(address), ctypes.c_void_p(host), ctypes.c_size_t(size), self.stream
        )

    def download(self, host: int, address: int, size: int) -> None:
        """Copy to host memory; complete after ``wait``."""
        self._call(
            "cuMemcpyDtoHAsync_v2", ctypes.c_void_p(host), ctypes.c_uint64(address), ctypes.c_size_t(size), self.stream
        )

    def wait(self) -> None:
        """Until all work of the stream is done."""
        self._call("cuStreamSynchronize", self.stream)

    def _call(self, name: str, *arguments: Any) -> None:
        function = getattr(self.lib, name)
        function.restype = ctypes.c_int
        code = function(*arguments)
        if code:
            words = ctypes.c_char_p()
            self.lib.cuGetErrorString(ctypes.c_int(code), ctypes.byref(words))
            text = words.value.decode() if words.value else "unknown error"
            raise BuildError(f"CUDA: {name} failed ({code}: {text})", "Is the GPU free and its driver up to date?")


def _load_driver() -> Any:
    for name in _CUDA:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def gpu_facts() -> Dict[str, str]:
    """What ``Cuda.facts`` says, {} without a GPU."""
    try:
        return Cuda().facts()
    except BuildError:
        return {}


def machine_facts() -> Dict[str, str]:
    """The machine, for the report."""
    facts = {"machine": platform.machine(), "python": platform.python_version()}
    for key, file in (("board", "/proc/device-tree/model"), ("jetpack", "/etc/nv_tegra_release")):
        if os.path.isfile(file):
            with open(file, "rb") as f:
                facts[key] = f.read(200).split(b"\n")[0].strip(b"\0 ").decode("utf-8", "replace")
    facts.update(gpu_facts())
    return facts


def find_trtexec() -> Optional[str]:
    """Path of ``trtexec``: on the PATH, else where the Debian packages put it."""
    return shutil.which("trtexec") or (TRTEXEC if os.access(TRTEXEC, os.X_OK) else None)


def import_tensorrt() -> Any:
    """The ``tensorrt`` package, None where it is missing or broken."""
    try:
        import tensorrt
    except (ImportError, OSError):
        return None
    return tensorrt if hasattr(tensorrt, "Builder") else None


def build(onnx: str, settings: Dict[str, Any], timing_cache: str, say: Say) -> Tuple[bytes, Dict[str, Any]]:
    """The serialized engine, and the facts about it: tool, TensorRT version, GPU, seconds.

    Args:
        onnx: path of the ONNX file.
        settings: ``precision`` (fp32, fp16, int8), ``input``, ``shape`` (N, 3, H, W), ``dynamic``, ``workspace`` (GiB).
        timing_cache: file that keeps the timings of kernels, so that the next build is quicker.
        say: told (0..1, words).

    Raises:
        BuildError: neither tool is here, this GPU cannot, or TensorRT refused the network.
    """
    gpu = gpu_facts()
    if settings["precision"] == "int8" and gpu.get("compute_capability") in _NO_INT8:
        raise BuildError(
            "{} (compute capability {}) has no 8-bit arithmetic".format(gpu["gpu"], gpu["compute_capability"]),
            "Export with half in place of int8",
        )
    trt, trtexec, start = import_tensorrt(), find_trtexec(), time.time()
    if trt is not None:
        engine, facts = _build_by_api(trt, onnx, settings, timing_cache, say)
    elif trtexec is not None:
        engine, facts = _build_by_trtexec(trtexec, onnx, settings, timing_cache, say)
    else:
        raise BuildError(
            "there is neither the tensorrt package nor trtexec",
            "On a Jetson: sudo apt-get install tensorrt python3-libnvinfer",
        )
    return engine, dict(facts, seconds=round(time.time() - start, 1), precision=settings["precision"], **gpu)


def shapes(settings: Dict[str, Any]) -> List[Tuple[int, ...]]:
    """Smallest, usual and largest input shape; a dynamic engine takes every multiple of 32 up to the exported size."""
    n, c, h, w = settings["shape"]
    return [(1, c, 32, 32), (n, c, h, w), (n, c, h, w)] if settings["dynamic"] else [(n, c, h, w)] * 3


def _build_by_api(
    trt: Any, onnx: str, settings: Dict[str, Any], timing_cache: str, say: Say
) -> Tuple[bytes, Dict[str, Any]]:
    major, precision = int(trt.__version__.split(".")[0]), settings["precision"]
    builder = trt.Builder(trt.Logger(trt.Logger.WARNING))
    flags = trt.NetworkDefinitionCreationFlag
    # Types as the ONNX file has them. Version 10 must be told, 11 knows nothing else, older ones choose by builder flags.
    wanted = getattr(flags, "EXPLICIT_BATCH" if major < 10 else "STRONGLY_TYPED", None) if major < 11 else None
    network = builder.create_network(0 if wanted is None else 1 << int(wanted))
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.WARNING))
    say(0.05, "reading the ONNX file")
    with open(onnx, "rb") as f:
        if not parser.parse(f.read()):
            why = "; ".join(str(parser.get_error(i)) for i in range(min(parser.num_errors, 3)))
            raise BuildError(f"TensorRT cannot read the network ({why})", "Try an older opset: --opset 13")
    config = builder.create_builder_config()
    if settings.get("workspace"):
        size = int(settings["workspace"] * (1 << 30))
        if hasattr(config, "set_memory_pool_limit"):
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, size)
        else:
            config.max_workspace_size = size
    if major < 10 and precision != "fp32":
        config.set_flag(getattr(trt.BuilderFlag, "FP16" if precision == "fp16" else "INT8"))
    if precision == "fp32" and hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)  # ten bits of mantissa are no fp32
    if settings["dynamic"]:
        profile = builder.create_optimization_profile()
        profile.set_shape(settings["input"], *shapes(settings))
        config.add_optimization_profile(profile)
    known = b""
    if os.path.isfile(timing_cache):
        with open(timing_cache, "rb") as f:
            known = f.read()
    cache = config.create_timing_cache(known)
    if cache is None:  # written by another version
        cache = config.create_timing_cache(b"")
    config.set_timing_cache(cache, False)
    say(0.1, "building for this GPU, minutes")
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise BuildError(
            "TensorRT could not build the engine", "What it printed above says why; is there enough free memory?"
        )
    say(0.95, "built")
    write_whole(timing_cache, bytes(memoryview(config.get_timing_cache().serialize())))
    return bytes(memoryview(engine)), {"tool": "tensorrt", "tensorrt": trt.__version__}


def _build_by_trtexec(
    trtexec: str, onnx: str, settings: Dict[str, Any], timing_cache: str, say: Say
) -> Tuple[bytes, Dict[str, Any]]:
    version = trtexec_version(trtexec)
    major = int(version.split(".")[0])
    made = timing_cache + ".engine"
    command = [trtexec, "--onnx=" + onnx, "--saveEngine=" + made, "--timingCacheFile=" + timing_cache]
    if major < 10:
        command += {"fp16": ["--fp16"], "int8": ["--int8"]}.get(settings["precision"], [])
    elif major == 10:
        command += ["--stronglyTyped"]
    if settings["precision"] == "fp32":
        command += ["--noTF32"]
    if settings.get("workspace"):
        size = int(settings["workspace"] * 1024)
        old = version_key(version) < (8, 4, 0)
        command += [f"--workspace={size}" if old else f"--memPoolSize=workspace:{size}"]
    if settings["dynamic"]:
        for name, shape in zip(("min", "opt", "max"), shapes(settings)):
            command += ["--{}Shapes={}:{}".format(name, settings["input"], "x".join(map(str, shape)))]
    command += ["--iterations=50", "--warmUp=200", "--duration=0"]
    say(0.1, "trtexec builds for this GPU, minutes")
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
    print(done.stdout, file=sys.stderr, flush=True)
    if done.returncode or not os.path.isfile(made):
        said = [line for line in done.stdout.splitlines() if "[E]" in line]
        why = said[0].split("[E]", 1)[1].strip() if said else f"exit code {done.returncode}"
        raise BuildError(f"trtexec could not build the engine ({why})", "What it printed says more")
    with open(made, "rb") as f:
        engine = f.read()
    os.remove(made)
    say(0.95, "built")
    return engine, {"tool": "trtexec", "tensorrt": version, "latency_ms": trtexec_latency(done.stdout)}


def trtexec_version(trtexec: str) -> str:
    """``8.5.2`` from ``[TensorRT v8502]``, ``10.3.0`` from ``[TensorRT v100300]``."""
    done = subprocess.run([trtexec, "--help"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
    found = re.search(r"TensorRT v(\d{4,6})", done.stdout)
    if not found:
        raise BuildError(f"{trtexec} does not say which TensorRT it is of", "Install TensorRT again")
    n = int(found.group(1))
    return ".".join(map(str, (n // 10000, n // 100 % 100, n % 100) if n >= 100000 else (n // 1000, n // 100 % 10, n % 100)))


def trtexec_latency(text: str) -> Optional[Dict[str, Any]]:
    """Milliseconds on the GPU as trtexec prints them, None if it printed none."""
    line = re.search(r"GPU Compute Time: (.*)", text)
    values = dict(re.findall(r"(min|max|mean|median) = ([\d.]+) ms", line.group(1))) if line else {}
    return dict({k: float(v) for k, v in values.items()}, runs=50, what="GPU only") if values else None


def version_key(version: str) -> Tuple[int, ...]:
    """(major, minor, patch) for comparison; further numbers are builds of the same version."""
    return tuple(int(n) for n in re.findall(r"\d+", version)[:3])


def time_engine(engine: bytes, shape: Tuple[int, ...], runs: int = 50) -> Optional[Dict[str, Any]]:
    """Milliseconds of ``runs`` runs on zeros, copies not counted; None where the API is too old (before 8.5)."""
    trt = import_tensorrt()
    if trt is None or version_key(trt.__version__) < (8, 5, 0):
        return None
    cuda = Cuda().start()
    loaded = trt.Runtime(trt.Logger(trt.Logger.WARNING)).deserialize_cuda_engine(engine)
    context = loaded.create_execution_context()
    names = [loaded.get_tensor_name(i) for i in range(loaded.num_io_tensors)]
    for name in names:
        if loaded.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
            context.set_input_shape(name, shape)
    held = []
    for name in names:
        size = trt.volume(context.get_tensor_shape(name)) * loaded.get_tensor_dtype(name).itemsize
        held.append(cuda.allocate(size))
        context.set_tensor_address(name, held[-1])
    times = []
    for i in range(runs + 10):
        start = time.time()
        context.execute_async_v3(cuda.stream.value)
        cuda.wait()
        if i >= 10:
            times.append((time.time() - start) * 1000)
    for address in held:
        cuda.free(address)
    summary = {"min": min(times), "max": max(times), "mean": statistics.mean(times), "median": statistics.median(times)}
    return dict({k: round(v, 3) for k, v in summary.items()}, runs=runs, what="without copies")


def pack(engine: bytes, metadata: Dict[str, Any]) -> bytes:
    """The file: length of the metadata, the metadata, the engine."""
    text = json.dumps(metadata).encode("utf-8")
    return len(text).to_bytes(4, "little") + text + engine


def unpack(content: bytes) -> Tuple[bytes, Dict[str, Any]]:
    """(engine, metadata) of a file; {} for an engine without any, as trtexec writes it."""
    size = int.from_bytes(content[:4], "little")
    if 2 <= size <= min(len(content) - 4, HEADER_LIMIT) and content[4:5] == b"{":
        try:
            value = json.loads(content[4 : 4 + size].decode("utf-8"))
        except ValueError:
            return content, {}
        if isinstance(value, dict):
            return content[4 + size :], value
    return content, {}


def write_whole(path: str, content: bytes) -> None:
    """Write beside, then rename: nobody finds half a file."""
    with open(f"{path}.{os.getpid()}.part", "wb") as f:
        f.write(content)
    os.replace(f.name, path)


def main(argv: Optional[List[str]] = None) -> int:
    """Build the engine of the kit that this file lies in."""
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description="Build the TensorRT engine of this kit on this machine.")
    name = re.sub(r"_engine_kit$", "", os.path.basename(here)) + ".engine"
    parser.add_argument("--out", default=os.path.join(here, name), help="the engine file (default: %(default)s)")
    parser.add_argument("--workspace", type=float, help="GiB of GPU memory that the builder may use")
    given = parser.parse_args(argv)
    with open(os.path.join(here, "metadata.json"), encoding="utf-8") as f:
        metadata = json.load(f)
    settings = metadata.pop("build")
    settings["workspace"] = given.workspace or settings.get("workspace")
    report: Dict[str, Any] = {"engine": given.out, "machine": machine_facts(), "ok": False}
    try:
        if "gpu" not in report["machine"]:
            raise BuildError("no NVIDIA GPU answers on this machine", "Copy this folder to the Jetson and run it there")
        print("Building for {gpu} (compute capability {compute_capability})".format(**report["machine"]), flush=True)
        engine, facts = build(
            os.path.join(here, "model.onnx"),
            settings,
            os.path.join(here, "timing.cache"),
            lambda d, what: print(what, flush=True),
        )
        report.update(facts)
        write_whole(given.out, pack(engine, dict(metadata, engine=json.dumps(facts))))
        report["bytes"] = os.path.getsize(given.out)
        if "latency_ms" not in report:
            report["latency_ms"] = time_engine(engine, tuple(settings["shape"]))
        report["ok"] = True
    except BuildError as e:
        report["error"] = str(e)
    write_whole(os.path.join(here, "report.json"), json.dumps(report, indent=1).encode("utf-8"))
    if not report["ok"]:
        print("Error: " + report["error"], file=sys.stderr)
        return 1
    latency = report["latency_ms"]
    print("{}: {:.1f} MB".format(given.out, report["bytes"] / 1e6) + (", {median} ms".format(**latency) if latency else ""))
    print(f"Now type: edgeseg predict {given.out} source=IMAGE    (report.json holds the figures)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
