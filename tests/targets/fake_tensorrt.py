"""Stand-ins for the ``tensorrt`` package of any generation, recording what it is asked, for trtexec, for the CUDA driver.

The engine that it "builds" holds the names and shapes of the outputs; executing it writes, into each of them, the
mean of the input plus the output's number.
"""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
import types
from pathlib import Path
from typing import Any

import numpy as np

DRIVER = r"""
#include <stdlib.h>
#include <string.h>
#include <stdint.h>
typedef int32_t R;
R cuInit(unsigned f) { return f ? 1 : 0; }
R cuDeviceGet(int *d, int n) { *d = 7; return n; }
R cuDevicePrimaryCtxRetain(void **c, int d) { *c = (void *)0x1234567890ull; return d == 7 ? 0 : 2; }
R cuCtxSetCurrent(void *c) { return c == (void *)0x1234567890ull ? 0 : 3; }
R cuStreamCreate(void **s, unsigned f) { *s = (void *)0xabcdef012345ull; return f == 1 ? 0 : 4; }
R cuStreamSynchronize(void *s) { return s == (void *)0xabcdef012345ull ? 0 : 5; }
R cuDeviceGetName(char *n, int len, int d) { strncpy(n, "Fake Orin", len); return d == 7 ? 0 : 6; }
R cuDeviceGetAttribute(int *v, int a, int d) { *v = a == 75 ? 8 : a == 76 ? 7 : -1; return d == 7 ? 0 : 7; }
R cuDriverGetVersion(int *v) { *v = 12060; return 0; }
R cuMemAlloc_v2(uint64_t *p, size_t n) { *p = (uint64_t)malloc(n); return n > (1ull << 34) ? 2 : *p ? 0 : 8; }
R cuMemFree_v2(uint64_t p) { free((void *)p); return 0; }
R cuMemcpyHtoDAsync_v2(uint64_t d, const void *h, size_t n, void *s) {
  memcpy((void *)d, h, n); return s == (void *)0xabcdef012345ull ? 0 : 9; }
R cuMemcpyDtoHAsync_v2(void *h, uint64_t d, size_t n, void *s) {
  memcpy(h, (void *)d, n); return s == (void *)0xabcdef012345ull ? 0 : 10; }
R cuGetErrorString(int e, const char **t) { *t = e == 2 ? "out of memory" : "wrong argument"; return 0; }
"""


def driver(folder: Path) -> str | None:
    """A shared library with the functions of the CUDA driver that are used, on host memory; None without a C compiler."""
    cc = shutil.which("cc")
    if cc is None:
        return None
    source, made = folder / "cuda.c", folder / "libcuda.so.1"
    source.write_text(DRIVER)
    subprocess.run([cc, "-shared", "-fPIC", "-o", str(made), str(source)], check=True)
    return str(made)


class _Names:
    """An enumeration: each name is worth its place."""

    def __init__(self, *names: str) -> None:
        for i, name in enumerate(names):
            setattr(self, name, i)


