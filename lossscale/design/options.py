"""Hyperparameters as the user types them, ``eps=1e-3``: names and values checked by the algorithm's own record."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from ..support.errors import InputError, check_choice, fold
from .scales import Value

if TYPE_CHECKING:
    from kernels import Algorithm

_LARGEST: Final = (2.0 - 2.0**-23) * 2.0**127
"""Float32's largest number: beyond it a hyperparameter is infinite where it is used."""


def find_algorithm(argument: str, text: str) -> Algorithm:
    """The algorithm of that name or class name, in any case: ``adamw``, ``AdamW``, ``adam_atan2``, ``AdamAtan2``.

    Raises:
        InputError: if there is none.
    """
    from kernels import ALGORITHMS

    return ALGORITHMS[check_choice(argument, algorithm_name(text), ALGORITHMS)]


def algorithm_name(text: str) -> str:
    """The name of the algorithm that is meant, by its name or class name in any case; other texts as they are."""
    from kernels import ALGORITHMS

    spellings = {fold(spelling): name for name, its in ALGORITHMS.items() for spelling in (name, its.title)}
    return spellings.get(fold(text), text)


def parse_options(
    algorithm: Algorithm, parts: Sequence[str], argument: str, shown: str, *, also: Sequence[str] = ()
) -> tuple[tuple[str, Value], ...]:
    """``("eps=1e-3", "amsgrad=true")`` as names and values, in the order given.

    Args:
        algorithm: whose hyperparameters they are.
        parts: as typed.
        argument: what an error calls them.
        shown: the whole text that an error repeats.
        also: names that the caller reads itself, for the error that lists what there is.

    Raises:
        InputError: for a name that is unknown, given twice or not one number, and a value of the wrong kind.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(algorithm.hyperparameters)}
    settable = sorted(name for name, default in defaults.items() if not isinstance(default, tuple))
    options: dict[str, Value] = {}
    for part in parts:
        name, _, text = part.partition("=")
        if name not in defaults:
            known = ", ".join(sorted({*settable, *also}))
            remedy = f"{algorithm.name} has no {name!r}; give NAME=VALUE with a name of {known}"
            raise InputError(argument, shown, remedy)
        if name not in settable:
            remedy = f"{name} is more than one number and stays at its default here; give {', '.join(settable)} only"
            raise InputError(argument, shown, remedy)
        if name in options:
            raise InputError(argument, shown, f"{name} is given twice; give it once")
        options[name] = _value(name, text, isinstance(defaults[name], bool), argument, shown)
    return tuple(options.items())


def _value(name: str, text: str, flag: bool, argument: str, shown: str) -> Value:
    if flag:
        words: dict[str, Value] = {"true": True, "false": False}
        if text.lower() not in words:
            raise InputError(
                argument, shown, f"{name} is a switch and {text!r} none of its positions; give true or false"
            )
        return words[text.lower()]
    try:
        value = float(text)
    except ValueError as error:
        raise InputError(argument, shown, f"{text!r} is no number; give {name} one such as 1e-3") from error
    if not abs(value) <= _LARGEST:  # NaN too
        raise InputError(argument, shown, f"{text!r} is no finite float32 number; give {name} one such as 1e-3")
    return int(value) if value.is_integer() else value


def make_record(algorithm: Algorithm, values: Mapping[str, Any], argument: str, shown: str) -> Any:
    """The algorithm's hyperparameter record.

    Raises:
        InputError: for a value that the record refuses.
    """
    try:
        return algorithm.hyperparameters(**values)
    except ValueError as error:
        nesterov = "give momentum above 0 with it and leave dampening out"
        remedy = nesterov if "Nesterov" in str(error) else "give a number from 0 on (below 1 for a beta)"
        raise InputError(argument, shown, f"{error}; {remedy}") from error


def check_finite(hyper: Any, argument: str, shown: object) -> None:
    """Refuses a record with a number that float32 does not hold, which a scale can make of one that it does."""
    for name, value in vars(hyper).items():
        if isinstance(value, float) and not (math.isfinite(value) and abs(value) <= _LARGEST):
            remedy = f"makes {name} {value:g}, which is no finite float32 number; give a scale nearer to 1"
            raise InputError(argument, shown, remedy)
