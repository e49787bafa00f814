"""The answer per number format, in sentences and as rows, computed from a run's thresholds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import pandas as pd

from ...analysis.thresholds import ABOVE, BELOW
from ...report.labels import optimizer_label
from .frames import MOVED_ON, OUTCOME, RUN, SATURATES, STEP, side_row

FORMATS: Final = {
    "float32": ("fp32",),
    "bfloat16": ("bf16-mixed", "bf16-state", "bf16-true"),
    "float16": ("fp16-mixed", "fp16-state", "fp16-true"),
}
"""The number formats that people ask about, and the policies that have them."""

KEYS: Final = ("optimizer", "options", "recipe", "policy", "lr")
"""The columns that tell cells apart."""

_CAUSES: Final = {"E": "eps", "V": "range of v", "G": "range of g"}

LEGEND: Final = (
    "A cell's s* is the power of two from which on something happens to the median initialisation, going away from "
    "s = 1; its true place lies between it and the next power towards 1. In brackets the 95 % interval, by order "
    "statistics.",
    "one step: the last step, from mapped shared state, changes a parameter bit. run: a bit differs after any step. "
    "beyond rounding: d = ‖θ_S − θ_U‖ / ‖θ_U − θ_0‖ ends above the floor φ, the 99 % quantile of the mapped arm at "
    "s = 3. loss: the mean paired difference of log(loss + 2.75) on a fresh sample is 0.1 standard deviations or more, "
    "by its 95 % interval and Holm’s step-down over the cell’s powers of two; equivalent up to: both one-sided tests "
    "hold there, likewise.",
    "window: powers of two between the borders beyond rounding, 1 among them; ≥ where the grid of 2^-40 … 2^40 ends "
    "first. Its limits are the causes of a quarter or more of the deviation at the first power outside.",
)


def power(value: float) -> str:
    """``2^-7``, or ``none``."""
    return "none" if not math.isfinite(value) else f"2^{value:.0f}"


def bracketed(row: pd.Series) -> str:
    """The median border with its interval."""
    low, high = row.get("q50_lo", math.nan), row.get("q50_hi", math.nan)
    if pd.isna(low) or pd.isna(high) or (low == high == row["q50"]):
        return power(row["q50"])
    return f"{power(row['q50'])} [{power(low)}, {power(high)}]"


def rows_of(frame: pd.DataFrame, policies: Sequence[str]) -> list[dict[str, Any]]:
    """A row per optimizer, recipe, policy and learning rate."""
    chosen = frame[frame["policy"].isin(policies)]
    rows = []
    for (optimizer, options, recipe, policy, lr), own in chosen.groupby(list(KEYS), sort=False):
        first = own.iloc[0]
        head = {
            "optimizer": optimizer_label(str(optimizer), str(options)),
            "policy": policy,
            "recipe": recipe,
            "denominator × storage": f"{first['denominator']} × {first['storage']}",
            "lr": lr,
        }
        if not first["inits"]:
            rows.append({**head, "φ": "no unscaled run is finite"})
            continue
        floor = {side: side_row(own, MOVED_ON, side) for side in (BELOW, ABOVE)}
        rows.append(
            {
                **head,
                "φ": _floor(first),
                "one step, s < 1": bracketed(side_row(own, STEP, BELOW)),
                "one step, s > 1": bracketed(side_row(own, STEP, ABOVE)),
                "run, s < 1": bracketed(side_row(own, RUN, BELOW)),
                "run, s > 1": bracketed(side_row(own, RUN, ABOVE)),
                "beyond rounding, s < 1": bracketed(floor[BELOW]),
                "beyond rounding, s > 1": bracketed(floor[ABOVE]),
                "loss, s < 1": _outcome(side_row(own, OUTCOME, BELOW)),
                "loss, s > 1": _outcome(side_row(own, OUTCOME, ABOVE)),
                "window": binades(floor[BELOW]),
                "limits": f"{_cause(floor[BELOW])} | {_cause(floor[ABOVE])}",
            }
        )
    return rows


def glance(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A row per policy, a column per optimizer: from which s on it is more than rounding, and another loss."""
    chosen = frame[(frame["recipe"] == frame["recipe"].iloc[0]) & (frame["lr"] == frame["lr"].iloc[0])]
    rows = []
    for policy in (policy for policies in FORMATS.values() for policy in policies):
        own = chosen[chosen["policy"] == policy]
        if own.empty:
            continue
        row: dict[str, Any] = {"policy": policy}
        for (optimizer, options), cell in own.groupby(["optimizer", "options"], sort=False):
            row[optimizer_label(str(optimizer), str(options))] = _ends(cell)
        rows.append(row)
    return rows


