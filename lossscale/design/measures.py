"""Measures: what is recorded of every pair at a checkpoint. One record a measure; nothing outside lists them.

A measure says how it is observed, how the pairs files hold it, which statistic of it stands in the summary and whether
``show`` prints it. Every grid records the standard ones, and names those that it records beyond them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final


class Kind(Enum):
    """How a pairs file holds a measure: the name of the column's type."""

    FLAG = "bool"
    COUNT = "int64"
    NUMBER = "float64"


class Statistic(Enum):
    """What the summary says of a measure over the finite pairs of a cell."""

    SHARE = "share"
    MEDIAN = "median"
    UPPER = "99 % quantile"
    LARGEST = "largest"
    SMALLEST = "smallest"


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One number of a pair.

    Attributes:
        name: its column in the pairs files.
        observe: from an `engines.observation.Observation` to one value per kept family and pair, a tensor; None for a
            measure that is derived from others.
        derived_from: names of the measures that ``derive`` takes, in its order.
        derive: from their columns to this one, when a run is summarized; no pairs file holds it.
        kind: how the pairs files hold it.
        statistic: which statistic the summary has of it; None keeps it out.
        quantity: its name in the summary, by default ``name``.
        line: its place among a cell's lines in the summary; those of one place follow the order of `MEASURES`.
        shown: whether ``show`` prints it.
    """

    name: str
    observe: Callable[[Any], Any] | None = None
    derived_from: tuple[str, ...] = ()
    derive: Callable[..., Any] | None = None
    kind: Kind = Kind.NUMBER
    statistic: Statistic | None = None
    quantity: str = ""
    line: int = 100
    shown: bool = False

    @property
    def quantity_name(self) -> str:
        """Its name in the summary."""
        return self.quantity or self.name


IDENTICAL: Final = Measure(
    name="identical",
    observe=lambda now: now.differing_bits == 0,
    kind=Kind.FLAG,
    statistic=Statistic.SHARE,
    quantity="identical_share",
    line=1,
    shown=True,
)
"""Whether all parameter bits agree. Its line of the summary is also where the pairs of a cell are counted."""

REL_DISTANCE: Final = Measure(
    name="rel_distance",
    observe=lambda now: now.rel_distance,
    statistic=Statistic.MEDIAN,
    quantity="median_rel_distance",
    line=2,
    shown=True,
)
"""|arm − against| / |against| over all parameters."""

MOVED: Final = Measure(name="moved", observe=lambda now: now.of_arm(now.moved), statistic=Statistic.MEDIAN, line=7)
"""The arm's distance from its initialisation."""

NONFINITE: Final = Measure(name="nonfinite", observe=lambda now: now.of_arm(now.nonfinite), kind=Kind.COUNT, shown=True)
"""How many of the arm's parameters are infinite or NaN."""

