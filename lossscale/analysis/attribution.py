"""Attribution of a pair's deviation to its causes: Shapley values over all ways to repair them.

The causes are E (an eps that was left alone; repaired by mapping it, in the scaled run), V (the range of the moments'
format; repaired by float32 states, in both runs) and G (the range of the gradients' format; repaired by float32
gradients, in both). A deviation is measured in binades above the floor of rounding. Removing one cause at a time does
not add up: where two suffice each alone, neither repair shows anything. Shapley values do add up, to what is there
without any repair minus what is left after all of them.
"""

from __future__ import annotations

from itertools import combinations
from math import factorial
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

CAUSES: Final = ("E", "V", "G")
SUBSETS: Final = tuple(frozenset(chosen) for size in range(len(CAUSES) + 1) for chosen in combinations(CAUSES, size))
"""What is repaired: nothing first, everything last."""

LARGEST: Final = 1e3
"""Distances are clipped here, and those that are not finite count as this."""

JOINT: Final = "joint"
NO_CAUSE: Final = ""


def subset_name(repaired: frozenset[str]) -> str:
    """A name such as ``E`` or ``EV``; empty for nothing repaired."""
    return "".join(cause for cause in CAUSES if cause in repaired)


def binades_above_floor(distances: Floats, floor: float) -> Floats:
    """F = log2(max(d, floor) / floor), with d clipped.

    Args:
        distances: of any shape; NaN and infinity count as `LARGEST`.
        floor: of rounding, above 0.

    Raises:
        ValueError: for a floor that is not between 0 and `LARGEST`.
    """
    if not 0.0 < floor <= LARGEST:
        raise ValueError(
            f"floor {floor}: give the distance that rounding alone reaches, above 0 and at most {LARGEST:g}"
        )
    clipped = np.where(np.isfinite(distances), np.minimum(distances, LARGEST), LARGEST)
    binades: Floats = np.log2(np.maximum(clipped, floor) / floor)
    return binades


def shares(f: Floats) -> tuple[Floats, Floats]:
    """Each cause's share of f(nothing repaired), and the unexplained one: they add up to 1; negative ones stay so.

    Args:
        f: [8, ...], in the order of `SUBSETS`.

    Returns:
        [3, ...] in the order of `CAUSES`, and [...]; NaN where nothing deviates.
    """
    place = {subset: index for index, subset in enumerate(SUBSETS)}
    with np.errstate(invalid="ignore", divide="ignore"):
        found = []
        for cause in CAUSES:
            others = [subset for subset in SUBSETS if cause not in subset]
            total = sum(_weight(len(subset)) * (f[place[subset]] - f[place[subset | {cause}]]) for subset in others)
            found.append(total / f[0])
        return np.stack(found), f[-1] / f[0]


def single_cause(f: Floats) -> npt.NDArray[np.str_]:
    """The one cause of each pair, `JOINT`, or `NO_CAUSE` where nothing deviates.

    A pair is caused by one alone if that one suffices when it alone remains, and if repairing it alone brings the pair
    to the floor.

    Args:
        f: [8, ...], in the order of `SUBSETS`.
    """
    place = {subset: index for index, subset in enumerate(SUBSETS)}
    every = frozenset(CAUSES)
    named = np.where(f[0] > 0, JOINT, NO_CAUSE)
    for cause in CAUSES:
        suffices = f[place[every - {cause}]] > 0
        needed = f[place[frozenset({cause})]] == 0
        named = np.where((f[0] > 0) & suffices & needed, cause, named)
    return named


def _weight(size: int) -> float:
    """Of a coalition of that size in the Shapley value of one more member."""
    players = len(CAUSES)
    return factorial(size) * factorial(players - size - 1) / factorial(players)
