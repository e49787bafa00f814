"""Whole powers and roots of doubles that are the same on every machine: products, sums and roots, no libm.

``base**exponent`` of Python is the C library's pow: each library's rounds wrongly once in a thousand, at other places.
Here a power is a product of two tabulated ones, carried in pairs of doubles (about 100 bits): correctly rounded, but
for a case in 2^40. As float32, in which kernels read them, the scalars formed of them are those of torch, which takes
Python's (`tests/kernels/test_power.py` says over which betas and steps).

Below 2^-960 the second of a pair underflows and a power is not rounded correctly; 1 minus it is 1 all the same.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Final

import numpy as np

Pair = tuple[Any, Any]
"""A number as the sum of a double and a much smaller one; floats or arrays of them."""

_ROW: Final = 256
"""An exponent has digits of this radix, and a power is a product of one tabulated power a digit."""
_SPLITTER: Final = 134217729.0
"""2^27 + 1: parts a double in halves whose products are exact."""
_KEPT: Final = 1 << 16
"""Up to this exponent all powers of a base are kept."""
_AT_ONCE: Final = 1024
"""Bases tabulated together: a few MB."""


def _times(a: Pair, b: Pair) -> Pair:
    """The product of two pairs."""
    (a_high, a_low), (b_high, b_low) = a, b
    product = a_high * b_high
    shifted = _SPLITTER * a_high
    a_head = shifted - (shifted - a_high)
    a_tail = a_high - a_head
    shifted = _SPLITTER * b_high
    b_head = shifted - (shifted - b_high)
    b_tail = b_high - b_head
    error = ((a_head * b_head - product) + a_head * b_tail + a_tail * b_head) + a_tail * b_tail
    error = error + (a_high * b_low + a_low * b_high)
    high = product + error
    return high, error - (high - product)


class _Table:
    """The powers of one base, or of an array of them.

    By digit, so that an exponent takes at most 256 products a digit, however large it is: a step number that somebody
    set, or a damaged one, may be anything.
    """

    def __init__(self, base: Any) -> None:
        self._one = (base * 0.0 + 1.0, base * 0.0)
        # Of each digit the power that its 1 stands for, and those of its values. By number, so that threads that fill
        # them at once write the same.
        self._units: dict[int, Pair] = {0: (base, base * 0.0)}
        self._digits: dict[int, dict[int, Pair]] = {0: {0: self._one}, 1: {0: self._one}}

    def pair(self, exponent: int) -> Pair:
        exponent, digit = divmod(exponent, _ROW)
        # Steps ask for the same two digits again and again.
        found, place = self._digits[0].get(digit) or self.digit(0, digit), 1
        while exponent:
            exponent, digit = divmod(exponent, _ROW)
            known = self._digits.get(place)
            found = _times((known and known.get(digit)) or self.digit(place, digit), found)
            place += 1
        return found

    def digit(self, place: int, value: int) -> Pair:
        """Base to the power of a digit in a place, from the lowest on; its value may be the radix itself."""
        known = self._digits.get(place)
        if known is not None and value in known:
            return known[value]
        if place not in self._units:
            self._units[place] = self.digit(place - 1, _ROW)
        known = self._digits.setdefault(place, {0: self._one})
        first = max((each for each in known if each < value), default=0)
        for k in range(first + 1, value + 1):
            known[k] = _times(known[k - 1], self._units[place])
        return known[value]

    def digits(self, place: int, values: np.ndarray) -> Pair:
        """The same for an array of values, of one base."""
        self.digit(place, int(values.max(initial=0)))
        known = self._digits[place]
        high, low = np.array([known[k] for k in range(int(values.max(initial=0)) + 1)]).T
        return high[values], low[values]


@functools.lru_cache(maxsize=256)
def _table_of(base: float) -> _Table:
    return _Table(base)


def power(base: Any, exponent: Any) -> Any:
    """Base to a whole power from 0 on; other exponents, and columns, by their own ``**``.

    Args:
        base: of magnitude up to 1.
        exponent: a step number.
    """
    if isinstance(base, float) and isinstance(exponent, float) and exponent >= 0 and exponent.is_integer():
        return _table_of(base).pair(int(exponent))[0]
    return base**exponent


def power_grid(bases: np.ndarray, exponents: np.ndarray) -> np.ndarray:
    """[exponents, bases] float64: `power` of each, with its bits."""
    if len(bases) == 1 and exponents.max(initial=0) < _KEPT:
        # Doubled as training goes on, or every run would form all that went before.
        count = max(_ROW, 1 << int(exponents.max(initial=0)).bit_length())
        kept: np.ndarray = _powers(float(bases[0]), count)[exponents.astype(np.int64)]
        return kept.reshape(-1, 1)
    return _power_grid(bases, exponents)


@functools.lru_cache(maxsize=64)
def _powers(base: float, count: int) -> np.ndarray:
    """Powers from exponent 0 on: every run of a training has the same."""
    return _power_grid(np.array([base]), np.arange(count)).reshape(-1)


def _power_grid(bases: np.ndarray, exponents: np.ndarray) -> np.ndarray:
    numbers = [int(each) for each in exponents.tolist()]
    if len(bases) == 1:
        table = _table_of(float(bases[0]))
        # Steps are counted up to 2^24; no table of a rule is longer.
        rest, values = np.divmod(np.array(numbers, np.int64), _ROW)
        raised, place = table.digits(0, values), 0
        while rest.any():
            wanted = rest > 0
            rest, values = np.divmod(rest, _ROW)
            place += 1
            longer = _times(table.digits(place, values), raised)
            raised = np.where(wanted, longer[0], raised[0]), np.where(wanted, longer[1], raised[1])
        return np.asarray(raised[0]).reshape(-1, 1)
    found = np.empty((len(numbers), len(bases)))
    with np.errstate(under="ignore"):
        for begin in range(0, len(bases), _AT_ONCE):
            several = _Table(np.asarray(bases[begin : begin + _AT_ONCE], np.float64))
            for k, number in enumerate(numbers):
                found[k, begin : begin + _AT_ONCE] = several.pair(number)[0]
    return found


def square_root(x: Any) -> Any:
    """The correctly rounded root of a double; of a column by its own ``root``."""
    if isinstance(x, (int, float)):
        return math.sqrt(x)
    return x.root()
