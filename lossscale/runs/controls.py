"""A study's controls, trained beside its script: their pairs become lines of the same summary."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pandas as pd

from ..design.grid import Grid
from ..design.spec import RunSpec
from ..design.study import StudyContext


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