def package(version: str, outputs: dict[str, tuple[int, ...]], calls: list[tuple[Any, ...]]) -> types.ModuleType:
    """The module ``tensorrt`` of a version: 8.2, 8.6, 10.x or 11.x differ as the real ones do."""
    major = int(version.split(".")[0])
    trt: Any = types.ModuleType("tensorrt")
    trt.__version__ = version
    flags = {8: ("EXPLICIT_BATCH", "EXPLICIT_PRECISION"), 10: ("EXPLICIT_BATCH", "STRONGLY_TYPED")}
    trt.NetworkDefinitionCreationFlag = _Names(*flags.get(major, ("STRONGLY_TYPED",)))
    trt.BuilderFlag = _Names("TF32", *(("FP16", "INT8") if major < 11 else ()))
    trt.MemoryPoolType, trt.TensorIOMode = _Names("WORKSPACE"), _Names("NONE", "INPUT", "OUTPUT")
    trt.nptype = lambda dtype: dtype
    trt.volume = lambda shape: int(np.prod(shape))

    class Logger:
        WARNING, ERROR = 1, 2

        def __init__(self, level: int) -> None: ...

    class Network: ...

    class Cache:
        def __init__(self, known: bytes) -> None:
            self.known = known

        def serialize(self) -> bytes:
            return self.known + b"timed"

    class Config:
        def set_flag(self, flag: int) -> None:
            calls.append(("set_flag", flag))

        def clear_flag(self, flag: int) -> None:
            calls.append(("clear_flag", flag))

        def create_timing_cache(self, known: bytes) -> Any:
            calls.append(("timing_cache", known))
            return None if known == b"of another version" else Cache(known)

        def set_timing_cache(self, cache: Any, ignore: bool) -> None:
            self.cache = cache

        def get_timing_cache(self) -> Any:
            return self.cache

        def add_optimization_profile(self, profile: Any) -> None:
            calls.append(("profile", profile.shapes))

    if version != "8.2.1":
        Config.set_memory_pool_limit = lambda self, pool, size: calls.append(("workspace", pool, size))

    class Profile:
        def set_shape(self, name: str, *shapes: Any) -> None:
            self.shapes = (name, *shapes)

    class Builder:
        def __init__(self, logger: Any) -> None: ...

        def create_network(self, value: int) -> Any:
            calls.append(("network", value))
            return Network()

        def create_builder_config(self) -> Any:
            self.config = Config()
            return self.config

        def create_optimization_profile(self) -> Any:
            return Profile()

        def build_serialized_network(self, network: Any, config: Any) -> Any:
            if getattr(config, "max_workspace_size", 0):
                calls.append(("max_workspace_size", config.max_workspace_size))
            return None if network.data == b"unbuildable" else b"ptrt" + json.dumps(outputs).encode()

    class OnnxParser:
        num_errors = 1

        def __init__(self, network: Any, logger: Any) -> None:
            self.network = network

        def parse(self, data: bytes) -> bool:
            self.network.data = data
            return data != b"unreadable"

        def get_error(self, i: int) -> str:
            return "node 3: no such operator"

    class Context:
        def __init__(self, engine: Any) -> None:
            self.engine, self.addresses, self.shape = engine, {}, None

        def set_input_shape(self, name: str, shape: Any) -> bool:
            self.shape = tuple(shape)
            return True

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return self.shape if name == "images" else tuple(self.engine.outputs[name])

        def set_tensor_address(self, name: str, address: int) -> bool:
            assert isinstance(address, int) and address
            self.addresses[name] = address
            return True

        def execute_async_v3(self, stream: int) -> bool:
            assert stream == 0xABCDEF012345
            mean = float(_floats(self.addresses["images"], self.shape).mean())
            for i, name in enumerate(self.engine.outputs):
                _floats(self.addresses[name], self.get_tensor_shape(name))[...] = mean + i
            return True

    class Engine:
        def __init__(self, content: bytes) -> None:
            self.outputs = {k: tuple(v) for k, v in json.loads(content[4:]).items()}
            self.names = ["images", *self.outputs]
            self.num_io_tensors = len(self.names)

        def get_tensor_name(self, i: int) -> str:
            return self.names[i]

        def get_tensor_mode(self, name: str) -> int:
            return trt.TensorIOMode.INPUT if name == "images" else trt.TensorIOMode.OUTPUT

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return (1, 3, 64, 96) if name == "images" else self.outputs[name]

        def get_tensor_dtype(self, name: str) -> Any:
            return np.dtype(np.float32)

        def create_execution_context(self) -> Any:
            return Context(self)

    class Runtime:
        def __init__(self, logger: Any) -> None: ...

        def deserialize_cuda_engine(self, content: bytes) -> Any:
            return Engine(content) if content[:4] == b"ptrt" else None

    for cls in (Logger, Builder, OnnxParser, Runtime):
        setattr(trt, cls.__name__, cls)
    return trt


def _floats(address: int, shape: Any) -> np.ndarray:
    count = int(np.prod(shape))
    return np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(ctypes.c_float)), (count,)).reshape(shape)


TRTEXEC = """#!/bin/sh
echo "&&&& RUNNING TensorRT.trtexec [TensorRT v{banner}] # $*"
echo "$*" >> "{log}"
for word in "$@"; do
  case "$word" in
    --saveEngine=*) out="${{word#--saveEngine=}}" ;;
    --timingCacheFile=*) printf timed > "${{word#--timingCacheFile=}}" ;;
    --help) exit 0 ;;
  esac
done
{body}
"""
BUILDS = """printf 'ptrt{"proto": [1]}' > "$out"
echo "[11/23/2026-00:00:00] [I] GPU Compute Time: min = 3.1 ms, max = 4.2 ms, mean = 3.4 ms, median = 3.3 ms"
"""
FAILS = 'echo "[11/23/2026-00:00:00] [E] Error[4]: internal error, no such kernel"; exit 1'


def trtexec(folder: Path, banner: str, body: str = BUILDS) -> Path:
    """A ``trtexec`` in ``folder`` that writes a file; its words are appended to ``trtexec.log``."""
    folder.mkdir(exist_ok=True)
    file = folder / "trtexec"
    file.write_text(TRTEXEC.format(banner=banner, log=folder / "trtexec.log", body=body))
    file.chmod(0o755)
    return file
