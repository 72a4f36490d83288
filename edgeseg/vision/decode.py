"""From output tensors to candidates: every head layout, channels first or last, float or integer.

Scores are compared first, in the tensor's own dtype: logits with the logit of the threshold, integers with the threshold on
the quantized scale. Dequantization, sigmoid and the box arithmetic follow on what survives. Both comparisons let a
hair too much through; the survivors' float32 scores then decide, so the result is that of dequantizing everything first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgeseg.errors import EdgesegError
from edgeseg.manifest import Manifest, Output
from edgeseg.record import dataclass
from edgeseg.vision.masks import Prototype


def centres(cells: np.ndarray, width: int) -> np.ndarray:
    """Centres of feature map cells.

    Args:
        cells: (n,) integers, row-major index of a cell in a map of any height.
        width: columns of the map.

    Returns:
        (n, 2) float32 x, y in cells: the first cell has (0.5, 0.5). Times the stride gives input pixels.
    """
    y, x = np.divmod(cells, width)
    points = np.empty((len(cells), 2), np.float32)
    points[:, 0], points[:, 1] = x, y
    points += 0.5
    return points


def distances(logits: np.ndarray) -> np.ndarray:
    """Expected distance of a discrete distribution over bins 0, 1, 2, ... (DFL, Li et al. 2020, "Generalized Focal Loss").

    Args:
        logits: (..., bins) float.

    Returns:
        (...) float32 in 0..bins-1: sum of bin * softmax(logits)[bin], computed in float64 so that every platform
        rounds alike. NaN where a logit is NaN or +inf, or all are -inf: no distribution, and ``decode`` drops the box.
    """
    with np.errstate(invalid="ignore", under="ignore"):
        e = np.exp(np.subtract(logits, logits.max(axis=-1, keepdims=True), dtype=np.float64))
        return ((e @ np.arange(e.shape[-1], dtype=np.float64)) / e.sum(axis=-1)).astype(np.float32)


def boxes_around(points: np.ndarray, ltrb: np.ndarray, stride: int) -> np.ndarray:
    """Boxes from cell centres (n, 2) and distances (n, 4) to left, top, right, bottom, both in cells.

    Returns:
        (n, 4) float32 x1, y1, x2, y2 in input pixels.
    """
    out = np.empty((len(points), 4), np.float32)
    np.subtract(points, ltrb[:, :2], out=out[:, :2])
    np.add(points, ltrb[:, 2:], out=out[:, 2:])
    out *= stride
    return out


def from_xywh(xywh: np.ndarray) -> np.ndarray:
    """(n, 4) float centre x, centre y, width, height -> float32 x1, y1, x2, y2 in the same unit."""
    half = xywh[:, 2:] * 0.5
    out = np.empty((len(xywh), 4), np.float32)
    np.subtract(xywh[:, :2], half, out=out[:, :2])
    np.add(xywh[:, :2], half, out=out[:, 2:])
    return out


_MARGIN = 1e-3  # by how much the first comparison is more generous than the threshold


@dataclass(frozen=True)
class Candidates:
    """Detections of one image before suppression, in the order of stride, cell (row-major) and class.

    ``boxes`` (n, 4) float32 xyxy in input pixels, not clipped; ``scores`` (n,) float32 0..1; ``classes`` (n,) int32;
    ``coeffs`` (n, k) float32; ``proto`` the prototype of the image. A detector has none: k is 0, ``proto`` None.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    coeffs: np.ndarray
    proto: Prototype | None

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, index: np.ndarray) -> Candidates:
        """Those at ``index`` (integers), in its order."""
        return Candidates(self.boxes[index], self.scores[index], self.classes[index], self.coeffs[index], self.proto)


@dataclass(frozen=True)
class _Table:
    """A tensor of one image as cells x channels: ``values`` (channels, cells) if ``first`` else (cells, channels)."""

    values: np.ndarray
    first: bool
    spec: Output

    def rows(self, cells: np.ndarray) -> np.ndarray:
        """(n, channels) of the cells, in the tensor's dtype; contiguous, so that sums round alike in every layout."""
        return np.ascontiguousarray(self.values.take(cells, axis=1).T) if self.first else self.values.take(cells, axis=0)

    def floats(self, cells: np.ndarray) -> np.ndarray:
        """(n, channels) float32 of the given cells, dequantized."""
        return _real(self.rows(cells), self.spec)

    def part(self, start: int, stop: int) -> _Table:
        """The channels start..stop-1, without a copy."""
        return _Table(self.values[start:stop] if self.first else self.values[:, start:stop], self.first, self.spec)


