"""Range methods against slow, obvious versions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseg.quantize import ranges
from edgeseg.quantize.kinds import silu
from edgeseg.quantize.observe import Histogram


def filled(values: np.ndarray) -> Histogram:
    h = Histogram()
    h.add(values)
    return h


def exact_error(x: np.ndarray, lo: float, hi: float, function=ranges.identity) -> float:
    """One value at a time, by the definition of affine quantization."""
    scale = (hi - lo) / 255
    zero = round(-lo / scale)
    total = 0.0
    for v in x:
        q = min(max(round(v / scale) + zero, 0), 255)
        back = (q - zero) * scale
        total += float(function(np.float64(back)) - function(np.float64(v))) ** 2
    return total / len(x)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 50), st.floats(0.3, 1.0))
def test_histogram_error_is_the_error_of_the_values(seed: int, spread: float, clip: float) -> None:
    x = np.random.default_rng(seed).normal(0, spread, 3000)
    lo, hi = float(x.min() * clip), float(x.max() * clip)
    for function in (ranges.identity, silu):
        want = exact_error(x, lo, hi, function)
        assert ranges.Error(filled(x), function)(lo, hi) == pytest.approx(want, rel=0.15, abs=1e-7 * spread**2)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["identity", "silu"]))
def test_mse_is_as_good_as_a_full_search(seed: int, name: str) -> None:
    function = {"identity": ranges.identity, "silu": silu}[name]
    h = filled(np.random.default_rng(seed).standard_t(3, 4000) * 4)
    lo, hi = ranges.mse(h, function)
    best = min(
        ranges.Error(h, function)(a, b)
        for a in np.linspace(h.low, h.low * 0.02, 40)
        for b in np.linspace(h.high * 0.02, h.high, 40)
    )
    assert ranges.Error(h, function)(lo, hi) <= best * 1.1


def test_mse_leaves_out_what_a_silu_flattens() -> None:
    x = np.random.default_rng(1).normal(-3, 12, 50_000)
    lo, _ = ranges.mse(filled(x), silu)
    assert -10 < lo < -2
    assert ranges.mse(filled(x))[0] < -20


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=200))
def test_minmax_and_percentile_of_everything_cover_all_values_and_zero(values: list[float]) -> None:
    x = np.array(values)
    for lo, hi in (ranges.minmax(filled(x)), ranges.mse(filled(x))):
        assert lo <= 0 <= hi
    assert ranges.minmax(filled(x)) == (min(x.min(), 0), max(x.max(), 0))


def test_percentile_leaves_out_its_share() -> None:
    x = np.random.default_rng(0).uniform(-1, 1, 100_000)
    lo, hi = ranges.percentile(filled(x), 0.9)
    assert lo == pytest.approx(-0.9, abs=0.01) and hi == pytest.approx(0.9, abs=0.01)


def test_kl_clips_a_lone_outlier() -> None:
    x = np.append(np.random.default_rng(0).normal(0, 1, 100_000), 60.0)
    lo, hi = ranges.kl(filled(x))
    assert 2 < hi < 30 and -30 < lo < -2


def test_constant_zero_has_a_range() -> None:
    h = filled(np.zeros(10))
    for method in (ranges.minmax, ranges.mse, ranges.percentile, ranges.kl):
        assert method(h) == (0.0, 0.0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 1e4))
def test_doubling_loses_no_count(seed: int, growth: float) -> None:
    rng = np.random.default_rng(seed)
    parts = [rng.normal(0, 1, 500), rng.normal(0, growth, 500)]
    h = Histogram()
    for p in parts:
        h.add(p)
    x = np.concatenate(parts)
    assert h.counts.sum() == 1000
    assert (h.low, h.high) == (x.min(), x.max())
    where = np.searchsorted(np.sort(x), h.centres)
    assert np.abs(np.cumsum(h.counts) - where).max() <= np.max(h.counts) + 2


def test_merged_adds_up() -> None:
    a, b = filled(np.linspace(-1, 1, 101)), filled(np.linspace(0, 50, 51))
    m = a.merged(b)
    assert m.counts.sum() == 152
    assert (m.low, m.high) == (-1, 50)
    assert a.merged(Histogram()).counts.sum() == 101


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(40, 127))
def test_weights_from_a_coarse_grid_are_met_exactly(seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    integers = rng.integers(-levels, levels + 1, (5, 64))
    integers[:, 0] = levels
    w = integers * rng.uniform(0.001, 1, (5, 1))
    s = ranges.weight_scale(w)[:, None]
    assert np.abs(np.rint(w / s) * s - w).max() < 1e-9


def test_weight_scale_is_never_worse_than_the_plain_one() -> None:
    w = np.random.default_rng(3).standard_t(4, (16, 8, 3, 3))

    def gap(scales: np.ndarray) -> np.ndarray:
        s = scales.reshape(-1, 1, 1, 1)
        return ((np.clip(np.rint(w / s), -127, 127) * s - w) ** 2).sum((1, 2, 3))

    assert (gap(ranges.weight_scale(w)) <= gap(np.abs(w).max((1, 2, 3)) / 127) + 1e-12).all()
    assert ranges.weight_scale(np.zeros((2, 3, 1, 1))).min() > 0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.sampled_from([1, 2, 3]))
def test_pairwise_scales_let_no_two_neighbours_overflow_16_bits(seed: int, inputs: int, kernel: int) -> None:
    w = np.random.default_rng(seed).normal(0, 1, (6, inputs, kernel, kernel))
    s = ranges.weight_scale(w, pairwise=True)
    assert not ranges.overflows(w, s).any()
    q = np.clip(np.rint(w / s.reshape(-1, 1, 1, 1)), -127, 127).transpose(0, 2, 3, 1)
    for values in (q, q[..., 1:]) if inputs % 2 else (q,):
        pairs = values[..., : values.shape[-1] // 2 * 2].reshape(-1, 2)
        assert (255 * np.maximum(pairs, 0).sum(1)).max(initial=0) <= 32767
        assert (255 * np.minimum(pairs, 0).sum(1)).min(initial=0) >= -32768
    free = ~ranges.overflows(w, ranges.weight_scale(w))
    assert np.array_equal(s[free], ranges.weight_scale(w)[free])


@pytest.mark.parametrize("inputs", [3, 4])
def test_pairwise_scales_are_those_of_the_plain_search(inputs: int) -> None:
    """Every candidate of every channel tried, and every pair of products added up."""
    w = np.random.default_rng(inputs).normal(0, 1, (12, inputs, 3, 3))
    found = ranges.weight_scale(w, pairwise=True)
    for channel, scale in zip(w.transpose(0, 2, 3, 1).reshape(len(w), -1), found):
        best = (np.inf, 0.0)
        for level in (*range(127, 31, -1), *(127 / np.linspace(0.8, 0.98, 10))):
            s = np.abs(channel).max() / level
            q = np.clip(np.rint(channel / s), -127, 127)
            pairs = [q[i : i + 2] for first in ((0, 1) if inputs % 2 else (0,)) for i in range(first, len(q), 2)]
            fits = all(np.maximum(sign * p, 0).sum() <= ranges.PAIR for p in pairs for sign in (1, -1))
            gap = float(((q * s - channel) ** 2).sum())
            if fits and gap < best[0] * (1 - 1e-9):
                best = gap, s
        assert scale == best[1]


def test_overflow_is_a_matter_of_signs_and_places() -> None:
    one = np.ones(1)

    def over(*values: float) -> bool:
        return bool(ranges.overflows(np.array(values, float).reshape(1, -1, 1, 1), one)[0])

    assert over(127, 127) and over(-127, -2) and over(65, 64, 0, 0)
    assert not over(127, 1) and not over(127, -127) and not over(64, 64) and not over(0, 127, 127, 0)
    assert over(0, 127, 127), "with three input channels kernels that do not pad begin at any of them"
