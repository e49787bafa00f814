"""The reference: a step in tensor operations, on any device. It is the oracle of every other backend."""

from __future__ import annotations

import torch
from torch import Tensor

from ..algorithm import Recipe
from ..launch.buckets import Bucket
from ..launch.dtypes import line_dtypes
from ..rounding.reference import Context


def flatten(tensor: Tensor) -> Tensor:
    """A dense tensor's elements in memory order, as a view."""
    return tensor.as_strided((tensor.numel(),), (1,), tensor.storage_offset())


def lanes(tensors: list[Tensor], element: Tensor) -> Tensor:
    """The lane of each of the first tensor's elements: the step kernel's, from the same addresses."""
    aligned = tensors[0].numel() % 4 == 0 and all(t.data_ptr() % (4 * t.element_size()) == 0 for t in tensors)
    return element % 4 if aligned else 4 + element % 65536 // 512 % 4


_PIECE = 65536


def step_tensor(
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
    p, g = flatten(bucket.params[index]), flatten(bucket.grads[index])
    states = [None if state is None else flatten(state[index]) for state in bucket.states]
    copy = None if bucket.copies is None else flatten(bucket.copies[index])
    line_grad, line_state = line_dtypes(recipe, flags, bucket.dtypes)
    aligned_by = [p, g, *(state for state in states if state is not None)]
    for begin in range(0, p.numel(), _PIECE):
        piece = slice(begin, begin + _PIECE)
        lane = torch.zeros((), dtype=torch.int64, device=p.device)
        if recipe.lanes:
            lane = lanes(aligned_by, torch.arange(begin, min(begin + _PIECE, p.numel()), device=p.device))
        context = Context(
            row=row,
            step=step,
            powers=powers,
            lane=lane,
            flags=flags,
            dtype=p.dtype,
            grad=line_grad,
            state=line_state,
        )
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
