"""Quantiles and tails by `scipy.special` are those of scipy.stats, which takes long to import."""

import numpy as np
import pytest
from scipy import stats

from lossscale.analysis import distributions as ours

SIZES = (1, 2, 5, 6, 7, 33, 96, 100, 1000, 4096, 101_728)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("share", [0.01, 0.25, 0.5, 0.99])
def test_binomial(size: int, share: float) -> None:
    for tail in (0.5, 0.025, 0.0125, 1e-6):
        assert ours.binomial_ppf(tail, size, share) == stats.binom.ppf(tail, size, share)
        assert ours.binomial_isf(tail, size, share) == stats.binom.isf(tail, size, share)
    for hits in {-1, 0, 1, size // 2, size - 1, size, size + 1}:
        # The last bit may differ.
        assert ours.binomial_cdf(hits, size, share) == pytest.approx(stats.binom.cdf(hits, size, share), rel=1e-12)
        assert ours.binomial_sf(hits, size, share) == pytest.approx(stats.binom.sf(hits, size, share), rel=1e-12)


def test_a_share_of_all_or_nothing() -> None:
    for share in (0.0, 1.0):
        for hits in (-1, 0, 3, 7, 8):
            assert ours.binomial_cdf(hits, 7, share) == stats.binom.cdf(hits, 7, share)
            assert ours.binomial_sf(hits, 7, share) == stats.binom.sf(hits, 7, share)


def test_beta_normal_and_student() -> None:
    for size in SIZES:
        counts = np.linspace(0, size, min(size + 1, 200)).round()
        with np.errstate(invalid="ignore"):
            for own, other in ((ours.beta_ppf, stats.beta.ppf), (ours.beta_isf, stats.beta.isf)):
                a, b = counts + (own is ours.beta_isf), size - counts + (own is ours.beta_ppf)
                inside = (a > 0) & (b > 0)
                assert np.array_equal(own(0.025, a, b)[inside], other(0.025, a, b)[inside])
    assert ours.normal_isf(0.025) == stats.norm.isf(0.025)
    for x in (-40.0, -1.96, -0.0, 0.3, 9.0, float("inf")):
        assert ours.normal_cdf(x) == stats.norm.cdf(x)
        for degrees in (1.0, 3.5, 200.0):
            assert ours.student_sf(x, degrees) == stats.t.sf(x, degrees)
    assert ours.student_isf(0.025, 3.5) == stats.t.isf(0.025, 3.5)
