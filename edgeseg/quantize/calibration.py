"""Calibration sets: which images, how they are read, and what is wrong with them.

Chosen from the train split, deterministic, spread over content, streamed from disk one at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from edgeseg.data.dataset import Dataset
from edgeseg.data.images import read_image
from edgeseg.errors import EdgesegError
from edgeseg.vision.preprocess import letterbox

FEW = 32
CANDIDATES = 2000
"""Of a larger split this many images, drawn by the seed, are looked at; it bounds time, not quality."""
NEAR = 3
"""Bits of 64 by which the difference hashes of two pictures of the same thing may differ."""


@dataclass(frozen=True)
class CalibrationSet:
    """The chosen images in order (each prefix is spread too), SHA-256 over their contents, where from, and what to know."""

    images: tuple[Path, ...]
    hash: str
    source: Path
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Look:
    """One candidate: feature vector, difference hash (64 bits), spread of grey values, share of saturated pixels."""

    path: Path
    features: np.ndarray
    dhash: int
    spread: float
    saturated: float


def choose(dataset: Dataset, count: int = 100, seed: int = 0) -> CalibrationSet:
    """Choose ``count`` images of the train split, each as unlike those before it as can be.

    The first is the most ordinary one; each next is the farthest from all chosen before (farthest-point sampling, Gonzalez
    1985) in a space of colours, edges and labelled classes.

    Raises:
        EdgesegError: no train split, no images, none that can be read or that shows anything, or val is the same images.
    """
    if count < 1:
        raise EdgesegError(f"a calibration set of {count} images calibrates nothing", hint="Give images=32")
    if seed < 0:
        raise EdgesegError(f"seed {seed} is no whole number from 0 on")
    train = dataset.images("train")
    warnings: list[str] = []
    validation = dataset.images("val") if "val" in dataset.splits else []
    same = {p.resolve() for p in train} <= {p.resolve() for p in validation}
    if same and dataset.named is None:
        raise EdgesegError(
            "train and val are the same images: what calibrates must not validate", path=dataset.yaml, hint="Split them"
        )
    if same:
        warnings.append("train and val of this dataset are the same images: figures measured on it will flatter")
    pool = train
    if len(train) > CANDIDATES:
        drawn = np.sort(np.random.default_rng(seed).choice(len(train), CANDIDATES, replace=False))
        pool = [train[i] for i in drawn]
    looks = [look for path in pool if (look := _look(dataset, path)) is not None]
    if len(looks) < len(pool):
        warnings.append(f"{len(pool) - len(looks)} of {len(pool)} images cannot be read and are left out")
    if not looks:
        raise EdgesegError("none of the train images can be read", path=pool[0].parent, hint="Check the files")
    telling = [k for k in looks if k.spread >= 2.0]
    if not telling:
        raise EdgesegError(
            "every train image is of one colour (all black?): nothing can be calibrated on them", path=pool[0].parent
        )
    if len(telling) < len(looks):
        warnings.append(f"{len(looks) - len(telling)} images of one colour are left out")
    telling, doubles = _distinct(telling)
    if doubles:
        warnings.append(f"{doubles} near-duplicates are left out")
    order = _spread([k.features for k in telling], count, seed)
    chosen = [telling[i] for i in order]
    warnings += _diagnose(chosen, count, [] if same else validation)
    return CalibrationSet(
        tuple(k.path for k in chosen),
        content_hash(k.path for k in chosen),
        _folder([k.path for k in chosen]),
        tuple(warnings),
    )


def iterate(images: Iterable[Path], imgsz: tuple[int, int]) -> Iterator[np.ndarray]:
    """The images one at a time as the network sees them: uint8 RGB (h, w, 3), letterboxed by the shared preprocess."""
    for path in images:
        boxed, _ = letterbox(read_image(path), imgsz)
        yield np.ascontiguousarray(boxed[..., ::-1])


def content_hash(images: Iterable[Path]) -> str:
    """SHA-256 (hexadecimal) over the contents of files, in order."""
    total = hashlib.sha256()
    for path in images:
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def _look(dataset: Dataset, path: Path) -> _Look | None:
    small = _thumbnail(path)
    if small is None:
        return None
    grey = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)
    cells = cv2.resize(small, (4, 4), interpolation=cv2.INTER_AREA).astype(np.float32).ravel() / 255
    edges = cv2.resize(np.abs(cv2.Laplacian(grey, cv2.CV_32F)), (4, 4), interpolation=cv2.INTER_AREA).ravel() / 64
    classes = np.zeros(dataset.nc, np.float32)
    for c in _classes(dataset.label_path(path)):
        if c < dataset.nc:
            classes[c] = 0.5
    saturated = float(((grey <= 2) | (grey >= 253)).mean())
    return _Look(path, np.concatenate([cells, edges, classes]), dhash(grey), float(grey.std()), saturated)


def _thumbnail(path: Path) -> np.ndarray | None:
    """About 64 x 64 pixels; a JPEG is decoded at an eighth of its size, which is what makes looking at thousands cheap."""
    image: np.ndarray | None = cv2.imread(str(path), cv2.IMREAD_REDUCED_COLOR_8)
    if image is None or min(image.shape[:2]) < 9:
        try:
            image = read_image(path)
        except EdgesegError:
            return None
    return cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA)


def dhash(grey: np.ndarray) -> int:
    """Difference hash of a grey picture: 64 bits, one for each pair of neighbours in an 8 x 9 reduction."""
    small = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA).astype(np.int16)
    return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1]).tobytes(), "big")


def _classes(label: Path) -> set[int]:
    """Class numbers in a label file; leniently, since here they only help to spread the choice."""
    try:
        words = [line.split(maxsplit=1)[0] for line in label.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError):
        return set()
    return {int(w) for w in words if w.isdigit()}


def _distinct(looks: list[_Look]) -> tuple[list[_Look], int]:
    """Those that are no near-duplicates of an earlier one, and how many are."""
    kept: list[_Look] = []
    for k in looks:
        if not any((k.dhash ^ other.dhash).bit_count() <= NEAR for other in kept):
            kept.append(k)
    return kept, len(looks) - len(kept)


def _spread(features: list[np.ndarray], count: int, seed: int) -> list[int]:
    points = np.stack(features)
    points = points + np.random.default_rng(seed).normal(0, 1e-6, points.shape)
    order = [int(np.argmin(np.linalg.norm(points - points.mean(0), axis=1)))]
    away = np.linalg.norm(points - points[order[0]], axis=1)
    while len(order) < min(count, len(points)):
        order.append(int(np.argmax(away)))
        away = np.minimum(away, np.linalg.norm(points - points[order[-1]], axis=1))
    return order


def _diagnose(chosen: list[_Look], count: int, validation: list[Path]) -> list[str]:
    found = []
    if len(chosen) < count:
        found.append(f"only {len(chosen)} images where {count} were asked for")
    if len(chosen) < FEW:
        found.append(f"{len(chosen)} images are few: ranges from fewer than {FEW} depend on which ones")
    flat = sum(k.saturated > 0.5 for k in chosen)
    if flat > len(chosen) // 10:
        found.append(f"{flat} images are more than half black or white: expose them better, or take others")
    exact, near = _overlap(chosen, validation)
    if exact:
        found.append(f"{exact} calibration images are in val too: figures measured on val will flatter")
    if near:
        found.append(f"{near} calibration images are near-duplicates of val images: figures measured on val will flatter")
    return found


def _overlap(chosen: list[_Look], validation: list[Path]) -> tuple[int, int]:
    """How many of the chosen are in val byte for byte, and how many others look the same as one there."""
    sizes: dict[int, list[Path]] = {}
    for p in validation:
        if p.is_file():
            sizes.setdefault(p.stat().st_size, []).append(p)
    hashes = set()
    for p in validation[:CANDIDATES]:
        small = _thumbnail(p)
        if small is not None:
            hashes.add(dhash(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)))
    exact = near = 0
    for k in chosen:
        twins = sizes.get(k.path.stat().st_size, [])
        if twins and k.path.read_bytes() in (t.read_bytes() for t in twins):
            exact += 1
        elif any((k.dhash ^ h).bit_count() <= NEAR for h in hashes):
            near += 1
    return exact, near


def _folder(paths: list[Path]) -> Path:
    parents = {p.parent for p in paths}
    return parents.pop() if len(parents) == 1 else Path(*_common([p.parts for p in parents]))


def _common(parts: list[tuple[str, ...]]) -> tuple[str, ...]:
    same = []
    for words in zip(*parts):
        if len(set(words)) > 1:
            break
        same.append(words[0])
    return tuple(same)
