"""Scales and other numbers as people type and read them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ..support.errors import InputError, check_scale

Value = float | int | bool

_POWER: Final = re.compile(r"\s*([0-9.]+)\s*(?:\^|\*\*)\s*([+-]?[0-9]+)\s*")
_FRACTION: Final = re.compile(r"\s*([0-9.]+)\s*/\s*([0-9.]+)\s*")
_SMALLEST, _LARGEST = 2.0**-126, 2.0**127


def is_power_of_two(scale: float) -> bool:
    """Whether multiplying by ``scale`` only moves the exponent."""
    return scale > 0 and math.isfinite(scale) and math.frexp(scale)[0] == 0.5


def value_text(value: Value) -> str:
    """The canonical spelling of a number: integers without a point, floats as Python writes them."""
    if not isinstance(value, bool) and float(value).is_integer() and abs(value) < 1e15:
        return str(int(value))
    return repr(value)


def scale_text(scale: float) -> str:
    """A scale as people write it: ``10^4``, ``2^-12``, ``1``."""
    for base in (2, 10):
        exponent = round(math.log(scale, base))
        if float(base) ** exponent == scale:
            return f"{base}^{exponent}" if abs(exponent) > 1 else f"{scale:g}"
    return f"{scale:g}"


def parse_scale(text: str) -> float:
    """A scale as typed: ``0.01``, ``1e4``, ``1/16``, ``2^-12`` or ``2**-12``.

    Raises:
        InputError: if it is no number, not above 0, not finite, or beyond float32's normal numbers.
    """
    power, fraction = _POWER.fullmatch(text), _FRACTION.fullmatch(text)
    try:
        if fraction:
            value = float(fraction[1]) / float(fraction[2])
        else:
            value = float(power[1]) ** int(power[2]) if power else float(text)
    except OverflowError:
        value = math.inf
    except (ValueError, ZeroDivisionError) as error:
        raise InputError("--scale", text, "is no number; give one such as 1024, 0.01, 1/16 or 2^-12") from error
    with _as_typed("--scale", text):
        check_scale("--scale", value)
    if not _SMALLEST <= value <= _LARGEST:
        raise InputError("--scale", text, "is beyond float32's normal numbers; give one from 2^-126 to 2^127")
    return value


@contextmanager
def _as_typed(argument: str, text: str) -> Iterator[None]:
    """An error about a number shows it as the user spelled it."""
    try:
        yield
    except InputError as error:
        raise InputError(argument, text, error.remedy) from None
