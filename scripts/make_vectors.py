"""Golden vectors: outputs of heads with what ``edgeseg.vision`` makes of them, for decoders in other languages.

    python scripts/make_vectors.py FOLDER                     all of them (the format: edgeseg/decoders/README.md)
    python scripts/make_vectors.py FOLDER --no-networks       those alone that need no torch
    python scripts/make_vectors.py FOLDER --write-digests     and write tests/decoders/vectors.json anew

Synthetic tensors are made from integers and divisions, so that they are the same on every machine; those of the trained
networks of the tests differ in their last bits from machine to machine, and have no digest.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from vector_cases import HERE, Case, hostile, inputs, limits, networks, usual

from edgeseg.errors import EdgesegError
from edgeseg.manifest import Manifest
from edgeseg.vision.postprocess import postprocess
from edgeseg.vision.preprocess import Letterbox, prepare

DIGESTS = HERE / "tests" / "decoders" / "vectors.json"
VERSION = 1


def expected(case: Case) -> dict[str, Any]:
    """What ``postprocess`` finds, as JSON values; ``{"error": text}`` where it refuses."""
    box = Letterbox.fit(case.source, case.size)
    try:
        found = postprocess(case.outputs, case.manifest, box, **case.settings)
    except EdgesegError as e:
        return {"error": str(e)}
    tiles = None
    if found.tiles is not None:
        pairs = zip(found.tiles.corners.tolist(), found.tiles.tiles)
        tiles = [{"corner": corner, "size": list(tile.shape), "runs": runs(tile)} for corner, tile in pairs]
    lists = {"boxes": found.boxes.tolist(), "scores": found.scores.tolist(), "classes": found.classes.tolist()}
    return {**lists, "tiles": tiles}


def runs(tile: np.ndarray) -> list[int]:
    """Lengths of the runs of a tile read row by row, first of zeros, then of ones, and so on."""
    flat = tile.ravel()
    edges = np.flatnonzero(np.diff(flat, prepend=False))
    return np.diff(edges, prepend=0, append=len(flat)).tolist()


def geometry(source: tuple[int, int], size: tuple[int, int]) -> dict[str, Any]:
    box = Letterbox.fit(source, size)
    return {"ratio": box.ratio, "pad": list(box.pad), "resized": list(box.resized), "scale": list(box.scale)}


def saved(a: np.ndarray, folder: Path, name: str) -> dict[str, Any]:
    """Write an array as little-endian bytes, C order; what says so in JSON."""
    (folder / name).write_bytes(np.ascontiguousarray(a, a.dtype.newbyteorder("<")).tobytes())
    return {"file": name, "dtype": a.dtype.name, "shape": list(a.shape)}


def dump(value: Any, path: Path) -> str:
    text = json.dumps(value, separators=(",", ":"))
    path.write_text(text + "\n")
    return text


def write_case(case: Case, root: Path) -> str:
    """Write a case; the SHA-256 of what is expected."""
    folder = root / case.name
    folder.mkdir()
    outputs = [saved(a, folder, f"{i}.bin") for i, a in enumerate(case.outputs)]
    want = expected(case)
    usual = {"conf": 0.25, "iou": 0.7, "max_det": 300, "multi_label": False, "classes": None, "masks": True, "index": 0}
    head = {"manifest": case.manifest.to_json(), "outputs": outputs, "source": case.source, "size": case.size}
    box = geometry(case.source, case.size)
    dump(
        {"name": case.name, **head, "letterbox": box, "settings": {**usual, **case.settings}, "expected": want},
        folder / "case.json",
    )
    return hashlib.sha256(json.dumps(want).encode()).hexdigest()


def write_input(name: str, picture: np.ndarray, manifest: Manifest, root: Path) -> str:
    """Write a picture and its input tensor; the SHA-256 of the tensor's bytes."""
    folder = root / name
    folder.mkdir()
    x, box = prepare(picture, manifest)
    image, tensor = saved(picture, folder, "image.bin"), saved(x, folder, "tensor.bin")
    values = {
        "manifest": manifest.to_json(),
        "source": box.source,
        "size": box.size,
        "letterbox": geometry(box.source, box.size),
    }
    dump({"name": name, **values, "image": image, "tensor": tensor}, folder / "input.json")
    return hashlib.sha256(x.tobytes()).hexdigest()


def make(root: Path, *, with_networks: bool = True) -> dict[str, str]:
    """Write all vectors into the empty folder ``root``; the digests of the synthetic ones, by name."""
    root.mkdir(parents=True, exist_ok=True)
    digests = {case.name: write_case(case, root) for cases in (usual, limits, hostile) for case in cases()}
    names = list(digests)
    for case in networks() if with_networks else ():
        write_case(case, root)
        names.append(case.name)
    pictures = {name: write_input(name, picture, manifest, root) for name, picture, manifest in inputs()}
    dump({"version": VERSION, "cases": names, "inputs": list(pictures)}, root / "index.json")
    return {**digests, **pictures}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="made anew")
    parser.add_argument("--no-networks", action="store_true", help="only what needs no torch")
    parser.add_argument("--write-digests", action="store_true", help=f"write {DIGESTS.relative_to(HERE)}")
    args = parser.parse_args()
    if (args.folder / "index.json").is_file():
        shutil.rmtree(args.folder)
    digests = make(args.folder, with_networks=not args.no_networks)
    if args.write_digests:
        DIGESTS.write_text(json.dumps(digests, indent=0) + "\n")
    print(f"{len(json.loads((args.folder / 'index.json').read_text())['cases'])} cases in {args.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
