"""Scanning, caches, and batches that depend on the seed alone."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from edgeseg.data.augment import AugmentOptions
from edgeseg.data.cache import ImageCache, scan
from edgeseg.data.dataset import load_dataset
from edgeseg.data.loader import EpochBatches, TrainImages, collate, make_loader
from edgeseg.data.shapes import make_shapes
from edgeseg.errors import EdgesegError


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGESEG_HOME", str(tmp_path / "home"))
    return make_shapes(tmp_path / "shapes", train=6, val=2, size=64, seed=3)


def images_of(data: Path, cache: str = "none", seed: int = 5) -> TrainImages:
    records = scan(load_dataset(data), "train").records
    options = AugmentOptions(mixup=0.3, copy_paste=0.3)
    return TrainImages(records, 64, options, seed=seed, closing=3, cache=ImageCache(64, cache))


def test_a_scan_is_remembered_and_notices_changes(data: Path) -> None:
    dataset = load_dataset(data)
    first, second = scan(dataset, "train"), scan(dataset, "train")
    assert first.reused == 0 and second.reused == 6
    for a, b in zip(first.records, second.records):
        assert a.path == b.path and a.shape == b.shape and (a.classes == b.classes).all()
        assert all((x == y).all() for x, y in zip(a.outlines, b.outlines))
    changed = dataset.label_path(first.records[2].path)
    changed.write_text("1 0.1 0.1 0.9 0.1 0.9 0.9\n")
    third = scan(dataset, "train")
    assert third.reused == 5 and third.records[2].classes.tolist() == [1]
    changed.unlink()
    assert scan(dataset, "train").records[2].classes.tolist() == []


def test_corrupt_images_are_skipped_and_counted(data: Path) -> None:
    dataset = load_dataset(data)
    bad = dataset.images("train")[1]
    bad.write_bytes(b"no image")
    for _ in range(2):  # remembered, too
        got = scan(dataset, "train")
        assert len(got.records) == 5 and len(got.skipped) == 1 and bad.name in got.skipped[0]


def test_a_broken_memory_of_the_scan_is_ignored(data: Path, tmp_path: Path) -> None:
    dataset = load_dataset(data)
    scan(dataset, "train")
    (memory,) = (tmp_path / "home" / "labels").glob("*.npz")
    memory.write_bytes(b"PK\x03\x04 cut off")
    assert scan(dataset, "train").reused == 0


def test_a_class_beyond_nc_names_file_and_line(data: Path) -> None:
    dataset = load_dataset(data)
    label = dataset.label_path(dataset.images("train")[0])
    label.write_text("9 0.1 0.1 0.9 0.1 0.9 0.9\n")
    with pytest.raises(EdgesegError, match=f"{label.name}:1: class 9"):
        scan(dataset, "train")


@pytest.mark.parametrize("kind", ["none", "ram", "disk"])
def test_image_caches_notice_a_changed_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.full((40, 80, 3), 10, np.uint8))
    cache = ImageCache(40, kind, tmp_path / "cache")
    assert cache.get(path).shape == (20, 40, 3) and (cache.get(path) == 10).all()
    cv2.imwrite(str(path), np.full((40, 80, 3), 99, np.uint8))
    os.utime(path, ns=(1, 1))
    assert (cache.get(path) == 99).all()


def test_caches_give_the_same_pictures(data: Path) -> None:
    plain, ram, disk = (images_of(data, kind) for kind in ("none", "ram", "disk"))
    ram.cache.fill(ram.records)
    for key in ((0, 1), (4, 2)):
        want = plain[key]
        for other in (ram[key], disk[key], disk[key]):
            assert (other.image == want.image).all() and (other.index_map == want.index_map).all()


def test_too_little_memory_for_the_cache_is_an_error(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=1000))
    images = images_of(data, "ram")
    with pytest.raises(EdgesegError, match="cache=disk"):
        images.cache.fill(images.records)


def test_any_number_of_workers_gives_the_same_batches(data: Path) -> None:
    runs = []
    for workers in (0, 2):
        batches = EpochBatches(6, 4, seed=5)
        loader = make_loader(images_of(data), batches, workers=workers)  # type: ignore[arg-type]
        seen = []
        for epoch in range(2):
            batches.set(epoch)
            seen += list(loader)
        runs.append(seen)
    assert len(runs[0]) == len(runs[1]) == 4
    for a, b in zip(*runs):
        for part in ("images", "owner", "classes", "boxes", "index_maps"):
            assert torch.equal(getattr(a, part), getattr(b, part)), part


def test_epochs_and_seeds_differ_and_closing_shows_whole_pictures(data: Path) -> None:
    images = images_of(data)
    assert not torch.equal(images[(0, 1)].image, images[(1, 1)].image)
    assert not torch.equal(images[(0, 1)].image, images_of(data, seed=6)[(0, 1)].image)
    original = len(images.records[1].classes)
    assert len(images[(3, 1)].classes) <= original


def test_processes_share_the_global_batch() -> None:
    one = EpochBatches(10, 4, seed=1)
    two = [EpochBatches(10, 2, seed=1, rank=r, world=2) for r in range(2)]
    for s in (one, *two):
        s.set(3)
    assert len(one) == len(two[0]) == 3
    for whole, a, b in zip(one, *two):
        assert whole == a + b
    assert sorted(k for batch in one for k in batch) == [(3, i) for i in range(10)]
    odd = [EpochBatches(5, 2, seed=1, rank=r, world=2) for r in range(2)]
    assert [len(batch) for batch in odd[0]] == [len(batch) for batch in odd[1]] == [2, 1]


def test_skipping_batches_goes_on_where_the_epoch_was_left() -> None:
    whole, rest = EpochBatches(9, 2, seed=0), EpochBatches(9, 2, seed=0)
    whole.set(1)
    rest.set(1, skip=3)
    assert list(whole)[3:] == list(rest)


def test_collate_numbers_instances_by_image(data: Path) -> None:
    images = images_of(data)
    items = [images[(0, i)] for i in range(3)]
    batch = collate(items)
    assert batch.images.shape == (3, 3, 64, 64) and batch.images.dtype == torch.uint8
    assert batch.owner.tolist() == [i for i, item in enumerate(items) for _ in item.classes]
    assert batch.index_maps.shape == (3, 16, 16)


def test_a_damaged_label_cache_is_rebuilt(data: Path) -> None:
    dataset = load_dataset(data)
    truth = scan(dataset, "train")
    (file,) = (data.parent.parent / "home" / "labels").glob("*.npz")
    good = file.read_bytes()
    for at in range(0, len(good), max(1, len(good) // 60)):
        file.write_bytes(good[:at] + bytes([good[at] ^ 0x41]) + good[at + 1 :])
        again = scan(dataset, "train")
        assert again.reused == 0 and [r.shape for r in again.records] == [r.shape for r in truth.records]
    for other in (b"", good[:40], b"junk"):
        file.write_bytes(other)
        assert scan(dataset, "train").reused == 0
    assert scan(dataset, "train").reused == 6


def test_a_damaged_image_cache_is_rebuilt(data: Path) -> None:
    image = load_dataset(data).images("train")[0]
    right = ImageCache(64, "disk").get(image).copy()
    (file,) = (data.parent.parent / "home" / "images").glob("*/*.npy")
    good = file.read_bytes()
    for at in range(0, len(good), max(1, len(good) // 60)):
        file.write_bytes(good[:at] + bytes([good[at] ^ 0x41]) + good[at + 1 :])
        assert np.array_equal(ImageCache(64, "disk").get(image), right)
        assert file.read_bytes() == good
    file.write_bytes(good[:-4])
    assert np.array_equal(ImageCache(64, "disk").get(image), right)
