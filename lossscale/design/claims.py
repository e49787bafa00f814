"""Claims: what a study's script predicts before it measures, each with an id, a tolerance and a relation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Final


class Relation(Enum):
    """How the measured number stands to the predicted one if the claim is true."""

    EQUAL = "="
    AT_MOST = "≤"
    AT_LEAST = "≥"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A falsifiable statement about a measured number. It is fixed before the run that judges it.

    Attributes:
        id: ``S<section>.<topic>.<number>``, as in ``S5.mid-run.1``, or ``S4a.1``; after docs/science.md.
        says: one sentence for the page.
        predicted: the number; None where every line brings its own, formed from what was trained.
        tolerance: largest deviation that still holds; absolute, or relative to the prediction when ``relative``. None
            where every line brings its own.
        relative: how ``tolerance`` is meant.
        relation: whether the measured number equals the predicted one or is bounded by it.
    """

    id: str
    says: str
    predicted: float | None = None
    tolerance: float | None = 0.0
    relative: bool = False
    relation: Relation = Relation.EQUAL

    def band(self, predicted: float, tolerance: float) -> tuple[float, float]:
        """Lowest and highest measured number with which the claim holds."""
        allowed = tolerance * abs(predicted) if self.relative else tolerance
        low = -math.inf if self.relation is Relation.AT_MOST else predicted - allowed
        high = math.inf if self.relation is Relation.AT_LEAST else predicted + allowed
        return low, high


NULL: Final = Claim(
    id="S5.controls.1",
    says="The same run again, loss × 1, has the same bits.",
    predicted=1.0,
)
MAPPED: Final = Claim(
    id="S5.controls.2",
    says="Loss × 2^k with every hyperparameter mapped by its degree has the same bits, where no number leaves its "
    "range.",
    predicted=1.0,
)
EPS_FREE: Final = Claim(
    id="S5.controls.3",
    says="Adam-atan2, which has no eps, has the same bits for every 2^k with nothing mapped.",
    predicted=1.0,
)
USELESS: Final = 0.5
"""A floor above half of the way that training went judges nothing."""
FLOOR: Final = Claim(
    id="S5.controls.4",
    says="Rounding alone stays small: the floor φ, the 99 % quantile over pairs mapped at s = 3 of their distance over "
    "the way that training went, is at most a half.",
    predicted=0.0,
    tolerance=USELESS,
)
"""Controls that several studies judge; the one-ulp pair is measured beside them and predicts nothing."""
