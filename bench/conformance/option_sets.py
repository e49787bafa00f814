"""Which constructor options conformance covers, per optimizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ..optimizers import registered

# Option sets: the first of each list is the plain optimizer. Between them every option takes every kind of value, and
# the pairs known to interact (maximize with decay, amsgrad with decay, dampening with nesterov's absence) meet.
OPTION_SETS: Mapping[str, tuple[Mapping[str, Any], ...]] = MappingProxyType(
    {
        "SGD": (
            {"lr": 0.05},
            {"lr": 0.05, "momentum": 0.9},
            {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.03},
            {"lr": 0.05, "momentum": 0.9, "nesterov": True},
            {"lr": 0.05, "momentum": 0.9, "dampening": 0.3},
            {"lr": 0.05, "weight_decay": 0.03},
            {"lr": 0.05, "maximize": True},
            {"lr": 0.05, "momentum": 0.9, "maximize": True},
            {"lr": 0.05, "momentum": 0.9, "dampening": 0.3, "maximize": True},
            {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.03, "maximize": True},
            {"lr": 0.05, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.03},
            {"lr": 0.05, "momentum": 0.9, "nesterov": True, "maximize": True},
            {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.03},
            {"lr": 0.05, "weight_decay": 0.03, "maximize": True},
            {"lr": 0.05, "momentum": 0.5, "dampening": 1.0},
        ),
        "Adam": (
            {"lr": 0.01},
            {"lr": 0.01, "weight_decay": 0.03},
            {"lr": 0.01, "amsgrad": True},
            {"lr": 0.01, "maximize": True},
            {"lr": 0.01, "maximize": True, "weight_decay": 0.03},
            {"lr": 0.01, "amsgrad": True, "weight_decay": 0.03},
            {"lr": 0.01, "amsgrad": True, "weight_decay": 0.03, "maximize": True},
            {"lr": 0.01, "betas": (0.5, 0.99)},
            {"lr": 0.01, "betas": (0.4, 0.98), "eps": 1e-3},
            {"lr": 0.01, "betas": (0.9, 0.0)},
            {"lr": 0.01, "betas": (0.0, 0.95)},
            {"lr": 0.01, "betas": (0.95, 0.9999), "eps": 0.0, "amsgrad": True},
            {"lr": 0.3, "betas": (0.8, 0.9), "eps": 1e-5, "weight_decay": 0.2},
        ),
        "RMSprop": (
            {"lr": 0.01},
            {"lr": 0.01, "momentum": 0.9},
            {"lr": 0.01, "centered": True},
            {"lr": 0.01, "centered": True, "momentum": 0.9},
            {"lr": 0.01, "weight_decay": 0.03},
            {"lr": 0.01, "maximize": True, "momentum": 0.9, "weight_decay": 0.03},
            {"lr": 0.01, "maximize": True, "centered": True},
            {"lr": 0.01, "alpha": 0.4, "eps": 1e-3, "centered": True},
            {"lr": 0.01, "alpha": 0.0},
            {"lr": 0.01, "alpha": 0.5, "centered": True, "weight_decay": 0.03, "maximize": True, "momentum": 0.5},
            {"lr": 0.01, "alpha": 0.9, "eps": 0.0},
        ),
        "Adagrad": (
            {"lr": 0.05},
            {"lr": 0.05, "lr_decay": 0.013},
            {"lr": 0.05, "weight_decay": 0.03},
            {"lr": 0.05, "initial_accumulator_value": 0.1},
            {"lr": 0.05, "maximize": True},
            {"lr": 0.05, "maximize": True, "weight_decay": 0.3, "lr_decay": 0.01},
            {"lr": 1.0, "eps": 1e-3, "initial_accumulator_value": 0.7},
            {"lr": 0.05, "eps": 0.0, "lr_decay": 0.5},
        ),
    }
)


def option_sets(optimizer: str) -> tuple[Mapping[str, Any], ...]:
    """The options to cover for `optimizer`; AdamW has Adam's, with its own nonzero default decay made explicit."""
    if optimizer == "AdamW":
        return tuple({"weight_decay": 0.0, **options} for options in OPTION_SETS["Adam"])
    return OPTION_SETS[optimizer] if optimizer in OPTION_SETS else _derived_option_sets(optimizer)


def _derived_option_sets(optimizer: str) -> tuple[Mapping[str, Any], ...]:
    """For an algorithm that only the registry knows: its defaults, and each option that can be turned on."""
    algorithm = registered(optimizer)
    changes: list[dict[str, Any]] = [{}]
    for option in dataclasses.fields(algorithm.hyperparameters):
        if isinstance(option.default, bool):
            changes.append({option.name: not option.default})
        elif option.default == 0.0:
            changes.append({option.name: 0.03})
    return tuple({"lr": 0.01, **change} for change in changes if _accepted(algorithm, change))


def _accepted(algorithm: Any, options: Mapping[str, Any]) -> bool:
    try:
        algorithm.hyperparameters(**options)
    except ValueError:
        return False
    return True
