"""Which images calibrate, and what is said about them."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeseg.data.dataset import Dataset, load_dataset
from edgeseg.data.shapes import make_shapes
from edgeseg.errors import EdgesegError
from edgeseg.quantize.calibration import choose, content_hash, dhash, iterate


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load_dataset(make_shapes(tmp_path_factory.mktemp("many") / "shapes", train=40, val=4, size=64, seed=5))


def folder_of(tmp_path: Path, train: list[np.ndarray], val: list[np.ndarray] | None = None) -> Dataset:
    for split, images in (("train", train), ("val", val or [picture(999)])):
        (tmp_path / "images" / split).mkdir(parents=True)
        for i, image in enumerate(images):
            cv2.imwrite(str(tmp_path / "images" / split / f"{i:03}.png"), image)
    (tmp_path / "data.yaml").write_text(f"path: {tmp_path}\ntrain: images/train\nval: images/val\nnames: [thing]\n")
    return load_dataset(tmp_path / "data.yaml")


def picture(seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return cv2.resize(coarse, (64, 64), interpolation=cv2.INTER_CUBIC)


def test_the_same_seed_chooses_the_same_images(many: Dataset) -> None:
    a, b = choose(many, 10, seed=1), choose(many, 10, seed=1)
    assert a == b
    assert len(set(a.images)) == 10 and all("train" in p.parts for p in a.images)
    assert a.hash == content_hash(a.images) and len(a.hash) == 64
    assert a.source.name == "train"


def test_a_prefix_is_a_choice_too(many: Dataset) -> None:
    assert choose(many, 20).images[:8] == choose(many, 8).images


def test_the_choice_spreads_over_content(tmp_path: Path) -> None:
    # Thirty shades of dark, four bright ones: four images must not all be dark.
    rng = np.random.default_rng(0)
    dark = [np.clip(picture(i) // 6 + rng.integers(0, 3), 0, 255).astype(np.uint8) for i in range(30)]
    bright = [255 - picture(100 + i) // 6 for i in range(4)]
    chosen = choose(folder_of(tmp_path, dark + bright), 4)
    assert any(int(p.stem) >= 30 for p in chosen.images)


def test_few_images_are_said(many: Dataset) -> None:
    chosen = choose(many, 1000)
    assert any("where 1000 were asked for" in w for w in chosen.warnings)
    assert any("are few" in w for w in choose(many, 5).warnings)


def test_near_duplicates_and_overlap_are_said(tmp_path: Path) -> None:
    noisy = np.clip(picture(3).astype(int) + 2, 0, 255).astype(np.uint8)
    data = folder_of(tmp_path, [picture(i) for i in range(6)] + [noisy], [picture(1), picture(77)])
    chosen = choose(data, 7)
    text = " ".join(chosen.warnings)
    assert "1 near-duplicates are left out" in text
    assert "1 calibration images are in val too" in text


def test_near_duplicates_of_val_are_said(tmp_path: Path) -> None:
    twin = np.clip(picture(2).astype(int) + 2, 0, 255).astype(np.uint8)
    text = " ".join(choose(folder_of(tmp_path, [picture(i) for i in range(5)], [twin])).warnings)
    assert "near-duplicates of val" in text


def test_black_images_are_refused_or_left_out(tmp_path: Path) -> None:
    black = np.zeros((64, 64, 3), np.uint8)
    chosen = choose(folder_of(tmp_path / "some", [black, picture(1), picture(2)]), 3)
    assert len(chosen.images) == 2 and any("one colour" in w for w in chosen.warnings)
    with pytest.raises(EdgesegError, match="all black"):
        choose(folder_of(tmp_path / "all", [black, black + 1]))


def test_val_must_not_be_train(tmp_path: Path) -> None:
    data = folder_of(tmp_path, [picture(1)])
    same = tmp_path / "same.yaml"
    same.write_text(f"path: {tmp_path}\ntrain: images/train\nval: images/train\nnames: [thing]\n")
    with pytest.raises(EdgesegError, match="train and val are the same"):
        choose(load_dataset(same))
    assert choose(data).images


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "d.yaml").write_text(f"path: {tmp_path}\ntrain: empty\nval: empty\nnames: [thing]\n")
    with pytest.raises(EdgesegError, match="no images"):
        choose(load_dataset(tmp_path / "d.yaml"))


def test_unreadable_images_are_counted(tmp_path: Path) -> None:
    data = folder_of(tmp_path, [picture(1), picture(2)])
    (tmp_path / "images/train/broken.png").write_bytes(b"no picture")
    chosen = choose(data, 3)
    assert len(chosen.images) == 2
    assert any("1 of 3 images cannot be read" in w for w in chosen.warnings)


def test_images_come_letterboxed_one_at_a_time(many: Dataset) -> None:
    stream = iterate(many.images("train")[:2], (96, 128))
    first = next(stream)
    assert first.shape == (96, 128, 3) and first.dtype == np.uint8 and first.flags.c_contiguous
    assert (first[:, :16] == 114).all()
    assert len(list(stream)) == 1


def test_dhash_survives_brightness_and_sees_content() -> None:
    grey = cv2.cvtColor(picture(4), cv2.COLOR_BGR2GRAY)
    assert (dhash(grey) ^ dhash(cv2.convertScaleAbs(grey, alpha=0.9, beta=10))).bit_count() <= 3
    assert (dhash(grey) ^ dhash(cv2.cvtColor(picture(5), cv2.COLOR_BGR2GRAY))).bit_count() > 10
