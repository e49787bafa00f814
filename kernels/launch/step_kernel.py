"""The one step kernel: loads a chunk of a tensor, applies a rule, stores it; and what it is specialised for.

Which rule, which options, which states and dtypes are compile-time constants. What changes during training is data in
tables. `kernels.backends.triton` launches it.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from ..algorithm import Recipe
from ..rounding.arithmetic import round_to
from ..rounding.dtypes import BY_TORCH
from .dtypes import Dtypes, line_dtypes

BLOCK = 1024
"""Elements per program on a GPU: 8 per thread at 4 warps, two 16-byte accesses a tensor in float32 and one in bf16.

H100, Triton 3.6, one tensor of 2^26 (`bench tune`): within 1% of the best shape for every kernel tried.
"""
LAUNCH_OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}
"""Compiler options of `step_kernel`. Without fp fusion ``a * b + c`` stays two roundings."""


def launch_options(states: int, *, scaled: bool, rows: int = 0) -> dict[str, Any]:
    """`LAUNCH_OPTIONS` for a kernel that keeps ``states`` (a bit mask), takes out a scale or not, and is given rows.

    Left alone, Triton 3.6's assembler keeps some of the smallest scaled kernels to 40 registers, which their division
    exceeds, and spills an address; and some that are given rows to 64 or 71. A bound far above what they need makes it
    count again: 40 to 72 and 66 to 75 registers, no spill. Others of them stay as they are, or take up to 8 more.
    """
    if rows:
        return {**LAUNCH_OPTIONS, "maxnreg": 255}
    return {**LAUNCH_OPTIONS, "maxnreg": 128} if scaled and not states else LAUNCH_OPTIONS


@triton.jit
def _pointer(table, column: tl.constexpr, tensors, tensor, dtype: tl.constexpr):
    return tl.load(table + column * tensors + tensor).to(tl.pointer_type(dtype))


@triton.jit
def _update(
    p_ptr,
    g_ptr,
    s0_ptr,
    s1_ptr,
    s2_ptr,
    copy_ptr,
    offset,
    mask,
    position,
    lane_path,
    row,
    step,
    powers_ptr,
    grad_scale_ptr,
    RULE: tl.constexpr,
    FLAGS: tl.constexpr,
    UNSCALE: tl.constexpr,
    LANES: tl.constexpr,
    DEVICE_STEP: tl.constexpr,
    STATES: tl.constexpr,
    PARAM: tl.constexpr,
    GRAD: tl.constexpr,
    STATE: tl.constexpr,
    COPY: tl.constexpr,
    LINE_GRAD: tl.constexpr,
    LINE_STATE: tl.constexpr,
):
    """Load one block, apply the rule, store it; ``mask`` None is the main body with 16-byte accesses."""
    p = tl.load(p_ptr + offset, mask=mask).to(tl.float32)
    g = tl.load(g_ptr + offset, mask=mask).to(tl.float32)
    s0 = p
    s1 = p
    s2 = p
    if STATES & 1:
        s0 = tl.load(s0_ptr + offset, mask=mask).to(tl.float32)
    if STATES & 2:
        s1 = tl.load(s1_ptr + offset, mask=mask).to(tl.float32)
    if STATES & 4:
        s2 = tl.load(s2_ptr + offset, mask=mask).to(tl.float32)
    if DEVICE_STEP:
        # Scalars that hang on the step are a chain of loads: all large loads are issued before anything waits for them.
        # H100, Triton 3.6, fused AdamW bf16 at 2^26: 0.974 of a copy's rate, 0.946 without.
        tl.debug_barrier()
    if UNSCALE == "divide":
        # The fused kernels go on with the unrounded quotient; only what is written back is rounded.
        g = tl.div_rn(g, tl.load(grad_scale_ptr))
        tl.store(g_ptr + offset, g.to(GRAD), mask=mask)
    if UNSCALE == "multiply":
        # GradScaler.unscale_: the reciprocal, one product, rounded to the gradient's dtype. torch takes the reciprocal
        # in double and narrows it: for every float32 that is the float32 quotient, which needs no double registers.
        inverse = tl.div_rn(tl.full((), 1.0, tl.float32), tl.load(grad_scale_ptr))
        g = round_to(g * inverse, GRAD)
        tl.store(g_ptr + offset, g.to(GRAD), mask=mask)
    lane = 0
    if LANES:
        # Position in the four-fold unrolled loop of torch's kernels; 4-7 on the path for unaligned tensors.
        lane = tl.where(lane_path == 0, position % 4, 4 + position // 512 % 4)
    p, s0, s1, s2 = RULE(p, g, s0, s1, s2, row, step, powers_ptr, lane, FLAGS, PARAM, LINE_GRAD, LINE_STATE)
    tl.store(p_ptr + offset, p.to(PARAM), mask=mask)
    if STATES & 1:
        tl.store(s0_ptr + offset, s0.to(STATE), mask=mask)
    if STATES & 2:
        tl.store(s1_ptr + offset, s1.to(STATE), mask=mask)
    if STATES & 4:
        tl.store(s2_ptr + offset, s2.to(STATE), mask=mask)
    if COPY is not None:
        tl.store(copy_ptr + offset, p.to(COPY), mask=mask)


@triton.jit
def _row(scalars, number, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The doubles of one of the rows that came with the launch, from the bit patterns of all, row by row."""
    row = ()
    # Triton takes no starred tuple.
    for column in tl.static_range(COLUMNS):
        bits = scalars[column]
        for other in tl.static_range(1, ROWS):
            bits = tl.where(number == other, scalars[other * COLUMNS + column], bits)
        row = row + (bits.to(tl.float64, bitcast=True),)  # type: ignore[assignment]  # noqa: RUF005
    return row


