"""The C++ decoder against the golden vectors: GCC, Clang, sanitizers, arm64, mutated inputs, instructions."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
HEADERS = ROOT / "edgeseg" / "decoders" / "cpp"
STRICT = ("-std=c++17", "-Wall", "-Wextra", "-Werror", f"-I{HEADERS}")
SANE = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
MASKS_OF_ALL = 500_000_000  # pixels that the vectors compare
COUNTED = ("demo-seg-320-int8", "demo-seg-320-float32", "many-int8", "many-float32")  # many: 300 detections

Build = Callable[..., Path]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """``build(source, *flags, compiler)``: the program's path, made once; skips without the compiler."""
    folder, made = tmp_path_factory.mktemp("cpp"), {}

    def make(source: str, *flags: str, compiler: str = "g++") -> Path:
        if shutil.which(compiler) is None:
            pytest.skip(f"no {compiler} (Debian: apt-get install g++ clang g++-aarch64-linux-gnu)")
        key = (source, flags, compiler)
        if key not in made:
            made[key] = folder / f"program{len(made)}"
            done = run([compiler, *STRICT, *flags, HERE / source, "-o", made[key]])
            if "cannot find" in done.stderr and "clang_rt" in done.stderr:
                pytest.skip("Clang has no sanitizers here (Debian: apt-get install libclang-rt-14-dev)")
            assert done.returncode == 0 and not done.stderr, done.stderr
        return made[key]

    return make


def run(command: Sequence[str | Path], seconds: float = 900, **more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=seconds, **more)  # type: ignore[call-overload,no-any-return]


def agrees(command: Sequence[str | Path], vectors: Path) -> None:
    """All vectors are decoded to the pixel, and the program says so."""
    index = json.loads((vectors / "index.json").read_text())
    done = run([*command, vectors])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    said = re.match(r"(\d+) cases, (\d+) inputs, (\d+) mask pixels, largest difference (\S+), 0 wrong", done.stdout)
    assert said, done.stdout
    assert [int(said[1]), int(said[2])] == [len(index["cases"]), len(index["inputs"])]
    assert int(said[3]) > MASKS_OF_ALL and float(said[4]) <= 1e-4


def test_gcc_decodes_all_vectors_to_the_pixel_and_allocates_nothing(build: Build, vectors: Path) -> None:
    agrees([build("cpp/vectors.cpp", "-O1")], vectors)


def test_a_difference_is_seen(build: Build, vectors: Path, tmp_path: Path) -> None:
    """The comparison can fail: one pixel of one mask, one box by 2e-4, one input byte."""
    for name in ("raw-int8-nhwc", "input-65x97-int8-nhwc"):
        shutil.copytree(vectors / name, tmp_path / name)
    index = {"version": 1, "cases": ["raw-int8-nhwc"], "inputs": ["input-65x97-int8-nhwc"]}
    (tmp_path / "index.json").write_text(json.dumps(index))
    file = tmp_path / "raw-int8-nhwc" / "case.json"
    case = json.loads(file.read_text())
    case["expected"]["tiles"][3]["runs"][2] -= 1
    case["expected"]["tiles"][3]["runs"][3] += 1
    case["expected"]["boxes"][5][2] += 2e-4
    file.write_text(json.dumps(case))
    tensor = tmp_path / "input-65x97-int8-nhwc" / "tensor.bin"
    tensor.write_bytes(tensor.read_bytes()[:-1] + b"\x05")
    done = run([build("cpp/vectors.cpp", "-O1"), tmp_path])
    assert done.returncode == 1
    for said in ("another mask", "another box", "another input tensor"):
        assert said in done.stdout


def test_manifests_are_read_as_python_reads_them(build: Build, vectors: Path) -> None:
    program = build("cpp/manifest.cpp", "-O1")

    def said(manifest: dict[str, object]) -> tuple[int, str]:
        done = run([program], input=json.dumps(manifest))
        return done.returncode, done.stdout.strip()

    good = json.loads(json.loads((vectors / "raw-int8-nhwc" / "case.json").read_text())["manifest"])
    assert said({**good, "names": ["é \U0001f600", 'a "b"\n', "c"]}) == (0, 'test 64x96 16 3 10\né \U0001f600\na "b"\n\nc')
    assert said({**good, "of_tomorrow": {"a": [1, {}]}, "args": {"x": float("nan")}})[0] == 0
    del (without := dict(good))["reg_max"]
    assert said(without) == said(good)
    assert said({**good, "schema": 2}) == (1, "a newer edgeseg wrote the manifest: update edgeseg.hpp")
    for wrong in ({"schema": 0}, {"imgsz": [64]}, {"names": "a"}, {"head": "new"}, {"outputs": [{}]}, {"reg_max": 1.5}):
        assert said({**good, **wrong})[0] == 1, wrong
    assert run([program], input="[" * 100_000).returncode == 1
    assert run([program], input=json.dumps(good)[:-1]).returncode == 1


