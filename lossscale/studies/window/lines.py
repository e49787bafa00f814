"""The judged lines of a run: what its parts measured beside what was predicted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import pandas as pd

from ...analysis.intervals import UPPER
from ...analysis.judging import Lines
from ...analysis.measured import Measured
from ...analysis.thresholds import SIDES
from ...design.claims import EPS_FREE, MAPPED, NULL
from . import (
    ALL_REPAIRED,
    BIAS_BELOW,
    BOTH_ABSORBED,
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
    STORAGE,
    ULP_FIRST,
    ULP_FLOOR,
    ULP_LAST,
)
from .cells import FREE, NETWORK, PLAIN, PLAIN_TRUE, SMALL_LR, STEPS, Cell
from .diagram import Diagram
from .frames import IDENTITY, RUN, identity
from .numbers import EPS_GONE
from .scan import EpsFree, half_border

_HALF: Final = {
    PLAIN: HALF_FP32,
    Cell(optimizer="adam", policy="bf16-mixed"): HALF_MIXED,
    PLAIN_TRUE: HALF_TRUE,
    SMALL_LR: HALF_TRUE_SMALL,
}


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
    """Floors, what moved, and from which eps / RMS g on half of the pairs differ."""
    reference = part["finite"]
    lines.add("ulp_q99", Measured.border(part["ulp"], UPPER), arm="ulp", against="base", **at)
    mapped = Measured.border(part["floor"], UPPER)
    lines.add("floor_q99", mapped, arm="mapped", against="base", **{**at, "scale": 3.0})
    moved = Measured.share(int(part["moved"].sum()), int(part["alive"].sum()))
    models = Measured.share(int((part["moved"] > 0).sum()), len(part["moved"]))
    lines.add("moved_elements", moved, arm="base", against="initial", **at)
    lines.add("moved_models", models, arm="base", against="initial", **at)
    if not reference.any():
        return
    border = Measured.border(half_border(part)[reference], 0.5)
    arm: dict[str, Any] = {"arm": "eps", "against": "no eps", "reason": _other(at["step"])}
    lines.add("half_differ_log2_eps_over_rms", border, _HALF.get(cell), **arm, **at)
    if cell == PLAIN:
        lines.add("half_differ_log2_eps_over_rms", border, NOT_RMS, **arm, **at)


def number_lines(lines: Lines, parts: Mapping[Cell, Mapping[str, Any]], steps: int) -> None:
    """What is predicted of single cells, from more initialisations than thresholds need."""
    other = _other(steps)
    ulp: dict[str, Any] = {"arm": "ulp", "against": "base", "reason": other}
    plain, at = parts[PLAIN], {**PLAIN.columns, "step": steps}
    roots = Measured.median(np.log2(plain["root_last"] / plain["rms"]))
    lines.add("log2_smallest_root_over_rms", roots, SMALLEST_ROOT, reason=other, arm="base", **at)
    first = {**at, **ulp, "step": 1, "reason": ""}
    lines.add("median_distance", Measured.median(plain["ulp_first"]), ULP_FIRST, **first)
    lines.add("median_distance", Measured.median(plain["ulp"]), ULP_LAST, **ulp, **at)

    true, at = parts[PLAIN_TRUE], {**PLAIN_TRUE.columns, "step": steps}
    lines.add("ulp_q99", Measured.border(true["ulp"], UPPER), ULP_FLOOR, **ulp, **at)
    far: dict[str, Any] = {"arm": "loss", "against": "base", "scale": EPS_GONE}
    lines.add("median_distance_at_2^-6", Measured.median(true["biased"]), **far, **at)
    less = Measured.difference(true["ulp"], UPPER, true["biased"], 0.5)
    lines.add("ulp_q99_less_median_distance_at_2^-6", less, BIAS_BELOW, reason=other, **far, **at)

    small, at = parts[SMALL_LR], {**SMALL_LR.columns, "step": steps}
    initial: dict[str, Any] = {"arm": "base", "against": "initial", "reason": other}
    elements = Measured.share(int(small["moved"].sum()), int(small["alive"].sum()))
    models = Measured.share(int((small["moved"] > 0).sum()), len(small["moved"]))
    lines.add("moved_elements", elements, MOVED, **initial, **at)
    lines.add("moved_models", models, MODELS_MOVED, **initial, **at)


def threshold_lines(lines: Lines, frame: pd.DataFrame, cells: Iterable[Cell], steps: int) -> None:
    """The medians of the borders of these cells; nothing is predicted of them."""
    columns = {tuple(identity(cell).values()): cell.columns for cell in cells}
    for row in frame.to_dict("records"):
        if not row["inits"]:
            continue
        place = "below" if row["side"] == SIDES[0] else "above"
        value = Measured(
            value=row["q50"], lo=row.get("q50_lo", np.nan), hi=row.get("q50_hi", np.nan), count=row["inits"]
        )
        own = columns[tuple(row[name] for name in IDENTITY)]
        lines.add(f"border_{row['kind']}_{place}", value, arm="loss", against="base", **{**own, "step": steps})


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


def _other(steps: int) -> str:
    """Why numbers that are predicted of so many steps are not judged after others; empty if they are."""
    return "" if steps == STEPS else f"it is predicted of {STEPS} steps"
