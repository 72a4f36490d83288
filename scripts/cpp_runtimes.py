"""The runtimes that the C++ example links: what the Python packages of this environment bring, and the headers to it.

    python scripts/cpp_runtimes.py FOLDER [onnxruntime] [litert] [ncnn]

Makes FOLDER/NAME-VERSION for each (default: all three) and prints it, to be given to CMake as -DEDGESEG_ONNXRUNTIME,
-DEDGESEG_LITERT and -DEDGESEG_NCNN; what is there already stays. ONNX Runtime: the library of the Python package, the
headers of Debian's (an older header works with a newer library). LiteRT: the library of the Python package; what is needed
of its interface stands in the example. ncnn: the source package of the version that is installed, built with the layers
that exported networks have.

Exit code: 0 all are there, 2 one cannot be had here.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HEADERS = ("libonnxruntime-dev", "trixie")  # Debian's package, and the first release that has it
LAYERS = {
    *("BinaryOp", "Cast", "Clip", "Concat", "Convolution", "ConvolutionDepthWise", "Crop", "Deconvolution", "Dequantize"),
    *("Flatten", "Gemm", "Input", "InnerProduct", "Interp", "MatMul", "MemoryData", "Packing", "Padding", "Permute"),
    *("Pooling", "Quantize", "ReLU", "Requantize", "Reshape", "Sigmoid", "Slice", "Softmax", "Split", "Swish", "UnaryOp"),
}
# A static library for the oldest CPU alone, without threads: what takes the shortest to build.
OFF = (
    *("VULKAN", "BUILD_TOOLS", "BUILD_EXAMPLES", "BUILD_BENCHMARK", "BUILD_TESTS", "PYTHON", "OPENMP", "RUNTIME_CPU"),
    *("AVX", "AVX512", "BF16", "PIXEL", "C_API"),
)


class CannotBeHad(Exception):
    """Why a runtime is not to be had here."""


def call(*command: object, cwd: Path | None = None) -> str:
    """What a step printed; its last words become the reason when it fails."""
    words = [str(c) for c in command]
    if shutil.which(words[0]) is None:
        raise CannotBeHad(f"{words[0]} is not installed")
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=cwd)
    if done.returncode:
        raise CannotBeHad(f"{Path(words[0]).name} failed: {' / '.join(done.stdout.strip().splitlines()[-2:])}")
    return done.stdout


def version(package: str) -> str:
    """Which release of a Python package is installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError as e:
        raise CannotBeHad(f"the Python package {package} is not installed") from e


def library(package: str, name: str) -> Path:
    """The file of an installed package whose name matches."""
    files = importlib.metadata.files(package) or []
    found = sorted(Path(str(f.locate())).resolve() for f in files if re.fullmatch(name, f.name))
    if not found:
        raise CannotBeHad(f"the Python package {package} has no {name}")
    return found[-1]


def debian(package: str, release: str, place: Path) -> None:
    """Unpack a package of another Debian release, from the mirror that apt has here; nothing is installed."""
    targets = call("apt-get", "indextargets", "--format", "$(REPO_URI) $(ORIGIN)", "Created-By: Packages")
    mirrors = [line.split()[0] for line in targets.splitlines() if line.endswith(" Debian")]
    key = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    if not mirrors or not key.is_file():
        raise CannotBeHad("apt has no mirror of Debian here")
    with tempfile.TemporaryDirectory() as scratch:
        here = Path(scratch)
        for folder in ("lists/partial", "cache/archives/partial"):
            (here / folder).mkdir(parents=True)
        (here / "sources.list").write_text(f"deb [signed-by={key}] {mirrors[0]} {release} main\n")
        settings = {"Dir::Etc::sourcelist": here / "sources.list", "Dir::Etc::sourceparts": "/dev/null"}
        settings |= {"Dir::State::lists": here / "lists", "Dir::Cache": here / "cache"}
        options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        call("apt-get", *options, "update", cwd=here)
        call("apt-get", *options, "download", package, cwd=here)
        call("dpkg-deb", "-x", next(here.glob("*.deb")), place)


def onnxruntime(place: Path) -> None:
    file = library("onnxruntime", r"libonnxruntime\.so\.[\d.]+")
    with tempfile.TemporaryDirectory() as scratch:
        debian(*HEADERS, Path(scratch))
        shutil.copytree(Path(scratch) / "usr" / "include" / "onnxruntime", place / "include")
    (place / "lib").mkdir()
    shutil.copy(file, place / "lib" / "libonnxruntime.so.1")
    (place / "lib" / "libonnxruntime.so").symlink_to("libonnxruntime.so.1")


def litert(place: Path) -> None:
    file = library("ai-edge-litert", r"libLiteRt\.so")
    (place / "lib").mkdir(parents=True)
    shutil.copy(file, place / "lib")


def source(package: str, place: Path) -> Path:
    """The unpacked source package of the version that is installed.

    ncnn's calls itself by the day on which it is looked at, which pip refuses; asked for by its address, it does not.
    """
    wanted = f"{package}=={version(package)}"
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", package, "-d", str(place)]
    done = subprocess.run([*pip, wanted], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        address = re.search(r"https?://\S+\.tar\.gz", done.stdout)
        if address is None:
            raise CannotBeHad(f"pip failed: {' / '.join(done.stdout.strip().splitlines()[-2:])}")
        call(*pip, address[0])
    shutil.unpack_archive(next(place.glob("*.tar.gz")), place, filter="data")
    return next(p for p in place.iterdir() if p.is_dir())


def ncnn(place: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = source("ncnn", Path(scratch))
        layers = re.findall(r"^ncnn_add_layer\((\w+)", (folder / "src" / "CMakeLists.txt").read_text(), re.MULTILINE)
        options = [f"-DNCNN_{name}=OFF" for name in OFF]
        options += [f"-DWITH_LAYER_{name.lower()}=OFF" for name in layers if name not in LAYERS]
        kind = ("-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_CXX_FLAGS=-w", f"-DCMAKE_INSTALL_PREFIX={place.resolve()}")
        call("cmake", "-S", folder, "-B", folder / "build", *kind, *options)
        call("cmake", "--build", folder / "build", "--target", "install", "--parallel")


MAKERS = {"onnxruntime": ("onnxruntime", onnxruntime), "litert": ("ai-edge-litert", litert), "ncnn": ("ncnn", ncnn)}


def make(root: Path, name: str) -> Path:
    """The folder of a runtime below ``root``, made where it is not there yet, and there only when it is whole.

    Raises:
        CannotBeHad: a tool, a package or the network is missing.
    """
    package, made = MAKERS[name]
    place = root.resolve() / f"{name}-{version(package)}"
    if not place.is_dir():
        try:
            made(place)
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise
    return place


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(MAKERS)}; default: all")
    args = parser.parse_args()
    for name in set(args.names) - set(MAKERS):
        parser.error(f"no runtime is called {name}")
    code = 0
    for name in args.names or MAKERS:
        try:
            print(make(args.folder, name))
        except CannotBeHad as e:
            print(f"error: {name}: {e}", file=sys.stderr)
            code = 2
    return code


if __name__ == "__main__":
    sys.exit(main())