def test_suppression_of_many_boxes_looks_at_few_pairs(build: Build) -> None:
    """The same boxes stay as when all pairs are compared; how many pairs are is bounded on boxes of every shape."""
    done = run([build("cpp/suppress.cpp", "-O2"), "4000"])
    assert done.returncode == 0 and done.stdout.endswith("\n0 wrong\n"), done.stdout
    assert done.stdout.count(" looks each\n") == 73


@pytest.mark.slow
def test_every_header_stands_alone_and_clang_agrees(build: Build, vectors: Path) -> None:
    agrees([build("cpp/vectors.cpp", "-O3", compiler="clang++")], vectors)
    agrees([build("cpp/vectors.cpp", "-O3", "-march=native", "-ffp-contract=fast")], vectors)
    for header in sorted(HEADERS.rglob("*.hpp")):
        done = run(["g++", *STRICT, "-x", "c++", "-fsyntax-only", "-"], input=f'#include "{header}"\nint main() {{}}\n')
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ("g++", "clang++"))
def test_sanitizers_find_nothing(compiler: str, build: Build, vectors: Path) -> None:
    agrees([build("cpp/vectors.cpp", "-O1", *SANE, compiler=compiler)], vectors)


@pytest.mark.slow
def test_a_hundred_thousand_mutated_inputs(build: Build, vectors: Path, tmp_path: Path) -> None:
    compiler = "clang++" if shutil.which("clang++") else "g++"
    program = build("fuzz_cpp.cpp", "-O2", *SANE, compiler=compiler)
    done = run([program, vectors, "100000", "0", tmp_path / "seed"])
    last = (tmp_path / "seed").read_text()
    assert done.returncode == 0, f"seed {last}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
    decoded = int(re.search(r"(\d+) decoded", done.stdout)[1])  # type: ignore[index]
    assert decoded > 20_000, "most inputs are refused before anything is decoded"
    print(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("cpu", ("cortex-a72", "cortex-a76"))
def test_arm64_gives_the_same(cpu: str, build: Build, vectors: Path) -> None:
    """Fused multiply-add, which GCC uses there by itself, changes nothing."""
    if shutil.which("qemu-aarch64-static") is None:
        pytest.skip("no qemu-aarch64-static (Debian: apt-get install qemu-user-static)")
    program = build("cpp/vectors.cpp", "-O3", "-static", compiler="aarch64-linux-gnu-g++")
    agrees(["qemu-aarch64-static", "-cpu", cpu, program], vectors)


@pytest.mark.slow
def test_at_most_a_third_of_pythons_instructions_on_boards(
    build: Build, vectors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the emulated Raspberry Pi 4 and 5 of ``scripts/arm64.py``, counted by the plugin of ``scripts/board_counts.py``."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    arm64, counts = importlib.import_module("arm64"), importlib.import_module("board_counts")
    program = build("cpp/count.cpp", "-O3", "-static", compiler="aarch64-linux-gnu-g++")
    try:
        plugin, place = counts.plugin(arm64.ROOT), arm64.make_site(arm64.ROOT, arm64.SITES["new"])
        machines = [arm64.make_machine(arm64.ROOT, cpu) for cpu in arm64.CPUS]
    except arm64.CannotBeMade as e:
        pytest.skip(str(e))
    for machine in machines:
        qemu = ("qemu-aarch64", "-plugin", str(plugin))
        for case in COUNTED:
            words = [vectors / case, "4"]
            path = (place, ROOT)
            theirs = replace(machine, qemu=qemu).run(path, [HERE / "count.py", *words], capture_output=True)
            ours = run([*qemu, "-cpu", machine.cpu, program, *words])
            found = []
            for done in (ours, theirs):
                marks = dict(re.findall(r"^mark ([12]) (\d+)$", done.stderr, re.MULTILINE))
                assert done.returncode == 0 and len(marks) == 2, done.stderr[-2000:]
                found.append(int(marks["2"]) - int(marks["1"]))
            print(f"{machine.cpu}, {case}: C++ {found[0] / 1e6:.3f}, Python {found[1] / 1e6:.3f} million instructions")
            assert 0 < 3 * found[0] <= found[1]


@pytest.mark.slow
@pytest.mark.parametrize("case", COUNTED[:2])
def test_at_most_a_third_of_pythons_instructions_here(case: str, build: Build, vectors: Path, tmp_path: Path) -> None:
    """On this CPU, counted by Valgrind: what one more picture costs, the start of both left out."""
    if shutil.which("valgrind") is None:
        pytest.skip("no valgrind (Debian: apt-get install valgrind)")
    program, python = build("cpp/count.cpp", "-O3"), [sys.executable, HERE / "count.py"]

    def counted(command: Sequence[str | Path], times: int) -> int:
        tool = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={tmp_path / 'out'}"]
        done = run([*tool, *command, vectors / case, str(times)], env={**os.environ, "OMP_NUM_THREADS": "1"})
        found = re.search(r"Collected : (\d+)", done.stderr)
        assert done.returncode == 0 and found, done.stderr[-2000:]
        return int(found[1])

    ours, theirs = (counted(c, 23) - counted(c, 3) for c in ([program], python))
    print(f"{case}: C++ {ours / 20e6:.3f}, Python {theirs / 20e6:.3f} million instructions")
    assert 0 < 3 * ours <= theirs