def _real(q: np.ndarray, spec: Output) -> np.ndarray:
    if q.dtype.kind == "f" or spec.scale is None or spec.zero_point is None:
        return q.astype(np.float32, copy=False)
    real = np.subtract(q, np.float32(spec.zero_point), dtype=np.float32)
    real *= np.float32(spec.scale)
    return real


def sigmoid(x: np.ndarray) -> np.ndarray:
    """float32 1 / (1 + exp(-x)), computed in float64 so that every platform rounds alike."""
    with np.errstate(over="ignore", under="ignore"):
        return (1.0 / (1.0 + np.exp(-x.astype(np.float64)))).astype(np.float32)


def decode(
    outputs: Sequence[np.ndarray],
    manifest: Manifest,
    *,
    conf: float,
    multi_label: bool = False,
    max_candidates: int = 30_000,
    index: int = 0,
) -> Candidates:
    """Candidates of one image of the batch.

    Args:
        outputs: the tensors in the manifest's order, batch axis first; float or the integers that the manifest explains.
        manifest: head layout, roles, strides, layouts, quantization. Map sizes are read from the arrays.
        conf: lowest score that counts, 0..1: score >= conf in float32. NaN scores and boxes that are not finite are dropped;
            an infinite score is its limit, 0 or 1.
        multi_label: every class of a cell counts, not only its best one (the first of equal ones).
        max_candidates: keep the best so many.
        index: which image of the batch.

    Raises:
        EdgesegError: the tensors are not what the manifest says.
    """
    if not 0 <= conf <= 1:
        raise EdgesegError(f"conf {conf} is not in 0..1")
    if len(outputs) != len(manifest.outputs):
        raise EdgesegError(f"the model gave {len(outputs)} outputs, its manifest names {len(manifest.outputs)}")
    images = [np.asarray(o)[index] for o in outputs]
    with np.errstate(all="ignore"):  # what comes of infinite and huge values is dropped below, in silence
        found = _HEADS[manifest.head](images, manifest, conf, multi_label, max_candidates)
    sound = np.isfinite(found.boxes).all(axis=1)
    return found if sound.all() else _select(found, sound)


def _select(c: Candidates, index: np.ndarray) -> Candidates:
    return Candidates(c.boxes[index], c.scores[index], c.classes[index], c.coeffs[index], c.proto)


def _raw(images: list[np.ndarray], manifest: Manifest, conf: float, multi_label: bool, most: int) -> Candidates:
    maps: dict[int, dict[str, tuple[np.ndarray, Output]]] = {}
    proto: Prototype | None = None
    for image, spec in zip(images, manifest.outputs):
        if spec.role == "proto":
            proto = _prototype(image, spec)
        else:
            maps.setdefault(spec.stride or 0, {})[spec.role] = (image, spec)
    strides = sorted(maps)
    wanted = {"box": 4 * manifest.reg_max, "score": manifest.nc} | ({} if proto is None else {"coeff": proto.channels})
    if not strides or any(set(maps[s]) != set(wanted) for s in strides) or (proto is None) != (manifest.task == "detect"):
        raise EdgesegError("the manifest's outputs are no raw head", hint="Export the model again")
    tables = {s: {role: _table(*maps[s][role], channels) for role, channels in wanted.items()} for s in strides}

    threshold = _logit(conf) - _MARGIN
    survivors = []
    for s in strides:
        score = tables[s]["score"]
        cells, classes, raw = _survivors(score, threshold, multi_label)
        survivors.append((cells, classes, sigmoid(_real(raw, score.spec))))
    survivors = _best(survivors, conf, most)

    parts = []
    for s, (cells, _, _) in zip(strides, survivors):
        if not len(cells):
            continue
        image, spec = maps[s]["box"]
        width = image.shape[2] if spec.layout == "nchw" else image.shape[1]
        once, back = (cells, None) if not multi_label else np.unique(cells, return_inverse=True)
        sides = tables[s]["box"].floats(once).reshape(len(once), 4, manifest.reg_max)
        ltrb = distances(sides) if manifest.reg_max > 1 else sides[..., 0]
        boxes = boxes_around(centres(once, width), ltrb, s)
        coeffs = tables[s]["coeff"].floats(once) if proto else np.zeros((len(once), 0), np.float32)
        parts.append((boxes, coeffs) if back is None else (boxes[back], coeffs[back]))
    return _gather(parts, survivors, proto)


