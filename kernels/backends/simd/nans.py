"""Which values can only hold NaNs that bfloat16 can hold too: rounding them needs no look for NaN.

A processor's operation gives one of its NaN operands, made quiet, or the NaN without payload. So a short NaN, one whose
payload stands in the upper half, gives short ones, and rounding to nearest, which adds at most half to the lower half,
leaves it alone. NaNs in bfloat16 are short, constants too; uniform numbers are made so, once; in float32 memory any may
stand.
"""

from __future__ import annotations

import triton.language as tl

from .operations import WIDE, Recording

_ARITHMETIC = ("add", "sub", "mul", "div", "fma", "sqrt", "abs")


def rounds_to_bfloat16(recording: Recording) -> bool:
    """Whether anything is rounded to bfloat16 in the lanes."""
    return any(x.name == "cast" and x.dtype == tl.bfloat16 and not x.uniform for x in recording.operations)


def shared_numbers(recording: Recording) -> set[int]:
    """The uniform floating-point operations whose value lanes compute with."""
    needs = (need for x in recording.operations if not x.uniform for need in x.needs)
    return {x.number for x in needs if x.uniform and x.dtype in WIDE and x.name != "constant"}


def short_nans(recording: Recording) -> set[int]:
    """The operations whose NaNs bfloat16 can hold, if those of `shared_numbers` are so."""
    short: set[int] = set()
    for x in recording.operations:
        if x.dtype not in WIDE:
            continue
        if x.uniform or x.name in _ARITHMETIC:
            known = x.uniform or all(need.number in short for need in x.needs)
        elif x.name == "where":
            known = all(need.number in short for need in x.needs[1:])
        elif x.name == "cast":
            source = x.needs[0]
            known = source.number in short if source.dtype in WIDE else source.dtype != tl.float16
        else:
            known = False
        if known:
            short.add(x.number)
    return short
