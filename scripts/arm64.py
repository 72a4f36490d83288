"""Run a script on an emulated Raspberry Pi: the real aarch64 packages on a Cortex-A72 (Pi 4) and a Cortex-A76 (Pi 5).

    python scripts/arm64.py                                        the golden tensors and detections, all CPUs and OpenCVs
    python scripts/arm64.py --package onnxruntime my_script.py ARGS...      another script, with more packages

Needs Linux with qemu-aarch64-static and mmdebstrap (Debian: apt-get install qemu-user-static mmdebstrap) and, the first
time, a network. What it makes stays in ``--root`` (400 MB). Emulated results are those of the CPU, emulated times mean
nothing.

Exit code: 0 all runs succeeded, 1 a run failed, 2 the emulated machine cannot be made here.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
GOLDEN = HERE / "tests" / "vision" / "test_same_pixels.py"

SUITE, PYTHON = "bookworm", "3.11"
DEBIAN = ("python3-minimal", "python3.11", "libpython3.11-stdlib", "libstdc++6", "libgomp1", "libc-bin", "coreutils", "dash")
GLIBC = (36, 35, 34, 31, 28, 27, 26, 24, 17)  # manylinux tags that this Debian's C library satisfies

# The oldest and the newest OpenCV that edgeseg supports; the oldest knows no NumPy 2.
SITES = {
    "old": ("opencv-python-headless==4.9.0.80", "numpy==1.26.4"),
    "new": ("opencv-python-headless==5.0.0.93", "numpy>=2.4"),
}

# What such a machine's /proc/cpuinfo says: part number and features. Libraries choose their kernels by it. The features of
# an A76 on an A72 end in an illegal instruction.
CPUS = {
    "cortex-a72": ("0xd08", "fp asimd evtstrm crc32 cpuid"),
    "cortex-a76": (
        "0xd0b",
        "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
    ),
}


class CannotBeMade(Exception):
    """Why there is no emulated machine here."""


def call(command: Sequence[str | Path]) -> None:
    """Run a step of the set-up quietly; its own last words become the reason when it fails."""
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise CannotBeMade(f"{Path(command[0]).name} failed: {' / '.join(done.stdout.strip().splitlines()[-2:])}")


def make_root(root: Path) -> Path:
    """Debian for arm64 with a Python, unpacked and never started; in place only when it is whole."""
    for tool in ("qemu-aarch64-static", "mmdebstrap"):
        if shutil.which(tool) is None:
            raise CannotBeMade(f"{tool} is not installed (apt-get install qemu-user-static mmdebstrap)")
    system = root / "system"
    if not system.is_dir():
        root.mkdir(parents=True, exist_ok=True)
        part = root / "system.part"
        shutil.rmtree(part, ignore_errors=True)
        include = f"--include={','.join(DEBIAN)}"
        call(["mmdebstrap", "--quiet", "--variant=extract", "--arch=arm64", include, SUITE, part])
        (part / "proc").mkdir(exist_ok=True)
        part.rename(system)
    return system


def make_site(root: Path, packages: Sequence[str]) -> Path:
    """A folder with the aarch64 wheels of ``packages``; in place only when it is whole."""
    site = root / f"site-{hashlib.sha256(' '.join(packages).encode()).hexdigest()[:12]}"
    if not site.is_dir():
        part = site.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        tags = [f"manylinux_2_{minor}_aarch64" for minor in GLIBC] + ["manylinux2014_aarch64"]
        platforms = [word for tag in tags for word in ("--platform", tag)]
        abis = ["--abi", f"cp{PYTHON.replace('.', '')}", "--abi", "abi3", "--abi", "none"]
        pip = [sys.executable, "-m", "pip", "install", "-q", "--only-binary=:all:", "--implementation", "cp"]
        call([*pip, "--python-version", PYTHON, *platforms, *abis, "--target", part, *packages])
        part.rename(site)
    return site


def cpuinfo(cpu: str) -> str:
    """/proc/cpuinfo of a machine with four such cores."""
    part, features = CPUS[cpu]
    core = f"Features\t: {features}\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: {part}\n"
    return "".join(f"processor\t: {i}\n{core}CPU revision\t: 3\n\n" for i in range(4))


def run(system: Path, cpu: str, site: Path, script: Sequence[str]) -> int:
    """Exit code of a Python script on the emulated CPU; its output goes to ours."""
    (system / "proc" / "cpuinfo").write_text(cpuinfo(cpu))
    path = os.pathsep.join((str(site), str(HERE)))
    environment = {"PATH": os.environ["PATH"], "HOME": "/tmp", "LANG": "C.UTF-8", "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    python = system / "usr" / "bin" / f"python{PYTHON}"
    command = ["qemu-aarch64-static", "-cpu", cpu, "-L", str(system), str(python), "-B", *script]
    return subprocess.run(command, env=environment).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--root", type=Path, default=HERE / "build" / "arm64", help="where the emulated machine is kept")
    parser.add_argument("--cpu", action="append", choices=CPUS, help="default: all")
    parser.add_argument("--opencv", action="append", choices=SITES, help="default: all")
    parser.add_argument("--package", action="append", default=[], help="another package that the script needs; repeatable")
    parser.add_argument("script", nargs=argparse.REMAINDER, help="script and its arguments (default: the golden test)")
    args = parser.parse_args()
    try:
        system = make_root(args.root.resolve())
        sites = [make_site(args.root.resolve(), (*SITES[o], "PyYAML", *args.package)) for o in args.opencv or SITES]
    except CannotBeMade as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    script = args.script or [str(GOLDEN)]
    failed = 0
    for cpu in args.cpu or CPUS:
        for site in sites:
            code = run(system, cpu, site, script)
            print(f"{cpu}: {'done' if code == 0 else f'exit code {code}'}", flush=True)
            failed += code != 0
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
