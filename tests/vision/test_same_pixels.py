"""The same tensors and the same detections, to the last bit, on every machine and with every supported OpenCV and NumPy.

    python tests/vision/test_same_pixels.py           compare with golden_pixels.json, name what differs (exit code 1)
    python tests/vision/test_same_pixels.py --write   write that file anew

It needs no more than what a board has, so that ``scripts/arm64.py`` can run it on an emulated one. Pictures and outputs are
made from integers: no library is free to round on the way to what is compared.
"""

from __future__ import annotations

import base64
import ctypes
import hashlib
import json
import mmap
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from edgeseg.data.images import decode_image
from edgeseg.manifest import Manifest, Output, Tensor
from edgeseg.vision.postprocess import postprocess
from edgeseg.vision.preprocess import Letterbox, letterbox, prepare

GOLDEN = Path(__file__).with_name("golden_pixels.json")

SIZE = (64, 96)
PICTURES = {  # shape of the picture, size of the input
    "upscaled": ((33, 47, 3), SIZE),
    "upscaled to a whole multiple": ((32, 48, 3), SIZE),
    "as it is": ((64, 96, 3), SIZE),
    "one pixel larger": ((65, 97, 3), SIZE),
    "two pixels larger": ((66, 98, 3), SIZE),
    "one row more": ((321, 320, 3), (320, 320)),
    "2:1": ((128, 192, 3), SIZE),
    "3:1": ((192, 288, 3), SIZE),
    "4:1": ((256, 384, 3), SIZE),
    "5:1": ((320, 480, 3), SIZE),
    "6:1 and two columns of padding": ((384, 564, 3), SIZE),
    "odd ratio": ((101, 67, 3), SIZE),
    "portrait": ((150, 41, 3), SIZE),
    "landscape": ((40, 301, 3), SIZE),
    "photograph": ((427, 640, 3), (320, 320)),
    "2:1 photograph": ((480, 640, 3), (320, 320)),
    "1x1": ((1, 1, 3), SIZE),
    "one row": ((1, 50, 3), SIZE),
    "one column": ((50, 1, 3), SIZE),
    "long row": ((1, 5000, 3), SIZE),
    "gray": ((101, 67), SIZE),
    "alpha": ((101, 67, 4), SIZE),
}
KINDS = {
    "float32": ("float32", None, None),
    "float16": ("float16", None, None),
    "int8": ("int8", 1 / 255, -128),
    "int8 of another scale": ("int8", 0.00784, -3),
    "uint8": ("uint8", 1 / 255, 0),
}
EVERY_KIND = ("2:1", "odd ratio")  # the others in two: what follows the letterbox does not look at the picture


def integers(count: int, seed: int) -> np.ndarray:
    """(count,) uint8: multiplications and shifts of 64-bit integers, which wrap around alike everywhere."""
    x = np.arange(count, dtype=np.uint64) + np.uint64(1 + (seed << 32))
    for factor in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB):
        x = (x ^ (x >> np.uint64(29))) * np.uint64(factor)
    return (x >> np.uint64(41)).astype(np.uint8)


def picture(shape: tuple[int, ...]) -> np.ndarray:
    """Noise: every rounding of an interpolation occurs in it."""
    return integers(int(np.prod(shape)), 1).reshape(shape)


def manifest(size: tuple[int, int], kind: str, layout: str, colour: str = "rgb") -> Manifest:
    shape = (1, 3, *size) if layout == "nchw" else (1, *size, 3)
    image = Tensor("images", shape, KINDS[kind][0], layout, *KINDS[kind][1:])
    return Manifest("test", ("a",), size, image, (Output("prediction", (1, 37, 126)),), "decoded", colour=colour)


def tensors() -> Iterator[tuple[str, np.ndarray]]:
    """Input tensors, by what they show."""
    for name, (shape, size) in PICTURES.items():
        for kind in KINDS if name in EVERY_KIND else ("float32", "int8"):
            for layout in ("nchw", "nhwc") if name in EVERY_KIND else ("nchw" if kind == "float32" else "nhwc",):
                yield f"{name}, {kind} {layout}", prepare(picture(shape), manifest(size, kind, layout))[0]
    yield "odd ratio, BGR", prepare(picture((101, 67, 3)), manifest(SIZE, "uint8", "nchw", "bgr"))[0]


