"""Rows of models gathered into the padded rows that `train_kernel` reads, and scattered back: one launch each way."""

from __future__ import annotations

import triton
import triton.language as tl

LAUNCH_OPTIONS = {"num_warps": 4}
"""Compiler options of `pack_kernel`."""


@triton.jit
def _move(from_ptr, to_ptr, rows, slots, listed, NUMBERS: tl.constexpr, LOG: tl.constexpr, BACK: tl.constexpr):
    columns = tl.arange(0, 1 << LOG)[None, :]
    inside = (columns < NUMBERS) & (slots >= 0)[:, None]
    at = rows.to(tl.int64)[:, None] * NUMBERS + columns
    packed = (slots.to(tl.int64)[:, None] << LOG) + columns
    if BACK:
        inside = inside & (listed >= 0)[:, None]
        tl.store(to_ptr + at, tl.load(from_ptr + packed, inside), inside)
    else:
        tl.store(to_ptr + packed, tl.load(from_ptr + at, inside, 0.0).to(tl.float32))


@triton.jit
def pack_kernel(
    params_ptr,
    s0_ptr,
    s1_ptr,
    s2_ptr,
    to_params_ptr,
    to_s0_ptr,
    to_s1_ptr,
    to_s2_ptr,
    model_of_ptr,
    STATES: tl.constexpr,
    NUMBERS: tl.constexpr,
    LOG: tl.constexpr,
    BACK: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Rows [models, NUMBERS] of parameters and states to float32 rows [slots, 2^LOG], zeros behind them; or BACK.

    model_of (int32, [slots]): whose row a slot has; of a model with several, the others are below 0 and not scattered.
    """
    slots = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    listed = tl.load(model_of_ptr + slots)
    rows = tl.where(listed >= 0, listed, -1 - listed)
    _move(params_ptr, to_params_ptr, rows, slots, listed, NUMBERS, LOG, BACK)
    if STATES & 1:
        _move(s0_ptr, to_s0_ptr, rows, slots, listed, NUMBERS, LOG, BACK)
    if STATES & 2:
        _move(s1_ptr, to_s1_ptr, rows, slots, listed, NUMBERS, LOG, BACK)
    if STATES & 4:
        _move(s2_ptr, to_s2_ptr, rows, slots, listed, NUMBERS, LOG, BACK)
