"""A study's controls as lines of its summary: small networks trained beside a script, or arms that a script trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from ..analysis.judging import Lines
from ..analysis.measured import Measured
from ..design.arms import BASE
from ..design.arms import FLOOR as FLOOR_ARM
from ..design.claims import FLOOR, Claim
from ..design.grid import Grid
from ..design.measures import DISTANCE_OVER_MOVED, IDENTICAL, MOVED, REL_DISTANCE
from ..design.spec import RunSpec
from ..design.study import StudyContext

if TYPE_CHECKING:
    from torch import Tensor

    from ..engines.stepwise import Arms


def control_lines(context: StudyContext, grid: Grid) -> pd.DataFrame:
    """Trains a grid within a script and judges it by the study's predictions; lines as those of `summarize`.

    Args:
        context: of the script: its seed, device, backend, and whether it is a quick run.
        grid: what is trained, mostly a `design.controls.control_grid`.
    """
    from ..analysis.summarize import summarize

    spec = RunSpec.of(
        context.study.name, _sized(grid, context), seed=context.seed, device=context.device, backend=context.backend
    )
    return summarize(_cells(spec), context.study.name, context.study.predictions)


STILL: Final = "the median model never moved"
"""Why equal bits count for nothing."""


def pair_lines(
    lines: Lines,
    trained: Arms,
    place: int,
    claim: Claim | None = None,
    *,
    beside: Tensor | None = None,
    **cell: Any,
) -> None:
    """The lines of an arm of a script beside the base arm, its first: those that a grid's summary has of such pairs.

    Of the arm ``floor`` they have the floor too, judged as in every study.

    Args:
        lines: where they go.
        trained: the arms at the end of their training.
        place: of the arm.
        claim: judged by the share of pairs that agree in every bit.
        beside: what of the models is compared, [inits · arms, columns]; None for all parameters.
        cell: of the summary, the arm's name among them.
    """
    here = {"against": BASE.name, **cell}
    reason = "" if float(trained.moved(0).median()) > 0 else STILL
    same = trained.identical(place, 0, beside)
    share = Measured.share(int(same.sum()), len(same))
    lines.add(IDENTICAL.quantity_name, share, claim, reason=reason if claim else "", **here)
    arm, base = (trained.of(index).double() for index in (place, 0))
    apart = (arm - base).norm(dim=1) / base.norm(dim=1)
    lines.add(REL_DISTANCE.quantity_name, Measured.median(apart.cpu().numpy()), **here)
    lines.add(MOVED.quantity_name, Measured.median(trained.moved(place).cpu().numpy()), **here)
    distance = trained.distance(place, 0).cpu().numpy()
    lines.add("median_distance_over_moved", Measured.median(distance), **here)
    if cell["arm"] == FLOOR_ARM.name:
        lines.add(DISTANCE_OVER_MOVED.quantity_name, Measured.floor(distance), FLOOR, reason=reason, **here)


def _sized(grid: Grid, context: StudyContext) -> Grid:
    """Its quick size in a quick run."""
    networks = (dataclasses.replace(item, inits=item.quick_inits) for item in grid.networks)
    return dataclasses.replace(grid, networks=tuple(networks)) if context.quick else grid


def _cells(spec: RunSpec) -> Iterator[tuple[object, pd.DataFrame]]:
    from ..engines.engine import run_cohort

    by_key: dict[object, list[pd.DataFrame]] = {}
    for cohort in spec.cohorts():
        by_key.setdefault(cohort.key, []).append(pd.DataFrame(run_cohort(spec, cohort)))
    for key, parts in by_key.items():
        yield key, pd.concat(parts, ignore_index=True)
