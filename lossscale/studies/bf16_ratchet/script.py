"""Measures stalls, drifts and moving shares, and judges what was predicted of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from ...analysis.judging import Lines
from ...analysis.measured import Measured
from ...design.controls import control_grid
from ...design.study import StudyContext
from ...engines.populations import BF16, BF16_STATE, FP16, FP16_STATE, FP32
from ...engines.threads import one_thread
from ...runs.controls import control_lines
from ...runs.summary import write_lines
from ...support.files import write_json
from . import (
    CONSTANT,
    CONSTANT_MEAN,
    CONSTANT_STEP,
    DECAYING,
    HALF_STEP,
    HALF_SUBNORMAL,
    HEAVY,
    LONG,
    POSITION,
    RANDOM,
    RANDOM_STEP,
    RESETS,
    SAFE,
    SHORT_MEMORY,
    SPREAD,
)
from .averages import Gradients, Reading, Storage, places, simulate
from .batches import judge_batches
from .single_steps import judge_one_step, judge_parameters, judge_without_gradients

CURVES: Final = "bf16-ratchet.json"
"""What the page draws: the step's factor over time."""

REFERENCE: Final = Storage(arithmetic=FP32, roundings=0)
ONE, TWO = Storage(arithmetic=BF16_STATE, roundings=1), Storage(arithmetic=BF16, roundings=2)
ONE_RESET = Storage(arithmetic=BF16_STATE, roundings=1, reset_every=1000)
TWO_RESET = Storage(arithmetic=BF16, roundings=2, reset_every=1000)
HALF_ONE, HALF_TWO = Storage(arithmetic=FP16_STATE, roundings=1), Storage(arithmetic=FP16, roundings=2)

STEADY = Gradients(name="constant", constant=True)
NORMAL = Gradients(name="normal")
SHIFTED = Gradients(name="normal, sigma .84", sigma=0.84)
LATE, SHORT = Gradients(name="normal", beta2=0.99), Gradients(name="normal", beta2=0.95)
TAILS = Gradients(name="heavy tails", tail=1.0)
FALLING = Gradients(name="falling to a tenth", falls_to=0.1)
FALLING_LATE = Gradients(name="falling to a tenth", beta2=0.99, falls_to=0.1)
FALLING_SHORT = Gradients(name="falling to a tenth", beta2=0.95, falls_to=0.1)
HELD: Final = tuple(
    Gradients(name=kind.name, beta2=beta2, tail=kind.tail, constant=kind.constant)
    for beta2 in (0.99, 0.95)
    for kind in (STEADY, TAILS)
)
"""The other kinds at the smaller β₂, of which nothing was predicted."""
DRAWN: Final = (STEADY, NORMAL, SHIFTED, LATE, SHORT, TAILS, FALLING, FALLING_LATE)
ROWS: Final = (*DRAWN, *HELD, FALLING_SHORT)
HALF_ROWS: Final = (*(Gradients(name=f"normal, sigma 2^{k}/16", sigma=2 ** (k / 16)) for k in range(8)),)
HALF_SMALL = Gradients(name="normal, sigma .004", sigma=0.004)

_STEPS, _QUICK_STEPS = 20_000, 1_000
_HALF_STEPS: Final = 5_000
_SETTLED: Final = 1_000
"""Steps after which an average of β₂ = .99 is where it stays."""


def execute(context: StudyContext) -> None:
    """Run everything; write bf16-ratchet.json and summary.csv."""
    lines = Lines(context.study)
    with one_thread():
        judge_one_step(lines, context)
        judge_without_gradients(lines, context)
        judge_parameters(lines, context)
        steps = context.steps or (_QUICK_STEPS if context.quick else _STEPS)
        curves = [*_bfloat16(lines, context, steps), *_float16(lines, context, min(steps, _HALF_STEPS))]
        judge_batches(lines, context, steps)
        lines.unjudged((*LONG, HALF_STEP, HALF_SUBNORMAL), f"this run ends at step {steps:,}")
        controls = control_lines(context, control_grid(("bf16-state", "bf16-true")))
    write_json(context.run / CURVES, curves)
    write_lines(context.run, pd.concat([lines.frame(), controls], ignore_index=True))


