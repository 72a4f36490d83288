"""Batches for training: which images when, augmented by worker processes, stacked into tensors (needs torch)."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from edgeseg.data.augment import AugmentOptions, Sample, augment
from edgeseg.data.cache import ImageCache, Record

Key = tuple[int, int]
"""(epoch, index of the image): all chance in a training picture follows from these two and the run's seed."""


@dataclass(frozen=True, eq=False)
class Item:
    """One training picture.

    Attributes:
        image: (3, s, s) uint8 RGB. classes: (n,) int64. boxes: (n, 4) float32 xyxy pixels. index_map: (s/4, s/4) int16.
    """

    image: torch.Tensor
    classes: torch.Tensor
    boxes: torch.Tensor
    index_map: torch.Tensor


@dataclass(frozen=True, eq=False)
class Batch:
    """Stacked pictures: images (B, 3, s, s) uint8 RGB; instances of all in one list, ``owner`` (T,) int64 says whose.

    ``classes`` (T,) int64, ``boxes`` (T, 4) float32 xyxy pixels, ``index_maps`` (B, s/4, s/4) int16.
    """

    images: torch.Tensor
    owner: torch.Tensor
    classes: torch.Tensor
    boxes: torch.Tensor
    index_maps: torch.Tensor

    def pin_memory(self) -> Batch:
        """The same in page-locked memory."""
        parts = (self.images, self.owner, self.classes, self.boxes, self.index_maps)
        return Batch(*(t.pin_memory() for t in parts))


class TrainImages(Dataset[Item]):
    """Augmented pictures by (epoch, index): the same key and seed give the same picture in any process, in any order."""

    def __init__(
        self, records: Sequence[Record], imgsz: int, options: AugmentOptions, *, seed: int, closing: int, cache: ImageCache
    ) -> None:
        """``closing`` is the first epoch that shows whole pictures only."""
        self.records, self.imgsz, self.options = records, imgsz, options
        self.seed, self.closing, self.cache = seed, closing, cache

    def __len__(self) -> int:
        return len(self.records)

    def load(self, index: int) -> Sample:
        """One image as it is, outlines in its pixels."""
        record, image = self.records[index], self.cache.get(self.records[index].path)
        size = np.array((image.shape[1], image.shape[0]), np.float64)
        return Sample(image, record.classes, [[o * size] for o in record.outlines])

    def sample(self, key: Key) -> Sample:
        """The augmented picture as NumPy arrays."""
        epoch, index = key
        options = self.options.closing() if epoch >= self.closing else self.options
        rng = np.random.default_rng((self.seed, epoch, index))
        return augment(rng, index, len(self.records), self.load, self.imgsz, options)

    def __getitem__(self, key: Key) -> Item:
        return to_item(self.sample(key))


def to_item(sample: Sample) -> Item:
    """BGR to RGB, channels first; boxes and index map from the outlines."""
    rgb = np.stack(cv2.split(sample.image)[::-1])  # several times as fast as a transposed copy
    arrays = (rgb, sample.classes, sample.boxes(), sample.index_map())
    return Item(*(torch.from_numpy(a) for a in arrays))


def collate(items: Sequence[Item]) -> Batch:
    """Stack pictures of one size."""
    owner = torch.cat([torch.full((len(x.classes),), i, dtype=torch.int64) for i, x in enumerate(items)])
    classes, boxes = torch.cat([x.classes for x in items]), torch.cat([x.boxes for x in items])
    return Batch(torch.stack([x.image for x in items]), owner, classes, boxes, torch.stack([x.index_map for x in items]))


class EpochBatches(Sampler[list[Key]]):
    """The batches of one epoch for one process, as lists of keys.

    Every epoch has its own order, drawn from (seed, epoch). A global batch of ``batch * world`` consecutive images is cut
    into one share per process, so that all processes together see what one process with the global batch would see. The last
    global batch may be smaller; it is filled up with the epoch's first images until the shares are equal.

    Args:
        count: images. batch: images per process. seed: of the run. rank, world: which process of how many.
    """

    def __init__(self, count: int, batch: int, *, seed: int, rank: int = 0, world: int = 1) -> None:
        self.count, self.batch, self.seed, self.rank, self.world = count, batch, seed, rank, world
        self.epoch = self.skip = 0

    def set(self, epoch: int, skip: int = 0) -> None:
        """Make the next iteration that of ``epoch``, without its first ``skip`` batches."""
        self.epoch, self.skip = epoch, skip

    def __len__(self) -> int:
        return -(-self.count // (self.batch * self.world))

    def __iter__(self) -> Iterator[list[Key]]:
        order = np.arange(self.count)
        np.random.default_rng((self.seed, self.epoch)).shuffle(order)
        step = self.batch * self.world
        for start in range(self.skip * step, self.count, step):
            whole = order[start : start + step]
            missing = -len(whole) % self.world
            whole = np.concatenate((whole, np.resize(order, missing)))
            share = len(whole) // self.world
            yield [(self.epoch, int(i)) for i in whole[self.rank * share : (self.rank + 1) * share]]


def make_loader(images: TrainImages, batches: EpochBatches, *, workers: int, pin: bool = False) -> DataLoader[Item]:
    """A loader whose worker processes live as long as it does; ``workers`` changes the speed and nothing else."""
    return DataLoader(
        images, batch_sampler=batches, num_workers=workers, collate_fn=collate, pin_memory=pin,
        worker_init_fn=_one_thread, persistent_workers=workers > 0, prefetch_factor=4 if workers else None,
    )  # fmt: skip


def _one_thread(_worker: int) -> None:
    """OpenCV's own threads would compete with the other workers; Ctrl-C is for the process that started them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(0)
