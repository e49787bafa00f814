"""The floor of a cell: how far rounding alone takes two runs apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...analysis.measured import Measured
from ...design.claims import USELESS


@dataclass(frozen=True, kw_only=True)
class Floor:
    """Of a cell.

    Attributes:
        mapped: 99 % quantile of d over the mapped arm at s = 3.
        ulp: that of the one-ulp arm, beside it.
        used: the judge: ``mapped``; where that is useless, because the mapped arm leaves its formats' range, the floor
            of the same optimizer in float32.
    """

    mapped: float
    ulp: float
    used: float


def upper_quantile(values: np.ndarray) -> float:
    """The smallest value with 99 % of the sample at or below it; NaN (no reference) is left out, NaN of none."""
    return Measured.floor(values).value


def floor_of(part: Mapping[str, Any]) -> Floor:
    """From a cell's scan."""
    mapped, ulp = upper_quantile(part["floor"]), upper_quantile(part["ulp"])
    used = mapped if mapped <= USELESS else upper_quantile(part["float32_floor"])
    return Floor(mapped=mapped, ulp=ulp, used=used)
