"""The only file that launches steps: backends, the compiled kernels, one bucket's step on each backend.

Nothing recompiles when gradients move or a learning rate, step or scale changes: those are data in tables.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import interpreter, step_kernel
from .algorithm import Recipe
from .flags import SCALED
from .reference import Context
from .step_kernel import Dtypes, kernel_constants
from .tables import Bucket, Tables, fitting_block

BACKENDS = ("triton", "interpreter", "reference")


def resolve_backend(backend: str, device: torch.device) -> str:
    """The backend to use: ``auto`` is triton on CUDA, the interpreter where it was asked for, else the reference.

    Raises:
        ValueError: if there is no such backend, or it cannot run on ``device`` in this process.
    """
    if backend == "auto":
        return "triton" if device.type == "cuda" and not interpreter.ACTIVE else "reference"
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r}: no such backend; choose auto or one of {', '.join(BACKENDS)}")
    if backend == "interpreter" and not interpreter.ACTIVE:
        raise ValueError(
            "backend 'interpreter': this process compiles its kernels; set TRITON_INTERPRET=1 before Python starts"
        )
    if backend == "triton" and interpreter.ACTIVE:
        raise ValueError(
            "backend 'triton': this process interprets kernels; unset TRITON_INTERPRET before Python starts"
        )
    if backend == "triton" and device.type != "cuda":
        raise ValueError(f"backend 'triton': needs CUDA tensors, these are on {device}; choose 'reference'")
    if backend == "interpreter" and device.type != "cpu":
        raise ValueError(f"backend 'interpreter': needs CPU tensors, these are on {device}; choose 'triton'")
    return backend


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


def _device_scalar(value: Tensor | None, device: torch.device) -> Tensor | None:
    """A scale or overflow flag as the kernel reads it: float32 on the tensors' device."""
    return value if value is None else value.to(device, torch.float32)


def step_bucket(
    recipe: Recipe,
    flags: int,
    bucket: Bucket,
    *,
    rows: Tensor,
    steps: Tensor,
    powers: Tensor,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    backend: str = "auto",
    tables: Tables | None = None,
) -> None:
    """One optimizer step of every tensor in the bucket, in place.

    Args:
        recipe: whose rounding.
        flags: bit mask of `kernels.flags`, the same for all tensors.
        bucket: the tensors.
        rows: float64 [rows, columns] on the bucket's device.
        steps: float32 [tensors], each tensor's step number after the increment.
        powers: float32 bias-correction tables of the device.
        grad_scale: float32 scalar tensor; gradients are unscaled and written back.
        found_inf: float32 scalar tensor; nothing is changed where it is 1.
        backend: see `resolve_backend`.
        tables: kept between steps by the caller, or None.
    """
    backend = resolve_backend(backend, bucket.device)
    grad_scale, found_inf = (_device_scalar(value, bucket.device) for value in (grad_scale, found_inf))
    if grad_scale is not None:
        flags |= SCALED.value
    if backend == "reference":
        if found_inf is not None and float(found_inf) == 1.0:
            return
        for index, row in enumerate(bucket.row_of):
            _reference_tensor(recipe, flags, bucket, index, rows[row], steps[index], powers, grad_scale)
        return
    tables = tables if tables is not None else Tables()
    columns = bucket.columns()
    numels = list(map(Tensor.numel, bucket.params))
    pointers = [*numels, *chain.from_iterable(map(Tensor.data_ptr, tensors) for tensors in columns)]
    # Nothing to send in the common case: the same tensors in the same place, and rows under the same numbers.
    if tables.pointers != pointers or tables.row_of is not bucket.row_of:
        host = np.empty((2 + len(columns), len(bucket.params)), np.int64)
        host[1] = bucket.row_of
        host[[0, *range(2, len(host))]] = np.array(pointers, np.int64).reshape(1 + len(columns), -1)
        tables.update(host, bucket.device, fitting_block(host[0]) if backend == "interpreter" else step_kernel.BLOCK)
        tables.pointers, tables.row_of = pointers, bucket.row_of
    launch_tables(
        tables,
        recipe,
        flags,
        states=sum(1 << k for k, kept in enumerate(bucket.states) if kept is not None),
        dtypes=bucket.dtypes,
        rows=rows,
        steps=steps,
        powers=powers,
        grad_scale=grad_scale,
        found_inf=found_inf,
    )


def flatten(tensor: Tensor) -> Tensor:
    """A dense tensor's elements in memory order, as a view."""
    return tensor.as_strided((tensor.numel(),), (1,), tensor.storage_offset())


def lanes(tensors: list[Tensor], element: Tensor) -> Tensor:
    """The lane of each of the first tensor's elements: `step_kernel`'s, from the same addresses."""
    aligned = tensors[0].numel() % 4 == 0 and all(t.data_ptr() % (4 * t.element_size()) == 0 for t in tensors)
    return element % 4 if aligned else 4 + element % 65536 // 512 % 4


_PIECE = 65536


def _reference_tensor(
    recipe: Recipe,
    flags: int,
    bucket: Bucket,
    index: int,
    row: Tensor,
    step: Tensor,
    powers: Tensor,
    grad_scale: Tensor | None,
) -> None:
    """Step one tensor in pieces that stay in cache."""
    dtype = bucket.params[index].dtype
    p, g = flatten(bucket.params[index]), flatten(bucket.grads[index])
    states = [None if state is None else flatten(state[index]) for state in bucket.states]
    copy = None if bucket.copies is None else flatten(bucket.copies[index])
    aligned_by = [p, g, *(state for state in states if state is not None)]
    for begin in range(0, p.numel(), _PIECE):
        piece = slice(begin, begin + _PIECE)
        lane = torch.zeros((), dtype=torch.int64, device=p.device)
        if recipe.lanes:
            lane = lanes(aligned_by, torch.arange(begin, min(begin + _PIECE, p.numel()), device=p.device))
        context = Context(row=row, step=step, powers=powers, lane=lane, flags=flags, dtype=dtype)
        parts = [None if state is None else state[piece] for state in states]
        reference_update(recipe, context, p[piece], g[piece], parts, grad_scale, None if copy is None else copy[piece])


def reference_update(
    recipe: Recipe,
    context: Context,
    p: Tensor,
    g: Tensor,
    states: list[Tensor | None],
    grad_scale: Tensor | None = None,
    copy: Tensor | None = None,
) -> None:
    """`_update` in tensor operations: load, unscale, apply the reference rule, store; in place."""
    p32, g32 = p.float(), g.float()
    if grad_scale is not None:
        if recipe.unscale == "divide":
            g32 = g32 / grad_scale
        else:
            g32 = (g32 * grad_scale.double().reciprocal().float()).to(g.dtype).float()
        g.copy_(g32)
    loaded = [p32 if state is None else state.float() for state in states]
    new_p, *new_states = recipe.reference(p32, g32, *loaded, context)
    p.copy_(new_p)
    for state, value in zip(states, new_states, strict=True):
        if state is not None:
            state.copy_(value)
    if copy is not None:
        copy.copy_(new_p)