EPS_QUANTILES: Final = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Quantiles of eps/r that are kept."""


def _eps_over_r(level: float) -> Measure:
    name = f"eps_over_r_q{round(100 * level):02d}"
    return Measure(
        name=name,
        observe=lambda now: now.eps_over_r(level),
        statistic=Statistic.MEDIAN,
        line=10,
        shown=level == 0.5,
    )


_STANDARD: Final = (
    IDENTICAL,
    Measure(
        name="differing_bits",
        observe=lambda now: now.differing_bits,
        kind=Kind.COUNT,
        statistic=Statistic.MEDIAN,
        quantity="median_differing_bits",
        line=3,
        shown=True,
    ),
    Measure(
        name="max_ulp",
        observe=lambda now: now.max_ulp,
        kind=Kind.COUNT,
        statistic=Statistic.LARGEST,
        line=4,
        shown=True,
    ),
    REL_DISTANCE,
    MOVED,
    Measure(
        name="update_norm_ratio",
        observe=lambda now: now.of_arm(now.update) / now.of_against(now.update),
        statistic=Statistic.MEDIAN,
        line=5,
        shown=True,
    ),
    Measure(name="predicted_update_norm_ratio", observe=lambda now: now.closed_form.ratio, shown=True),
    Measure(name="update_norm_ratio_tolerance", observe=lambda now: now.closed_form.tolerance),
    *map(_eps_over_r, EPS_QUANTILES),
    Measure(
        name="v_zero_share",
        observe=lambda now: now.v_zero_share,
        statistic=Statistic.MEDIAN,
        line=11,
        shown=True,
    ),
    Measure(
        name="loss_arm",
        observe=lambda now: now.of_arm(now.loss),
        statistic=Statistic.MEDIAN,
        line=12,
        shown=True,
    ),
    Measure(
        name="loss_against",
        observe=lambda now: now.of_against(now.loss),
        statistic=Statistic.MEDIAN,
        line=13,
        shown=True,
    ),
    Measure(
        name="smallest_grad",
        observe=lambda now: now.of_arm(now.smallest_grad),
        statistic=Statistic.SMALLEST,
        line=14,
        shown=True,
    ),
    NONFINITE,
    Measure(
        name="state_identical",
        observe=lambda now: now.states.identical,
        kind=Kind.FLAG,
        statistic=Statistic.SHARE,
        quantity="state_identical_share",
        line=8,
        shown=True,
    ),
    Measure(
        name="state_subnormal",
        observe=lambda now: now.states.left_out,
        kind=Kind.COUNT,
        statistic=Statistic.LARGEST,
        quantity="max_state_subnormal",
        line=9,
    ),
    Measure(
        name="update_norm_ratio_error",
        derived_from=("update_norm_ratio", "predicted_update_norm_ratio"),
        derive=lambda measured, predicted: abs(measured / predicted - 1.0),
        statistic=Statistic.LARGEST,
        line=6,
    ),
)

SYMMETRIC_DISTANCE: Final = Measure(
    name="symmetric_distance",
    derived_from=("rel_distance", "size_ratio"),
    derive=lambda distance, ratio: 2.0 * distance / (1.0 + ratio),
    statistic=Statistic.MEDIAN,
    quantity="median_symmetric_distance",
    line=2,
)
"""|arm − against| over the mean of their sizes: the same whichever of the two is named first, at most 2."""

DISTANCE_OVER_MOVED: Final = Measure(
    name="distance_over_moved",
    observe=lambda now: now.distance_over_moved,
    statistic=Statistic.UPPER,
    quantity="q99_distance_over_moved",
    line=2,
    shown=True,
)
"""d: |arm − against| over the way that what it is compared with has gone from its initialisation.

Its quantile in the arm ``floor`` is the floor φ of the cell.
"""

_FURTHER: Final[tuple[Measure, ...]] = (
    Measure(name="size_ratio", observe=lambda now: now.size_ratio, shown=True),
    SYMMETRIC_DISTANCE,
    Measure(
        name="skipped",
        observe=lambda now: now.of_arm(now.skipped),
        kind=Kind.COUNT,
        statistic=Statistic.MEDIAN,
        quantity="median_skipped",
        line=15,
        shown=True,
    ),
    Measure(
        name="moved_elements",
        observe=lambda now: now.of_arm(now.moved_elements),
        statistic=Statistic.MEDIAN,
        line=7,
    ),
    DISTANCE_OVER_MOVED,
    Measure(
        name="differing_elements",
        observe=lambda now: now.differing_elements,
        kind=Kind.COUNT,
        statistic=Statistic.MEDIAN,
        quantity="median_differing_elements",
        line=3,
    ),
)
"""What a grid records if it names it: a new measure is an entry here."""

MEASURES: Final[dict[str, Measure]] = {measure.name: measure for measure in (*_STANDARD, *_FURTHER)}
"""Every measure, by name, the standard ones in the order of the pairs files."""

STANDARD: Final = tuple(measure.name for measure in _STANDARD if measure.derive is None)
"""What every grid records: changing this changes every study's files."""


def get_measure(name: str) -> Measure:
    """The measure of that name.

    Raises:
        ValueError: if there is none.
    """
    if name not in MEASURES:
        raise ValueError(f"measure {name!r} is unknown: use one of {', '.join(MEASURES)}, or add it to MEASURES")
    return MEASURES[name]


def summarized(columns: Sequence[str]) -> tuple[Measure, ...]:
    """The measures that a summary can have of pairs with these columns, in the order of its lines."""
    there = [
        measure
        for measure in MEASURES.values()
        if measure.statistic is not None
        and (measure.name in columns or (measure.derived_from and set(measure.derived_from) <= set(columns)))
    ]
    return tuple(sorted(there, key=lambda measure: measure.line))
