"""The analysis of a run as tables: a row per cell, side and threshold, and a row per cell and power of two."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from ...analysis.attribution import (
    CAUSES,
    JOINT,
    LARGEST,
    SUBSETS,
    binades_above_floor,
    shares,
    single_cause,
    subset_name,
)
from ...analysis.thresholds import (
    ABOVE,
    SIDES,
    border_rows,
    borders,
    outcome_bracket,
    outcomes,
    quantile,
    window_binades,
)
from ...design.claims import USELESS
from .cells import Cell
from .floor import Floor, floor_of, upper_quantile

LOSS_OFFSET: Final = 2.75
"""Losses are label − output, and no format rounds an output, at most e, up to this; with it added they are positive."""

STEP, RUN, MOVED_ON, OUTCOME = "step", "run", "floor", "outcome"
KINDS: Final = (STEP, RUN, MOVED_ON, OUTCOME)
"""One step changes a bit; a run changes one at any step; it ends beyond the floor; its loss is another."""

SMALLEST_FLOOR: Final = 2.0**-24
"""In place of a floor of 0, which a single step can have: half of float32's spacing."""

NAMED: Final = 0.25
"""A cause with this share of the deviation, or more, limits a window."""

SATURATES: Final = "none: saturates"

Arrays = Mapping[str, Any]


IDENTITY: Final = ("optimizer", "options", "recipe", "policy", "lr", "eps", "denominator", "storage")


def identity(cell: Cell) -> dict[str, Any]:
    """The columns `IDENTITY`, which name a cell."""
    own = (cell.optimizer, cell.text, cell.recipe, cell.policy, cell.lr)
    return dict(zip(IDENTITY, (*own, cell.base.eps, cell.arithmetic, cell.formats.state), strict=True))


def threshold_frame(scans: Mapping[Cell, Arrays], causes: Mapping[Cell, pd.DataFrame]) -> pd.DataFrame:
    """A row per cell, side and kind.

    Columns beyond `identity` and those of `border_rows`: ``eps_over_r`` is log2 of eps / (s · RMS g) at the median
    border (of eps / RMS g where s > 1); ``floor``, ``mapped_floor``, ``ulp_floor``; ``moved`` share of elements;
    ``last_equivalent`` of an outcome; ``binades`` and ``open`` the usable window, ``limit`` its cause on this side.
    """
    rows: list[dict[str, Any]] = []
    for cell, part in scans.items():
        reference = part["finite"]
        if not reference.any():
            rows += [{**identity(cell), "kind": kind, "side": side, "inits": 0} for kind in KINDS for side in SIDES]
            continue
        rows += _of_cell(cell, part, floor_of(part), causes.get(cell))
    return pd.DataFrame(rows)


def _of_cell(cell: Cell, part: Arrays, floor: Floor, causes: pd.DataFrame | None) -> list[dict[str, Any]]:
    reference, powers = part["finite"], part["powers"]
    beyond = ~(part["distance"][reference] <= floor.used)
    last_step = max(int(name.rpartition("_")[2]) for name in part if name.startswith("step_") and name[5:].isdigit())
    happens = {STEP: part[f"step_{last_step}"][reference], RUN: part["differs"][reference], MOVED_ON: beyond}
    common = {
        "floor": floor.used,
        "mapped_floor": floor.mapped,
        "ulp_floor": floor.ulp,
        "moved": part["moved"].sum() / part["alive"].sum(),
        "log2_rms": float(np.median(np.log2(part["rms"][reference]))),
    }
    rows = []
    for kind, hit in happens.items():
        for row in border_rows(kind, hit, powers, identity(cell)):
            border = row["q50"] if row["side"] != ABOVE else 0.0
            over = math.log2(cell.base.eps) - border - common["log2_rms"]
            rows.append({**row, **common, "eps_over_r": over if math.isfinite(row["q50"]) else math.nan})
    window = [borders(beyond, powers, side).powers for side in SIDES]
    below, above = (quantile(each, 0.5)[0] for each in window)
    binades, unbounded = window_binades(below, above, powers)
    for row in rows:
        if row["kind"] == MOVED_ON:
            limit = below if row["side"] != ABOVE else above
            row.update(binades=binades, open=unbounded, limit=_limit(limit, row["side"], causes))
    return [*rows, *_outcome_rows(cell, part, common)]


