"""Two timing results side by side: the ratio of medians, with an interval that needs no distribution."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from .load import KEY, Result
from .schema import StepRow

# Each median's interval; both hold together at least 95 % of the time.
_LEVEL = 0.975
NO_DIFFERENCE, TOO_FEW = "no difference shown", "too few samples"
MEASURES = ("kernel", "step", "queued")


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """B's median over A's.

    Attributes:
        key: of the row, by `load.KEY`.
        measure: "kernel", "step" or "queued".
        a_us, b_us: the medians.
        ratio: above 1 where B is slower.
        lo, hi: of the ratio; None for fewer than seven samples on a side.
    """

    key: tuple[str, ...]
    measure: str
    a_us: float
    b_us: float
    ratio: float
    lo: float | None
    hi: float | None

    @property
    def verdict(self) -> str:
        """What the interval shows."""
        if self.lo is None or self.hi is None:
            return TOO_FEW
        return "slower" if self.lo > 1 else "faster" if self.hi < 1 else NO_DIFFERENCE

    def as_dict(self) -> dict[str, Any]:
        """A row of the table."""
        named = dict(zip(KEY, self.key, strict=True))
        return {
            **named,
            "measure": self.measure,
            "a_us": self.a_us,
            "b_us": self.b_us,
            "ratio": self.ratio,
            "lo": self.lo,
            "hi": self.hi,
            "verdict": self.verdict,
        }


def ratios(a: Result, b: Result) -> Iterator[Ratio]:
    """Every measure that both results have samples of, in A's order."""
    for key, mine in a.rows.items():
        if key not in b.rows:
            continue
        for measure in MEASURES:
            samples = _samples(mine, measure), _samples(b.rows[key], measure)
            if all(samples):
                yield _ratio(key, measure, *samples)


def _samples(row: StepRow, measure: str) -> list[int]:
    if row.error or row.differing_elements:
        # Wrong bits have no time, whatever an older result says.
        return []
    return {"kernel": row.samples_kernel_ns, "step": row.samples_step_ns, "queued": row.samples_queued_ns}[measure]


def _ratio(key: tuple[str, ...], measure: str, a: Sequence[int], b: Sequence[int]) -> Ratio:
    medians = float(np.median(a)), float(np.median(b))
    within = median_interval(a), median_interval(b)
    low = high = None
    if within[0] is not None and within[1] is not None:
        low, high = within[1][0] / within[0][1], within[1][1] / within[0][0]
    return Ratio(
        key=key,
        measure=measure,
        a_us=medians[0] / 1e3,
        b_us=medians[1] / 1e3,
        ratio=medians[1] / medians[0],
        lo=low,
        hi=high,
    )


def median_interval(samples: Sequence[int], level: float = _LEVEL) -> tuple[float, float] | None:
    """The two order statistics that hold the median at least so often; None where there are too few samples."""
    ordered, rank = np.sort(np.asarray(samples, dtype=float)), _rank(len(samples), level)
    return None if rank < 0 else (float(ordered[rank]), float(ordered[len(samples) - 1 - rank]))


@cache
def _rank(count: int, level: float) -> int:
    """The largest k such that fewer than k samples lie below the median with at most half of what is left over."""
    from scipy.stats import binom

    rank = int(binom.ppf((1 - level) / 2, count, 0.5))
    return rank - int(binom.cdf(rank, count, 0.5) > (1 - level) / 2)
