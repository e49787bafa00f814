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
NO_DIFFERENCE, TOO_FEW, HELD_BACK = "no difference shown", "too few samples", "device held back"
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
        throttled: of which result the times are those of a device that was held back: "", "A", "B" or "A and B".
    """

    key: tuple[str, ...]
    measure: str
    a_us: float
    b_us: float
    ratio: float
    lo: float | None
    hi: float | None
    throttled: str = ""

    @property
    def verdict(self) -> str:
        """What the interval shows."""
        if self.lo is None or self.hi is None:
            return TOO_FEW
        if self.throttled:
            return HELD_BACK
        return "slower" if self.lo > 1 else "faster" if self.hi < 1 else NO_DIFFERENCE

    def is_above(self, limit: float) -> bool:
        """Whether B is shown to take more than so many times as long."""
        return self.lo is not None and self.lo > limit and not self.throttled

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
            "throttled": self.throttled,
            "verdict": self.verdict,
        }


def ratios(a: Result, b: Result) -> Iterator[Ratio]:
    """Every measure that both results have samples of for the same work, in A's order."""
    for key, mine in a.rows.items():
        other = b.rows.get(key)
        if other is None or unlike_work(mine, other):
            continue
        throttled = " and ".join(name for name, row in (("A", mine), ("B", other)) if row.throttled)
        for measure in MEASURES:
            samples = _samples(mine, measure), _samples(other, measure)
            if all(samples):
                yield _ratio(key, measure, *samples, throttled)


def unlike_work(a: StepRow, b: StepRow) -> str:
    """What sets the steps of two rows of one name apart, so that their ratio would mean nothing; else "".

    A list of shapes and the options that are timed may be others in another version. An older one names no options.
    """
    pairs = {name: (getattr(a, name), getattr(b, name)) for name in ("options", "tensors", "elements")}
    return ", ".join(f"{name} {x} and {y}" for name, (x, y) in pairs.items() if x and y and x != y)


def _samples(row: StepRow, measure: str) -> list[int]:
    if row.error or row.differing_elements:
        # Wrong bits have no time, whatever an older result says.
        return []
    return {"kernel": row.samples_kernel_ns, "step": row.samples_step_ns, "queued": row.samples_queued_ns}[measure]


def _ratio(key: tuple[str, ...], measure: str, a: Sequence[int], b: Sequence[int], throttled: str) -> Ratio:
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
        throttled=throttled,
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
