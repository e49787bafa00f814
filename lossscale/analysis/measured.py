"""A measured number with its exact 95 % interval, and the p-values that belong to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .distributions import binomial_cdf, binomial_sf, normal_cdf
from .intervals import NORMAL_95, TAIL, UPPER, median_interval, quantile_ranks, share_interval, upper_quantile
from .thresholds import quantile

Tails = Callable[[float], tuple[float, float]]
"""Of a number x the p-values that the true one is at most x, and at least x."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A number with its exact 95 % interval (NaN where it has none) and how many pairs or elements it is of.

    ``tails`` belong to the interval: what lies beyond it has a p-value of 2.5 % or less.
    """

    value: float
    lo: float = math.nan
    hi: float = math.nan
    count: int = 1
    tails: Tails | None = field(default=None, compare=False, repr=False)

    @classmethod
    def median(cls, values: Sequence[float] | np.typing.NDArray[Any]) -> Measured:
        """The median of finite values; NaN of none."""
        sample = np.sort(np.asarray(values, dtype=np.float64).ravel())
        sample = sample[np.isfinite(sample)]
        if not len(sample):
            return cls(value=math.nan, count=0)
        middle, lo, hi = median_interval(sample[None])
        ends = {"lo": float(lo[0]), "hi": float(hi[0])}
        return cls(value=float(middle[0]), **ends, count=len(sample), tails=_order_tails(sample, 0.5))

    @classmethod
    def quantile(cls, values: Sequence[float] | np.typing.NDArray[Any], level: float) -> Measured:
        """A quantile of finite values between order statistics, as the median's interval is; NaN of none."""
        sample = np.sort(np.asarray(values, dtype=np.float64).ravel())
        sample = sample[np.isfinite(sample)]
        if not len(sample):
            return cls(value=math.nan, count=0)
        low, high = quantile_ranks(len(sample), level)
        lo = float(sample[low]) if low >= 0 else math.nan
        hi = float(sample[high]) if high < len(sample) else math.nan
        value = float(np.quantile(sample, level))
        return cls(value=value, lo=lo, hi=hi, count=len(sample), tails=_order_tails(sample, level))

    @classmethod
    def floor(cls, values: Sequence[float] | np.typing.NDArray[Any]) -> Measured:
        """`intervals.upper_quantile` of values that are not NaN: the floor of a cell, of distances of mapped pairs."""
        sample = np.sort(np.asarray(values, dtype=np.float64).ravel())
        sample = sample[~np.isnan(sample)]
        if not len(sample):
            return cls(value=math.nan, count=0)
        value, lo, hi = (float(end[0]) for end in upper_quantile(sample[None]))
        return cls(value=value, lo=lo, hi=hi, count=len(sample), tails=_order_tails(sample, UPPER))

    @classmethod
    def border(cls, values: Sequence[float] | np.typing.NDArray[Any], level: float) -> Measured:
        """A quantile of values some of which may be infinite, itself one of them; NaN of none."""
        sample = np.sort(np.asarray(values, dtype=np.float64).ravel())
        sample = sample[~np.isnan(sample)]
        if not len(sample):
            return cls(value=math.nan, count=0)
        value, lo, hi = quantile(sample, level)
        return cls(value=value, lo=lo, hi=hi, count=len(sample), tails=_order_tails(sample, level))

    @classmethod
    def difference(
        cls,
        first: np.typing.NDArray[np.float64],
        level: float,
        second: np.typing.NDArray[np.float64],
        second_level: float,
    ) -> Measured:
        """A quantile of one sample less one of another, whether or not they are of the same pairs.

        Both have order-statistic intervals at 97.5 %, so with 95 % at least the difference lies between the furthest of
        their ends.
        """
        (value, lo, hi), (other, other_lo, other_hi) = (
            _narrow_quantile(sample, own) for sample, own in ((first, level), (second, second_level))
        )
        return cls(value=value - other, lo=lo - other_hi, hi=hi - other_lo, count=min(len(first), len(second)))

    @classmethod
    def mean(cls, values: Sequence[float] | np.typing.NDArray[Any]) -> Measured:
        """The mean of finite values with its normal interval, for many of them; NaN of none."""
        sample = np.asarray(values, dtype=np.float64).ravel()
        sample = sample[np.isfinite(sample)]
        if len(sample) < 2:
            return cls(value=float(sample[0]) if len(sample) else math.nan, count=len(sample))
        center, error = float(sample.mean()), float(sample.std(ddof=1)) / math.sqrt(len(sample))
        half = NORMAL_95 * error

        def tails(x: float) -> tuple[float, float]:
            away = (center - x) / error if error else math.copysign(math.inf, center - x) if center != x else 0.0
            return normal_cdf(-away), normal_cdf(away)

        return cls(value=center, lo=center - half, hi=center + half, count=len(sample), tails=tails)

    @property
    def width(self) -> float:
        """From one end of the interval to the other; 0 without one."""
        width = self.hi - self.lo
        return width if math.isfinite(width) else 0.0

    @classmethod
    def share(cls, hits: int, of: int) -> Measured:
        """``hits`` of ``of``; NaN of none."""
        if not of:
            return cls(value=math.nan, count=0)
        value, lo, hi = share_interval(np.array([hits / of]), of)

        def tails(x: float) -> tuple[float, float]:
            share = min(max(x, 0.0), 1.0)
            return binomial_sf(hits - 1, of, share), binomial_cdf(hits, of, share)

        return cls(value=float(value[0]), lo=float(lo[0]), hi=float(hi[0]), count=of, tails=tails)

    def over(self, divisor: float) -> Measured:
        """The number divided by a known positive one."""
        tails = self.tails
        return Measured(
            value=self.value / divisor,
            lo=self.lo / divisor,
            hi=self.hi / divisor,
            count=self.count,
            tails=None if tails is None else lambda x: tails(x * divisor),
        )

    def p_within(self, low: float, high: float) -> float:
        """The p-value of the true number's lying in a band; its interval lies outside where that is 5 % or less."""
        if self.tails is None:
            return math.nan
        above = self.tails(high)[0] if math.isfinite(high) else 1.0
        below = self.tails(low)[1] if math.isfinite(low) else 1.0
        return min(1.0, 2.0 * above, 2.0 * below)


def _order_tails(ascending: np.typing.NDArray[np.float64], level: float) -> Tails:
    """Of a quantile: how many of the sample lie at or below x, and below it, against the binomial distribution."""

    def tails(x: float) -> tuple[float, float]:
        size = len(ascending)
        at_or_below = int(np.searchsorted(ascending, x, side="right"))
        below = int(np.searchsorted(ascending, x, side="left"))
        return binomial_cdf(at_or_below, size, level), binomial_sf(below - 1, size, level)

    return tails


def _narrow_quantile(values: np.typing.NDArray[np.float64], level: float) -> tuple[float, float, float]:
    """With its interval at 97.5 %; NaN where the sample does not reach so far."""
    sample = np.sort(values)
    low, high = quantile_ranks(len(sample), level, TAIL / 2.0)
    lo = float(sample[low]) if low >= 0 else math.nan
    hi = float(sample[high]) if high < len(sample) else math.nan
    return float(np.quantile(sample, level)), lo, hi