def _decoded(images: list[np.ndarray], manifest: Manifest, conf: float, multi_label: bool, most: int) -> Candidates:
    by_role = {spec.role: (image, spec) for image, spec in zip(images, manifest.outputs)}
    masks = set() if manifest.task == "detect" else {"proto"}
    apart = {"box", "score", *masks, *({"coeff"} if masks else ())}
    if len(by_role) != len(images) or set(by_role) not in ({"prediction", *masks}, apart):
        raise EdgesegError("the manifest's outputs are no decoded head", hint="Export the model again")
    proto, nc = _prototype(*by_role["proto"]) if masks else None, manifest.nc
    k = proto.channels if proto else 0
    if "prediction" in by_role:
        whole = _table(*by_role["prediction"], 4 + nc + k)
        box, score, coeff = whole.part(0, 4), whole.part(4, 4 + nc), whole.part(4 + nc, 4 + nc + k)
    else:
        box, score = (_table(*by_role[r], n) for r, n in (("box", 4), ("score", nc)))
        coeff = _table(*by_role["coeff"], k) if masks else box.part(0, 0)
    threshold = _logit(conf) - _MARGIN if manifest.score_logits else conf - _MARGIN * max(conf, 1e-6)
    cells, classes, raw = _survivors(score, threshold, multi_label)
    real = _real(raw, score.spec)
    # A coarse scale or a half-precision sigmoid may overshoot 1.
    scores = sigmoid(real) if manifest.score_logits else np.minimum(real, 1)
    survivors = _best([(cells, classes, scores)], conf, most)
    left = survivors[0][0]
    sides = _in_pixels(box.floats(left), manifest, proto)
    boxes = sides if manifest.boxes == "xyxy" else from_xywh(sides)
    return _gather([(boxes, coeff.floats(left))], survivors, proto)


def _in_pixels(sides: np.ndarray, manifest: Manifest, proto: Prototype | None) -> np.ndarray:
    """Four coordinates of boxes, x and y in turn, in input pixels."""
    if not manifest.normalized_boxes:
        return sides
    height, width = (4 * side for side in proto.hw) if manifest.dynamic and proto else manifest.imgsz
    return sides * np.array((width, height, width, height), np.float32)


def _suppressed(images: list[np.ndarray], manifest: Manifest, conf: float, multi_label: bool, most: int) -> Candidates:
    """Rows that the model itself suppressed: x1, y1, x2, y2, score, class, coefficients; unused ones have score 0."""
    by_role = {spec.role: (image, spec) for image, spec in zip(images, manifest.outputs)}
    if set(by_role) != ({"prediction"} if manifest.task == "detect" else {"prediction", "proto"}):
        raise EdgesegError("the manifest's outputs are no head after NMS", hint="Export the model again")
    proto = _prototype(*by_role["proto"]) if "proto" in by_role else None
    table = _table(*by_role["prediction"], 6 + (proto.channels if proto else 0))
    rows = table.floats(np.arange(table.values.shape[1 if table.first else 0]))
    classes = np.rint(np.nan_to_num(rows[:, 5], nan=-1.0))
    kept = np.flatnonzero((rows[:, 4] >= np.float32(conf)) & (rows[:, 4] > 0) & (classes >= 0) & (classes < manifest.nc))
    kept = kept[np.argsort(-rows[kept, 4], kind="stable")][:most]
    rows = rows[kept]
    boxes = _in_pixels(rows[:, :4], manifest, proto)
    return Candidates(boxes, np.minimum(rows[:, 4], 1), classes[kept].astype(np.int32), rows[:, 6:], proto)


_HEADS = {"raw": _raw, "decoded": _decoded, "nms": _suppressed}

_Survivors = tuple[np.ndarray, np.ndarray, np.ndarray]  # cells, classes, scores (or what scores are made from)


