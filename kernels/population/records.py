"""Hyperparameters of many models: records, or mappings of their fields, and what each value may be."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..algorithm import get_algorithm
from ..names import shown
from ..rounding.dtypes import DTYPES

_LARGEST = DTYPES["fp32"].largest
_PLAIN: Mapping[type, type] = {bool: bool, int: float, float: float}
"""By a default's type, the type of values that need no closer look."""
_PARTS = frozenset({float, int})
"""Likewise of a pair's parts."""
_BEYOND = 2**1024
"""What is as large as this no float holds."""


def checked_records(algorithm: str, hyperparameters: Sequence[Any], models: int, *, finite: bool = True) -> list[Any]:
    """The records, made of mappings where those were given; ``finite`` refuses numbers beyond float32.

    Raises:
        TypeError: for what is no list of records, and for a record of another algorithm.
        ValueError: for a number of records that does not divide the models, and for values out of range; each error
            names the model.
    """
    get_algorithm(algorithm)
    if not isinstance(hyperparameters, Sequence):
        raise TypeError(
            f"hyperparameters: a {type(hyperparameters).__name__}, no list; give one record per model, or one per arm "
            "in a number that divides the models"
        )
    if not len(hyperparameters) or models % len(hyperparameters):
        raise ValueError(
            f"hyperparameters: {len(hyperparameters)} records for {models} models; give one per model, or one per arm "
            "in a number that divides the models"
        )
    records = []
    checked: set[Any] = set()
    # By identity, and held, so that none takes another's place.
    seen: dict[int, tuple[Any, Any]] = {}
    for model, given in enumerate(hyperparameters):
        if id(given) in seen:
            records.append(seen[id(given)][1])
            continue
        try:
            record = _record(algorithm, given)
            if finite and record not in checked:
                _check_finite(record)
                checked.add(record)
        except TypeError as error:
            raise TypeError(f"hyperparameters of model {model}: {error}") from error
        except ValueError as error:
            raise ValueError(f"hyperparameters of model {model}: {error}") from error
        seen[id(given)] = (given, record)
        records.append(record)
    return records


def _record(algorithm: str, given: Any) -> Any:
    """A record, with tuples where lists were given."""
    kind: Any = get_algorithm(algorithm).hyperparameters
    if isinstance(given, kind):
        own: Any = type(given)
        defaults, changed = _defaults(own), {}
        for name, value in vars(given).items():
            default = defaults.get(name)
            # A population may have a record for each of a million models.
            if type(value) is not _PLAIN.get(type(default)):
                fitted = fitting(value, default, name)
                if fitted is not value:
                    changed[name] = fitted
        return dataclasses.replace(given, **changed) if changed else given
    if not isinstance(given, Mapping):
        raise TypeError(f"a {type(given).__name__}; {algorithm} takes {kind.__name__}")
    defaults = _defaults(kind)
    for name in given:
        if name not in defaults:
            raise ValueError(f"no hyperparameter {name!r}; choose among {', '.join(defaults)}")
    return kind(**{name: fitting(value, defaults[name], name) for name, value in given.items()})


def told_apart(record: Any) -> Any:
    """A record as a key: 0.0 and -0.0 are equal, and step zeros to other bits."""
    return record, tuple(map(_is_negative_zero, vars(record).values()))


def _is_negative_zero(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_is_negative_zero, value))
    return isinstance(value, float | np.floating) and value == 0.0 and math.copysign(1.0, value) < 0.0


@functools.cache
def _defaults(kind: type) -> dict[str, Any]:
    return {field.name: field.default for field in dataclasses.fields(kind)}


def _check_finite(record: Any) -> None:
    for name, value in vars(record).items():
        for number in value if isinstance(value, tuple) else (value,):
            # So that integers beyond Python's floats are compared, too.
            if not -_LARGEST <= number <= _LARGEST:
                raise ValueError(f"{name} is {shown(number)}; give a finite float32 number")


def fitting(value: Any, default: Any, what: str) -> Any:
    """A hyperparameter's value: where its default is a number or several, as many."""
    if not isinstance(default, (tuple, bool, int, float)):
        return value
    if isinstance(default, bool):
        if not (is_number(value, flag=True) and (_mapped(value) or value in (0, 1))):
            raise TypeError(f"{what} is {shown(value)}; give True or False")
        return value
    if not isinstance(default, tuple):
        if not is_number(value):
            raise TypeError(f"{what} is {shown(value)}; give a number")
        check_held(value, what)
        return value
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{what} is {shown(value)}; give {len(default)} numbers")
    if len(value) != len(default) or not (_PARTS.issuperset(map(type, value)) or all(map(is_number, value))):
        error = TypeError if len(value) == len(default) else ValueError
        raise error(f"{what} is {shown(value)}; give {len(default)} numbers")
    for part in value:
        check_held(part, what)
    return value if isinstance(value, tuple) else tuple(value)


def is_number(value: Any, *, flag: bool = False) -> bool:
    """Whether a value is one real number; a boolean is none, unless ``flag``."""
    if isinstance(value, Tensor):
        if value.numel() != 1 or value.is_complex() or value.device.type == "meta":
            return False
        return flag or value.dtype != torch.bool
    return (flag and isinstance(value, np.bool_)) or (isinstance(value, Real) and (flag or not isinstance(value, bool)))


def _mapped(value: Any) -> bool:
    """Whether a value is many models', which cannot be looked at."""
    return isinstance(value, Tensor) and torch._C._functorch.is_batchedtensor(value)


def check_held(value: Any, what: str) -> None:
    """Refuse an integer that is larger than every float."""
    if type(value) is int and abs(value) >= _BEYOND:
        raise ValueError(f"{what} is {shown(value)}; give a finite float32 number")
