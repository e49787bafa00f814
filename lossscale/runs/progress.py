"""How far a run is: a bar with rate and time left on a terminal, a few lines elsewhere. Rich does the reckoning."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from ..design.spec import Cohort, RunSpec
from ..support.output import Output
from .executor import work

_LINES: Final = 4
"""Lines of a run that nobody watches, the last one left out: the run's own follows."""


class Progress:
    """Says how far the cohorts are; a context manager around the run.

    Networks differ in what a pair costs, so the time left follows the work done and not the pairs.

    Args:
        spec: the run's.
        cohorts: those that this process is to have done in the end.
        left: those of them that it will do; the others are there from an earlier run.
        output: where lines go. The bar goes to standard error, if that is a terminal.
    """

    def __init__(self, spec: RunSpec, cohorts: Sequence[Cohort], left: Sequence[Cohort], output: Output) -> None:
        self._each = len(spec.pairings)
        self._pairs = 0
        self._total_pairs = sum(map(self._pairs_of, left))
        self._output = output
        self._watched = sys.stderr.isatty()
        self._bar = Bar(
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[pairs]:,} pairs, {task.fields[rate]:,.0f} pairs/s,"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=Console(stderr=True),
            transient=True,
            disable=not self._watched,
            speed_estimate_period=float("inf"),  # cohorts are few and long: the rate of the whole run
        )
        self._bar.add_task("", total=sum(map(work, left)), pairs=0, rate=0.0)
        (self._task,) = self._bar.tasks
        there = sum(map(self._pairs_of, cohorts)) - self._total_pairs
        earlier = f"; {there:,} pairs are there already" if there else ""
        output.note(f"{spec.study}: {self._total_pairs:,} pairs of {spec.steps} steps in {len(left)} cohorts{earlier}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if kind is None:
            spent = self._task.elapsed or 0.0
            self._output.note(f"{self._total_pairs:,} pairs in {spent:.0f} s ({self._rate():,.0f} pairs/s)")

    def done(self, cohort: Cohort) -> None:
        """Counts one more cohort."""
        self._bar.start()  # with the first: it has a thread of its own, and workers are copies of a process without
        quarter = self._quarter()
        self._pairs += self._pairs_of(cohort)
        self._bar.update(self._task.id, advance=work(cohort), pairs=self._pairs, rate=self._rate())
        if not self._watched and quarter < self._quarter() < _LINES:
            percent = int(self._task.percentage)
            spent = self._task.elapsed or 0.0
            left = spent * self._task.remaining / self._task.completed if self._task.remaining else 0.0
            self._output.note(f"  {percent} %: {self._pairs:,} pairs, {self._rate():,.0f} pairs/s, {left:.0f} s left")

    def _pairs_of(self, cohort: Cohort) -> int:
        return cohort.kept * self._each

    def _rate(self) -> float:
        return self._pairs / max(self._task.elapsed or 0.0, 1e-9)

    def _quarter(self) -> int:
        return int(self._task.completed * _LINES // (self._task.total or 1))
