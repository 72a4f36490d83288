"""The golden vectors are whole, and what they expect is what it was: a change of ``edgeseg.vision`` is one on purpose."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest

from edgeseg.manifest import Manifest

DIGESTS = Path(__file__).with_name("vectors.json")


def test_what_is_expected_is_what_it_was(vectors: Path) -> None:
    want = json.loads(DIGESTS.read_text())
    index = json.loads((vectors / "index.json").read_text())
    found = {}
    for name in index["cases"]:
        expected = json.loads((vectors / name / "case.json").read_text())["expected"]
        found[name] = hashlib.sha256(json.dumps(expected).encode()).hexdigest()
    for name in index["inputs"]:
        found[name] = hashlib.sha256((vectors / name / "tensor.bin").read_bytes()).hexdigest()
    differ = sorted(name for name in want if found.get(name) != want[name])
    assert not differ, "on purpose? python scripts/make_vectors.py FOLDER --write-digests"
    networks = set(found) - set(want)
    assert {name.split("-")[0] for name in networks} == {"demo", "yolo11", "yolo26"}


def test_they_cover_what_decoders_must_read(vectors: Path) -> None:
    seen: set[tuple[str, ...]] = set()
    most, none, errors = 0, 0, 0
    for name in json.loads((vectors / "index.json").read_text())["cases"]:
        case = json.loads((vectors / name / "case.json").read_text())
        manifest, expected = Manifest.from_json(case["manifest"]), case["expected"]
        for said in case["outputs"]:
            bytes_of_one = np.dtype(said["dtype"]).itemsize
            assert (vectors / name / said["file"]).stat().st_size == math.prod(said["shape"]) * bytes_of_one
            seen.add((manifest.head, manifest.task, said["dtype"], manifest.outputs[0].layout))
        if "error" in expected:
            errors += 1
            continue
        most, none = max(most, len(expected["boxes"])), none + (not expected["boxes"])
        for box, tile in zip(expected["boxes"], expected["tiles"] or []):
            (x, y), (h, w) = tile["corner"], tile["size"]
            assert sum(tile["runs"]) == h * w and x + w <= case["source"][1] and y + h <= case["source"][0]
            assert abs(box[0] - x) <= 0.5 or w == 0
    assert most > 512 and none >= 5 and errors >= 9
    for head in ("raw", "decoded", "nms"):
        for dtype in ("float32", "float16", "int8", "uint8"):
            for layout in ("nchw", "nhwc"):
                assert (head, "segment", dtype, layout) in seen
    assert {s[0] for s in seen if s[1] == "detect"} == {"raw", "decoded", "nms"}


@pytest.mark.parametrize("change", ("edgeseg.vision.postprocess._BLOCK", "edgeseg.vision.masks._CHUNK"))
def test_how_vision_cuts_its_work_is_not_seen(change: str, vectors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sizes of blocks are no part of the contract: other languages have others."""
    from edgeseg.vision.postprocess import postprocess
    from edgeseg.vision.preprocess import Letterbox

    monkeypatch.setattr(change, 7)
    case = json.loads((vectors / "many-int8" / "case.json").read_text())
    outputs = [
        np.fromfile(vectors / "many-int8" / o["file"], np.dtype(o["dtype"])).reshape(o["shape"]) for o in case["outputs"]
    ]
    box = Letterbox.fit(tuple(case["source"]), tuple(case["size"]))
    found = postprocess(outputs, Manifest.from_json(case["manifest"]), box, **case["settings"])
    assert found.boxes.tolist() == case["expected"]["boxes"]
    assert [int(t.sum()) for t in found.tiles.tiles] == [sum(t["runs"][1::2]) for t in case["expected"]["tiles"]]
