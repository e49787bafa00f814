"""What the registry of `kernels` says about an optimizer, by its class name."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from .choices import choose_all


def registered(optimizer: str) -> Any:
    """The record of `kernels` whose drop-in has this class name.

    Raises:
        KeyError: if there is none.
    """
    from kernels import ALGORITHMS

    return {algorithm.title: algorithm for algorithm in ALGORITHMS.values()}[optimizer]


def titles() -> list[str]:
    """Class names of every registered algorithm."""
    from kernels import ALGORITHMS

    return [algorithm.title for algorithm in ALGORITHMS.values()]


def parse_optimizers(names: Iterable[str] | None, argument: str = "--optimizer") -> list[str]:
    """Class names of the optimizers that a user named, in any case; all when none is named.

    Raises:
        InputError: if one is not registered.
    """
    return choose_all(argument, names, titles())


def timed_options(optimizer: str) -> dict[str, Any]:
    """The options that people train with: the defaults; where they keep no state at all, with momentum."""
    algorithm = registered(optimizer)
    defaults = algorithm.hyperparameters()
    chosen = {"lr": defaults.lr}
    if not algorithm.state_names(defaults) and any(f.name == "momentum" for f in dataclasses.fields(defaults)):
        chosen["momentum"] = 0.9
    return chosen


def state_names(optimizer: str) -> tuple[str, ...]:
    """Every state that the optimizer can keep, in the order of its rule."""
    return tuple(state.name for state in registered(optimizer).states)
