"""The judged lines of a run: what its parts measured beside what was predicted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pandas as pd

from ...analysis.judging import Lines, Measured
from ...analysis.thresholds import SIDES, quantile
from ...design.claims import EPS_FREE, MAPPED, NULL
from . import (
    ALL_REPAIRED,
    BIAS_BELOW,
    BOTH_ABSORBED,
    DEFAULT_EPS,
    EVENT,
    EXEMPT,
    HALF_FP32,
    HALF_MIXED,
    HALF_TRUE,
    HALF_TRUE_SMALL,
    MODELS_MOVED,
    MOVED,
    NOT_RMS,
    PLANE,
    REPAIRED_IN_RANGE,
    SMALLEST_ROOT,
    STAIRCASE,
    STORAGE,
    SUMS,
    ULP_FIRST,
    ULP_FLOOR,
    ULP_LAST,
    absorbed,
)
from .cells import FREE, NETWORK, SMALL_LR, STEPS, Cell
from .diagram import Diagram
from .floor import LEVEL, floor_of
from .frames import RUN
from .scan import EpsFree, half_border

ARITHMETICS: Final = ("fp32", "fp16", "bf16")

_HALF: Final = {
    ("fp32", "foreach", 0.01): HALF_FP32,
    ("bf16-mixed", "foreach", 0.01): HALF_MIXED,
    ("bf16-true", "foreach", 0.01): HALF_TRUE,
    ("bf16-true", "foreach", SMALL_LR.lr): HALF_TRUE_SMALL,
}
_BIASED_AT: Final = (-6.0, 40)
"""Where S8.window.11 looks: log2(eps / RMS g), and the power at which eps is gone."""


def scan_lines(lines: Lines, cell: Cell, part: Mapping[str, Any], steps: int) -> None:
    """Events, controls, floors, and what is predicted of single cells."""
    at = {**cell.columns, "step": steps}
    arm: dict[str, Any] = {"arm": "loss", "against": "base"}
    for step in sorted(int(name[6:]) for name in part if name.startswith("wrong_")):
        count = int(part[f"judged_{step}"])
        reason = "" if count else "nothing stays in range in this policy"
        wrong = Measured(value=float(part[f"wrong_{step}"]), count=count)
        here = {**cell.columns, **arm, "step": step}
        lines.add("wrong_events", wrong, EVENT, reason=reason, **here)
        if cell.recipe == "fused" and cell.optimizer != "adagrad":
            lines.add("wrong_events_float32", wrong, STORAGE, reason=reason, **here)
        exempt = int(part[f"exempt_{step}"])
        reason = "" if exempt else "no such element stays in range"
        changed = Measured(value=float(part[f"exempt_changed_{step}"]), count=exempt)
        lines.add("exempt_events", changed, EXEMPT, reason=reason, **here)
    reference = part["finite"]
    none = "" if reference.any() else "no unscaled run is finite"
    nonfinite = int((~reference).sum())
    same = Measured.share(int((~part["null"][reference]).sum()), int(reference.sum()))
    lines.add("identical_share", same, NULL, reason=none, nonfinite=nonfinite, arm="null", against="base", **at)
    for place, power in enumerate(part["mapped_powers"].tolist()):
        inside = part["in_range"][:, int(np.flatnonzero(part["powers"] == power)[0])] & reference
        equal = Measured.share(int((~part["mapped"][inside, place]).sum()), int(inside.sum()))
        reason = "" if inside.any() else "no pair stays in range"
        here = {"arm": "mapped", "against": "base", "scale": 2.0**power}
        lines.add("identical_share", equal, MAPPED, reason=reason, nonfinite=nonfinite, **here, **at)
    _number_lines(lines, cell, part, at)


def _number_lines(lines: Lines, cell: Cell, part: Mapping[str, Any], at: Mapping[str, Any]) -> None:
    """Floors, and the numbers that are predicted of one cell each."""
    plain = cell.optimizer == "adam" and cell.recipe == "foreach"
    other = _other(at["step"])
    floor, reference = floor_of(part), part["finite"]
    known = part["ulp"][~np.isnan(part["ulp"])]
    ulp = Measured(value=floor.ulp, count=len(known))
    if len(known):
        value, lo, hi = quantile(known, LEVEL)
        ulp = Measured(value=value, lo=lo, hi=hi, count=len(known))
    true = plain and cell.policy == "bf16-true" and cell.lr != SMALL_LR.lr
    lines.add("ulp_q99", ulp, ULP_FLOOR if true else None, reason=other, arm="ulp", against="base", **at)
    mapped = Measured(value=floor.mapped, count=int((~np.isnan(part["floor"])).sum()))
    lines.add("floor_q99", mapped, arm="mapped", against="base", **{**at, "scale": 3.0})
    moved = Measured.share(int(part["moved"].sum()), int(part["alive"].sum()))
    models = Measured.share(int((part["moved"] > 0).sum()), len(part["moved"]))
    initial: dict[str, Any] = {"arm": "base", "against": "initial", "reason": other}
    lines.add("moved_elements", moved, MOVED if cell == SMALL_LR else None, **initial, **at)
    lines.add("moved_models", models, MODELS_MOVED if cell == SMALL_LR else None, **initial, **at)
    if not reference.any():
        return
    value, lo, hi = quantile(half_border(part)[reference], 0.5)
    border = Measured(value=value, lo=lo, hi=hi, count=int(reference.sum()))
    key = (cell.policy, cell.recipe, cell.lr)
    claim = _HALF.get(key) if plain else None
    arm: dict[str, Any] = {"arm": "eps", "against": "no eps", "reason": other}
    lines.add("half_differ_log2_eps_over_rms", border, claim, **arm, **at)
    if not plain or cell.policy != "fp32":
        return
    lines.add("half_differ_log2_eps_over_rms", border, NOT_RMS, **arm, **at)
    roots = Measured.median(np.log2(part["root_last"] / part["rms"]))
    lines.add("log2_smallest_root_over_rms", roots, SMALLEST_ROOT, reason=other, arm="base", **at)
    ulp_arm: dict[str, Any] = {"arm": "ulp", "against": "base"}
    lines.add("median_distance", Measured.median(part["ulp_first"]), ULP_FIRST, **ulp_arm, **{**at, "step": 1})
    lines.add("median_distance", Measured.median(part["ulp"]), ULP_LAST, reason=other, **ulp_arm, **at)


def threshold_lines(lines: Lines, frame: pd.DataFrame, steps: int) -> None:
    """The medians of the borders; nothing is predicted of them."""
    for row in frame.to_dict("records"):
        if not row["inits"]:
            continue
        place = "below" if row["side"] == SIDES[0] else "above"
        value = Measured(
            value=row["q50"], lo=row.get("q50_lo", np.nan), hi=row.get("q50_hi", np.nan), count=row["inits"]
        )
        cell = Cell(optimizer=row["optimizer"], recipe=row["recipe"], policy=row["policy"], lr=row["lr"])
        lines.add(f"border_{row['kind']}_{place}", value, arm="loss", against="base", **{**cell.columns, "step": steps})


def cause_lines(lines: Lines, cell: Cell, frame: pd.DataFrame, steps: int) -> None:
    """What is left with all causes repaired."""
    at = {**cell.columns, "step": steps, "arm": "loss, E V G repaired", "against": "base, V G repaired"}
    if frame.empty:
        for claim in (ALL_REPAIRED, REPAIRED_IN_RANGE):
            lines.add("largest_f_EVG", float("nan"), claim, reason="no unscaled run is finite", **at)
        return
    for claim, counted, column in (
        (ALL_REPAIRED, "pairs", "largest_f_EVG"),
        (REPAIRED_IN_RANGE, "pairs_in_range", "largest_f_EVG_in_range"),
    ):
        pairs = int(frame.loc[frame["at"] == RUN, counted].sum())
        lines.add(column, Measured(value=float(frame[column].max()), count=pairs), claim, **at)


def free_lines(lines: Lines, part: EpsFree, arrays: Mapping[str, Any], steps: int) -> None:
    """The optimizer without eps."""
    at: dict[str, Any] = {
        "network": NETWORK,
        "optimizer": FREE,
        "recipe": "native",
        "policy": part.policy,
        "step": steps,
    }
    for place, power in enumerate(arrays["powers"].tolist()):
        moved = arrays["moved"]
        same = Measured.share(int((~arrays["differs"][moved, place]).sum()), int(moved.sum()))
        lines.add("identical_share", same, EPS_FREE, arm="loss", against="base", scale=2.0**power, **at)


def diagram_lines(lines: Lines, part: Diagram, arrays: Mapping[str, Any], steps: int) -> None:
    """The sample, the absorbed pairs and the unexplained ones of a diagram."""
    cell = part.cell
    at = {**cell.columns, "step": steps, "arm": "loss", "against": "base"}
    sampled = int(arrays["sampled"])
    differs = Measured(value=float(arrays["sample_differs"]), count=sampled)
    reason = "" if sampled else "no pixel stays in range"
    lines.add("sample_differs", differs, PLANE, reason=reason, **at)
    below = int(arrays["absorbed"])
    reason = "" if below else "no such pair stays in range"
    wrong = Measured(value=float(arrays["absorbed_differs"]), count=below)
    lines.add("absorbed_pairs_that_differ", wrong, BOTH_ABSORBED, reason=reason, **at)
    pairs = int(arrays["classes"].sum())
    lines.add("unexplained_share", Measured.share(int(arrays["classes"][8]), pairs), **at)
    if cell.optimizer == "adam" and cell.policy == "bf16-true" and cell != SMALL_LR:
        over, power = _BIASED_AT
        row = int(np.abs(np.log2(arrays["eps"] / arrays["rms"]) - over).argmin())
        column = int(np.abs(arrays["powers"] - power).argmin())
        distance = float(arrays["distance"][row, column])
        lines.add("median_distance_at_2^-6", distance, BIAS_BELOW, reason=_other(steps), **at)


def sum_lines(lines: Lines, seed: int) -> None:
    """Sums r + eps in every arithmetic."""
    for name in ARITHMETICS:
        table, stairs, count = absorbed.exceptions(name, seed)
        lines.add("wrong_sums", Measured(value=float(table), count=count), SUMS, policy=name, arm="r + eps")
        lines.add(
            "sums_off_staircase", Measured(value=float(stairs), count=count), STAIRCASE, policy=name, arm="r + eps"
        )
    wrong, count = absorbed.default_eps_exceptions(seed)
    lines.add("wrong_sums", Measured(value=float(wrong), count=count), DEFAULT_EPS, policy="fp32", arm="r + 1e-8")


def _other(steps: int) -> str:
    """Why numbers that are predicted of so many steps are not judged after others; empty if they are."""
    return "" if steps == STEPS else f"it is predicted of {STEPS} steps"
