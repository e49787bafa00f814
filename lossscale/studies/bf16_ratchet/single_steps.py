"""Judges what one step does to every number of a binade, and what becomes of averages and parameters by itself."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch

from ...analysis.judging import Lines
from ...analysis.measured import Measured
from ...design.study import StudyContext
from ...engines.populations import BF16, BF16_STATE, FP16, FP16_STATE, FP32
from . import (
    FALLS,
    FLOAT32,
    FORGOTTEN,
    INERT,
    INERT_BORDER,
    KEPT,
    MOVES,
    MOVES_RULE,
    NEVER_FALLS,
    SCALAR,
    STALL_FORM,
    STALL_RANGE,
    STICKS,
    STICKS_AT,
    mantissas,
)

_MOVING: Final = {1e-3: (1.0, 0.005), 1e-4: (0.88, 0.005), 2e-5: (0.30, 0.005), 1e-5: (0.155, 0.0005)} | {
    1e-6: (0.019, 0.0005),
    6e-7: (0.0096, 0.00005),
}
"""lr → the share that is predicted to move, and half a unit of its last digit."""


def judge_one_step(lines: Lines, context: StudyContext) -> None:
    """Stall probabilities of one step, place by place in the binade and at its ends."""
    draws, many = (2_048, 2**16) if context.quick else (16_384, 2**22)
    for arithmetic, beta2, ends, half_unit in (
        (BF16_STATE, 0.999, (0.973, 0.914), 0.0005),
        (BF16_STATE, 0.99, (0.197, 0.095), 0.0005),
        (BF16_STATE, 0.95, (0.038, 0.019), 0.0005),
        (FP16_STATE, 0.999, (0.25, 0.12), 0.005),
    ):
        cell: dict[str, Any] = {"optimizer": "adam", "options": f"beta2={beta2:g}", "step": 1, **arithmetic.cell}
        values = mantissas.binade(arithmetic)
        every = values[:: max(1, len(values) // 128)]
        predicted = mantissas.predicted_stays(arithmetic, beta2, every)
        found = mantissas.stays(context, arithmetic, beta2, every, draws, context.seed) / draws
        worst = np.abs(found - predicted) / np.sqrt(predicted * (1 - predicted) / draws)
        lines.add(
            "largest_deviation_in_sd", Measured(value=float(worst.max()), count=len(every) * draws), STALL_FORM, **cell
        )
        place = torch.stack([values[1], values[-1]])
        counts = mantissas.stays(context, arithmetic, beta2, place, many, context.seed + 1)
        for count, share, name in zip(counts, ends, ("low", "high"), strict=True):
            lines.rounded(
                f"share_unchanged_at_{name}_mantissa",
                Measured.share(int(count), many),
                STALL_RANGE,
                share,
                half_unit,
                **cell,
            )


def judge_without_gradients(lines: Lines, context: StudyContext) -> None:
    """Averages that get nothing: which fall in a step, from which beta2 on, and what is left after 5,000."""
    betas = [0.9, 0.95, 0.99, 0.995, 0.996, 0.9961, 0.997, 0.998, 0.9985, 0.999, 0.9995, 0.9998, 0.9999]
    for arithmetic in (BF16_STATE, BF16, FP16_STATE, FP16):
        start = mantissas.binade(arithmetic)
        fell = mantissas.without_gradient(context, arithmetic, betas, start) < start.numpy()
        wrong = int((fell != mantissas.predicted_falls(arithmetic, betas)).sum())
        cell: dict[str, Any] = {"optimizer": "adam", **arithmetic.cell, "step": 1}
        lines.add("numbers_that_do_otherwise", Measured(value=wrong, count=fell.size), FALLS, **cell)
    for arithmetic, never in ((BF16_STATE, 1 - 2.0**-9), (FP16_STATE, 1 - 2.0**-12)):
        cell = {"optimizer": "adam", **arithmetic.cell, "step": 1}
        last, first = mantissas.beta_borders(context, arithmetic)
        lines.add("largest_beta2_at_which_v_falls", last, NEVER_FALLS, predicted=never, **cell)
        sticks = STICKS if arithmetic is BF16_STATE else None
        lines.add("smallest_beta2_at_which_v_sticks", first, sticks, **cell)
    start = torch.cat([torch.ones(1, dtype=torch.float64), mantissas.binade(BF16)])
    for arithmetic in (BF16_STATE, BF16, FP32):
        left = mantissas.without_gradient(context, arithmetic, [0.998, 0.999, 0.99], start, 5_000)
        cell = {"optimizer": "adam", **arithmetic.cell, "step": 5_000}
        if arithmetic is FP32:
            kept = Measured.median(left[1, 1:] / start[1:].numpy())
            lines.add("share_of_v_left", kept, FLOAT32, **cell, options="beta2=0.999")
            continue
        lines.add("v_left_of_1", left[0, 0], STICKS_AT, **cell, options="beta2=0.998")
        same = Measured.share(int((left[1, 1:] == start[1:].numpy()).sum()), len(start) - 1)
        lines.add("share_unchanged", same, KEPT, **cell, options="beta2=0.999")
        largest = Measured(value=float(left[2].max()), count=len(start))
        lines.add("largest_v_left", largest, FORGOTTEN, **cell, options="beta2=0.99")


def judge_parameters(lines: Lines, context: StudyContext) -> None:
    """Which bfloat16 parameters move, which decay does, and a beta2 that is held in bfloat16."""
    elements = 2**16 if context.quick else 2**24
    for lr, (share, half_unit) in _MOVING.items():
        moved, wrong = mantissas.moving(context, lr, elements)
        cell: dict[str, Any] = {"optimizer": "sgd", "options": f"lr={lr:g}", "step": 1, **BF16.cell}
        lines.rounded("share_moved", Measured.share(moved, elements), MOVES, share, half_unit, **cell)
        lines.add("parameters_that_do_otherwise", Measured(value=wrong, count=elements), MOVES_RULE, **cell)
    cell = {"optimizer": "adamw", **BF16.cell}
    still = mantissas.decayed(context, [1e-3], steps=100)
    lines.add(
        *("share_moved", Measured.share(int(still.sum()), still.size), INERT),
        **cell,
        options="lr=0.01,weight_decay=0.1",
        step=100,
    )
    products = list(2.0**-9 * np.linspace(0.98, 1.02, 401))
    bites = mantissas.decayed(context, products).any(1)
    lines.add("smallest_decay_that_moves", float(np.array(products)[bites].min()), INERT_BORDER, **cell, step=1)
    held = torch.tensor(0.999).to(torch.bfloat16)
    cut = (torch.tensor(0.999).view(torch.int32) & -65536).view(torch.float32)
    lines.add("beta2_rounded", float(held), SCALAR, predicted=1.0, **BF16.cell)
    lines.add("beta2_truncated", float(cut), SCALAR, predicted=0.99609, **BF16.cell)
