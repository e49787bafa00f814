"""Verdicts on claims, and the lines of a study's script: one way from a measured number to a row of summary.csv.

A claim with many cells would fail in one of twenty by chance alone if each were judged by its own 95 % interval. So the
cells of a claim that intervals judge are one family, and Holm's step-down over it decides which of them fail: at most
5 % that any does although the claim is true of it. A claim holds only where every cell does, which needs no correction.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from ..design.claims import Claim
from ..design.study import Study
from ..design.verdicts import CELL, COLUMNS, FAILS, HOLDS, NO_PREDICTION, NOT_JUDGED, UNRESOLVED
from .intervals import CONFIDENCE, holm
from .measured import Measured

_TEXTS: Final = ("network", "optimizer", "options", "recipe", "policy", "arm", "against")


def judge(claim: Claim, measured: Measured, predicted: float, tolerance: float) -> str:
    """Holds, fails or unresolved, of a cell by itself.

    Equality with tolerance 0, and numbers without an interval, are judged by the number. Else the whole interval must
    lie in the band for the claim to hold and outside it for it to fail: an interval that crosses the edge resolves
    nothing. A number that is not finite fails what predicts a finite one.
    """
    low, high = claim.band(predicted, tolerance)
    if not math.isfinite(measured.value):
        return HOLDS if measured.value == predicted else FAILS
    exact = not _by_interval(measured, low, high)
    lo, hi = (measured.value, measured.value) if exact else (measured.lo, measured.hi)
    if low <= lo and hi <= high:
        return HOLDS
    return FAILS if hi < low or lo > high else UNRESOLVED


def _by_interval(measured: Measured, low: float, high: float) -> bool:
    return not (low == high or math.isnan(measured.lo) or math.isnan(measured.hi))


def _among_many(verdicts: Sequence[str], p: Sequence[float]) -> list[str]:
    """The verdicts of a family, with those that fail by themselves but not among all of it left unresolved."""
    adjusted = holm(np.array(p))
    kept = zip(verdicts, adjusted, strict=True)
    return [UNRESOLVED if word == FAILS and own > 1.0 - CONFIDENCE else word for word, own in kept]


class Lines:
    """The lines of a script's summary, judged as they come.

    Args:
        study: whose claims they may judge.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        self._claims = {claim.id: claim for claim in study.claims}
        self._rows: list[dict[str, Any]] = []
        self._families: dict[str, list[tuple[dict[str, Any], float]]] = {}

    def add(
        self,
        quantity: str,
        measured: Measured | float,
        claim: Claim | None = None,
        *,
        predicted: float | None = None,
        tolerance: float | None = None,
        reason: str = "",
        nonfinite: int = 0,
        nonfinite_values: int = 0,
        **cell: Any,
    ) -> str:
        """One line; returns the verdict that it has by itself.

        Args:
            quantity: what was measured, a name such as ``identical_share``.
            measured: the number; a plain one has no interval.
            claim: what is judged, one of the study's; None for a number of which nothing is predicted.
            predicted: where the claim leaves it to the line.
            tolerance: likewise.
            reason: why this line cannot judge the claim; empty if it can.
            nonfinite: pairs that were left out because they were not finite.
            nonfinite_values: finite pairs left out because this quantity of theirs is infinite or NaN.
            cell: network, optimizer, options, recipe, policy, arm, against, scale and step, as far as they apply.

        Raises:
            ValueError: for a claim that is not the study's, one without a number, or an unknown column.
        """
        value = measured if isinstance(measured, Measured) else Measured(value=float(measured))
        unknown = set(cell) - set(CELL)
        if unknown:
            raise ValueError(f"{', '.join(sorted(unknown))}: no column of a summary; use {', '.join(CELL)}")
        expected, allowed, verdict = self._judged(claim, value, predicted, tolerance, reason)
        defaults: Mapping[str, Any] = {**dict.fromkeys(_TEXTS, ""), "policy": "fp32", "scale": 1.0, "step": 0}
        row: dict[str, Any] = {
            "study": self._study.name,
            **defaults,
            **cell,
            "pairs": value.count,
            "nonfinite_pairs": nonfinite,
            "nonfinite_values": nonfinite_values,
            "quantity": quantity,
            "predicted": expected,
            "measured": value.value,
            "lo": value.lo,
            "hi": value.hi,
            "tolerance": allowed,
            "verdict": verdict,
            "prediction": claim.id if claim else "",
            "reason": reason,
        }
        self._rows.append(row)
        if claim is not None and verdict != NOT_JUDGED:
            low, high = claim.band(expected, allowed)
            if _by_interval(value, low, high) and value.tails is not None and math.isfinite(value.value):
                self._families.setdefault(claim.id, []).append((row, value.p_within(low, high)))
        return verdict

    def rounded(
        self, quantity: str, measured: Measured, claim: Claim, predicted: float, half_unit: float, **cell: Any
    ) -> str:
        """A line of a prediction that is known to so many digits: its tolerance is half a unit of the last one.

        Where the interval is wider than that, the line is unresolved unless it contradicts the prediction.
        """
        return self.add(quantity, measured, claim, predicted=predicted, tolerance=half_unit, **cell)

    def unjudged(self, claims: Iterable[Claim], reason: str, **cell: Any) -> None:
        """A line with the reason for each claim that has none yet: what this run cannot judge."""
        there = {row["prediction"] for row in self._rows}
        for claim in claims:
            if claim.id not in there:
                self.add("not_measured", math.nan, claim, reason=reason, **cell)

    def frame(self) -> pd.DataFrame:
        """All lines, columns `COLUMNS` of `design.verdicts`; cells fail as they do among all of their claim's.

        Raises:
            ValueError: if a claim of the study has no line: none is dropped in silence.
        """
        judged = {row["prediction"] for row in self._rows}
        dropped = [name for name in self._claims if name not in judged]
        if dropped:
            raise ValueError(f"study {self._study.name}: no line judges {', '.join(dropped)}; add one, with a reason")
        for family in self._families.values():
            rows, p = zip(*family, strict=True)
            for row, word in zip(rows, _among_many([row["verdict"] for row in rows], p), strict=True):
                row["verdict"] = word
        return pd.DataFrame(self._rows, columns=list(COLUMNS))

    def _judged(
        self, claim: Claim | None, value: Measured, predicted: float | None, tolerance: float | None, reason: str
    ) -> tuple[float, float, str]:
        if claim is None:
            return (math.nan if predicted is None else predicted), math.nan, NO_PREDICTION
        if self._claims.get(claim.id) != claim:
            raise ValueError(f"claim {claim.id}: not among the claims of study {self._study.name}; name it there")
        expected = claim.predicted if predicted is None else predicted
        allowed = claim.tolerance if tolerance is None else tolerance
        if reason:
            return (
                math.nan if expected is None else expected,
                math.nan if allowed is None else allowed,
                NOT_JUDGED,
            )
        if expected is None or allowed is None:
            raise ValueError(f"claim {claim.id}: give predicted and tolerance, for the claim leaves them to its lines")
        return expected, allowed, judge(claim, value, expected, allowed)
