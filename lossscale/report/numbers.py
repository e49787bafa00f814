"""Numbers of a summary as sentences say them: with how many they are of, and their interval."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd


def lines_of(summary: pd.DataFrame, **columns: Any) -> pd.DataFrame:
    """The summary's lines in which these columns have these values."""
    chosen = summary
    for name, value in columns.items():
        chosen = chosen[chosen[name] == value]
    return chosen


def number(summary: pd.DataFrame, **columns: Any) -> float:
    """The measured number of the one line that is meant (the first of several); NaN if this run has none."""
    found = lines_of(summary, **columns)["measured"]
    return float(found.iloc[0]) if len(found) else math.nan


def told(summary: pd.DataFrame, digits: int = 3, **columns: Any) -> str:
    """The measured number with its interval, as in ``0.66 (0.6599 to 0.6608)``; a dash if this run has none."""
    found = lines_of(summary, **columns)
    if not len(found) or math.isnan(float(found["measured"].iloc[0])):
        return "–"
    line = found.iloc[0]
    text = f"{line['measured']:.{digits}g}"
    if math.isnan(float(line["lo"])) or math.isnan(float(line["hi"])):
        return text
    return f"{text} ({line['lo']:.{digits + 1}g} to {line['hi']:.{digits + 1}g})"


def rows(summary: pd.DataFrame, *columns: str) -> list[dict[str, Any]]:
    """Lines of a summary as the rows of a table, with these columns."""
    return [dict(zip(columns, values, strict=True)) for values in summary[list(columns)].itertuples(index=False)]


def same(summary: pd.DataFrame, **columns: Any) -> str:
    """How many of how many pairs have the same bits, over these lines of ``identical_share``: ``1,024 of 1,024``."""
    found = lines_of(summary, quantity="identical_share", **columns)
    agreeing = round(float((found["measured"] * found["pairs"]).sum()))
    return f"{agreeing:,} of {int(found['pairs'].sum()):,}"
