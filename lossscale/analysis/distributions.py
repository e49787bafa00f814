"""Quantiles and tails of a few distributions, of `scipy.special`: scipy.stats has the same, half a second to import.

Names are scipy.stats' own: cdf P(X ≤ x), sf P(X > x), ppf the inverse of cdf, isf that of sf.
"""

from __future__ import annotations

import math
from typing import Any

from scipy import special


def normal_cdf(x: float) -> float:
    """Of a standard normal variable."""
    return float(special.ndtr(x))


def normal_isf(tail: float) -> float:
    """Of a standard normal variable."""
    return float(-special.ndtri(tail))


def student_sf(x: float, degrees: float) -> float:
    """Of Student's t."""
    return float(special.stdtr(degrees, -x))


def student_isf(tail: float, degrees: float) -> float:
    """Of Student's t."""
    return float(-special.stdtrit(degrees, tail))


def beta_ppf(probability: float, a: Any, b: Any) -> Any:
    """Of the beta distribution; elementwise, NaN where a or b is not positive."""
    return special.betaincinv(a, b, probability)


def beta_isf(tail: float, a: Any, b: Any) -> Any:
    """Of the beta distribution; elementwise, NaN where a or b is not positive."""
    return special.betainccinv(a, b, tail)


def binomial_cdf(hits: int, size: int, share: float) -> float:
    """Of how many of ``size`` independent trials succeed, each with probability ``share``."""
    return 0.0 if hits < 0 else 1.0 if hits >= size else float(special.betaincc(hits + 1, size - hits, share))


def binomial_sf(hits: int, size: int, share: float) -> float:
    """See `binomial_cdf`."""
    return 1.0 if hits < 0 else 0.0 if hits >= size else float(special.betainc(hits + 1, size - hits, share))


def binomial_ppf(probability: float, size: int, share: float) -> int:
    """See `binomial_cdf`: the least number of hits with at least that probability at or below it."""
    found: int = math.ceil(special.bdtrik(probability, size, share))
    lower = max(found - 1, 0)
    return lower if binomial_cdf(lower, size, share) >= probability else found


def binomial_isf(tail: float, size: int, share: float) -> int:
    """See `binomial_cdf`: the least number of hits with at most that probability above it."""
    return binomial_ppf(1.0 - tail, size, share)
