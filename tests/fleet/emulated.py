"""An emulated Raspberry Pi whose shell one can log into: Debian for arm64, every program of it on an emulated processor.

``proot -q`` starts each program below ``qemu-aarch64-static``, so that sh, tar, Python and pip of the board run as they are.
What a container does not show of a machine (its name, its cores) is laid over /proc and /sys; temperature and throttling
are not there, as on any board that does not tell.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

SUITE = "bookworm"
DEBIAN = (
    *("python3-minimal", "python3.11", "libpython3.11-stdlib", "libstdc++6", "libgomp1", "libc-bin", "coreutils", "dash"),
    *("tar", "sed", "util-linux"),
)
# Name, emulated processor, its part number and the features that such a board reports.
PIS = {
    "pi4": ("Raspberry Pi 4 Model B Rev 1.4", "cortex-a72", "0xd08", "fp asimd evtstrm crc32 cpuid"),
    "pi5": (
        "Raspberry Pi 5 Model B Rev 1.0",
        "cortex-a76",
        "0xd0b",
        "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
    ),
}
TOOLS = ("proot", "qemu-aarch64-static", "mmdebstrap")


def missing() -> str:
    """Why there can be no such board here; "" where there can."""
    lacking = [t for t in TOOLS if shutil.which(t) is None]
    return (
        f"{', '.join(lacking)} not installed (Debian: apt-get install proot qemu-user-static mmdebstrap)" if lacking else ""
    )


def make_system(folder: Path) -> Path:
    """Debian for arm64 with a Python in ``folder``, unpacked and never started."""
    include = f"--include={','.join(DEBIAN)}"
    command = ["mmdebstrap", "--quiet", "--variant=extract", "--arch=arm64", include, SUITE, folder]
    subprocess.run(command, check=True, capture_output=True)
    for place in ("proc", "root", "sys", "dev"):
        (folder / place).mkdir(exist_ok=True)
    return folder


def make_shell(name: str, system: Path, home: Path, folder: Path) -> Path:
    """The login shell of the board ``name`` of ``PIS``; ``home`` is its home folder on this machine."""
    model, cpu, part, features = PIS[name]
    folder.mkdir(parents=True, exist_ok=True)
    core = f"Features\t: {features}\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: {part}\n"
    (folder / "cpuinfo").write_text("".join(f"processor\t: {i}\n{core}CPU revision\t: 3\n\n" for i in range(4)))
    (folder / "model").write_text(f"{model}\0")
    (folder / "cores").write_text("0-3\n")
    over = {
        "cpuinfo": ("/proc/cpuinfo",),
        "model": ("/proc/device-tree/model",),
        "cores": ("/sys/devices/system/cpu/possible", "/sys/devices/system/cpu/present"),
    }
    binds = [f"-b {folder}/{file}:{place}" for file, places in over.items() for place in places]
    shell = folder / "shell.sh"
    shell.write_text(
        "#!/bin/sh\nexec env -i PATH=/usr/bin:/bin HOME=/root LANG=C.UTF-8 OMP_NUM_THREADS=1 "
        f"proot -q 'qemu-aarch64-static -cpu {cpu}' -r {system} -b /dev -b /proc -b /sys {' '.join(binds)} "
        f'-b {home}:/root -w /root /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n'
    )
    shell.chmod(0o755)
    return shell
