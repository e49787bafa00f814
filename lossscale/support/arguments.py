"""Arguments of public functions: each is checked once, and what is wrong is one line with name, value and remedy.

Commands have `support.errors`; these raise what Python callers expect, TypeError and ValueError.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, Final

_LONGEST: Final = 80


def whole_number(name: str, value: Any, *, least: int, example: int) -> int:
    """The value as an int: an integer of Python or numpy, or a tensor of one element.

    Raises:
        TypeError: it is none; True and 2.0 are none either.
        ValueError: it is below ``least``.
    """
    found = _item(value)
    if isinstance(found, bool) or not isinstance(found, Integral):
        raise TypeError(f"{name} {shown(value)}: must be a whole number; give one such as {example}")
    if found < least:
        raise ValueError(f"{name} {shown(value)}: must be at least {least}; give one such as {example}")
    return int(found)


def real_number(name: str, value: Any, fits: Callable[[float], bool], must: str) -> float:
    """The value as a float: a number of Python or numpy, or a tensor of one element.

    Args:
        name: the argument's.
        value: what was given.
        fits: whether a number is in range; NaN never is.
        must: what the range is and what to give, ``must be finite and at least 0``.

    Raises:
        TypeError: it is no real number; True is none.
        ValueError: it does not fit.
    """
    number = number_in(value)
    if number is None:
        raise TypeError(f"{name} {shown(value)}: must be a number; {must}")
    if math.isnan(number) or not fits(number):
        raise ValueError(f"{name} {shown(value)}: {must}")
    return number


def number_in(value: Any) -> float | None:
    """The real number that a value is, or that a tensor of one element holds; None for all else, True among it."""
    if type(value) is float:
        return value
    found = _item(value)
    if isinstance(found, bool) or not isinstance(found, Real):
        return None
    try:
        return float(found)
    except OverflowError:  # an integer with more digits than a float has binades
        return math.inf if found > 0 else -math.inf  # type: ignore[operator]  # Real has no order in typeshed


def flag_in(value: Any) -> bool | None:
    """The switch that a value is: True, False, or a 1 or 0 of any kind of number; None for all else."""
    found = _item(value)
    if isinstance(found, bool):
        return found
    number = number_in(found)
    return bool(number) if number in (0.0, 1.0) else None


def switch(name: str, value: Any, *, optional: bool = False) -> Any:
    """The value, which has to be True or False (or None where it is optional).

    Raises:
        TypeError: it is something else.
    """
    if not (value is True or value is False or (optional and value is None)):
        raise TypeError(f"{name} {shown(value)}: must be True or False{', or None' if optional else ''}; give one")
    return value


def shown(value: Any) -> str:
    """What an error shows of a value: one line of a bearable length."""
    text = " ".join(repr(value).split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _item(value: Any) -> Any:
    """The number inside a tensor or array of one element."""
    if type(value) in (float, int, bool):
        return value
    count = value.numel() if hasattr(value, "numel") else getattr(value, "size", None)
    if count != 1 or not hasattr(value, "item"):
        return value
    try:
        return value.item()
    except RuntimeError:  # a meta tensor has none
        return value
