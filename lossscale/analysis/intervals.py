"""Bootstrap intervals of medians, extremes and shares, for many groups of pairs at once.

The pairs of a cell are resampled with replacement. A resampled median or extreme is a value of the sample at a
resampled *rank*, and ranks do not depend on the values: they are drawn once per group size (from the order statistics
of uniform numbers, which are Beta distributed) and read off every sorted group. A resampled share is a binomial
count, whose quantiles need no drawing.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

Floats = npt.NDArray[np.float64]
Ranks = npt.NDArray[np.int64]

RESAMPLES: Final = 1000
CONFIDENCE: Final = 0.95
SEED: Final = 20

_TAILS: Final = ((1.0 - CONFIDENCE) / 2.0, (1.0 + CONFIDENCE) / 2.0)


def median_interval(values: Floats) -> tuple[Floats, Floats, Floats]:
    """Median with its percentile interval.

    Args:
        values: [groups, n], n at least 1, no NaN, each row ascending.

    Returns:
        measured, lo, hi: [groups] each.
    """
    size = values.shape[1]
    middle = (values[:, (size - 1) // 2] + values[:, size // 2]) / 2.0
    lower, upper = _median_ranks(size)
    resampled = (values[:, lower] + values[:, upper]) / 2.0
    resampled.sort(axis=1)
    return middle, *_tails(resampled)


def extreme_interval(values: Floats, *, largest: bool) -> tuple[Floats, Floats, Floats]:
    """Largest (or smallest) value with its percentile interval; arguments and results as in `median_interval`.

    The interval ends at the extreme itself: resampling cannot go beyond what was seen.
    """
    size = values.shape[1]
    uniform = _generator(size).beta(size, 1, RESAMPLES)
    ranks = _rank(uniform if largest else 1.0 - uniform, size)
    resampled = np.sort(values[:, ranks], axis=1)
    return values[:, -1 if largest else 0], *_tails(resampled)


def share_interval(shares: Floats, size: int) -> tuple[Floats, Floats, Floats]:
    """A share of `size` pairs with its interval, as in `median_interval`; a share of 0 or 1 has no width."""
    low, high = (np.asarray(binom.ppf(tail, size, shares), dtype=np.float64) / size for tail in _TAILS)
    return shares, np.maximum(low, 0.0), high


@lru_cache(maxsize=64)
def _median_ranks(size: int) -> tuple[Ranks, Ranks]:
    """Ranks (from 0) of the one or two middle values in each of RESAMPLES resamples of `size` values."""
    generator = _generator(size)
    below = (size - 1) // 2 + 1
    uniform = generator.beta(below, size - below + 1, RESAMPLES)
    if size % 2:
        lower = _rank(uniform, size)
        return lower, lower
    # The next order statistic above u is u plus the smallest of the size - below uniforms left in (u, 1).
    following = uniform + (1.0 - uniform) * generator.beta(1, size - below, RESAMPLES)
    return _rank(uniform, size), _rank(following, size)


def _generator(size: int) -> np.random.Generator:
    return np.random.default_rng((SEED, size))


def _rank(uniform: Floats, size: int) -> Ranks:
    return np.minimum((uniform * size).astype(np.int64), size - 1)


def _tails(ascending: Floats) -> tuple[Floats, Floats]:
    """Percentiles of rows that are sorted already, at the nearest rank inside."""
    count = ascending.shape[1]
    low = int(np.floor(_TAILS[0] * (count - 1)))
    return ascending[:, low], ascending[:, count - 1 - low]