def _survivors(score: _Table, threshold: float, multi_label: bool) -> _Survivors:
    """Cells, classes and values, in the tensor's dtype and the order of cells, then classes, where value >= threshold."""
    values, spec = score.values, score.spec
    least = _least(threshold, values.dtype, spec)
    if least is None:
        none = np.zeros(0, np.intp)
        return none, none, values.ravel()[:0]
    if multi_label:
        first, second = np.divmod(np.flatnonzero(values >= least), values.shape[1])
        cells, classes = (second, first) if score.first else (first, second)
        if score.first:
            order = np.argsort(cells, kind="stable")
            cells, classes = cells[order], classes[order]
            return cells, classes, values[classes, cells]
        return cells, classes, values[cells, classes]
    if score.first:
        cells = np.flatnonzero(values.max(axis=0) >= least)
    else:
        # A maximum along short rows is slower than comparing everything.
        cells = np.flatnonzero(values >= least) // values.shape[1]
        cells = cells[np.diff(cells, prepend=-1) > 0]
    rows = score.rows(cells)
    classes = rows.argmax(axis=1)
    return cells, classes, rows[np.arange(len(rows)), classes]


def _least(threshold: float, dtype: np.dtype, spec: Output) -> float | int | None:
    """The threshold in the tensor's own numbers; None when no value of an integer dtype can reach it."""
    if dtype.kind == "f" or spec.scale is None or spec.zero_point is None:
        return threshold
    limits = np.iinfo(dtype)
    least = threshold / spec.scale + spec.zero_point
    if least > limits.max:
        return None
    return limits.min if least <= limits.min else math.ceil(least)


def _logit(p: float) -> float:
    # Sigmoid reaches 1 in float32 near 17; below 1e-30 everything counts.
    return -70.0 if p < 1e-30 else 16.0 if p > 1 - 1e-7 else math.log(p / (1 - p))


def _best(survivors: list[_Survivors], conf: float, most: int) -> list[_Survivors]:
    """Those with score >= conf, at most ``most`` of all, the best; of equal scores the first."""
    scores = np.concatenate([s[2] for s in survivors]) if len(survivors) > 1 else survivors[0][2]
    keep = scores >= np.float32(conf)
    if np.count_nonzero(keep) > most:
        index = np.flatnonzero(keep)
        scores = scores[index]
        limit = np.partition(scores, len(scores) - most)[len(scores) - most]
        above = scores > limit
        equal = np.flatnonzero(scores == limit)[: most - np.count_nonzero(above)]
        above[equal] = True
        keep[index[~above]] = False
    if keep.all():
        return survivors
    ends = np.cumsum([len(s[2]) for s in survivors])[:-1]
    return [(c[k], n[k], s[k]) for (c, n, s), k in zip(survivors, np.split(keep, ends))]


def _gather(parts: list[tuple[np.ndarray, np.ndarray]], survivors: list[_Survivors], proto: Prototype | None) -> Candidates:
    boxes = np.concatenate([p[0] for p in parts]) if parts else np.zeros((0, 4), np.float32)
    coeffs = np.concatenate([p[1] for p in parts]) if parts else np.zeros((0, proto.channels if proto else 0), np.float32)
    classes = np.concatenate([s[1] for s in survivors]).astype(np.int32)
    return Candidates(boxes, np.concatenate([s[2] for s in survivors]), classes, coeffs, proto)


def _table(image: np.ndarray, spec: Output, channels: int) -> _Table:
    """A (C, h, w), (h, w, C), (C, n) or (n, C) array as a table, its channels checked."""
    first = spec.layout == "nchw"
    count = image.shape[0 if first else -1] if image.ndim in (2, 3) else 0
    if count != channels:
        raise EdgesegError(
            f"output {spec.name} has shape {('n', *image.shape)}, not {channels} channels as {spec.layout}",
            hint="The manifest does not belong to this model, or the class names are not its own",
        )
    if image.dtype.kind in "iu" and spec.scale is None:
        raise EdgesegError(f"output {spec.name} holds {image.dtype} but the manifest gives no scale for it")
    if image.dtype == np.float16:
        image = image.astype(np.float32)
    return _Table(image.reshape((channels, -1) if first else (-1, channels)), first, spec)


def _prototype(image: np.ndarray, spec: Output) -> Prototype:
    if image.ndim != 3:
        raise EdgesegError(f"output {spec.name} has shape {('n', *image.shape)}, a prototype has four dimensions")
    if image.dtype.kind in "iu" and spec.scale is None:
        raise EdgesegError(f"output {spec.name} holds {image.dtype} but the manifest gives no scale for it")
    return Prototype(image, spec.layout, spec.scale, spec.zero_point)
