"""What both pictures of a phase diagram draw: colours, axes, and the borders that are predicted of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

import kernels

from ...analysis.phases import RULED, WORDS, Phase
from ...theory import absorption
from .cells import Cell

COLORS: Final[Mapping[Phase, str]] = {
    Phase.NO_REFERENCE: "#8c8c8c",
    Phase.NON_FINITE: "#1a1a1a",
    Phase.EXACT: "#0072B2",
    Phase.ROUNDING: "#9ecae1",
    Phase.RANGE: "#CC79A7",
    Phase.SGD_LIKE: "#D55E00",
    Phase.EPS_BIASED: "#F0C24B",
    Phase.UNEXPLAINED: "#009E73",
}

STRENGTHS: Final = (1.0, 0.7, 0.45)
"""How strong a colour is for all inits but one, three quarters of them, and fewer."""

RULED_TEXT: Final = "above: eps decides half of the unscaled update too"


@dataclass(frozen=True, kw_only=True)
class Border:
    """A predicted border: a line through [powers, log2(eps / RMS g)]."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    dash: str


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A cell's diagram, ready to be drawn.

    Attributes:
        cell: which.
        powers: [columns].
        height: [rows] log2(eps / RMS g).
        level: [rows, columns] (class - 1) times the number of strengths, plus the strength's index.
        arrays: of the part.
        borders: predicted.
        ruled_from: the height from which eps decides half of the unscaled run's update; infinite if nowhere.
    """

    cell: Cell
    powers: npt.NDArray[np.int64]
    height: npt.NDArray[np.float64]
    level: npt.NDArray[np.uint8]
    arrays: Mapping[str, Any]
    borders: tuple[Border, ...]
    ruled_from: float

    @property
    def title(self) -> str:
        """Policy, and the learning rate."""
        return f"{self.cell.policy}, lr {self.cell.lr:g}"

    @property
    def present(self) -> tuple[Phase, ...]:
        """The classes that it has."""
        return tuple(phase for phase in Phase if (self.arrays["phase"] == phase).any())


def drawing(cell: Cell, arrays: Mapping[str, Any]) -> Drawing:
    """From a diagram's part."""
    share = arrays["votes"] / float(arrays["inits"])
    strength = np.where(share >= 15 / 16, 0, np.where(share >= 3 / 4, 1, 2))
    height = np.log2(arrays["eps"]) - math.log2(float(arrays["rms"]))
    ruled = arrays["base_rho"] >= RULED
    return Drawing(
        cell=cell,
        powers=arrays["powers"],
        height=height,
        level=((arrays["phase"].astype(np.int64) - 1) * len(STRENGTHS) + strength).astype(np.uint8),
        arrays=arrays,
        borders=tuple(_borders(cell, arrays, height)),
        ruled_from=float(height[ruled].min()) if ruled.any() else math.inf,
    )


def _borders(cell: Cell, arrays: Mapping[str, Any], height: npt.NDArray[np.float64]) -> list[Border]:
    powers = arrays["powers"].astype(np.float64)
    low, high = float(powers.min()), float(powers.max())
    rms, root = math.log2(float(arrays["rms"])), math.log2(float(arrays["root"]))
    found = []
    if cell.arithmetic in kernels.DTYPES and math.isfinite(root):
        level = math.log2(absorption(cell.arithmetic).invisible_below) + root - rms
        found.append(
            Border(
                name="eps absorbed at the smallest r", x=(low, 0.0, high), y=(level + low, level, level), dash="solid"
            )
        )
    half = math.log2(float(arrays["half_rho"])) - rms
    found.append(Border(name="ρ = ½ for U’s own r", x=(low, high), y=(half + low, half + high), dash="dash"))
    for name, power in _range_ends(cell, rms):
        if low < power < high:
            found.append(Border(name=name, x=(power, power), y=(float(height.min()), float(height.max())), dash="dot"))
    return found


def _range_ends(cell: Cell, rms: float) -> list[tuple[str, float]]:
    """Where the RMS gradient, and its share of the second moment, leave the normal numbers of their formats."""
    formats = cell.formats
    gradient = [kernels.DTYPES[name] for name in (formats.grads, formats.compute)]
    state = kernels.DTYPES[formats.state]
    weight = 0.0
    if hasattr(cell.base, "betas"):
        weight = math.log2(1.0 - cell.base.betas[1])
    elif hasattr(cell.base, "alpha"):
        weight = math.log2(1.0 - cell.base.alpha)
    return [
        ("RMS g subnormal", max(math.log2(form.smallest_normal) for form in gradient) - rms),
        ("RMS g overflows", min(math.log2(form.largest) for form in gradient) - rms),
        ("its v subnormal", (math.log2(state.smallest_normal) - weight) / 2.0 - rms),
        ("its v overflows", (math.log2(state.largest) - weight) / 2.0 - rms),
    ]


def shade(phase: Phase, strength: float) -> str:
    """A class's colour, mixed with white."""
    parts = [int(COLORS[phase][place : place + 2], 16) for place in (1, 3, 5)]
    mixed = [round(255 - strength * (255 - part)) for part in parts]
    return "#" + "".join(f"{part:02x}" for part in mixed)


def shades() -> list[str]:
    """The colour of every level."""
    return [shade(phase, strength) for phase in Phase for strength in STRENGTHS]


def words(level: int) -> str:
    """The class of a level."""
    return WORDS[Phase(level // len(STRENGTHS) + 1)]
