"""Thresholds s*: from which power of two of the loss scale on something happens, per initialisation and side of 1.

The scale is 2^k with integer k, so a border is known up to a factor of two: what happens at k and not at the next k
towards 0 begins between the two. An initialisation without it on the whole grid has no border there (``-inf`` below 1,
``inf`` above), which is a legal answer: for s > 1 the effect of eps saturates. On a common grid the distribution of the
borders over initialisations is the empirical one, so its quartiles have the intervals of order statistics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from .distributions import binomial_isf, binomial_ppf, student_isf, student_sf
from .intervals import CONFIDENCE, holm

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Powers = npt.NDArray[np.int64]

BELOW: Final = "s < 1"
ABOVE: Final = "s > 1"
SIDES: Final = (BELOW, ABOVE)

QUARTILES: Final = (0.25, 0.5, 0.75)

MARGIN: Final = 0.1
"""Outcomes are different, or equivalent, beyond or within this many standard deviations over initialisations."""

DIFFERENT: Final = "different"
EQUIVALENT: Final = "equivalent"
OPEN: Final = "unresolved"


@dataclass(frozen=True, kw_only=True)
class Borders:
    """Where something begins, one per initialisation.

    Attributes:
        powers: [inits] the k nearest to 0 at which it happens; infinite, away from 0, where it does not.
        nonmonotone: initialisations with a k further out at which it does not happen again.
    """

    powers: Floats
    nonmonotone: int


def outward(powers: Powers, side: str) -> npt.NDArray[np.intp]:
    """Indices of the side's powers, from the one nearest to 0."""
    chosen = np.flatnonzero(powers < 0) if side == BELOW else np.flatnonzero(powers > 0)
    return chosen[np.argsort(np.abs(powers[chosen]), kind="stable")]


def borders(happens: Flags, powers: Powers, side: str) -> Borders:
    """From [inits, powers], whether it happens at s = 2^k."""
    order = outward(powers, side)
    found = happens[:, order]
    any_at_all = found.any(1)
    first = found.argmax(1)
    none = -np.inf if side == BELOW else np.inf
    begins = np.where(any_at_all, powers[order][first].astype(np.float64), none)
    after = np.arange(len(order))[None] >= first[:, None]
    again_not = (after & ~found).any(1) & any_at_all
    return Borders(powers=begins, nonmonotone=int(again_not.sum()))


def quantile(values: Floats, level: float) -> tuple[float, float, float]:
    """A quantile with its 95 % interval, whose ends are values of the sample (infinite ones among them).

    The quantile is the smallest value with at least that share of the sample at or below it. The interval ends at ranks
    of the binomial distribution of how many values lie below the quantile; NaN where the sample is too small for one.

    Args:
        values: [n], n at least 1, in any order.
        level: between 0 and 1.
    """
    ascending = np.sort(values)
    size = len(ascending)
    middle = ascending[max(int(np.ceil(level * size)) - 1, 0)]
    tail = (1.0 - CONFIDENCE) / 2.0
    low = binomial_ppf(tail, size, level) - 1
    high = binomial_isf(tail, size, level)
    if low < 0 or high >= size:
        return float(middle), np.nan, np.nan
    return float(middle), float(ascending[low]), float(ascending[high])


def border_rows(kind: str, happens: Flags, powers: Powers, cell: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row per side: the quartiles of the borders over initialisations, each with its interval.

    Args:
        kind: what happens, for the row.
        happens: [inits, powers].
        powers: [powers], k.
        cell: columns that the rows begin with.
    """
    rows = []
    for side in SIDES:
        found = borders(happens, powers, side)
        row: dict[str, Any] = {
            **cell,
            "kind": kind,
            "side": side,
            "inits": len(found.powers),
            "none": int(np.isinf(found.powers).sum()),
            "nonmonotone": found.nonmonotone,
        }
        for level in QUARTILES:
            name = f"q{round(100 * level)}"
            row[name], row[f"{name}_lo"], row[f"{name}_hi"] = quantile(found.powers, level)
        rows.append(row)
    return rows


def outcomes(differences: Floats, spread: float) -> pd.DataFrame:
    """How the outcome of every k stands to the unscaled run's: columns mean, lo, hi, pairs, judged.

    Different: the mean paired difference lies beyond ± `MARGIN` · spread, by its two-sided 95 % interval. Equivalent:
    it lies within, by two one-sided tests at 5 %. Else unresolved. As there are many k, both are judged by Holm's
    step-down over all of them. Pairs that are not finite are left out; where they are half or more, the outcome is
    different.

    Args:
        differences: [inits, powers], scaled minus unscaled.
        spread: standard deviation of the unscaled outcome over initialisations.
    """
    rows, beyond, within = [], [], []
    for column in differences.T:
        finite = column[np.isfinite(column)]
        if 2 * len(finite) <= len(column):
            rows.append((np.nan, np.nan, np.nan, len(finite), DIFFERENT))
            continue
        mean, degrees = float(finite.mean()), len(finite) - 1
        error = float(finite.std(ddof=1)) / np.sqrt(len(finite))
        wide = error * student_isf((1.0 - CONFIDENCE) / 2.0, degrees)
        rows.append((mean, mean - wide, mean + wide, len(finite), OPEN))
        with np.errstate(divide="ignore", invalid="ignore"):
            away = np.float64(abs(mean) - MARGIN * spread) / error
        # Without any spread, nor any difference, nothing is decided.
        beyond.append(1.0 if np.isnan(away) else min(1.0, 2.0 * student_sf(away, degrees)))
        within.append(1.0 if np.isnan(away) else student_sf(-away, degrees))
    frame = pd.DataFrame(rows, columns=["mean", "lo", "hi", "pairs", "judged"])
    tested = frame.index[frame["judged"] == OPEN]
    frame.loc[tested[holm(np.array(within)) <= 1.0 - CONFIDENCE], "judged"] = EQUIVALENT
    frame.loc[tested[holm(np.array(beyond)) <= 1.0 - CONFIDENCE], "judged"] = DIFFERENT
    return frame


def outcome_bracket(judged: Sequence[str] | npt.NDArray[np.str_], powers: Powers, side: str) -> tuple[float, float]:
    """The last equivalent k before the first different one, and that one; infinite or 0 where there is none.

    Returns:
        (last equivalent, first different): 0 stands for s = 1, which is equivalent to itself.
    """
    none = -np.inf if side == BELOW else np.inf
    last = 0.0
    for index in outward(powers, side):
        if judged[index] == DIFFERENT:
            return last, float(powers[index])
        if judged[index] == EQUIVALENT:
            last = float(powers[index])
    return last, none


def window_binades(below: float, above: float, powers: Powers) -> tuple[int, bool]:
    """How many powers of two lie strictly between two borders, 1 itself among them, and whether the grid ends first."""
    low = max(below, float(powers.min()) - 1.0)
    high = min(above, float(powers.max()) + 1.0)
    return int(high - low) - 1, bool(np.isinf(below) or np.isinf(above))
