"""Launches the compiled step kernel (or hands it to the interpreter): nothing recompiles while training goes on.

Moved gradients, learning rates, steps and scales are data in tables.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..algorithm import Recipe
from ..launch import step_kernel
from ..launch.step_kernel import Dtypes, kernel_constants
from ..launch.tables import Tables
from . import interpreter

_COMPILED: dict[tuple[Any, ...], Any] = {}
"""Compiled step kernels by everything that decides their code: a launch from here skips Triton's own dispatch."""


def launch_tables(
    tables: Tables,
    recipe: Recipe,
    flags: int,
    *,
    states: int,
    dtypes: Dtypes,
    rows: Tensor,
    steps: Tensor,
    powers: Tensor,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
) -> None:
    """Launch the step kernel over prepared tables; nothing happens when every tensor is empty.

    Bit k of ``states`` is set where state k is kept; the other arguments are `step_bucket`'s.
    """
    addresses, chunks = tables.addresses.device, tables.chunks
    if addresses is None or chunks is None or not len(chunks):
        return
    grid = (len(chunks), 1, 1)
    nothing = powers
    arguments = (
        addresses,
        chunks,
        rows,
        steps,
        powers,
        grad_scale if grad_scale is not None else nothing,
        found_inf if found_inf is not None else nothing,
        addresses.shape[1],
    )
    scaled, skippable = grad_scale is not None, found_inf is not None
    key = (
        id(recipe),
        flags,
        states,
        dtypes,
        scaled,
        skippable,
        tables.block,
        step_kernel.LAUNCH_OPTIONS["num_warps"],
        addresses.device.index,
    )
    compiled, values = _COMPILED.get(key, (None, ()))[:2]
    if compiled is not None and torch.cuda.current_device() == addresses.device.index:
        compiled[grid](*arguments, *values)
        return
    constants = kernel_constants(
        recipe, flags, states=states, dtypes=dtypes, scaled=scaled, found_inf=skippable, block=tables.block
    )
    if interpreter.ACTIVE:
        interpreter.launch(step_kernel.step_kernel, grid, arguments, constants)
        return
    options = step_kernel.launch_options(states, scaled=scaled)
    with torch.cuda.device(addresses.device):
        compiled = step_kernel.step_kernel[grid](*arguments, **constants, **options)
    # The recipe is kept with its entry, so that no other object takes over its id.
    _COMPILED[key] = (compiled, tuple(constants.values()), recipe)