def _bfloat16(lines: Lines, context: StudyContext, steps: int) -> list[dict[str, Any]]:
    elements = 1_024 if context.quick else 16_384
    storages = (REFERENCE, ONE, TWO, ONE_RESET, TWO_RESET)
    drawn = places(steps)
    curves = _Curves(DRAWN, storages)
    checkpoints = {*drawn, *(at for at in (1_000, 2_000, 5_000, 10_000, 20_000) if at <= steps)}
    for now in simulate(context, ROWS, storages, elements=elements, checkpoints=sorted(checkpoints)):
        curves.add(now)
        _judge_random(lines, now)
        if now.step == 10_000:
            _judge_decaying(lines, now)
        if now.step == 20_000:
            _judge_end(lines, now)
        if now.step == min(steps, 5_000) >= _SETTLED:
            _judge_short(lines, now)
    return curves.kept


def _judge_random(lines: Lines, now: Reading) -> None:
    row = ROWS.index(NORMAL)
    for storage, expected in (
        (ONE, {1_000: (1.06, 0.973), 5_000: (1.58, 0.795), 20_000: (2.30, 0.660)}),
        (TWO, {1_000: (1.30, 0.877), 5_000: (2.11, 0.689), 20_000: (3.31, 0.550)}),
    ):
        if now.step in expected:
            ratio, step = expected[now.step]
            cell = _cell(storage, NORMAL, now.step)
            v = Measured.median(now.v_ratio(storage, row, REFERENCE))
            lines.rounded("v_ratio", v, RANDOM, ratio, 0.005, **cell)
            taken = Measured.median(now.step_ratio(storage, row, REFERENCE))
            lines.rounded("step_ratio", taken, RANDOM_STEP, step, 0.0005, **cell)
            lines.add("root_ratio", _root_ratio(now, storage, NORMAL), **cell)


def _add(lines: Lines, now: Reading, rows: Iterable[Gradients]) -> None:
    """What became of gradients of which nothing was predicted, beside a float32 v: medians of v and of the step."""
    for row in rows:
        for storage in (ONE, TWO):
            cell, place = _cell(storage, row, now.step), ROWS.index(row)
            lines.add("v_ratio", Measured.median(now.v_ratio(storage, place, REFERENCE)), **cell)
            lines.add("step_ratio", Measured.median(now.step_ratio(storage, place, REFERENCE)), **cell)


def _root_ratio(now: Reading, storage: Storage, row: Gradients) -> Measured:
    """The step's factor from v alone, 1/√(v ratio): without the rounding of m, of the root and of the quotient."""
    return Measured.median(now.v_ratio(storage, ROWS.index(row), REFERENCE) ** -0.5)


def _judge_short(lines: Lines, now: Reading) -> None:
    for storage, step in ((ONE, 0.979), (TWO, 0.939)):
        taken = Measured.median(now.step_ratio(storage, ROWS.index(LATE), REFERENCE))
        lines.rounded("step_ratio", taken, SHORT_MEMORY, step, 0.0005, **_cell(storage, LATE, now.step))
        lines.add("root_ratio", _root_ratio(now, storage, LATE), **_cell(storage, LATE, now.step))
        v = Measured.mean(now.v_ratio(storage, ROWS.index(SHORT), REFERENCE) - 1)
        lines.rounded("v_bias", v, SAFE, 0.0, 0.001, **_cell(storage, SHORT, now.step))
    _add(lines, now, (SHORT,))


def _judge_decaying(lines: Lines, now: Reading) -> None:
    for row, storage, step, half_unit in (
        (FALLING, ONE, 0.099, 0.0005),
        (FALLING, TWO, 0.090, 0.0005),
        (FALLING_LATE, ONE, 1.00, 0.005),
        (FALLING_LATE, TWO, 1.03, 0.005),
    ):
        taken = Measured.median(now.step_ratio(storage, ROWS.index(row), REFERENCE))
        lines.rounded("step_ratio", taken, DECAYING, step, half_unit, **_cell(storage, row, now.step))
    _add(lines, now, (FALLING_SHORT,))
    for storage, step in ((ONE_RESET, 0.973), (TWO_RESET, 0.877)):
        taken = _against_stationary(now, storage)
        lines.add("step_ratio", taken, RESETS, predicted=step, **_cell(storage, FALLING, now.step))


def _against_stationary(now: Reading, storage: Storage) -> Measured:
    """The step's factor from v alone, v corrected for its 1,000 steps since the reset, beside float32's v of all."""
    row = ROWS.index(FALLING)
    corrected = now.v[storage][row] / (1 - 0.999**storage.reset_every)
    return Measured.median(np.sqrt(now.v[REFERENCE][row] / corrected))


