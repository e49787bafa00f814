"""Runs the parts of the study, and keeps the curves that the page draws."""

from __future__ import annotations

from typing import Any, Final

import pandas as pd
import torch

from ...analysis.judging import Lines
from ...design.controls import control_grid
from ...design.study import StudyContext
from ...engines.populations import BF16, FP16, FP32, Arithmetic
from ...engines.threads import one_thread
from ...runs.controls import control_lines
from ...runs.summary import write_lines
from ...support.files import write_json
from .absorption import judge_absorption
from .flips import judge_flips
from .networks import judge_networks
from .steps import judge_closed_form, judge_points, updates
from .widths import judge_widths

CURVES: Final = "epsilon-law.json"
"""What the page draws: the change of a step against the scale, by arithmetic and eps / r."""

DELTAS: Final = (1.0, 0.1, 1e-2, 1e-3, 1e-4)


def execute(context: StudyContext) -> None:
    """Run everything; write epsilon-law.json and summary.csv."""
    lines = Lines(context.study)
    with one_thread():
        judge_closed_form(lines, context)
        judge_points(lines, context)
        judge_absorption(lines, context)
        judge_flips(lines, context)
        judge_networks(lines, context)
        judge_widths(lines, context)
        controls = control_lines(context, control_grid(("fp32",), ("adam", "adamw", "rmsprop", "adagrad")))
        curves = [_curve(context, arithmetic, delta) for arithmetic in (FP32, FP16, BF16) for delta in DELTAS]
    write_json(context.run / CURVES, curves)
    write_lines(context.run, pd.concat([lines.frame(), controls], ignore_index=True))


def _curve(context: StudyContext, arithmetic: Arithmetic, delta: float) -> dict[str, Any]:
    """u_S / u_U against s for r spread over one binade, [1, 2): the median over its places."""
    sizes = 1.0 + torch.arange(64, dtype=torch.float64) / 64
    powers = range(-12, 13)
    eps = [delta * float(size) for size in sizes]
    grads = torch.cat([sizes, *(sizes * 2.0**k for k in powers)]).unsqueeze(1)
    taken = updates(context, "adam", eps * (len(powers) + 1), grads, arithmetic).reshape(len(powers) + 1, -1)
    ratio = (taken[1:] / taken[0]).median(1).values
    return {
        "arithmetic": arithmetic.name,
        "delta": delta,
        "log2_scale": list(powers),
        "ratio": [round(float(value), 6) for value in ratio],
    }
