"""Runs the study: thresholds, causes and diagrams part by part, then the tables and the judged lines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd
import torch

import kernels

from ...analysis.judging import Lines
from ...design.study import StudyContext
from ...runs.parts import advance, read_part
from ...runs.summary import write_lines
from ...support.errors import input_errors
from . import lines as judged
from .attributed import Attribution
from .cells import PLAIN, PLAIN_TRUE, SMALL_LR, STEPS, Cell, cells, diagrams
from .diagram import FULL, QUICK, Diagram
from .floor import floor_of
from .frames import cause_frame, threshold_frame, write_frame
from .numbers import Numbers
from .scan import EpsFree, Scan

THRESHOLDS: Final = "thresholds.csv"
CAUSES_TABLE: Final = "causes.csv"

LARGEST_POWER: Final = 40
INITS: Final = 1024
CAUSE_INITS: Final = 256
NUMBER_INITS: Final = 16_384
QUICK_INITS: Final = 64
QUICK_NUMBER_INITS: Final = 1024
FREE_POLICIES: Final = ("fp32", "bf16-true", "bf16-mixed", "bf16-state")


@dataclass(frozen=True, kw_only=True)
class Parts:
    """All parts of a run."""

    scans: list[Scan]
    free: list[EpsFree]
    causes: list[Attribution]
    numbers: list[Numbers]
    diagrams: list[Diagram]


def plan(*, seed: int, backend: str, trained: int, quick: bool) -> Parts:
    """The parts of a full or a quick run."""
    shared: dict[str, Any] = {"seed": seed, "backend": backend, "trained": trained}
    inits, few = (QUICK_INITS, QUICK_INITS) if quick else (INITS, CAUSE_INITS)
    plane, sample = (QUICK, 64) if quick else (FULL, 1024)
    own, many = cells(quick=quick), QUICK_NUMBER_INITS if quick else NUMBER_INITS
    return Parts(
        scans=[Scan(cell=cell, inits=inits, largest=LARGEST_POWER, **shared) for cell in own],
        free=[EpsFree(policy=policy, inits=inits, **shared) for policy in FREE_POLICIES[: 2 if quick else None]],
        causes=[Attribution(cell=cell, inits=few, largest=LARGEST_POWER, **shared) for cell in own],
        numbers=[Numbers(cell=cell, inits=many, **shared) for cell in (PLAIN, PLAIN_TRUE, SMALL_LR)],
        diagrams=[Diagram(cell=cell, plane=plane, sample=sample, **shared) for cell in diagrams(quick=quick)],
    )


def diagram_name(cell: Cell) -> str:
    """Of the part that has a cell's diagram."""
    return Diagram(cell=cell, plane=QUICK, seed=0).name


def make(run: Path, parts: Parts, note: Callable[[str], None]) -> None:
    """Make the parts that the run lacks; diagrams read the floors of the thresholds' parts."""
    advance(run, [*parts.scans, *parts.free, *parts.causes, *parts.numbers], title="thresholds and causes", note=note)
    advance(run, parts.diagrams, title="phase diagrams", note=note)


def execute(context: StudyContext) -> None:
    """Make the run's parts, thresholds.csv, causes.csv and summary.csv."""
    run, steps = context.run, context.steps or STEPS
    parts = plan(seed=context.seed, backend=_backend(context), trained=steps, quick=context.quick)
    make(run, parts, context.note)
    scanned = {part.cell: read_part(run, part.name) for part in parts.scans}
    frames, lines = {}, Lines(context.study)
    for cause in parts.causes:
        scan = scanned[cause.cell]
        frames[cause.cell] = cause_frame(
            cause.cell, read_part(run, cause.name), floor_of(scan), scan["finite"][: cause.inits]
        )
    thresholds = threshold_frame(scanned, frames)
    write_frame(run / THRESHOLDS, thresholds)
    write_frame(run / CAUSES_TABLE, pd.concat(frames.values(), ignore_index=True))
    for cell, scan in scanned.items():
        judged.scan_lines(lines, cell, scan, steps)
    judged.threshold_lines(lines, thresholds, scanned, steps)
    judged.number_lines(lines, {part.cell: read_part(run, part.name) for part in parts.numbers}, steps)
    for cell, frame in frames.items():
        judged.cause_lines(lines, cell, frame, steps)
    for free in parts.free:
        judged.free_lines(lines, free, read_part(run, free.name), steps)
    for diagram in parts.diagrams:
        judged.diagram_lines(lines, diagram, read_part(run, diagram.name), steps)
    write_lines(run, lines.frame())


def _backend(context: StudyContext) -> str:
    """What trains: on the CPU, wherever the run was asked for, for its bits are a GPU's and it reads every step.

    Raises:
        InputError: for a backend that this process cannot use.
    """
    if context.device != "cpu":
        context.note("window trains on the CPU: the bits are the same, and every step is looked at")
        return "auto"
    with input_errors("--backend", context.backend):
        return kernels.resolve_backend(context.backend, torch.device("cpu"))