def _outcome_rows(cell: Cell, part: Arrays, common: Mapping[str, float]) -> list[dict[str, Any]]:
    reference = part["finite"]
    with np.errstate(invalid="ignore", divide="ignore"):
        own = np.log(part["loss"] + LOSS_OFFSET)
        differences = (np.log(part["losses"] + LOSS_OFFSET) - own[:, None])[reference]
    judged = outcomes(differences, float(own[reference].std(ddof=1)))
    rows = []
    for side in SIDES:
        last, first = outcome_bracket(judged["judged"].to_numpy(str), part["powers"], side)
        over = math.log2(cell.base.eps) - (first if side != ABOVE else 0.0) - common["log2_rms"]
        rows.append(
            {
                **identity(cell),
                "kind": OUTCOME,
                "side": side,
                "inits": int(reference.sum()),
                "q50": first,
                "last_equivalent": last,
                "eps_over_r": over if math.isfinite(first) else math.nan,
                **common,
            }
        )
    return rows


def _limit(border: float, side: str, causes: pd.DataFrame | None) -> str:
    """The causes with at least `NAMED` of the deviation at the first power beyond the window, the largest first."""
    if math.isinf(border):
        return SATURATES if side == ABOVE else "none on the grid"
    if causes is None or causes.empty:
        return ""
    row = causes[(causes["power"] == border) & (causes["at"] == RUN)]
    shares_of = {cause: float(row[f"share_{cause}"].iloc[0]) for cause in CAUSES} if len(row) else {}
    named = [cause for cause in shares_of if shares_of[cause] >= NAMED]
    return "+".join(sorted(named, key=lambda cause: -shares_of[cause]))


def cause_frame(cell: Cell, part: Arrays, floor: Floor, reference: np.ndarray) -> pd.DataFrame:
    """A row per power and place (one step, or the whole run): means of all eight f over the pairs that deviate.

    The shares are those of the means and add up to 1; a pair just above the floor has shares of nearly nothing.

    Args:
        cell: which.
        part: of its attribution.
        floor: the cell's.
        reference: [inits] whether the unscaled run is finite.
    """
    rows: list[dict[str, Any]] = []
    if not reference.any():
        return pd.DataFrame(rows)
    inside = part["repaired_in_range"][reference]
    step_floor = upper_quantile(part["step_floor"][reference])
    if not step_floor <= USELESS:
        step_floor = upper_quantile(part["repaired_step_floor"])
    for at, name, judge in ((STEP, "step_distance", step_floor), (RUN, "distance", floor.used)):
        used = judge if judge > 0 else SMALLEST_FLOOR
        f = binades_above_floor(part[name][:, reference], min(used, LARGEST))
        named = single_cause(f)
        for column, power in enumerate(part["powers"].tolist()):
            deviating = f[0, :, column] > 0
            means = f[:, deviating, column].mean(axis=1) if deviating.any() else np.full(len(f), math.nan)
            split, unexplained = shares(means)
            counts = {cause: int((named[:, column] == cause).sum()) for cause in (*CAUSES, JOINT)}
            rows.append(
                {
                    **identity(cell),
                    "at": at,
                    "power": power,
                    "pairs": len(deviating),
                    "deviating": int(deviating.sum()),
                    "floor": used,
                    **{f"share_{cause}": float(split[place]) for place, cause in enumerate(CAUSES)},
                    "unexplained": float(unexplained),
                    **{f"f_{subset_name(subset) or 'none'}": float(means[k]) for k, subset in enumerate(SUBSETS)},
                    "largest_f_EVG": float(f[-1, :, column].max()),
                    "largest_f_EVG_in_range": float(np.where(inside[:, column], f[-1, :, column], 0.0).max()),
                    "pairs_in_range": int(inside[:, column].sum()),
                    **{f"by_{cause}": count for cause, count in counts.items()},
                }
            )
    return pd.DataFrame(rows)


def write_frame(path: Path, frame: pd.DataFrame) -> None:
    """As CSV with nine significant digits, whole."""
    from ...support.files import write_text

    write_text(path, frame.to_csv(index=False, float_format="%.9g", lineterminator="\n"))


def read_frame(path: Path) -> pd.DataFrame:
    """A table that `write_frame` wrote; options are text, empty for none."""
    frame = pd.read_csv(path, dtype={"options": str})
    return frame.fillna({"options": ""}) if "options" in frame else frame.assign(options="")


def side_row(frame: pd.DataFrame, kind: str, side: str) -> pd.Series:
    """The one row of a cell's frame."""
    row: pd.Series = frame[(frame["kind"] == kind) & (frame["side"] == side)].iloc[0]
    return row
