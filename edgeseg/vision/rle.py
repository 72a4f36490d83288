"""COCO's compressed run lengths, encoded and decoded with NumPy alone.

A mask is read column by column; ``counts`` are the lengths of its runs, the first one of zeros. From the fourth on, each is
written as the difference to the one two before it. Numbers are cut into groups of 5 bits, lowest first, in two's complement;
bit 6 says that another group follows; 48 is added to make it a printable character. (Format of the COCO API's mask module.)
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

_GROUPS = 7  # 35 bits: enough for images up to 2^34 pixels


def counts_of(mask: np.ndarray, corner: tuple[int, int], shape: tuple[int, int]) -> np.ndarray:
    """Run lengths of a mask given by the part of it that is not empty.

    Args:
        mask: (h, w) bool, a tile of the full mask.
        corner: (x, y) of the tile in the image.
        shape: (H, W) of the image.

    Returns:
        (k,) int64 lengths of runs, zeros first, that add up to H * W.
    """
    height, total = shape[0], shape[0] * shape[1]
    if not mask.any():
        return np.array([total], np.int64)
    h, w = mask.shape
    framed = np.zeros((w, h + 2), bool)  # a frame of zeros ends every run within its column
    framed[:, 1:-1] = mask.T
    column, row = np.divmod(np.flatnonzero(framed[:, 1:] != framed[:, :-1]), h + 1)
    edges = (column + corner[0]) * height + row + corner[1]
    if h == height:  # a run may go on into the next column: there an end meets a start
        edges = np.concatenate((edges[:1], edges[1:-1].reshape(-1, 2)[edges[1:-1:2] != edges[2::2]].ravel(), edges[-1:]))
    ends = np.concatenate(((0,), edges, (total,)))
    return ends[1:] - ends[:-1]


def to_text(counts: np.ndarray) -> str:
    """Run lengths (k,) -> COCO's compressed string. A last run of length 0 is left out, as the COCO API does."""
    return to_texts([counts])[0]


def to_texts(masks: Sequence[np.ndarray]) -> list[str]:
    """``to_text`` of the run lengths of many masks at once: one pass over all of their numbers."""
    if not masks:
        return []
    kept = [np.asarray(m, np.int64) for m in masks]
    kept = [m[:-1] if len(m) > 1 and m[-1] == 0 else m for m in kept]
    sizes = np.array([len(m) for m in kept])
    counts, ends = np.concatenate(kept), np.cumsum(sizes)
    x, place = counts.copy(), np.arange(len(counts)) - np.repeat(ends - sizes, sizes)
    (late,) = np.nonzero(place >= 3)
    x[late] -= counts[late - 2]
    shifts = 5 * np.arange(_GROUPS)
    groups = x[:, None] >> shifts & 31
    # A number ends with the first group after which only its sign is left.
    inside = np.where(x < 0, ~x, x)
    used = np.ones(groups.shape, bool)
    used[:, 1:] = inside[:, None] >= (np.int64(16) << shifts[:-1])
    groups[:, :-1] |= used[:, 1:].astype(np.int64) << 5
    text = (groups + 48)[used].astype(np.uint8).tobytes().decode("ascii")
    cuts = [0, *np.cumsum(used.sum(1))[ends - 1].tolist()]
    return [text[i:j] for i, j in itertools.pairwise(cuts)]


def from_text(text: str | bytes) -> np.ndarray:
    """COCO's compressed string -> run lengths (k,) int64.

    Raises:
        ValueError: characters that no such string has, or an end in the middle of a number.
    """
    data = np.frombuffer(text.encode("ascii") if isinstance(text, str) else text, np.uint8).astype(np.int64) - 48
    if not len(data):
        return np.zeros(0, np.int64)
    ends = np.flatnonzero((data & 32) == 0)
    if data.min() < 0 or data.max() > 63 or not len(ends) or ends[-1] != len(data) - 1:
        raise ValueError("no compressed run lengths")
    starts = np.concatenate(([0], ends[:-1] + 1))
    place = np.arange(len(data)) - np.repeat(starts, ends - starts + 1)
    if place.max() >= 12:
        raise ValueError("no compressed run lengths: a number is too long")
    x = np.add.reduceat((data & 31) << 5 * place, starts)
    x -= np.where(data[ends] & 16, np.int64(1) << 5 * (ends - starts + 1), 0)
    x[1::2], x[2::2] = np.cumsum(x[1::2]), np.cumsum(x[2::2])
    return x


def encode(mask: np.ndarray) -> dict[str, Any]:
    """(H, W) bool -> ``{"size": [H, W], "counts": text}``."""
    shape = (mask.shape[0], mask.shape[1])
    return {"size": list(shape), "counts": to_text(counts_of(mask.astype(bool, copy=False), (0, 0), shape))}


def decode(rle: dict[str, Any]) -> np.ndarray:
    """``{"size": [H, W], "counts": text, bytes or list of lengths}`` -> (H, W) bool.

    Raises:
        ValueError: the runs do not add up to H * W, or one is negative.
    """
    (height, width), counts = rle["size"], rle["counts"]
    lengths = from_text(counts) if isinstance(counts, (str, bytes)) else np.asarray(counts, np.int64)
    # Single lengths first: a sum of huge ones wraps around.
    if (lengths < 0).any() or (lengths > height * width).any() or lengths.sum() != height * width:
        raise ValueError(f"the runs do not add up to {height} x {width} pixels")
    flat = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return np.ascontiguousarray(flat.reshape(width, height).T)
