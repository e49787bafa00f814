"""Which algorithm an optimizer is, and the record of a group's hyperparameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.optim import Optimizer

from kernels import ALGORITHMS, Algorithm

from ..support.arguments import flag_in, number_in, shown

MASTER = "master_param"
"""The state that holds a narrow parameter's float32 master."""
FREE_STATES = ("step", MASTER)
"""States that are free of the loss's scale under every algorithm: counters, and masters of narrow parameters."""
_EXACT_SUMS = ("kahan", "compensat", "stochastic")
"""Parts of the names of states and options under which small updates are not lost."""


def unwrapped(optimizer: Any) -> Optimizer:
    """The torch optimizer inside what accelerate and Lightning wrap around one.

    Raises:
        TypeError: there is none.
    """
    found = optimizer
    while isinstance(getattr(found, "optimizer", None), Optimizer):
        found = found.optimizer
    if not isinstance(found, Optimizer):
        raise TypeError(f"optimizer {type(optimizer).__name__}: is no torch.optim.Optimizer; give one, ours or torch's")
    return found


def algorithm_of(optimizer: Optimizer) -> Algorithm:
    """The algorithm whose name the optimizer's class, or one that it derives from, has.

    Raises:
        TypeError: for a class without degrees here.
    """
    titles = {algorithm.title: algorithm for algorithm in ALGORITHMS.values()}
    for kind in type(optimizer).__mro__:
        if kind.__name__ in titles:
            return titles[kind.__name__]
    raise TypeError(
        f"optimizer {type(optimizer).__name__}: no degrees are known for this class; known are "
        f"{', '.join(titles)}, and classes derived from them"
    )


def group_values(algorithm: Algorithm, group: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters that a parameter group holds, as Python's numbers; without those it lacks.

    Raises:
        ValueError: one is no number, or no switch, where the algorithm has one.
    """
    values: dict[str, Any] = {}
    for name, default in _defaults(algorithm).items():
        if name not in group:
            continue
        value = group[name]
        found: Any
        if isinstance(default, tuple):
            several = tuple(map(number_in, value)) if _is_sequence(value) else ()
            found = None if len(several) != len(default) or None in several else several
        else:
            found = flag_in(value) if isinstance(default, bool) else number_in(value)
        if found is None:
            kind = "True or False" if isinstance(default, bool) else "a number"
            kind = f"a list of {len(default)} numbers" if isinstance(default, tuple) else kind
            raise ValueError(f"{name} is {shown(value)}, where {kind} belongs")
        values[name] = found
    return values


def _is_sequence(value: Any) -> bool:
    """Whether it has numbers one after another: a list, a tuple, or a tensor of one dimension."""
    return isinstance(value, list | tuple) or (isinstance(value, torch.Tensor) and value.dim() == 1)


def hyper_of(algorithm: Algorithm, group: Mapping[str, Any]) -> Any:
    """A group's record, with the defaults of what it lacks; not checked, as a scheduler may step past zero."""
    record: Any = object.__new__(algorithm.hyperparameters)
    vars(record).update({**_defaults(algorithm), **group_values(algorithm, group)})
    return record


def _defaults(algorithm: Algorithm) -> Mapping[str, Any]:
    """The algorithm's hyperparameters with their defaults."""
    if algorithm.name not in _KNOWN_DEFAULTS:
        fields = dataclasses.fields(algorithm.hyperparameters)
        _KNOWN_DEFAULTS[algorithm.name] = {field.name: field.default for field in fields}
    return _KNOWN_DEFAULTS[algorithm.name]


_KNOWN_DEFAULTS: dict[str, Mapping[str, Any]] = {}


def missing_states(algorithm: Algorithm, entry: Mapping[str, Any]) -> list[str]:
    """Names of the states that the algorithm always keeps, its counter among them, and a parameter's entry lacks."""
    return [name for name in needed_states(algorithm) if entry.get(name) is None]


def needed_states(algorithm: Algorithm) -> tuple[str, ...]:
    """Names of what the algorithm always keeps of a parameter, its counter among them."""
    return (*(["step"] if algorithm.stateful_step else []), *(s.name for s in algorithm.states if s.always))


def sums_exactly(names: Iterable[str]) -> bool:
    """Whether states or options of these names keep small updates: Kahan sums, stochastic rounding."""
    return any(part in name.casefold() for name in names for part in _EXACT_SUMS)
