"""Instructions that a frame and a cold start take on an emulated Raspberry Pi 4 and 5, beside the golden figures.

    python scripts/board_counts.py             print the table of the README; exit code 1 where a figure has drifted
    python scripts/board_counts.py --write     write tests/board/instructions.json anew

Emulated seconds mean nothing, but an emulator executes the instructions that the board would. A plugin of QEMU counts them
(``count_instructions.c``): Debian's ``qemu-user`` takes plugins, ``qemu-user-static`` does not. The wheel is installed with
``[tflite]`` alone and compiled; one thread; the demo network (INT8, TF Lite, 160 px) and a JPEG of 640x640.

Exit code: 0 all as before, 1 a figure has drifted, 2 the emulated machines cannot be made here.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import arm64
from board_proof import site
from counted import PARTS

GOLDEN = arm64.HERE / "tests" / "board" / "instructions.json"
SCRIPTS = Path(__file__).resolve().parent
PYTHON = "3.11"
BARE = "python, numpy, cv2, litert"
COLD = "cold start"
# Of a figure of 10 million or more, and in millions where it is less: lists and dictionaries that grow elsewhere move it.
TOLERANCE, LEAST = 0.05, 0.5
REASON = (
    "Security updates of Debian's Python and code of our own move a figure by a few parts in a hundred; a new import, or "
    "another path through a library, by more."
)
CEILINGS = {"cortex-a76": {COLD: 450.0}}


def plugin(root: Path) -> Path:
    """The counting plugin, compiled.

    Raises:
        CannotBeMade: there is no compiler, or no emulator that takes plugins.
    """
    for tool, package in (("qemu-aarch64", "qemu-user"), ("gcc", "gcc libc6-dev")):
        if shutil.which(tool) is None:
            raise arm64.CannotBeMade(f"{tool} is not installed (apt-get install {package})")
    place = root / "count_instructions.so"
    root.mkdir(parents=True, exist_ok=True)
    arm64.call(["gcc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", SCRIPTS / "count_instructions.c", "-o", place])
    return place


def compiled(machine: arm64.Machine, place: Path) -> None:
    """Compile what is imported, as an installation does; else a cold start would count that too."""
    library = machine.system / "usr" / "lib" / f"python{PYTHON}"
    words = ["-m", "compileall", "-q", "-x", "lib2to3|/test", str(place), str(library)]
    if f"{sys.version_info.major}.{sys.version_info.minor}" == PYTHON:
        subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL)
    else:
        machine.run((place,), words, stdout=subprocess.DEVNULL)


def marks(machine: arm64.Machine, place: Path, script: list[str | Path], folder: Path) -> dict[str, int]:
    """What the plugin wrote: the count at each mark (the last time it was met), and at the end."""
    done = machine.run((place,), script, cwd=folder, capture_output=True)
    if done.returncode:
        raise SystemExit(f"{machine.cpu}: {done.stderr.strip()[-400:]}")
    return {m[1]: int(m[2]) for m in re.finditer(r"^mark (\w+) (\d+)$", done.stderr, re.MULTILINE)}


def measure(machine: arm64.Machine, place: Path, model: Path, image: Path, folder: Path) -> dict[str, float]:
    """Millions of instructions of each part of a frame, of a cold start, and of the libraries' bare imports."""
    counted = SCRIPTS / "counted.py"
    found = marks(machine, place, [counted, "frame", model, image], folder)
    figures = {part: found[str(2 * i + 1)] - found[str(2 * i)] for i, part in enumerate(PARTS)}
    words = ["predict", str(model), str(image), "--out", str(folder / "out"), "--threads", "1"]
    figures[COLD] = marks(machine, place, [counted, "cold", image, *words], folder)["0"]
    bare = "import numpy, cv2, ai_edge_litert.interpreter"
    figures[BARE] = marks(machine, place, ["-c", bare], folder)["end"]
    return {name: round(n / 1e6, 2) for name, n in figures.items()}


def demo(root: Path) -> tuple[Path, Path]:
    """The demo network as INT8 TF Lite, and a JPEG of generated shapes."""
    from edgeseg.data.shapes import make_shapes
    from edgeseg.model import Model
    from edgeseg.resources import demo_checkpoint

    data = make_shapes(root / "shapes", train=40, val=20, size=320, seed=20)
    model = Model(demo_checkpoint()).export("tflite", int8=True, data=str(data), out=root / "models")
    make_shapes(root / "pictures", train=0, val=1, size=640, seed=5, suffix=".jpg")
    (image,) = (root / "pictures" / "images" / "val").glob("*.jpg")
    return Path(str(model)), image


def drifted(figures: dict[str, dict[str, float]], golden: dict[str, Any]) -> list[str]:
    """What is not as before, a line each."""
    lines = []
    for cpu, found in figures.items():
        for name, value in found.items():
            before = golden["figures"][cpu][name]
            if abs(value - before) > max(golden["tolerance"] * before, golden["least"]):
                lines.append(f"{cpu}: {name} takes {value} million instructions, {before} before")
            if value > golden["ceilings"].get(cpu, {}).get(name, value):
                lines.append(f"{cpu}: {name} takes {value} million instructions, more than {golden['ceilings'][cpu][name]}")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--root", type=Path, default=arm64.ROOT, help="where the emulated machines are kept")
    parser.add_argument("--write", action="store_true", help="write the golden figures anew")
    args = parser.parse_args()
    root = args.root.resolve()
    try:
        qemu = ("qemu-aarch64", "-plugin", str(plugin(root)))
        machines = [replace(arm64.make_machine(root, cpu, PYTHON), qemu=qemu) for cpu in arm64.CPUS]
        place = site(root, PYTHON, ("tflite",))
    except arm64.CannotBeMade as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    model, image = demo(root)
    figures = {}
    for machine in machines:
        compiled(replace(machine, qemu=("qemu-aarch64-static",)), place)
        figures[machine.cpu] = measure(machine, place, model, image, root)
    print(
        "| million instructions | " + " | ".join(arm64.BOARDS[cpu] for cpu in figures) + " |\n|---|" + "---|" * len(figures)
    )
    for name in next(iter(figures.values())):
        print(f"| {name} | " + " | ".join(f"{f[name]:g}" for f in figures.values()) + " |")
    if args.write:
        known = {"reason": REASON, "tolerance": TOLERANCE, "least": LEAST, "ceilings": CEILINGS, "figures": figures}
        GOLDEN.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
        return 0
    lines = drifted(figures, json.loads(GOLDEN.read_text(encoding="utf-8")))
    print(*lines, sep="\n", end="\n" if lines else "")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
