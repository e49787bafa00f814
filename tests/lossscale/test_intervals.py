"""Intervals against scipy's exact ones, and how often they cover what is known."""

import math

import numpy as np
import pytest
from scipy import stats

from lossscale.analysis.intervals import extreme, holm, median_interval, median_rank, share_interval, upper_quantile
from lossscale.analysis.measured import Measured


@pytest.mark.parametrize("size", [*range(1, 41), 64, 127, 128, 1000, 1001])
def test_medians_have_the_interval_of_scipys_quantile_test(size: int) -> None:
    values = np.sort(np.random.default_rng(size).normal(size=(3, size)), axis=1)
    measured, low, high = median_interval(values)
    np.testing.assert_array_equal(measured, np.median(values, axis=1))
    for row, lo, hi in zip(values, low, high, strict=True):
        expected = stats.quantile_test(row, p=0.5).confidence_interval(0.95)
        np.testing.assert_array_equal((lo, hi), (expected.low, expected.high))
    assert np.isnan(low).all() == np.isnan(high).all() == (size < 6)


def test_the_ranks_are_the_narrowest_that_cover() -> None:
    assert [median_rank(size) for size in (5, 6, 8, 9, 20, 128)] == [None, 0, 0, 1, 5, 52]
    for size in range(6, 200):
        rank = median_rank(size)
        assert rank is not None
        below = stats.binom.cdf([rank, rank + 1], size, 0.5)
        assert below[0] <= 0.025 < below[1]


@pytest.mark.parametrize("size", [1, 2, 8, 48, 128])
def test_shares_have_the_interval_of_scipys_binomial_test(size: int) -> None:
    counts = np.arange(size + 1)
    measured, low, high = share_interval(counts / size, size)
    np.testing.assert_array_equal(measured, counts / size)
    for count, lo, hi in zip(counts, low, high, strict=True):
        expected = stats.binomtest(int(count), size).proportion_ci(0.95, method="exact")
        assert (lo, hi) == pytest.approx((expected.low, expected.high), rel=1e-9, abs=1e-12)
    assert low[0] == 0.0 and high[-1] == 1.0 and high[0] > 0.0 and low[-1] < 1.0


def test_no_event_in_1024_pairs_leaves_a_third_of_a_percent() -> None:
    _, _, high = share_interval(np.array([0.0]), 1024)
    assert high[0] == pytest.approx(0.0036, abs=1e-4)


@pytest.mark.parametrize("size", [8, 30])
def test_medians_cover_in_95_of_100_samples_or_more(size: int) -> None:
    values = np.sort(np.random.default_rng(5).exponential(size=(4000, size)), axis=1)
    _, low, high = median_interval(values)
    assert ((low <= np.log(2)) & (np.log(2) <= high)).mean() > 0.94


def test_the_upper_quantile_has_99_of_100_at_or_below_it() -> None:
    values = np.stack([np.arange(1024.0), 2 * np.arange(1024.0)])
    measured, lo, hi = upper_quantile(values)
    assert ((values <= measured[:, None]).mean(1) >= 0.99).all() and ((values < measured[:, None]).mean(1) < 0.99).all()
    assert (lo < measured).all() and (measured < hi).all() and hi[0] < 1023
    few, low, high = upper_quantile(np.arange(16.0)[None])
    assert few[0] == 15 and not np.isnan(low[0]) and np.isnan(high[0]), "of few it is the largest, with no upper end"
    floor = Measured.floor([math.nan, *values[1]])
    assert (floor.value, floor.lo, floor.hi, floor.count) == (measured[1], lo[1], hi[1], 1024)
    assert math.isnan(Measured.floor([]).value)


def test_holm_multiplies_the_smallest_by_all_the_next_by_one_less_and_never_goes_back() -> None:
    # By hand: .005 · 4 = .02, .01 · 3 = .03, .03 · 2 = .06, .04 · 1 = .04 but not under .06.
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.6, 0.5])).tolist() == [1.0, 1.0] and holm(np.array([0.04])).tolist() == [0.04]
    assert holm(np.array([])).size == 0


def test_extremes_have_no_interval() -> None:
    values = np.array([[1.0, 2.0, 5.0], [0.0, 0.0, 0.0]])
    for largest, expected in ((True, [5.0, 0.0]), (False, [1.0, 0.0])):
        measured, low, high = extreme(values, largest=largest)
        assert measured.tolist() == expected and np.isnan(low).all() and np.isnan(high).all()


def test_equal_values_have_no_width() -> None:
    measured, low, high = median_interval(np.full((2, 9), 3.0))
    assert measured.tolist() == low.tolist() == high.tolist() == [3.0, 3.0]
