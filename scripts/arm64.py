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
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
GOLDEN = HERE / "tests" / "vision" / "test_same_pixels.py"
ROOT = HERE / "build" / "arm64"

# Raspberry Pi OS follows Debian: its release, and the newest manylinux tag (glibc 2.x) that its C library satisfies.
DEBIANS = {"3.11": ("bookworm", 36), "3.13": ("trixie", 41)}
PACKAGES = ("python3-minimal", "libstdc++6", "libgomp1", "libc-bin", "coreutils", "dash")
GLIBC = (41, 40, 39, 38, 37, 36, 35, 34, 31, 28, 27, 26, 24, 17)

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
BOARDS = {"cortex-a72": "Raspberry Pi 4", "cortex-a76": "Raspberry Pi 5"}


class CannotBeMade(Exception):
    """Why there is no emulated machine here."""


@dataclass(frozen=True)
class Machine:
    """A Debian for arm64 in ``system`` with ``python`` (``3.11``), seen by a ``cpu`` of ``CPUS``.

    ``qemu`` is the emulator and its own options.
    """

    system: Path
    cpu: str
    python: str = "3.11"
    qemu: tuple[str, ...] = field(default=("qemu-aarch64-static",))

    def run(self, path: Sequence[Path], script: Sequence[str | Path], **options: object) -> subprocess.CompletedProcess[str]:
        """Run Python on it with ``path`` as PYTHONPATH; ``options`` are those of ``subprocess.run``."""
        environment = {"PATH": os.environ["PATH"], "HOME": "/tmp", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}
        environment |= {"PYTHONPATH": os.pathsep.join(map(str, path)), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        python = self.system / "usr" / "bin" / f"python{self.python}"
        command = [*self.qemu, "-cpu", self.cpu, "-L", str(self.system), str(python), "-B", *map(str, script)]
        return subprocess.run(command, env=environment, text=True, **options)  # type: ignore[call-overload,no-any-return]


def call(command: Sequence[str | Path]) -> None:
    """Run a step of the set-up quietly; its own last words become the reason when it fails."""
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise CannotBeMade(f"{Path(command[0]).name} failed: {' / '.join(done.stdout.strip().splitlines()[-2:])}")


def make_machine(root: Path, cpu: str, python: str = "3.11") -> Machine:
    """The machine with that CPU and Python below ``root``, made where it is not there yet.

    Raises:
        CannotBeMade: tools or the network are missing.
    """
    debian = make_root(root, python)
    place = root / f"{debian.name}-{cpu}"
    if not place.is_dir():
        part = place.with_suffix(f".{os.getpid()}.part")
        shutil.copytree(debian, part, symlinks=True, copy_function=os.link, ignore=shutil.ignore_patterns("dev"))
        (part / "proc").mkdir(exist_ok=True)
        (part / "proc" / "cpuinfo").write_text(cpuinfo(cpu))
        part.rename(place)
    return Machine(place, cpu, python)


def make_root(root: Path, python: str = "3.11") -> Path:
    """Debian for arm64 with a Python, unpacked and never started; in place only when it is whole."""
    for tool in ("qemu-aarch64-static", "mmdebstrap"):
        if shutil.which(tool) is None:
            raise CannotBeMade(f"{tool} is not installed (apt-get install qemu-user-static mmdebstrap)")
    suite = DEBIANS[python][0]
    system = root / suite
    if not system.is_dir():
        root.mkdir(parents=True, exist_ok=True)
        part = root / f"{suite}.{os.getpid()}.part"
        shutil.rmtree(part, ignore_errors=True)
        include = f"--include={','.join((*PACKAGES, f'python{python}', f'libpython{python}-stdlib'))}"
        call(["mmdebstrap", "--quiet", "--variant=extract", "--arch=arm64", include, suite, part])
        if not (part / "lib").exists():  # newer ones get this link from a script, and none is run
            (part / "lib").symlink_to("usr/lib")
        part.rename(system)
    return system


def pip_platform(python: str) -> list[str]:
    """What pip must be told to choose wheels for such a machine."""
    tags = [f"manylinux_2_{minor}_aarch64" for minor in GLIBC if minor <= DEBIANS[python][1]] + ["manylinux2014_aarch64"]
    platforms = [word for tag in tags for word in ("--platform", tag)]
    abis = ["--abi", f"cp{python.replace('.', '')}", "--abi", "abi3", "--abi", "none"]
    return ["--only-binary=:all:", "--implementation", "cp", "--python-version", python, *platforms, *abis]


def make_site(root: Path, packages: Sequence[str], python: str = "3.11", *, alone: bool = False) -> Path:
    """A folder with the aarch64 wheels of ``packages``; in place only when it is whole.

    Args:
        root: where it is kept. packages: requirements, or files. python: whose wheels.
        alone: install nothing that they need.
    """
    site = root / f"site-{python}-{hashlib.sha256(' '.join(packages).encode()).hexdigest()[:12]}"
    if not site.is_dir():
        part = site.with_name(f"{site.name}.{os.getpid()}.part")
        shutil.rmtree(part, ignore_errors=True)
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-compile", *(["--no-deps"] if alone else [])]
        call([*pip, *pip_platform(python), "--target", part, *packages])
        part.rename(site)
    return site


def cpuinfo(cpu: str) -> str:
    """/proc/cpuinfo of a machine with four such cores."""
    part, features = CPUS[cpu]
    core = f"Features\t: {features}\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: {part}\n"
    return "".join(f"processor\t: {i}\n{core}CPU revision\t: 3\n\n" for i in range(4))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="where the emulated machine is kept")
    parser.add_argument("--cpu", action="append", choices=CPUS, help="default: all")
    parser.add_argument("--opencv", action="append", choices=SITES, help="default: all")
    parser.add_argument("--package", action="append", default=[], help="another package that the script needs; repeatable")
    parser.add_argument("script", nargs=argparse.REMAINDER, help="script and its arguments (default: the golden test)")
    args = parser.parse_args()
    try:
        machines = [make_machine(args.root.resolve(), cpu) for cpu in args.cpu or CPUS]
        sites = [make_site(args.root.resolve(), (*SITES[o], "PyYAML", *args.package)) for o in args.opencv or SITES]
    except CannotBeMade as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    failed = 0
    for machine in machines:
        for site in sites:
            code = machine.run((site, HERE), args.script or [GOLDEN]).returncode
            print(f"{machine.cpu}: {'done' if code == 0 else f'exit code {code}'}", flush=True)
            failed += code != 0
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
