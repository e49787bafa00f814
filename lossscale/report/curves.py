"""What the pictures draw, read off a summary: curves over the scale. Knows no plotting library."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..design.arms import BASE, ULP
from ..design.measures import REL_DISTANCE


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One small picture: an optimizer with its options on one network, at the last checkpoint."""

    network: str
    optimizer: str
    options: str
    lines: pd.DataFrame

    @property
    def step(self) -> int:
        """The last checkpoint."""
        return int(self.lines["step"].max())

    def curve(self, arm: str, against: str, quantity: str, step: int | None = None) -> pd.DataFrame:
        """The summary's lines of one arm, ascending by scale; at the last checkpoint unless told otherwise."""
        lines = self.lines
        wanted = (
            (lines["arm"] == arm)
            & (lines["against"] == against)
            & (lines["quantity"] == quantity)
            & (lines["step"] == (self.step if step is None else step))
            & lines["measured"].notna()
        )
        return lines[wanted].sort_values("scale")

    @property
    def floor(self) -> float:
        """Median distance of the one-ulp control, NaN where it was not run."""
        control = self.curve(ULP.name, BASE.name, REL_DISTANCE.quantity_name)
        return float(control["measured"].iloc[0]) if len(control) else float("nan")


def panels(summary: pd.DataFrame) -> list[Panel]:
    """One panel per network, optimizer and options, in the summary's order, for its first policy and recipe."""
    first = summary[(summary["policy"] == summary["policy"].iloc[0]) & (summary["recipe"] == summary["recipe"].iloc[0])]
    return [
        Panel(network=str(network), optimizer=str(optimizer), options=str(options), lines=lines)
        for (network, optimizer, options), lines in first.groupby(["network", "optimizer", "options"], sort=False)
    ]


def zero_level(distances: Iterable[float]) -> float:
    """Where a logarithmic axis draws the distance 0: a decade and more under the smallest positive distance."""
    smallest = min((distance for distance in distances if distance > 0), default=math.nan)
    return 1e-10 if math.isnan(smallest) else 10.0 ** (math.floor(math.log10(smallest)) - 1)


def decades(low: float, high: float) -> list[int]:
    """Exponents of the powers of ten to mark between two exponents: every 2nd, 4th, … of a long axis, 0 among them."""
    stride = 1
    while (high - low) / stride > 7:
        stride *= 2
    return [power for power in range(math.ceil(low), math.floor(high) + 1) if power % stride == 0]


def spread(positions: Sequence[float], gap: float) -> list[float]:
    """Positions moved apart to at least `gap`, in the same order and around the same middle: labels at line ends."""
    order = np.argsort(positions, kind="stable")
    placed = [float(positions[index]) for index in order]
    for _ in range(50):
        moved = False
        for low in range(len(placed) - 1):
            short = gap - (placed[low + 1] - placed[low])
            if short > 1e-9:
                placed[low] -= short / 2
                placed[low + 1] += short / 2
                moved = True
        if not moved:
            break
    result = [0.0] * len(placed)
    for place, index in enumerate(order):
        result[int(index)] = placed[place]
    return result


def below(top: float, positions: Sequence[float], gap: float) -> list[float]:
    """Positions at least `gap` apart, moved down as far as it takes for the highest to be no higher than `top`."""
    result, limit = list(map(float, positions)), top
    for index in reversed(np.argsort(positions, kind="stable")):
        result[int(index)] = min(result[int(index)], limit)
        limit = result[int(index)] - gap
    return result
