"""The fast intervals against resampling done literally."""

import numpy as np
import pytest

from lossscale.analysis import intervals as bootstrap


def _literal(values: np.ndarray, statistic: object, resamples: int = 20000) -> tuple[float, float]:
    picks = np.random.default_rng(0).integers(len(values), size=(resamples, len(values)))
    resampled = statistic(values[picks], axis=1)  # type: ignore[operator]
    return tuple(np.quantile(resampled, [0.025, 0.975]))


@pytest.mark.parametrize("size", [7, 8, 64, 201])
def test_median_interval_agrees_with_literal_resampling(size: int) -> None:
    values = np.sort(np.random.default_rng(size).lognormal(size=size))
    measured, lo, hi = (column[0] for column in bootstrap.median_interval(values[None]))
    assert measured == pytest.approx(np.median(values))
    low, high = _literal(values, np.median)
    # Both ends are order statistics: allow the neighbouring rank or two.
    ranks = np.searchsorted(values, [lo, low, hi, high])
    assert abs(ranks[0] - ranks[1]) <= max(1, size // 50) and abs(ranks[2] - ranks[3]) <= max(1, size // 50)


@pytest.mark.parametrize("size", [2, 7, 8, 64])
def test_ranks_of_resampled_medians_are_distributed_as_in_literal_resampling(size: int) -> None:
    picks = np.sort(np.random.default_rng(0).integers(size, size=(20000, size)), axis=1)
    for ranks, place in zip(bootstrap._median_ranks(size), ((size - 1) // 2, size // 2), strict=True):
        literal = picks[:, place]
        standard_error = literal.std() / np.sqrt(bootstrap.RESAMPLES)
        assert abs(ranks.mean() - literal.mean()) < 4 * standard_error
        assert ranks.std() == pytest.approx(literal.std(), rel=0.12)


def test_share_interval_agrees_with_literal_resampling() -> None:
    values = np.array([1.0] * 48 + [0.0] * 16)
    measured, lo, hi = bootstrap.share_interval(np.array([0.75]), 64)
    low, high = _literal(values, np.mean)
    assert (measured[0], lo[0], hi[0]) == (0.75, pytest.approx(low, abs=1 / 64), pytest.approx(high, abs=1 / 64))
    assert [float(column[0]) for column in bootstrap.share_interval(np.array([1.0]), 64)] == [1.0, 1.0, 1.0]


def test_extremes_end_at_the_extreme_and_one_value_has_no_width() -> None:
    values = np.arange(10.0)[None]
    assert (
        bootstrap.extreme_interval(values, largest=True)[0][0]
        == 9.0
        == bootstrap.extreme_interval(values, largest=True)[2][0]
    )
    assert bootstrap.extreme_interval(values, largest=False)[1][0] == 0.0
    assert [column[0] for column in bootstrap.median_interval(np.array([[3.0]]))] == [3.0, 3.0, 3.0]


def test_intervals_are_the_same_every_time_and_in_any_company() -> None:
    values = np.sort(np.random.default_rng(1).normal(size=(5, 32)), axis=1)
    together = bootstrap.median_interval(values)
    bootstrap._median_ranks.cache_clear()
    alone = bootstrap.median_interval(values[2:3])
    assert all(a[2] == b[0] for a, b in zip(together, alone, strict=True))
