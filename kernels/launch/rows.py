"""The host scalars of a launch: one row of doubles per distinct (hyperparameters, step, first)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..algorithm import Recipe, Row
from ..rounding.powers import PowerTable
from .step_kernel import Dtypes

Key = tuple[Any, float, bool]
"""Hyperparameters, step number, and whether the states hold nothing yet."""


def host_rows(recipe: Recipe, dtypes: Dtypes, keys: Iterable[Key], powers: PowerTable) -> list[Row]:
    """The rows of these keys, in order.

    Args:
        recipe: whose scalars.
        dtypes: of the launch: float32 parameters with narrower states can have scalars of their own.
        keys: what the scalars depend on.
        powers: the device's tables of bias corrections.
    """
    row = recipe.row_for(dtypes)
    return [row(hyper, number, first, powers) for hyper, number, first in keys]
