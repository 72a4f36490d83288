"""Time the shared pre- and postprocess over images, beside a plain reference decode in the same run.

    python scripts/bench_vision.py --model model.onnx --model model_int8.tflite --images folder --json figures.json

Without ``--images`` generated pictures of shapes are used, without ``--model`` the demo network. The
reference dequantizes everything, takes the sigmoid of every score and the expectation of every box, suppresses pair by pair
and upsamples every mask at the size of the whole image: what one writes first, in plain NumPy. Its time divided by ours is a
ratio that does not depend on the machine's mood as milliseconds do. ``loop`` is what a loop that wants boxes pays outside
the network: (pre + post) / (pre + inference + post); masks are built when they are asked for, which ``masks`` times.
``--frame 1920x1440`` enlarges the pictures to frames of a camera.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edgeseg.data.images import find_images, read_image
from edgeseg.data.shapes import shapes_image
from edgeseg.errors import EdgesegError
from edgeseg.manifest import Manifest, Output
from edgeseg.resources import demo_checkpoint
from edgeseg.running.open import open_model
from edgeseg.running.pipeline import Pipeline
from edgeseg.running.runtime import Runtime
from edgeseg.vision.detections import Detections
from edgeseg.vision.postprocess import postprocess
from edgeseg.vision.preprocess import Letterbox, letterbox, prepare

Found = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # boxes, scores, classes, masks


def plain_preprocess(image: np.ndarray, manifest: Manifest, size: tuple[int, int]) -> np.ndarray:
    """Letterbox, reverse the channels, divide by 255, quantize, transpose: one NumPy step after the other."""
    canvas, _ = letterbox(image, size, manifest.pad_value)
    values = canvas[..., ::-1].astype(np.float32) / 255
    spec = manifest.input
    if spec.scale is not None and spec.zero_point is not None:
        limits = np.iinfo(spec.dtype)
        values = np.clip(np.round(values / spec.scale) + spec.zero_point, limits.min, limits.max)
    if spec.layout == "nchw":
        values = values.transpose(2, 0, 1)
    return np.ascontiguousarray(values[None].astype(spec.dtype))


def plain_postprocess(
    outputs: Sequence[np.ndarray], manifest: Manifest, box: Letterbox, conf: float, iou: float, max_det: int
) -> Found:
    """Dequantize everything, decode everything, then threshold, suppress and upsample whole masks."""
    real = [_dequantized(a, o) for a, o in zip(outputs, manifest.outputs)]
    proto = next(r for r, o in zip(real, manifest.outputs) if o.role == "proto")[0]
    if manifest.head == "raw":
        boxes, scores, coeffs = _plain_raw(real, manifest)
    else:
        prediction = next(r for r, o in zip(real, manifest.outputs) if o.role == "prediction")[0].T
        xy, wh = prediction[:, :2], prediction[:, 2:4]
        boxes = np.concatenate((xy - wh / 2, xy + wh / 2), axis=1)
        if manifest.normalized_boxes:
            boxes = boxes * np.tile(box.size[::-1], 2)
        scores, coeffs = prediction[:, 4 : 4 + manifest.nc], prediction[:, 4 + manifest.nc :]
    classes = scores.argmax(axis=1)
    best = scores.max(axis=1)
    keep = best >= conf
    boxes, best, classes, coeffs = boxes[keep], best[keep], classes[keep], coeffs[keep]
    kept = _plain_nms(boxes, best, classes, iou)[:max_det]
    boxes, best, classes, coeffs = box.to_source(boxes[kept]), best[kept], classes[kept], coeffs[kept]
    logits = np.tensordot(coeffs, proto, 1)
    masks = np.stack([_whole(m, box) > 0 for m in logits]) if len(kept) else np.zeros((0, *box.source), bool)
    ys, xs = np.arange(box.source[0])[:, None] + 0.5, np.arange(box.source[1])[None] + 0.5
    for mask, (x1, y1, x2, y2) in zip(masks, boxes):
        mask &= (xs >= x1) & (xs < x2) & (ys >= y1) & (ys < y2)
    return boxes, best, classes, masks


def _dequantized(array: np.ndarray, spec: Output) -> np.ndarray:
    values = array.astype(np.float32)
    if spec.scale is not None and spec.zero_point is not None:
        values = (values - spec.zero_point) * np.float32(spec.scale)
    return np.moveaxis(values, -1, 1) if spec.layout == "nhwc" else values


def _plain_raw(real: list[np.ndarray], manifest: Manifest) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    by = {(o.role, o.stride): r[0] for r, o in zip(real, manifest.outputs)}
    boxes, scores, coeffs = [], [], []
    for stride in sorted(s for role, s in by if role == "box" and s is not None):
        box, score, coeff = (by[role, stride] for role in ("box", "score", "coeff"))
        e = np.exp(box.reshape(4, manifest.reg_max, -1))
        ltrb = (e / e.sum(axis=1, keepdims=True) * np.arange(manifest.reg_max)[None, :, None]).sum(axis=1)
        ys, xs = np.mgrid[: box.shape[1], : box.shape[2]].reshape(2, -1) + 0.5
        boxes.append(np.stack((xs - ltrb[0], ys - ltrb[1], xs + ltrb[2], ys + ltrb[3]), axis=1) * stride)
        scores.append(1 / (1 + np.exp(-score.reshape(manifest.nc, -1).T)))
        coeffs.append(coeff.reshape(len(coeff), -1).T)
    return np.concatenate(boxes), np.concatenate(scores), np.concatenate(coeffs)


def _plain_nms(boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, iou: float) -> list[int]:
    order, kept = list(np.argsort(-scores, kind="stable")), []
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    while order:
        i, rest = order[0], np.array(order[1:], int)
        kept.append(int(i))
        low, high = np.maximum(boxes[i, :2], boxes[rest, :2]), np.minimum(boxes[i, 2:], boxes[rest, 2:])
        inter = np.clip(high - low, 0, None).prod(axis=1)
        hit = (inter > iou * (area[i] + area[rest] - inter)) & (classes[rest] == classes[i])
        order = list(rest[~hit])
    return kept


def _whole(logits: np.ndarray, box: Letterbox) -> np.ndarray:
    """Bilinear logits (h, w) at every pixel of the source image."""
    (sx, sy), (left, top), (h, w) = box.scale, box.pad, logits.shape
    u = np.clip(((np.arange(box.source[1]) + 0.5) * sx + left) * w / box.size[1] - 0.5, 0, w - 1)
    v = np.clip(((np.arange(box.source[0]) + 0.5) * sy + top) * h / box.size[0] - 0.5, 0, h - 1)
    i, j = np.minimum(u.astype(int), w - 2), np.minimum(v.astype(int), h - 2)
    f, g = (u - i)[None], (v - j)[:, None]
    upper = logits[j][:, i] * (1 - f) + logits[j][:, i + 1] * f
    lower = logits[j + 1][:, i] * (1 - f) + logits[j + 1][:, i + 1] * f
    return upper * (1 - g) + lower * g


def milliseconds(call: Callable[[], Any], repeats: int) -> float:
    """Median over ``repeats`` calls, after one that is not counted."""
    call()
    times = []
    for _ in range(repeats):
        start = perf_counter()
        call()
        times.append(perf_counter() - start)
    return 1e3 * median(times)


def bench(
    name: str, runtime: Runtime, manifest: Manifest, images: list[np.ndarray], args: argparse.Namespace
) -> dict[str, Any]:
    """Figures of one model over all images."""
    pipeline = Pipeline(runtime, manifest, conf=args.conf, iou=args.iou, max_det=args.max_det, size=args.imgsz)
    rows = [_measure(pipeline, image, args) for image in images]
    columns = {k: [row[k] for row in rows] for k in rows[0]}
    figures: dict[str, Any] = {k: round(median(v), 3) for k, v in columns.items()}
    figures["found"] = round(sum(columns["found"]) / len(images), 2)
    figures["agree"] = round(min(columns["agree"]), 5)
    figures["pre_ratio"] = round(figures["plain_pre"] / figures["pre"], 1)
    figures["post_ratio"] = round(figures["plain_post"] / (figures["post"] + figures["masks"]), 1)
    figures["loop"] = round(median((r["pre"] + r["post"]) / (r["pre"] + r["inference"] + r["post"]) for r in rows), 4)
    figures["post_p95"] = round(float(np.percentile(columns["post"], 95)), 3)
    return {"model": name, "head": manifest.head, "dtype": manifest.outputs[0].dtype, "images": len(images), **figures}


def _measure(pipeline: Pipeline, image: np.ndarray, args: argparse.Namespace) -> dict[str, float]:
    """Milliseconds of one image, and how well the two ways agree: 1 - differing pixels / mask pixels."""
    manifest, size = pipeline.manifest, pipeline.size
    outputs, box = pipeline.raw(image)
    outputs = [np.array(o) for o in outputs]
    inference = pipeline.speed["inference"]
    buffer, _ = prepare(image, manifest, size)

    def ours() -> Detections:
        return postprocess(outputs, manifest, box, conf=args.conf, iou=args.iou, max_det=args.max_det)

    def plain() -> Found:
        return plain_postprocess(outputs, manifest, box, args.conf, args.iou, args.max_det)

    times = {
        "pre": milliseconds(lambda: prepare(image, manifest, size, out=buffer), args.repeats),
        "plain_pre": milliseconds(lambda: plain_preprocess(image, manifest, size), 3),
        "post": milliseconds(ours, args.repeats),
        "whole": milliseconds(lambda: ours().masks, args.repeats),
        "plain_post": milliseconds(plain, 3),
    }
    times["masks"] = max(0.0, times.pop("whole") - times["post"])  # at full size, from nothing
    found, (_, _, classes, theirs) = ours(), plain()
    masks = found.masks
    same = masks is not None and len(found) == len(classes) and bool((found.classes == classes).all())
    differing = np.count_nonzero(masks != theirs) / max(1, int(theirs.sum())) if same else 1.0
    return {**times, "inference": inference, "found": len(found), "agree": 1 - differing}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", action="append", help="artifact, .pt or .yaml; may be given several times")
    parser.add_argument("--images", help="folder of pictures (default: generated shapes)")
    parser.add_argument("--count", type=int, default=60, help="pictures at most")
    parser.add_argument("--frame", help="enlarge the pictures to this size: 1920x1440")
    parser.add_argument("--imgsz", type=int, help="input size of models that take any")
    parser.add_argument("--conf", type=float, default=0.25)
    parser.add_argument("--iou", type=float, default=0.7)
    parser.add_argument("--max-det", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads of the runtimes")
    parser.add_argument("--json", help="write the figures to this file")
    args = parser.parse_args()
    try:
        if args.images:
            images = [read_image(p) for p in find_images(args.images)[: args.count]]
        else:
            images = [shapes_image(seed, 640)[0] for seed in range(args.count)]
        if args.frame:
            width, height = (int(side) for side in args.frame.split("x"))
            images = [cv2.resize(i, (width, height), interpolation=cv2.INTER_LINEAR_EXACT) for i in images]
        if not images:
            raise EdgesegError("no pictures in this folder", path=args.images)
        results = []
        for name in args.model or [str(demo_checkpoint())]:
            with open_model(name, threads=args.threads) as opened:
                results.append(bench(name, opened.runtime, opened.manifest, images, args))
    except EdgesegError as e:
        print(f"error: {e}", file=sys.stderr)
        return e.exit_code
    ours, plain = ("pre", "post", "post_p95", "masks"), ("plain_pre", "pre_ratio", "plain_post", "post_ratio")
    columns = (*ours, *plain, "found", "agree", "inference", "loop")
    print(f"medians in ms over {len(images)} images, conf {args.conf}; ratio = plain / ours, both with full-size masks")
    print(f"{'model':32} " + " ".join(f"{c:>10}" for c in columns))
    for r in results:
        print(f"{Path(r['model']).name:32} " + " ".join(f"{r[c]:>10}" for c in columns))
    if args.json:
        Path(args.json).write_text(json.dumps({"conf": args.conf, "iou": args.iou, "results": results}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
