"""What the sentences need beyond a summary's medians: the largest distances and the agreement of single pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pandas as pd

from ...design.measures import SYMMETRIC_DISTANCE
from ...design.verdicts import SERIES
from ...runs.records import iter_cells
from ...support.errors import InputError
from .answers import FromPairs

_NEEDED: Final = tuple(
    dict.fromkeys(
        (
            *("init", "arm", "against", "scale", "step", "identical", "rel_distance", "nonfinite"),
            *SYMMETRIC_DISTANCE.derived_from,
        )
    )
)


def from_pairs(run: Path) -> dict[tuple[Any, ...], FromPairs]:
    """What `FromPairs` has, by (network, optimizer, options, recipe, policy).

    Returns:
        Nothing for a run of which only the summary is left.
    """
    try:
        cells = iter_cells(run, columns=_NEEDED)
        return {tuple(getattr(key, name) for name in SERIES): of_pairs(pairs) for key, pairs in cells}
    except InputError:
        return {}


def of_pairs(pairs: pd.DataFrame) -> FromPairs:
    """Of the pairs of one series; distances are those of finite pairs at their last checkpoint."""
    final = pairs[(pairs["step"] == pairs["step"].max()) & (pairs["nonfinite"] == 0)]
    loss = final[final["arm"] == "loss"]
    base, lr = loss[loss["against"] == "base"], loss[loss["against"] == "lr"]
    return FromPairs(
        up=float(base.loc[base["scale"] > 1, "rel_distance"].max()),
        down=float(base.loc[base["scale"] < 1, "rel_distance"].max()),
        to_lr=_largest_symmetric(lr[lr["scale"] != 1]),
        agree=_agree(pairs[(pairs["arm"] == "mapped") | ((pairs["arm"] == "loss") & (pairs["against"] == "lr"))]),
    )


def _agree(pairs: pd.DataFrame) -> dict[tuple[str, str, float], int]:
    same = pairs["identical"] & (pairs["nonfinite"] == 0)
    cell = ["arm", "against", "scale"]
    always = same.groupby([pairs[name] for name in (*cell, "init")], observed=True).all()
    counts = always.groupby(level=cell, observed=True).sum().reset_index(name="pairs")
    rows = counts.itertuples(index=False, name=None)
    return {(str(arm), str(against), float(scale)): int(pairs) for arm, against, scale, pairs in rows}


def _largest_symmetric(pairs: pd.DataFrame) -> float:
    """NaN for runs of before both sizes were kept."""
    if not set(SYMMETRIC_DISTANCE.derived_from) <= set(pairs.columns) or SYMMETRIC_DISTANCE.derive is None:
        return float("nan")
    return float(SYMMETRIC_DISTANCE.derive(*(pairs[name] for name in SYMMETRIC_DISTANCE.derived_from)).max())
