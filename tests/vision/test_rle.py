import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgeseg.vision import rle

shapes = st.tuples(st.integers(1, 40), st.integers(1, 40))


def make(seed: int, shape: tuple[int, int], density: float) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < density


def slow_counts(mask: np.ndarray) -> list[int]:
    counts, value = [0], False
    for x in range(mask.shape[1]):
        for y in range(mask.shape[0]):
            if mask[y, x] != value:
                counts.append(0)
                value = not value
            counts[-1] += 1
    return counts


def slow_text(counts: list[int]) -> str:
    out = []
    for i, n in enumerate(counts):
        x = n - counts[i - 2] if i > 2 else n
        while True:
            group, x = x & 31, x >> 5
            last = x == (-1 if group & 16 else 0)
            out.append(chr(48 + (group if last else group | 32)))
            if last:
                break
    return "".join(out)


@settings(max_examples=80)
@given(st.integers(0, 999), shapes, st.sampled_from([0.0, 0.02, 0.5, 0.98, 1.0]))
@example(0, (1, 1), 0.0)
@example(0, (1, 1), 1.0)
def test_runs_and_round_trip(seed, shape, density):
    mask = make(seed, shape, density)
    counts = rle.counts_of(mask, (0, 0), shape)
    expected = slow_counts(mask)
    assert counts.tolist()[: len(expected)] == expected and sum(counts[len(expected) :]) == 0
    code = rle.encode(mask)
    assert code == {"size": list(shape), "counts": slow_text(expected)}
    np.testing.assert_array_equal(rle.decode(code), mask)
    np.testing.assert_array_equal(rle.decode({"size": shape, "counts": code["counts"].encode()}), mask)
    np.testing.assert_array_equal(rle.decode({"size": shape, "counts": expected}), mask)


@given(st.lists(st.integers(0, 2**33), min_size=1, max_size=12))
def test_numbers_of_every_size(counts):
    counts[-1] = max(counts[-1], 1)
    text = rle.to_text(np.array(counts))
    assert text == slow_text(counts)
    assert rle.from_text(text).tolist() == counts


@given(st.lists(st.lists(st.integers(0, 2**33), min_size=1, max_size=12), max_size=6))
def test_many_masks_at_once_are_as_one_by_one(masks):
    arrays = [np.array(m) for m in masks]
    assert rle.to_texts(arrays) == [rle.to_text(a) for a in arrays]


@settings(max_examples=80)
@given(st.integers(0, 999), shapes, st.data())
def test_a_tile_is_the_full_mask(seed, shape, data):
    x0, y0 = data.draw(st.integers(0, shape[1])), data.draw(st.integers(0, shape[0]))
    x1, y1 = data.draw(st.integers(x0, shape[1])), data.draw(st.integers(y0, shape[0]))
    full = np.zeros(shape, bool)
    full[y0:y1, x0:x1] = make(seed, (y1 - y0, x1 - x0), 0.8)
    tile = rle.counts_of(full[y0:y1, x0:x1], (x0, y0), shape)
    assert rle.to_text(tile) == rle.encode(full)["counts"]


def test_agrees_with_the_coco_api():
    api = pytest.importorskip("faster_coco_eval.core.mask")
    for seed in range(40):
        shape = tuple(np.random.default_rng(seed).integers(1, 300, 2).tolist())
        mask = make(seed, shape, (0.01, 0.5, 0.9, 1.0)[seed % 4])
        theirs = api.encode(np.asfortranarray(mask.astype(np.uint8)))
        text = theirs["counts"]
        assert rle.encode(mask)["counts"] == (text.decode() if isinstance(text, bytes) else text)
        np.testing.assert_array_equal(rle.decode(theirs), mask)
        np.testing.assert_array_equal(api.decode(rle.encode(mask)), mask)


@pytest.mark.parametrize("text", ["\x01", "~~", "P", "P" * 20 + "0", "é"])
def test_what_is_no_code(text):
    with pytest.raises(ValueError):
        rle.from_text(text)


def test_runs_that_do_not_fill_the_image():
    assert rle.from_text("").tolist() == []
    for counts in ([5], [1, 1], [10, -1], ""):
        with pytest.raises(ValueError):
            rle.decode({"size": [3, 3], "counts": counts})
