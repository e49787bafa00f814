"""The floor of a cell: how far rounding alone takes two runs apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

LEVEL: Final = 0.99

USELESS: Final = 0.5
"""A floor above half of what the unscaled run has moved judges nothing."""


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
    known = np.sort(values[~np.isnan(values)])
    return float(known[int(np.ceil(LEVEL * len(known))) - 1]) if len(known) else float("nan")


def floor_of(part: Mapping[str, Any]) -> Floor:
    """From a cell's scan."""
    mapped, ulp = upper_quantile(part["floor"]), upper_quantile(part["ulp"])
    used = mapped if mapped <= USELESS else upper_quantile(part["float32_floor"])
    return Floor(mapped=mapped, ulp=ulp, used=used)
