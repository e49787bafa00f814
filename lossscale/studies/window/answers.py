"""The answer per number format, in sentences and as rows, computed from a run's thresholds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
    "statistics; in parentheses eps / (s · RMS g) at the border below 1.",
    "one step: the last step, from mapped shared state, changes a parameter bit. run: a bit differs after any step. "
    "beyond rounding: d = ‖θ_S − θ_U‖ / ‖θ_U − θ_0‖ ends above the floor φ, the 99 % quantile of the mapped arm at "
    "s = 3. loss: the mean paired difference of log(loss + 2.75) on a fresh sample is 0.1 standard deviations or more, "
    "by its 95 % interval and Holm’s step-down over the cell’s powers of two; equal: both one-sided tests hold, "
    "likewise.",
    "window: powers of two between the borders beyond rounding, 1 among them; ≥ where the grid of 2^-40 … 2^40 ends "
    "first. Its limits are the causes of a quarter or more of the deviation at the first power outside.",
)


def power(value: float) -> str:
    """``2^-7``, or ``none``."""
    return "none" if not math.isfinite(value) else f"2^{value:.0f}"


def bracketed(row: pd.Series) -> str:
    """The border with its interval: of the median, or the powers that the tests of the loss leave open."""
    low, high = row.get("q50_lo", math.nan), row.get("q50_hi", math.nan)
    if row["kind"] == OUTCOME:
        low, high = _undecided(row)
    if pd.isna(low) or pd.isna(high) or (low == high == row["q50"]):
        return power(row["q50"])
    return f"{power(row['q50'])} [{power(low)}, {power(high)}]"


def _undecided(row: pd.Series) -> tuple[float, float]:
    """The powers from the one after the last with an equal loss to the first with another, the smaller first."""
    first, last = row["q50"], row["last_equivalent"]
    if pd.isna(last) or not math.isfinite(first):
        return first, first
    following = last + math.copysign(1.0, first)
    return min(first, following), max(first, following)


def rows_of(frame: pd.DataFrame, policies: Sequence[str]) -> list[dict[str, Any]]:
    """A row per optimizer, recipe, policy and learning rate."""
    chosen = frame[frame["policy"].isin(policies)]
    rows = []
    for (optimizer, options, recipe, policy, lr), own in chosen.groupby(list(KEYS), sort=False):
        first = own.iloc[0]
        head = {
            "optimizer": optimizer_label(str(optimizer), str(options)),
            "policy": str(policy) if lr == frame["lr"].iloc[0] else f"{policy}, lr {lr:g}",
            "recipe": recipe,
            "denominator × storage": f"{first['denominator']} × {first['storage']}",
        }
        if _without_answer(own):
            rows.append({**head, "φ": _without_answer(own)})
            continue
        floor = {side: side_row(own, MOVED_ON, side) for side in (BELOW, ABOVE)}
        rows.append(
            {
                **head,
                "φ": _floor(first),
                "one step": _span(own, STEP),
                "run": _span(own, RUN),
                "beyond rounding": _span(own, MOVED_ON),
                "another loss": _span(own, OUTCOME),
                "equal loss": _equal(own),
                "window": binades(floor[BELOW]),
                "limits": f"{_cause(floor[BELOW])} | {_cause(floor[ABOVE])}",
            }
        )
    return rows


STALLED: Final = 0.5
"""With a smaller share of moved elements, of those that had a gradient, a cell has no answer."""

_WORDS: Final = {"mixed": "{} passes", "state": "{} moments", "true": "all {}"}
_NOTICES: Final = {MOVED_ON: "weights", OUTCOME: "loss"}
_GLUE: Final = "\u00a0"
"""Holds together what a narrow column must not break."""

_POWERS: Final = 80
"""Powers of two at which every cell is run: 2^-40 to 2^40 without 1."""

GLANCE: Final = (
    "From which s on half of the initialisations end farther apart than rounding takes them (weights), and from which "
    "on the mean loss is another; in brackets the 95 % interval, or what the tests of the loss leave open, where that "
    "is wider than one power. In parentheses eps / (s · RMS g) at the border below 1, with the same interval: for your "
    "eps and gradients. {pairs} pairs for each of {powers} powers of two; torch’s default eps and arithmetic, lr "
    "{lr:g}."
)


def glance_caption(frame: pd.DataFrame) -> str:
    """What the table of `glance` says, and on how many pairs it rests."""
    first = frame.iloc[0]
    return GLANCE.format(pairs=f"{int(frame['inits'].max()):,}", powers=_POWERS, lr=first["lr"])


def glance(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Two rows per policy, a column per optimizer: from which s on the weights notice, and the loss."""
    chosen = frame[(frame["recipe"] == frame["recipe"].iloc[0]) & (frame["lr"] == frame["lr"].iloc[0])]
    rows = []
    for policy in (policy for policies in FORMATS.values() for policy in policies):
        own = chosen[chosen["policy"] == policy]
        cells = list(own.groupby(["optimizer", "options"], sort=False))
        for kind, noticed in _NOTICES.items() if cells else ():
            row: dict[str, Any] = {
                "numbers": _words(policy),
                "policy": policy.replace("-", "\u2011"),
                "notices": noticed,
            }
            for (optimizer, options), cell in cells:
                row[optimizer_label(str(optimizer), str(options))] = _ends(cell, kind, int(frame["inits"].max()))
            rows.append(row)
    return rows