@triton.jit(do_not_specialize=["tensors"], do_not_specialize_on_alignment=["grad_scale_ptr", "found_inf_ptr"])
def step_kernel(
    table_ptr,
    chunks_ptr,
    rows_ptr,
    steps_ptr,
    powers_ptr,
    grad_scale_ptr,
    found_inf_ptr,
    tensors,
    scalars,
    RULE: tl.constexpr,
    FLAGS: tl.constexpr,
    UNSCALE: tl.constexpr,
    FOUND_INF: tl.constexpr,
    LANES: tl.constexpr,
    DEVICE_STEP: tl.constexpr,
    STATES: tl.constexpr,
    PARAM: tl.constexpr,
    GRAD: tl.constexpr,
    STATE: tl.constexpr,
    COPY: tl.constexpr,
    LINE_GRAD: tl.constexpr,
    LINE_STATE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program steps one chunk of one tensor.

    table (int64, [columns, tensors]): numel, row, address of p, g, then of each state present and of the copy.
    chunks (int32, [chunks, 2]): tensor and block number. rows (float64, [rows, COLUMNS]); where ROWS is not 0 they are
    arguments instead, ``scalars`` (int64 bit patterns, ROWS * COLUMNS of them). steps (float32, [tensors]).
    """
    run = True
    if FOUND_INF:
        run = tl.load(found_inf_ptr) != 1.0
    if run:
        chunk = tl.program_id(0).to(tl.int64)
        tensor = tl.load(chunks_ptr + 2 * chunk).to(tl.int64)
        start = tl.load(chunks_ptr + 2 * chunk + 1).to(tl.int64) * BLOCK
        numel = tl.load(table_ptr + tensor)
        if ROWS == 0:
            row = rows_ptr + tl.load(table_ptr + tensors + tensor) * COLUMNS
        else:
            row = _row(scalars, tl.load(table_ptr + tensors + tensor), ROWS, COLUMNS)
        step = tl.load(steps_ptr + tensor)

        p_ptr = _pointer(table_ptr, 2, tensors, tensor, PARAM)
        g_ptr = _pointer(table_ptr, 3, tensors, tensor, GRAD)
        states_at = 0
        s0_ptr = p_ptr
        s1_ptr = p_ptr
        s2_ptr = p_ptr
        copy_ptr = p_ptr
        if STATES & 1:
            s0_ptr = _pointer(table_ptr, 4, tensors, tensor, STATE)
            states_at = states_at | s0_ptr.to(tl.int64)
        if STATES & 2:
            s1_ptr = _pointer(table_ptr, 4 + (STATES & 1), tensors, tensor, STATE)
            states_at = states_at | s1_ptr.to(tl.int64)
        if STATES & 4:
            s2_ptr = _pointer(table_ptr, 4 + (STATES & 1) + (STATES & 2) // 2, tensors, tensor, STATE)
            states_at = states_at | s2_ptr.to(tl.int64)
        addresses = p_ptr.to(tl.int64) | g_ptr.to(tl.int64) | states_at
        lane_path = 0
        if LANES:
            # torch asks every address to be a multiple of four of its own elements: all counted in the widest dtype's.
            param_bits: tl.constexpr = PARAM.primitive_bitwidth
            grad_bits: tl.constexpr = GRAD.primitive_bitwidth
            state_bits: tl.constexpr = STATE.primitive_bitwidth
            wide: tl.constexpr = param_bits if param_bits > grad_bits else grad_bits
            widest: tl.constexpr = wide if wide > state_bits else state_bits
            scaled = p_ptr.to(tl.int64) * (widest // param_bits) | g_ptr.to(tl.int64) * (widest // grad_bits)
            scaled = scaled | states_at * (widest // state_bits)
            lane_path = (scaled % (widest // 2) + numel % 4).to(tl.int32)
        if COPY is not None:
            copy_ptr = _pointer(
                table_ptr, 4 + (STATES & 1) + (STATES & 2) // 2 + (STATES & 4) // 4, tensors, tensor, COPY
            )
            addresses = addresses | copy_ptr.to(tl.int64)

        # Scalar bases advanced in 64 bits, offsets inside the block in 32.
        p_ptr += start
        g_ptr += start
        s0_ptr += start
        s1_ptr += start
        s2_ptr += start
        copy_ptr += start
        offset = tl.arange(0, BLOCK)
        position = (start % 65536).to(tl.int32) + offset
        if (start + BLOCK <= numel) & (addresses % 16 == 0):
            _update(
                tl.multiple_of(p_ptr, 16),
                tl.multiple_of(g_ptr, 16),
                tl.multiple_of(s0_ptr, 16),
                tl.multiple_of(s1_ptr, 16),
                tl.multiple_of(s2_ptr, 16),
                tl.multiple_of(copy_ptr, 16),
                offset,
                None,
                position,
                lane_path,
                row,
                step,
                powers_ptr,
                grad_scale_ptr,
                RULE,
                FLAGS,
                UNSCALE,
                LANES,
                DEVICE_STEP,
                STATES,
                PARAM,
                GRAD,
                STATE,
                COPY,
                LINE_GRAD,
                LINE_STATE,
            )
        else:
            _update(
                p_ptr,
                g_ptr,
                s0_ptr,
                s1_ptr,
                s2_ptr,
                copy_ptr,
                offset,
                start + offset < numel,
                position,
                lane_path,
                row,
                step,
                powers_ptr,
                grad_scale_ptr,
                RULE,
                FLAGS,
                UNSCALE,
                LANES,
                DEVICE_STEP,
                STATES,
                PARAM,
                GRAD,
                STATE,
                COPY,
                LINE_GRAD,
                LINE_STATE,
            )


def kernel_constants(
    recipe: Recipe,
    flags: int,
    *,
    states: int,
    dtypes: Dtypes,
    scaled: bool = False,
    found_inf: bool = False,
    rows: int = 0,
    block: int = BLOCK,
) -> dict[str, object]:
    """The compile-time arguments of `step_kernel`, in its order.

    Bit k of ``states`` is set where state k is kept; ``rows`` is how many come as arguments, 0 where they are a table.
    """
    param, grad, state, copy = dtypes
    line_grad, line_state = line_dtypes(recipe, flags, dtypes)
    return {
        "RULE": recipe.rule,
        "FLAGS": flags,
        "UNSCALE": recipe.unscale if scaled else "",
        "FOUND_INF": found_inf,
        "LANES": recipe.lanes,
        "DEVICE_STEP": recipe.device_step,
        "STATES": states,
        "PARAM": BY_TORCH[param].triton,
        "GRAD": BY_TORCH[grad].triton,
        "STATE": BY_TORCH[state].triton,
        "COPY": BY_TORCH[copy].triton if copy is not None else None,
        "LINE_GRAD": BY_TORCH[line_grad].triton,
        "LINE_STATE": BY_TORCH[line_state].triton,
        "ROWS": rows,
        "COLUMNS": len(recipe.columns),
        "BLOCK": block,
    }
