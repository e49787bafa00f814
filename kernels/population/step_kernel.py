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
    steps_ptr,
    powers_ptr,
    grad_scale_ptr,
    count,
    width,
    lane_path,
    ONE_ROW: tl.constexpr,
    SKIPS: tl.constexpr,
    STEPS: tl.constexpr,
    SCALES: tl.constexpr,
    RULE: tl.constexpr,
    FLAGS: tl.constexpr,
    UNSCALE: tl.constexpr,
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

    rows (float64, [records, COLUMNS]); row_of (int32, [models]), not read where there is ONE_ROW, -1 where SKIPS leaves
    a model alone; steps (float32, [models] where STEPS, else [1]); grad_scale (likewise, where SCALES).
    """
    # Bases advanced in 64 bits, offsets inside the block in 32.
    start = tl.program_id(0).to(tl.int64) * BLOCK
    offset = tl.arange(0, BLOCK)
    left = tl.where(count - start < BLOCK, count - start, BLOCK).to(tl.int32)
    first = start // width
    place = (start - first * width).to(tl.int32) + offset
    inside = offset < left
    model = tl.where(inside, first + place // width, 0)
    if ONE_ROW:
        row = rows_ptr
    else:
        number = tl.load(row_of_ptr + model)
        if SKIPS:
            inside = inside & (number >= 0)
            number = tl.where(number >= 0, number, 0)
        row = rows_ptr + number * COLUMNS
    step_at = steps_ptr
    if STEPS:
        step_at = steps_ptr + model
    step = tl.load(step_at)
    scale_at = grad_scale_ptr
    if SCALES:
        scale_at = grad_scale_ptr + model
    whole = left == BLOCK
    if SKIPS:
        whole = left < 0
    if whole:
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
            scale_at,
            RULE,
            FLAGS,
            UNSCALE,
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
            inside,
            place % width,
            lane_path,
            row,
            step,
            powers_ptr,
            scale_at,
            RULE,
            FLAGS,
            UNSCALE,
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
    steps: Tensor,
    powers: Tensor,
    grad_scale: Tensor | None,
    skips: bool,
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
        steps: float32 [models], or [1] where all models have taken as many.
        powers: bias-correction tables.
        grad_scale: float32 [models] or [1]; gradients are unscaled first and written back.
        skips: whether models whose ``row_of`` is -1 are left alone.
    """
    tensors = [params, grads, *(state for state in states if state is not None)]
    width = params.shape[1]
    aligned = width % 4 == 0 and all(t.data_ptr() % (4 * t.element_size()) == 0 for t in tensors)
    constants: dict[str, Any] = kernel_constants(
        recipe,
        flags,
        states=sum(1 << k for k, state in enumerate(states) if state is not None),
        dtypes=dtypes,
        scaled=grad_scale is not None,
        block=INTERPRETER_BLOCK if interpreter.ACTIVE else BLOCK,
    )
    for name in ("FOUND_INF", "COPY", "LINE_GRAD", "LINE_STATE", "ROWS"):
        del constants[name]
    constants["ONE_ROW"] = len(rows) == 1 and not skips
    constants["SKIPS"] = skips
    constants["STEPS"] = len(steps) > 1
    constants["SCALES"] = grad_scale is not None and len(grad_scale) > 1
    arguments = (
        params,
        grads,
        *(params if state is None else state for state in states),
        rows,
        row_of,
        steps,
        powers,
        powers if grad_scale is None else grad_scale,
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