def _words(policy: str) -> str:
    """What a policy has in 16 bits, as ``bfloat16 moments``."""
    form = next(name for name, policies in FORMATS.items() if policy in policies)
    return _WORDS[policy.partition("-")[2] or "true"].format(form)


def _ends(own: pd.DataFrame, kind: str, full: int) -> str:
    inits = int(own.iloc[0]["inits"])
    if _without_answer(own):
        return _without_answer(own)
    few = f", of {inits} finite runs" if inits < full else ""
    if kind == OUTCOME and inits < full:
        return f"only {inits} finite runs"
    return _span(own, kind).replace(" [", f"{_GLUE}[").replace("≤ ", f"≤{_GLUE}").replace("≥ ", f"≥{_GLUE}") + few


def _without_answer(own: pd.DataFrame) -> str:
    if not own.iloc[0]["inits"]:
        return "no finite run"
    if own.iloc[0]["moved"] < STALLED:
        return f"stalled: {own.iloc[0]['moved']:.1%} of the elements move"
    return ""


def _span(own: pd.DataFrame, kind: str) -> str:
    """The scales at which something happens, as ``≤ 2^-12 [2^-13, 2^-12] (2^-11), ≥ 2^15``."""
    below, above = side_row(own, kind, BELOW), side_row(own, kind, ABOVE)
    over = f" (2^{round(below['eps_over_r'])})" if math.isfinite(below["eps_over_r"]) else ""
    if (below["q50"], above["q50"]) == (-1.0, 1.0):
        return f"any s{over}"
    ends = [f"≤ {bracketed(below)}{over}"] if math.isfinite(below["q50"]) else []
    ends += [f"≥ {bracketed(above)}"] if math.isfinite(above["q50"]) else []
    return ", ".join(ends) or "none"


def sentence(frame: pd.DataFrame, name: str) -> str:
    """From which s on the study's first optimizer notices in a number format; empty where nothing of it was run.

    Three sentences: the weights, the loss, and what these rest on.
    """
    chosen = frame[frame["policy"].isin(FORMATS[name])]
    for column in ("optimizer", "options", "recipe", "lr"):
        chosen = chosen[chosen[column] == frame[column].iloc[0]]
    cells = {
        policy: chosen[chosen["policy"] == policy] for policy in FORMATS[name] if (chosen["policy"] == policy).any()
    }
    if not cells:
        return ""
    first = chosen.iloc[0]
    asked = f"In {name}? {optimizer_label(str(first['optimizer']), str(first['options']))}"
    asked += f" (eps {first['eps']:g}, lr {first['lr']:g})"
    without = [f"{_words(policy)} has {_without_answer(own)}" for policy, own in cells.items() if _without_answer(own)]
    answered = {policy: own for policy, own in cells.items() if not _without_answer(own)}
    if not answered:
        return f"{asked} has no answer: {'; '.join(without)}."
    weights, loss = (_by_policy(answered, kind) for kind in (MOVED_ON, OUTCOME))
    pairs = " or ".join(sorted({f"{int(own.iloc[0]['inits']):,}" for own in answered.values()}))
    rests = f"{pairs} pairs a scale; 95 % intervals in brackets where wider than one power"
    return (
        f"{asked}: weights end more than rounding apart at {weights.replace(' (', ' (eps / (s · RMS g) = ', 1)}. "
        f"The loss is another at {loss}. {'; '.join([rests, *without])}."
    )


def _by_policy(cells: Mapping[str, pd.DataFrame], kind: str) -> str:
    """Every policy's scales, one after the other; those that agree together."""
    together: dict[str, list[str]] = {}
    for policy, own in cells.items():
        span = _span(own, kind)
        where = span if span.startswith("any") else "no s" if span == "none" else f"s {span}"
        together.setdefault(where, []).append(_words(policy))
    if len(together) == 1 and (len(cells) > 1 or FORMATS["float32"][0] in cells):
        return next(iter(together))
    return "; ".join(f"{where} with {' and '.join(names)}" for where, names in together.items())


def _floor(row: pd.Series) -> str:
    if row["floor"] == row["mapped_floor"]:
        return f"{row['floor']:.2g}"
    return f"{row['floor']:.2g} (float32’s; its own is {row['mapped_floor']:.2g})"


def _equal(own: pd.DataFrame) -> str:
    """The powers on either side of 1 up to which the loss is shown to be equal."""
    lowest, highest = (_last(side_row(own, OUTCOME, side)) for side in (BELOW, ABOVE))
    return f"{lowest} … {highest}"


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
