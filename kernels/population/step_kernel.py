"""One optimizer step of a population as one stretch of memory: every element finds its model's scalars.

Models of a few dozen parameters would fill a small part of a program each; here programs go across their borders. What
is done to an element is the step kernel's own `_update`.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..algorithm import Recipe
from ..backends import interpreter
from ..launch.dtypes import Dtypes
from ..launch.step_kernel import BLOCK, LAUNCH_OPTIONS, _update, kernel_constants
from ..launch.tables import INTERPRETER_BLOCK


@triton.jit(do_not_specialize=["count", "width", "lane_path"])
def population_kernel(
    p_ptr,
    g_ptr,
    s0_ptr,
    s1_ptr,
    s2_ptr,
    rows_ptr,
    row_of_ptr,
    step_ptr,
    powers_ptr,
    count,
    width,
    lane_path,
    ONE_ROW: tl.constexpr,
    RULE: tl.constexpr,
    FLAGS: tl.constexpr,
    LANES: tl.constexpr,
    DEVICE_STEP: tl.constexpr,
    STATES: tl.constexpr,
    PARAM: tl.constexpr,
    GRAD: tl.constexpr,
    STATE: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program steps BLOCK elements of [models, width]; ``count`` is their product.

    rows (float64, [records, COLUMNS]); row_of (int32, [models]), not read where there is ONE_ROW; step (float32, [1]).
    """
    # Bases advanced in 64 bits, offsets inside the block in 32.
    start = tl.program_id(0).to(tl.int64) * BLOCK
    offset = tl.arange(0, BLOCK)
    left = tl.where(count - start < BLOCK, count - start, BLOCK).to(tl.int32)
    first = start // width
    place = (start - first * width).to(tl.int32) + offset
    step = tl.load(step_ptr)
    if ONE_ROW:
        row = rows_ptr
    else:
        row = rows_ptr + tl.load(row_of_ptr + first + place // width, mask=offset < left, other=0) * COLUMNS
    if left == BLOCK:
        _update(
            p_ptr + start,
            g_ptr + start,
            s0_ptr + start,
            s1_ptr + start,
            s2_ptr + start,
            p_ptr,
            offset,
            None,
            place % width,
            lane_path,
            row,
            step,
            powers_ptr,
            powers_ptr,
            RULE,
            FLAGS,
            "",
            LANES,
            DEVICE_STEP,
            STATES,
            PARAM,
            GRAD,
            STATE,
            None,
            PARAM,
            PARAM,
        )
    else:
        _update(
            p_ptr + start,
            g_ptr + start,
            s0_ptr + start,
            s1_ptr + start,
            s2_ptr + start,
            p_ptr,
            offset,
            offset < left,
            place % width,
            lane_path,
            row,
            step,
            powers_ptr,
            powers_ptr,
            RULE,
            FLAGS,
            "",
            LANES,
            DEVICE_STEP,
            STATES,
            PARAM,
            GRAD,
            STATE,
            None,
            PARAM,
            PARAM,
        )


def launch_population(
    recipe: Recipe,
    flags: int,
    *,
    dtypes: Dtypes,
    params: Tensor,
    grads: Tensor,
    states: list[Tensor | None],
    rows: Tensor,
    row_of: Tensor,
    step: Tensor,
    powers: Tensor,
) -> None:
    """One step of all models, on their GPU or in the interpreter.

    Args:
        recipe: whose rounding.
        flags: bit mask of `kernels.rounding.flags`.
        dtypes: of parameters, gradients and states.
        params: [models, width], contiguous.
        grads: alike.
        states: by the rule's place, like the parameters, or None.
        rows: float64 [records, columns].
        row_of: int32 [models].
        step: float32 [1].
        powers: bias-correction tables.
    """
    tensors = [params, grads, *(state for state in states if state is not None)]
    width = params.shape[1]
    aligned = width % 4 == 0 and all(t.data_ptr() % (4 * t.element_size()) == 0 for t in tensors)
    constants: dict[str, Any] = kernel_constants(
        recipe,
        flags,
        states=sum(1 << k for k, state in enumerate(states) if state is not None),
        dtypes=dtypes,
        block=INTERPRETER_BLOCK if interpreter.ACTIVE else BLOCK,
    )
    for name in ("UNSCALE", "FOUND_INF", "COPY", "LINE_GRAD", "LINE_STATE"):
        del constants[name]
    constants["ONE_ROW"] = len(rows) == 1
    arguments = (
        params,
        grads,
        *(params if state is None else state for state in states),
        rows,
        row_of,
        step,
        powers,
        params.numel(),
        width,
        int(not aligned),
    )
    grid = (-(-params.numel() // int(constants["BLOCK"])), 1, 1)
    if interpreter.ACTIVE:
        interpreter.launch(population_kernel, grid, arguments, constants)
        return
    with torch.cuda.device(params.device):
        population_kernel[grid](*arguments, **constants, **LAUNCH_OPTIONS)
