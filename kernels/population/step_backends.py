"""What carries a population's step out: tensor operations, the population's kernel, or the vector backend."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..algorithm import Recipe
from ..backends import simd
from ..backends.dispatch import launch_block
from ..backends.tensor_ops import lanes, reference_update
from ..launch.dtypes import Dtypes
from ..launch.tables import Tables, table_of
from ..rounding.reference import Context
from .step_kernel import launch_population

_PIECE = 65536
"""Elements stepped together by the reference, so that its temporaries stay in cache."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of every model.

    Attributes:
        recipe, flags: what is computed.
        dtypes: of parameters, gradients and states.
        params, grads: [models, n], contiguous; gradients are written only where ``scales`` are given.
        states: by the rule's place, [models, n] or None.
        rows: float64 [rows, columns], on the device.
        row_of: int64 [models].
        steps: float32 [models], or [1] where all have taken as many.
        powers: what bias corrections are looked up in.
        scales: float32 [models], what gradients are divided by; None where they are not.
        skips: bool [models]; None where no model skips.
    """

    recipe: Recipe
    flags: int
    dtypes: Dtypes
    params: Tensor
    grads: Tensor
    states: list[Tensor | None]
    rows: Tensor
    row_of: Tensor
    steps: Tensor
    powers: Tensor
    scales: Tensor | None
    skips: Tensor | None


def by_reference(step: Step) -> None:
    """With torch's operations, some models at a time."""
    models, width = step.params.shape
    device = step.params.device
    tensors = [step.params, step.grads, *step.states]
    # Rows whose width is a multiple of 4 are aligned as the first is; others take the unaligned path anyway.
    lane = lanes([t[0] for t in tensors if t is not None], torch.arange(width, device=device))
    going = torch.arange(models, device=device) if step.skips is None else (~step.skips).nonzero().flatten()
    dtype = step.params.dtype
    for chosen in torch.split(going, max(1, _PIECE // width)):
        context = Context(
            row=step.rows[step.row_of[chosen]].t().unsqueeze(-1),
            step=step.steps if len(step.steps) == 1 else step.steps[chosen].unsqueeze(-1),
            powers=step.powers,
            lane=lane,
            flags=step.flags,
            dtype=dtype,
            grad=dtype,
            state=dtype,
        )
        scale = None if step.scales is None else step.scales[chosen].unsqueeze(-1)
        p, g, *states = (None if tensor is None else tensor[chosen] for tensor in tensors)
        assert p is not None and g is not None
        reference_update(step.recipe, context, p, g, states, scale)
        for tensor, values in zip(tensors, [p, g, *states], strict=True):
            if tensor is not None and values is not None and (tensor is not step.grads or scale is not None):
                tensor[chosen] = values


def by_kernel(step: Step) -> None:
    """In one launch, compiled or by the interpreter."""
    row_of = step.row_of if step.skips is None else torch.where(step.skips, -1, step.row_of)
    launch_population(
        step.recipe,
        step.flags,
        dtypes=step.dtypes,
        params=step.params,
        grads=step.grads,
        states=step.states,
        rows=step.rows,
        row_of=row_of.int(),
        steps=step.steps,
        powers=step.powers,
        grad_scale=step.scales,
        skips=step.skips is not None,
    )


def by_tables(step: Step, tables: Tables) -> None:
    """By the vector backend: a model is a tensor of its address table, and one that skips is an empty one."""
    models, width = step.params.shape
    columns = [step.params, step.grads, *(slot for slot in step.states if slot is not None)]
    offsets = np.arange(models, dtype=np.int64) * width
    addresses = [tensor.data_ptr() + offsets * tensor.element_size() for tensor in columns]
    widths = width if step.skips is None else np.where(step.skips.numpy(), 0, width)
    host = table_of(widths, step.row_of.numpy(), addresses)
    tables.update(host, step.params.device, launch_block("simd", host))
    simd.launch_tables(
        tables,
        step.recipe,
        step.flags,
        states=sum(1 << k for k, slot in enumerate(step.states) if slot is not None),
        dtypes=step.dtypes,
        rows=step.rows,
        steps=step.steps.expand(models).contiguous(),
        powers=step.powers,
        grad_scale=step.scales,
        found_inf=None,
        lines=step.params.dtype,
    )