def head(dtype: str, layout: str, decoded: bool) -> tuple[list[np.ndarray], Manifest]:
    """Outputs for 320 x 320 pixels. float32 is what a graph writes that dequantizes its own integers."""
    arrays: list[np.ndarray] = []
    outputs: list[Output] = []

    def add(role: str, q: np.ndarray, scale: float, zero: int, stride: int | None = None) -> None:
        if dtype == "float32":
            q = np.subtract(q, np.float32(zero)) * np.float32(scale)
        q = np.ascontiguousarray(np.moveaxis(q, 1, -1)) if layout == "nhwc" else q
        spec = (scale, zero) if dtype == "int8" else (None, None)
        outputs.append(Output(f"{role}_{stride}", q.shape, dtype, layout, *spec, role, stride))
        arrays.append(q)

    def signed(shape: tuple[int, ...], seed: int) -> np.ndarray:
        return integers(int(np.prod(shape)), seed).view(np.int8).reshape(shape)

    if decoded:
        q = signed((1, 4 + 3 + 32, 2100), 90)
        q[0, :4], q[0, 4:7] = np.abs(q[0, :4] // 2) + 20, np.maximum(q[0, 4:7], 0)
        add("prediction", q, 1 / 127, 0)
    else:
        for i, stride in enumerate((8, 16, 32)):
            side = 320 // stride
            add("box", signed((1, 64, side, side), 3 * i), 0.061, 11, stride)
            add("score", np.minimum(signed((1, 3, side, side), 3 * i + 1), 125 - 40 * (i == 0)), 0.07, 114, stride)
            add("coeff", signed((1, 32, side, side), 3 * i + 2), 0.0173, -7, stride)
    add("proto", signed((1, 32, 80, 80), 99), 0.0219, -83)
    names = ("a", "b", "c")
    image = Tensor("images", (1, 3, 320, 320))
    kind = "decoded" if decoded else "raw"
    return arrays, Manifest("test", names, (320, 320), image, tuple(outputs), kind, normalized_boxes=decoded)


def detections() -> Iterator[tuple[str, np.ndarray]]:
    """Boxes, scores, classes and masks of the same heads, on a picture that is reduced and on one that is enlarged."""
    for source in ((427, 640), (213, 160)):
        for decoded in (False, True):
            for dtype in ("int8", "float32"):
                for layout in ("nchw", "nhwc"):
                    arrays, spec = head(dtype, layout, decoded)
                    found = postprocess(arrays, spec, Letterbox.fit(source, (320, 320)), conf=0.4, iou=0.6, max_det=60)
                    name = f"{'decoded' if decoded else 'raw'} head, {dtype} {layout}, of {source[1]}x{source[0]}"
                    for part in ("boxes", "scores", "classes", "masks"):
                        values = np.ascontiguousarray(getattr(found, part))
                        yield f"{name}: {len(found)} {part}", values


def results() -> dict[str, str]:
    """SHA-256 of shape, dtype and bytes of all that is compared, by name."""
    golden = json.loads(GOLDEN.read_text())
    jpeg = [(f"pixels of a {name} JPEG", decode_image(base64.b64decode(data))) for name, data in golden["jpeg"].items()]
    return {
        name: hashlib.sha256(f"{a.shape} {a.dtype.str} ".encode() + a.tobytes()).hexdigest()
        for name, a in (*tensors(), *detections(), *jpeg)
    }


def test_tensors_and_detections_are_the_same_to_the_last_bit():
    assert results() == json.loads(GOLDEN.read_text())["sha256"]


def test_nothing_past_a_picture_is_read():
    """On arm64 the INTER_LINEAR of OpenCV 5.0 reads a row too many of pictures a little larger than the input."""
    for height, width in ((64, 96), (320, 320), (640, 640)):
        for more in range(9):
            for w in (width + more % 3, width // 2 + more % 3 + 2):
                letterbox(at_the_end_of_memory((height + more // 3, w, 3)), (height, width))
    for times in range(2, 8):
        letterbox(at_the_end_of_memory((64 * times, 96 * times, 3)), (64, 96))


def at_the_end_of_memory(shape: tuple[int, ...]) -> np.ndarray:
    """A black picture after whose last byte a page begins that ends the process when it is touched (on Linux)."""
    count = int(np.prod(shape))
    room = -(-count // mmap.PAGESIZE) * mmap.PAGESIZE
    whole = np.frombuffer(mmap.mmap(-1, room + mmap.PAGESIZE), np.uint8)
    if sys.platform == "linux":
        forbidden = ctypes.c_void_p(whole.ctypes.data + room), ctypes.c_size_t(mmap.PAGESIZE), 0
        assert ctypes.CDLL(None).mprotect(*forbidden) == 0
    return whole[room - count : room].reshape(shape)


def main(write: bool) -> int:
    test_nothing_past_a_picture_is_read()
    found, golden = results(), json.loads(GOLDEN.read_text())
    if write:
        golden["sha256"] = found
        GOLDEN.write_text(json.dumps(golden, indent=2) + "\n")
    differ = sorted(name for name in {**found, **golden["sha256"]} if found.get(name) != golden["sha256"].get(name))
    where = f"{platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}, OpenCV {cv2.__version__}"
    print(f"{len(found) - len(differ)} of {len(found)} the same: {where}", *differ, sep="\n  ")
    return int(bool(differ))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] == ["--write"]))
