"""Host scalars that go with a launch as arguments, instead of lying in a table on the device.

What changes at every step costs a copy to the device there, of a few dozen bytes, and a kernel has to load it before it
can begin. As arguments they are the bit patterns of their doubles: Triton would narrow a float to float32.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple

from ..algorithm import Row

COUNTS = (1, 4)
"""Rows that a launch can carry; more, or those that a graph is to find again, are a table.

A kernel for each: as few as may ever have to be compiled while training goes on.
"""


class Carried(NamedTuple):
    """The rows of a launch.

    Attributes:
        rows: for how many there is room, one of `COUNTS`.
        patterns: int64, the bits of their doubles, one row after another; 0 where there is no row.
    """

    rows: int
    patterns: tuple[int, ...]


def carried(rows: Sequence[Row]) -> Carried | None:
    """These rows as arguments; None where they are too many."""
    one, few = COUNTS
    if len(rows) == one:
        return Carried(one, _patterns(len(rows[0]))(*rows[0]))
    if len(rows) > few:
        return None
    room = few * len(rows[0])
    empty = (0.0,) * (room - len(rows) * len(rows[0]))
    return Carried(few, _patterns(room)(*chain.from_iterable(rows), *empty))


@functools.cache
def _patterns(count: int) -> Callable[..., tuple[Any, ...]]:
    pack, unpack = struct.Struct(f"={count}d").pack, struct.Struct(f"={count}q").unpack
    return lambda *doubles: unpack(pack(*doubles))
