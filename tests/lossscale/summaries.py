"""Summaries of made-up pairs of the default study, and one line of them."""

from collections.abc import Callable
from typing import Any

import pandas as pd

from lossscale.analysis.summarize import summarize
from lossscale.design.study import Prediction
from lossscale.studies.loss_vs_lr import STUDY

PairMaker = Callable[..., pd.DataFrame]


def summary_of(
    key: Any, *frames: pd.DataFrame, predictions: tuple[Prediction, ...] = STUDY.predictions
) -> pd.DataFrame:
    """The summary of one cell: of all the pairs of `frames`, each from `make_pairs`."""
    return summarize([(key, pd.concat(frames, ignore_index=True))], "loss-vs-lr", predictions)


def line_of(summary: pd.DataFrame, quantity: str, arm: str | None = None, scale: float | None = None) -> pd.Series:
    """The one line of `summary` for these; AssertionError where there is none or more."""
    chosen = summary[summary["quantity"] == quantity]
    chosen = chosen if arm is None else chosen[chosen["arm"] == arm]
    chosen = chosen if scale is None else chosen[chosen["scale"] == scale]
    assert len(chosen) == 1, chosen
    return chosen.iloc[0]
