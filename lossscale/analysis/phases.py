"""The classes of the phase diagram: what became of a pair of runs, the first that applies."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Classes = npt.NDArray[np.int8]

RULED: Final = 0.5
"""From this share of the update on that eps decides, a run is like SGD; and by this factor a repair must shorten d."""


class Phase(IntEnum):
    """In the order in which they are looked for."""

    NO_REFERENCE = 1
    NON_FINITE = 2
    EXACT = 3
    ROUNDING = 4
    RANGE = 5
    SGD_LIKE = 6
    EPS_BIASED = 7
    UNEXPLAINED = 8


WORDS: Final = {
    Phase.NO_REFERENCE: "no reference",
    Phase.NON_FINITE: "non-finite",
    Phase.EXACT: "exact",
    Phase.ROUNDING: "rounding only",
    Phase.RANGE: "under- or overflow",
    Phase.SGD_LIKE: "SGD-like",
    Phase.EPS_BIASED: "eps-biased",
    Phase.UNEXPLAINED: "unexplained",
}


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is known of pairs (U unscaled, S with the loss × s and eps left alone), arrays of one shape.

    Attributes:
        reference: U is finite and at least half of its elements that had a gradient have moved.
        finite: all parameters of S are, at every step.
        exact: all parameter bits agree at every step.
        distance: d, ‖θ_S − θ_U‖ / ‖θ_U − θ_0‖ after the last step.
        range_events: S has gradients or second moments out of range where U has none.
        repaired_distance: d of the pair in float32 states and gradients, eps as it is.
        rho: share of S's update that eps decides, after the last step.
        mapped: with its eps mapped the pair is exact (or within the floor, where s is no power of two).
    """

    reference: Flags
    finite: Flags
    exact: Flags
    distance: Floats
    range_events: Flags
    repaired_distance: Floats
    rho: Floats
    mapped: Flags


def classify(evidence: Evidence, floor: float) -> Classes:
    """The class of every pair; ``floor`` is the distance that rounding alone reaches."""
    with np.errstate(invalid="ignore"):
        tests = (
            (Phase.NO_REFERENCE, ~evidence.reference),
            (Phase.NON_FINITE, ~evidence.finite),
            (Phase.EXACT, evidence.exact),
            (Phase.ROUNDING, evidence.distance <= floor),
            (Phase.RANGE, evidence.range_events & (evidence.repaired_distance <= RULED * evidence.distance)),
            (Phase.SGD_LIKE, evidence.rho >= RULED),
            (Phase.EPS_BIASED, evidence.mapped),
        )
    found: Classes = np.full(evidence.reference.shape, Phase.UNEXPLAINED, dtype=np.int8)
    for phase, applies in reversed(tests):
        found[applies] = phase
    return found


def majority(classes: Classes) -> tuple[Classes, npt.NDArray[np.int8]]:
    """The most frequent class over the last axis and how many have it; of equally frequent ones the first."""
    counts = np.stack([(classes == phase).sum(-1) for phase in Phase], -1)
    most: Classes = counts.argmax(-1).astype(np.int8) + np.int8(1)
    return most, counts.max(-1).astype(np.int8)
