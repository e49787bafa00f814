"""Medians and shares with exact 95 % intervals, and extremes, for many groups of pairs at once.

A median's interval ends at two values of the sample, whose ranks follow from the binomial distribution of the number
of values below the median, whatever the values' distribution; ranks are computed once per group size. A share's
interval is Clopper and Pearson's. An extreme has none: what was not seen may lie anywhere beyond it.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from .distributions import beta_isf, beta_ppf, binomial_isf, binomial_ppf, normal_isf

Floats = npt.NDArray[np.float64]

CONFIDENCE: Final = 0.95
TAIL: Final = (1.0 - CONFIDENCE) / 2.0
NORMAL_95: Final = normal_isf(TAIL)
"""Standard deviations to either side of a mean of many values."""


def median_interval(values: Floats) -> tuple[Floats, Floats, Floats]:
    """Median with its interval, NaN for groups that are too small to have one (under 6 values).

    Args:
        values: [groups, n], n at least 1, no NaN, each row ascending.

    Returns:
        measured, lo, hi: [groups] each.
    """
    size = values.shape[1]
    middle = (values[:, (size - 1) // 2] + values[:, size // 2]) / 2.0
    rank = median_rank(size)
    if rank is None:
        return middle, *_none(values)
    return middle, values[:, rank], values[:, size - 1 - rank]


@lru_cache(maxsize=256)
def median_rank(size: int) -> int | None:
    """The rank, from 0, at which the median's interval begins; it ends as far from the other end. None without one.

    The median lies below the value of rank k with the probability that at most k of ``size`` values lie below the
    median, P(B ≤ k) for B of Binomial(size, 1/2). The largest k for which that is at most 2.5 % is taken.
    """
    rank = binomial_ppf(TAIL, size, 0.5) - 1
    return rank if rank >= 0 else None


@lru_cache(maxsize=256)
def quantile_ranks(size: int, level: float, tail: float = TAIL) -> tuple[int, int]:
    """Ranks, from 0, between which a quantile lies with 95 %; −1 or ``size`` where the sample does not reach so far.

    As `median_rank`: the quantile lies below the value of rank k with the probability that at most k of ``size`` values
    lie below it, P(B ≤ k) for B of Binomial(size, level). ``tail`` is the probability of an error on either side.
    """
    return binomial_ppf(tail, size, level) - 1, binomial_isf(tail, size, level)


def share_interval(shares: Floats, size: int) -> tuple[Floats, Floats, Floats]:
    """A share of ``size`` pairs with its interval, as in `median_interval`; it has a width at 0 and 1 too."""
    counts = np.rint(shares * size)
    with np.errstate(invalid="ignore"):
        low = np.where(counts > 0, beta_ppf(TAIL, counts, size - counts + 1), 0.0)
        high = np.where(counts < size, beta_isf(TAIL, counts + 1, size - counts), 1.0)
    return shares, low, high


UPPER: Final = 0.99
"""The level of `upper_quantile`."""


def upper_quantile(values: Floats) -> tuple[Floats, Floats, Floats]:
    """The smallest value with 99 % of its row at or below it; its interval between order statistics, NaN where none.

    Arguments and results as in `median_interval`.
    """
    size = values.shape[1]
    low, high = quantile_ranks(size, UPPER)
    nothing = np.full(len(values), np.nan)
    measured = values[:, math.ceil(UPPER * size) - 1]
    return measured, values[:, low] if low >= 0 else nothing, values[:, high] if high < size else nothing


def holm(p: Floats) -> Floats:
    """P-values of one family, adjusted by Holm's step-down (1979): at most 5 % that any true hypothesis is rejected.

    The smallest of n is multiplied by n, the next by n − 1, and so on; none becomes less than one before it. A
    hypothesis is rejected where its adjusted value is 5 % or less.

    Args:
        p: [n], between 0 and 1, in any order.
    """
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return adjusted


def extreme(values: Floats, *, largest: bool) -> tuple[Floats, Floats, Floats]:
    """Largest or smallest value, without an interval; arguments and results as in `median_interval`."""
    return values[:, -1 if largest else 0], *_none(values)


def _none(values: Floats) -> tuple[Floats, Floats]:
    nothing = np.full(len(values), np.nan)
    return nothing, nothing
