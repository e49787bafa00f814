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
"""A power is base^(multiple of this) · base^(rest)."""
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
    """The powers of one base, or of an array of them."""

    def __init__(self, base: Any) -> None:
        one = base * 0.0 + 1.0
        self._base = (base, base * 0.0)
        # By number, so that threads that fill them at once write the same.
        self._within: dict[int, Pair] = {0: (one, base * 0.0)}
        self._rows: dict[int, Pair] = {0: (one, base * 0.0)}

    def pair(self, exponent: int) -> Pair:
        row, within = divmod(exponent, _ROW)
        low = self._filled(self._within, within, self._base)
        if not row:
            return low
        if row not in self._rows:
            self._filled(self._rows, row, self._filled(self._within, _ROW, self._base))
        return _times(self._rows[row], low)

    def _filled(self, table: dict[int, Pair], place: int, factor: Pair) -> Pair:
        if place not in table:
            first = max(known for known in table if known < place)
            for k in range(first + 1, place + 1):
                table[k] = _times(table[k - 1], factor)
        return table[place]


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
        rows, within = np.divmod(np.array(numbers, np.int64), _ROW)
        if len(numbers):
            table.pair(int(rows.max()) * _ROW)
            table.pair(_ROW - 1)
        low, high = _gathered(table._within, within), _gathered(table._rows, rows)
        raised: np.ndarray = np.asarray(np.where(rows > 0, _times(high, low)[0], low[0]))
        return raised.reshape(-1, 1)
    found = np.empty((len(numbers), len(bases)))
    with np.errstate(under="ignore"):
        for begin in range(0, len(bases), _AT_ONCE):
            several = _Table(np.asarray(bases[begin : begin + _AT_ONCE], np.float64))
            for k, number in enumerate(numbers):
                found[k, begin : begin + _AT_ONCE] = several.pair(number)[0]
    return found


def _gathered(known: dict[int, Pair], places: np.ndarray) -> Pair:
    """The pairs at these places, as arrays."""
    high, low = np.array([known[k] for k in range(int(places.max(initial=0)) + 1)]).T
    return high[places], low[places]


def square_root(x: Any) -> Any:
    """The correctly rounded root of a double; of a column by its own ``root``."""
    if isinstance(x, (int, float)):
        return math.sqrt(x)
    return x.root()