def _judge_end(lines: Lines, now: Reading) -> None:
    row = ROWS.index(STEADY)
    for storage, v, step, half_unit in ((ONE, 0.25, 2.0, 0.005), (TWO, 0.5, 1.414, 0.0005)):
        cell = _cell(storage, STEADY, now.step)
        lines.add("v_ratio", Measured.median(now.v_ratio(storage, row, REFERENCE)), CONSTANT, predicted=v, **cell)
        taken = Measured.median(now.step_ratio(storage, row, REFERENCE))
        lines.rounded("step_ratio", taken, CONSTANT_STEP, step, half_unit, **cell)
        lines.add("m", float(np.median(now.m[storage][row])), CONSTANT_MEAN, **cell)
    for storage, low, high, shifted in ((ONE, 2.15, 2.45, 2.53), (TWO, 3.05, 3.59, 3.05)):
        cell = _cell(storage, NORMAL, now.step)
        ratio = now.v_ratio(storage, ROWS.index(NORMAL), REFERENCE)
        lines.rounded("v_ratio_q05", Measured.quantile(ratio, 0.05), SPREAD, low, 0.005, **cell)
        lines.rounded("v_ratio_q95", Measured.quantile(ratio, 0.95), SPREAD, high, 0.005, **cell)
        ratio = now.v_ratio(storage, ROWS.index(SHIFTED), REFERENCE)
        cell = _cell(storage, SHIFTED, now.step)
        lines.rounded("v_ratio", Measured.median(ratio), POSITION, shifted, 0.005, **cell)
    for storage, claim in ((ONE, HEAVY), (TWO, None)):
        taken = Measured.median(now.step_ratio(storage, ROWS.index(TAILS), REFERENCE))
        cell = _cell(storage, TAILS, now.step)
        if claim:
            lines.rounded("step_ratio", taken, claim, 0.32, 0.005, **cell)
        else:
            lines.add("step_ratio", taken, **cell)
    _add(lines, now, HELD)


def _float16(lines: Lines, context: StudyContext, steps: int) -> list[dict[str, Any]]:
    elements = 1_024 if context.quick else 8_192
    rows, storages = (*HALF_ROWS, HALF_SMALL), (REFERENCE, HALF_ONE, HALF_TWO)
    curves = _Curves(rows, storages)
    for now in simulate(context, rows, storages, elements=elements, checkpoints=places(steps)):
        curves.add(now)
    if now.step < _HALF_STEPS:
        return curves.kept
    for storage in (HALF_ONE, HALF_TWO):
        taken = [Measured.median(now.step_ratio(storage, place, REFERENCE)) for place in range(len(HALF_ROWS))]
        for place, pick, expected in ((min, "smallest", 0.98), (max, "largest", 1.11)):
            chosen = place(taken, key=lambda item: item.value)
            cell = _cell(storage, HALF_ROWS[taken.index(chosen)], now.step)
            if storage is HALF_TWO:
                lines.rounded(f"{pick}_step_ratio", chosen, HALF_STEP, expected, 0.005, **cell)
            else:
                lines.add(f"{pick}_step_ratio", chosen, **cell)
        small = now.v[storage][-1] / now.v[REFERENCE][-1].mean()
        cell = _cell(storage, HALF_SMALL, now.step)
        if storage is HALF_TWO:
            lines.rounded("mean_v_ratio", Measured.mean(small), HALF_SUBNORMAL, 1.87, 0.005, **cell)
        else:
            lines.add("mean_v_ratio", Measured.mean(small), **cell)
    return curves.kept


def _cell(storage: Storage, row: Gradients, step: int) -> dict[str, Any]:
    return {**storage.arithmetic.cell, **row.cell, "arm": storage.arm, "against": REFERENCE.arm, "step": step}


class _Curves:
    """Median factors of v over time, row by row."""

    def __init__(self, rows: Sequence[Gradients], storages: Iterable[Storage]) -> None:
        self._of = [
            (place, row, storage) for storage in storages if storage.roundings for place, row in enumerate(rows)
        ]
        self._steps: list[int] = []
        self._ratios: list[list[float]] = [[] for _ in self._of]

    @property
    def kept(self) -> list[dict[str, Any]]:
        """As the page reads them."""
        return [
            {"storage": storage.arm, "gradients": row.name, "beta2": row.beta2, "step": self._steps, "v": ratios}
            for (_, row, storage), ratios in zip(self._of, self._ratios, strict=True)
        ]

    def add(self, now: Reading) -> None:
        self._steps.append(now.step)
        for (place, _, storage), ratios in zip(self._of, self._ratios, strict=True):
            ratios.append(round(float(np.median(now.v_ratio(storage, place, REFERENCE))), 5))
