"""What files claim is bounded by their bytes before memory is taken: refused in a process of its own, its peak measured."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process, as Linux tells it")
MOST_MB = 260
# The peak of the process itself: what wait4 says of a child begins at the peak of the process that started it.
RUN = """
import sys
from edgeseg import cli
code = cli.run(sys.argv[1:])
print(open("/proc/self/status").read(), flush=True)
sys.exit(code)
"""


def _sparse(path: Path) -> Path:
    """Twenty gigabytes of zeros, of which the disk holds nothing."""
    with open(path, "wb") as f:
        f.truncate(20 << 30)
    return path


def _png(path: Path, width: int, height: int) -> Path:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))
    return path


def _zip_bomb(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("archive/data.pkl", b"\x80\x02N.")
        with z.open("archive/data/0", "w") as f:
            for _ in range(1024):
                f.write(bytes(1 << 20))
    return path


def _anchors(path: Path) -> Path:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    path.write_text("\n".join([*rows, "names: *a9", "train: x", "val: x"]))
    return path


def _run_lengths(path: Path) -> Path:
    one = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": [0, 0, 1, 1], "area": 1}
    one["segmentation"] = {"size": [100_000, 100_000], "counts": [0, 10**10]}
    images = [{"id": 1, "file_name": "a.png", "width": 8, "height": 8}]
    path.write_text(json.dumps({"images": images, "annotations": [one], "categories": [{"id": 1, "name": "x"}]}))
    return path


def _definition(path: Path) -> Path:
    path.write_text("variant: n\nnc: 1\nwidth: 64.0\ndepth: 64.0\nmax_channels: 4096\n")
    return path


def _peak(*words: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """A command line in a process of its own, and the most megabytes that it took."""
    argv, env = [sys.executable, "-c", RUN, *words], {**os.environ, "EDGESEG_OFFLINE": "1"}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=env)
    return done, int(done.stdout.rpartition("VmHWM:")[2].split()[0]) / 1024


@pytest.fixture(scope="module")
def imports() -> float:
    """Megabytes of a command that imports PyTorch and reads nothing: 240 of a build for CPUs, 740 of one for CUDA."""
    pytest.importorskip("torch")
    done, peak = _peak("info", "nothing.pt")
    assert done.returncode == 2
    return peak


CASES: dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    "huge.png": (lambda p: _png(p, 30_000, 30_000), ("predict", "MODEL", "{}")),
    "sparse.png": (_sparse, ("predict", "MODEL", "{}")),
    "sparse.pt": (_sparse, ("info", "{}")),
    "bomb.pt": (_zip_bomb, ("info", "{}")),
    "sparse.json": (_sparse, ("data", "convert", "{}", "--images", ".", "--out", "out")),
    "lengths.json": (_run_lengths, ("data", "convert", "{}", "--images", ".", "--out", "out")),
    "sparse.yaml": (_sparse, ("calibrate", "inspect", "data={}")),
    "anchors.yaml": (_anchors, ("calibrate", "inspect", "data={}")),
    "definition.yaml": (_definition, ("info", "{}")),
    "sparse.toml": (_sparse, ("export", "MODEL", "--format", "tflite", "--int8", "recipe={}")),
}


@pytest.mark.parametrize("name", CASES)
def test_refused_in_little_memory(name: str, tiny: Path, imports: float, tmp_path: Path) -> None:
    make, words = CASES[name]
    file = make(tmp_path / name)
    done, peak = _peak(*(str(tiny) if w == "MODEL" else w.replace("{}", str(file)) for w in words))
    assert done.returncode == 2, done.stderr
    assert name in done.stderr
    assert peak < imports + MOST_MB, f"{peak:.0f} MB: {done.stderr}"
