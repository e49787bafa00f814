"""Launches the compiled step kernel (or hands it to the interpreter): nothing recompiles while training goes on.

Moved gradients, learning rates, steps and scales are data in tables.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
from torch import Tensor

from ..algorithm import Recipe
from ..launch import step_kernel
from ..launch.carried import Carried
from ..launch.dtypes import Dtypes
from ..launch.step_kernel import kernel_constants
from ..launch.tables import Tables
from . import interpreter

Launch = Callable[[int, tuple[Any, ...]], None]
"""``launch(programs, arguments)``: enqueues a compiled kernel; pointers are given as addresses, doubles as patterns."""

_COMPILED: dict[tuple[Any, ...], tuple[Launch, Recipe]] = {}
"""Launches by everything that decides their code. The recipe is kept, so that no other object takes over its id."""


def launch_tables(
    tables: Tables,
    recipe: Recipe,
    flags: int,
    *,
    states: int,
    dtypes: Dtypes,
    rows: Tensor | Carried,
    steps: Tensor,
    powers: Tensor,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
) -> None:
    """Launch the step kernel over prepared tables; nothing happens when every tensor is empty.

    Bit k of ``states`` is set where state k is kept; the other arguments are `step_bucket`'s.
    """
    addresses, chunks = tables.addresses.device, tables.chunks
    if addresses is None or chunks is None or not tables.programs:
        return
    if isinstance(rows, Carried):
        table, carried, scalars = powers, rows.rows, rows.patterns
    else:
        table, carried, scalars = rows, 0, ()
    arguments = (
        addresses,
        chunks,
        table,
        steps,
        powers,
        grad_scale if grad_scale is not None else powers,
        found_inf if found_inf is not None else powers,
    )
    kind = (flags, grad_scale is not None, found_inf is not None, tables.block, carried)
    if interpreter.ACTIVE:
        every = (*arguments, addresses.shape[1], interpreter.integers(scalars))
        interpreter.launch(
            step_kernel.step_kernel, (tables.programs, 1, 1), every, _constants(recipe, kind, states, dtypes)
        )
        return
    launch = tables.launches.get(kind)
    if launch is None:
        launch = tables.launches[kind] = _find(recipe, kind, states, dtypes, arguments)
    launch(tables.programs, (*map(Tensor.data_ptr, arguments), addresses.shape[1], scalars))


def _find(recipe: Recipe, kind: tuple[Any, ...], states: int, dtypes: Dtypes, arguments: tuple[Tensor, ...]) -> Launch:
    """The launch of a kind, compiled at its first use."""
    device = arguments[0].device
    key = (id(recipe), kind, states, dtypes, step_kernel.LAUNCH_OPTIONS["num_warps"], device.index)
    if key in _COMPILED:
        return _COMPILED[key][0]
    _, scaled, _, _, carried = kind
    constants = _constants(recipe, kind, states, dtypes)
    options = step_kernel.launch_options(states, scaled=scaled, rows=carried)
    every = (*arguments, arguments[0].shape[1], (_ANY_INT64,) * (carried * len(recipe.columns)))
    with torch.cuda.device(device):
        compiled = step_kernel.step_kernel.warmup(*every, grid=(1, 1, 1), **constants, **options)
        launch = launcher(compiled, device.index, tuple(constants.values()))
    _COMPILED[key] = (launch, recipe)
    return launch


_ANY_INT64 = (1 << 40) + 1
"""Stands for a bit pattern while a kernel compiles: small numbers are int32 there, and even ones and 1 are promises."""


def _constants(recipe: Recipe, kind: tuple[Any, ...], states: int, dtypes: Dtypes) -> dict[str, object]:
    flags, scaled, skippable, block, carried = kind
    return kernel_constants(
        recipe, flags, states=states, dtypes=dtypes, scaled=scaled, found_inf=skippable, rows=carried, block=block
    )


def launcher(compiled: Any, device: int, constants: tuple[object, ...]) -> Launch:
    """How to enqueue a compiled kernel on the device's current stream with as little of Triton's dispatch as can be.

    H100 host, Triton 3.6, 8 arguments: ``kernel[grid](...)`` of a compiled kernel takes 11.4 µs, its ``run`` 6.9 µs.
    Addresses are given as numbers: for tensors the launcher asks the driver about every one.
    """
    driver, knobs = triton.runtime.driver.active, triton.knobs.runtime
    stream_of, current_device = driver.get_current_stream, driver.get_current_device
    run, function, metadata = compiled.run, compiled.function, compiled.packed_metadata

    def launch(programs: int, arguments: tuple[int, ...]) -> None:
        if current_device() != device or _hooked(knobs):
            with torch.cuda.device(device):
                compiled[(programs, 1, 1)](*arguments, *constants)
            return
        run(programs, 1, 1, stream_of(device), function, metadata, None, None, None, *arguments, *constants)

    return launch


def _hooked(knobs: Any) -> bool:
    """Whether a profiler of Triton's wants to see launches."""
    hooks = (knobs.launch_enter_hook, knobs.launch_exit_hook)
    return any(getattr(hook, "calls", hook) for hook in hooks)