def _ends(own: pd.DataFrame) -> str:
    if not own.iloc[0]["inits"]:
        return "no finite run"
    if own.iloc[0]["moved"] < STALLED:
        return f"stalled: {own.iloc[0]['moved']:.1%} of the elements move"
    said = []
    for kind in (MOVED_ON, OUTCOME):
        below, above = (side_row(own, kind, side) for side in (BELOW, ABOVE))
        ends = [f"{sign} {bracketed(row)}" for sign, row in (("≤", below), ("≥", above)) if math.isfinite(row["q50"])]
        said.append(", ".join(ends) or "none")
    return f"{said[0]}; loss {said[1]}"


STALLED: Final = 0.5
"""With a smaller share of moved elements, of those that had a gradient, a cell has no answer."""

GLANCE: Final = (
    "From which s on the median of {pairs} pairs a scale is more than rounding apart, with its 95 % interval where "
    "that is wider than one power; then from which s on the mean loss is another. torch’s default eps and arithmetic."
)


def sentence(frame: pd.DataFrame, name: str) -> str:
    """From which s on the study's first optimizer notices in a number format; empty where nothing of it was run."""
    chosen = frame[frame["policy"].isin(FORMATS[name])]
    for column in ("optimizer", "options", "recipe", "lr"):
        chosen = chosen[chosen[column] == frame[column].iloc[0]]
    said = [_of_policy(own, str(policy)) for policy, own in chosen.groupby("policy", sort=False)]
    if not said:
        return ""
    first = chosen.iloc[0]
    intro = f"In {name}? {optimizer_label(str(first['optimizer']))} with eps {first['eps']:g} at lr {first['lr']:g}"
    wider = "In brackets the 95 % interval where it is wider than one power."
    return f"{intro}: {'; '.join(said)}. {wider}"


def _of_policy(own: pd.DataFrame, policy: str) -> str:
    if not own.iloc[0]["inits"]:
        return f"{policy} has no finite run, for there eps is 0"
    if own.iloc[0]["moved"] < STALLED:
        return f"{policy} is stalled: {own.iloc[0]['moved']:.1%} of the elements move, so its bits say nothing"
    below, above = side_row(own, MOVED_ON, BELOW), side_row(own, MOVED_ON, ABOVE)
    bits, loss = side_row(own, RUN, BELOW), side_row(own, OUTCOME, BELOW)
    text = f"in {policy} ({int(below['inits']):,} pairs a scale) bits differ from s = {bracketed(bits)} down, "
    text += f"more than rounding from {bracketed(below)}"
    if math.isfinite(below["eps_over_r"]):
        text += f" (eps / (s · RMS g) = 2^{round(below['eps_over_r'])})"
    text += f" and the loss from {power(loss['q50'])}"
    if math.isfinite(loss["eps_over_r"]):
        text += f" (2^{round(loss['eps_over_r'])}; the same down to {_last(loss)})"
    if math.isfinite(above["q50"]):
        text += f"; upwards more than rounding from s = {bracketed(above)} on ({_cause(above)})"
    return text


def _floor(row: pd.Series) -> str:
    if row["floor"] == row["mapped_floor"]:
        return f"{row['floor']:.2g}"
    return f"{row['floor']:.2g} (float32’s; its own is {row['mapped_floor']:.2g})"


def _outcome(row: pd.Series) -> str:
    return f"{power(row['q50'])} (equivalent up to {_last(row)})"


def _last(row: pd.Series) -> str:
    """The last power with an equivalent outcome."""
    return "1" if row["last_equivalent"] == 0 else power(row["last_equivalent"])


def binades(row: pd.Series) -> str:
    """The usable window."""
    return f"{'≥ ' if row['open'] else ''}{row['binades']:.0f}"


def _cause(row: pd.Series) -> str:
    limit = row["limit"]
    if not isinstance(limit, str):
        return ""
    if limit == SATURATES:
        return "saturates"
    return " and ".join(_CAUSES.get(cause, cause) for cause in limit.split("+"))
